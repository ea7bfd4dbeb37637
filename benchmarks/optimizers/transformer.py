"""The task ``char_transformer``: a small causal transformer that predicts the next character.

The text ships with Python: the help topics of pydoc.
"""

from __future__ import annotations

from functools import lru_cache
from pydoc_data.topics import topics
from typing import Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.optimizers.training import GradientTask, Problem

WIDTH: Final = 64
LAYERS: Final = 2
HEADS: Final = 4
CONTEXT: Final = 64
BATCH: Final = 16
HELD_OUT: Final = 0.1
"""Share of the text to keep for validation, taken from its end."""

WINDOWS: Final = 64
"""Validation windows, spread evenly over the held-out text."""


class Block(nn.Module):
    """Attention and a two-layer network, each with a norm before it and a residual connection.

    Query, key and value have separate matrices, because some optimizers treat each matrix as a whole.
    """

    def __init__(self) -> None:
        super().__init__()
        self.norm_attention, self.norm_mlp = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.query, self.key, self.value, self.mix = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.widen, self.narrow = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, time, width) to the same shape."""
        normed = self.norm_attention(x)
        query, key, value = (
            m(normed).unflatten(-1, (HEADS, -1)).transpose(1, 2) for m in (self.query, self.key, self.value)
        )
        seen = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.mix(seen.transpose(1, 2).flatten(2))
        wide: Tensor = functional.gelu(self.widen(self.norm_mlp(x)))
        return x + cast("Tensor", self.narrow(wide))


class CausalTransformer(nn.Module):
    """Predicts the logits of the next character or word.

    Args:
        vocabulary: Number of characters or words.
        context: Most of them that it sees at once.
        output_bias: Whether the output layer has a bias.
    """

    def __init__(self, vocabulary: int, context: int, *, output_bias: bool = True) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, WIDTH)
        self.positions = nn.Embedding(context, WIDTH)
        for table in (self.embedding, self.positions):
            nn.init.normal_(table.weight, std=0.02)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(WIDTH)
        self.output = nn.Linear(WIDTH, vocabulary, bias=output_bias)

    def forward(self, text: Tensor) -> Tensor:
        """Map text (batch, time) to logits (batch, time, vocabulary)."""
        x = self.embedding(text) + self.positions.weight[: text.shape[1]]
        logits: Tensor = self.output(self.norm(self.blocks(x)))
        return logits


@lru_cache
def text() -> tuple[Tensor, Tensor, int]:
    """Return the training text, the validation windows (WINDOWS, CONTEXT + 1), and the number of characters."""
    joined = "\n".join(topics[name] for name in sorted(topics))
    alphabet = {character: index for index, character in enumerate(sorted(set(joined)))}
    encoded = torch.tensor([alphabet[character] for character in joined])
    cut = int(len(encoded) * (1 - HELD_OUT))
    starts = torch.linspace(cut, len(encoded) - CONTEXT - 1, WINDOWS).long()
    return encoded[:cut], encoded[starts[:, None] + torch.arange(CONTEXT + 1)], len(alphabet)


def next_token(model: nn.Module, train: Tensor, windows: Tensor, seed: int) -> Problem:
    """Return the problem of predicting the next token from random windows of the text ``train``.

    Args:
        model: Maps tokens to logits.
        train: The text.
        windows: Held-out windows (n, context + 1).
        seed: Chooses the windows to train on.
    """
    context = windows.shape[1] - 1
    draw = torch.Generator().manual_seed(seed)

    def loss(batch: Tensor) -> Tensor:
        return functional.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())

    def batch_loss() -> Tensor:
        starts = torch.randint(len(train) - context, (BATCH, 1), generator=draw)
        return loss(train[starts + torch.arange(context + 1)])

    return Problem(model, batch_loss, lambda: loss(windows).item())


def _char_transformer(seed: int) -> Problem:
    train, windows, characters = text()
    return next_token(CausalTransformer(characters, CONTEXT), train, windows, seed)


TASKS: Final = (
    GradientTask(name="char_transformer", version="1", steps=300, warm_up=20, cost=8.0, problem=_char_transformer),
)
