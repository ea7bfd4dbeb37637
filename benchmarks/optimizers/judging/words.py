"""The task ``word_transformer``: a causal transformer that predicts the next word of mathematical documentation.

The text ships with scipy: the docstrings of its functions. The output layer has one row for each of 640 words, more
than the longest axis that WarpAdam's P mixes as a whole.
"""

from __future__ import annotations

import inspect
import re
from collections import Counter
from functools import lru_cache
from types import ModuleType
from typing import Final

import scipy.integrate
import scipy.interpolate
import scipy.linalg
import scipy.optimize
import scipy.signal
import scipy.stats
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.optimizers.training import GradientTask, Problem
from benchmarks.optimizers.transformer import Block

MODULES: Final[tuple[ModuleType, ...]] = (
    scipy.integrate,
    scipy.interpolate,
    scipy.linalg,
    scipy.optimize,
    scipy.signal,
    scipy.stats,
)
VOCABULARY: Final = 640
"""The most frequent words and signs, and one entry for all others."""

WIDTH: Final = 64
LAYERS: Final = 2
CONTEXT: Final = 32
BATCH: Final = 16
HELD_OUT_EVERY: Final = 10
"""Every tenth docstring is held out."""

WINDOWS: Final = 64


class WordTransformer(nn.Module):
    """Predicts the logits of the next word."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(CONTEXT, WIDTH)
        for table in (self.embedding, self.positions):
            nn.init.normal_(table.weight, std=0.02)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(WIDTH)
        self.output = nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, words: Tensor) -> Tensor:
        """Map words (batch, time) to logits (batch, time, VOCABULARY)."""
        x = self.embedding(words) + self.positions.weight[: words.shape[1]]
        logits: Tensor = self.output(self.norm(self.blocks(x)))
        return logits


@lru_cache
def text() -> tuple[Tensor, Tensor]:
    """Return the words to train on, and the held-out windows (WINDOWS, CONTEXT + 1)."""
    found = {inspect.getdoc(getattr(module, name)) or "" for module in MODULES for name in module.__all__}
    documents = [re.findall(r"\w+|[^\w\s]|\n", document) for document in sorted(found)]
    counts = Counter(word for document in documents for word in document)
    code = {word: index for index, (word, _) in enumerate(counts.most_common(VOCABULARY - 1), start=1)}

    def encode(part: list[list[str]]) -> Tensor:
        return torch.tensor([code.get(word, 0) for document in part for word in document])

    train = encode([document for number, document in enumerate(documents) if number % HELD_OUT_EVERY])
    held_out = encode(documents[::HELD_OUT_EVERY])
    starts = torch.linspace(0, len(held_out) - CONTEXT - 1, WINDOWS).long()
    return train, held_out[starts[:, None] + torch.arange(CONTEXT + 1)]


def _word_transformer(seed: int) -> Problem:
    train, windows = text()
    model = WordTransformer()
    draw = torch.Generator().manual_seed(seed)

    def loss(batch: Tensor) -> Tensor:
        return functional.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())

    def batch_loss() -> Tensor:
        starts = torch.randint(len(train) - CONTEXT, (BATCH, 1), generator=draw)
        return loss(train[starts + torch.arange(CONTEXT + 1)])

    return Problem(model, batch_loss, lambda: loss(windows).item())


TASKS: Final = (
    GradientTask(name="word_transformer", version="1", steps=300, warm_up=20, cost=8.0, problem=_word_transformer),
)
