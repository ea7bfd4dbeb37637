"""A GPT: causal attention and a two-layer network in each block, with the output layer tied to the embedding."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.gpu.sizes import GptShape


class Block(nn.Module):
    """Attention and a two-layer network, each with a norm before it and a residual connection."""

    def __init__(self, shape: GptShape) -> None:
        super().__init__()
        width = shape.width
        self.heads = shape.heads
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, time, width) to the same shape."""
        split = self.query_key_value(self.norm_attention(x)).unflatten(-1, (3, self.heads, -1))
        query, key, value = split.permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.mix(seen.transpose(1, 2).flatten(2))
        result: Tensor = x + self.narrow(functional.gelu(self.widen(self.norm_mlp(x))))
        return result


class Gpt(nn.Module):
    """Predicts the logits of the next token. It starts as GPT-2 does."""

    def __init__(self, shape: GptShape) -> None:
        super().__init__()
        self.embedding = nn.Embedding(shape.vocabulary, shape.width)
        self.positions = nn.Embedding(shape.context, shape.width)
        self.blocks = nn.Sequential(*(Block(shape) for _ in range(shape.layers)))
        self.norm = nn.LayerNorm(shape.width)
        self.output = nn.Linear(shape.width, shape.vocabulary, bias=False)
        self.output.weight = self.embedding.weight
        for name, param in self.named_parameters():
            if param.ndim == 2:
                into_residual = name.endswith(("mix.weight", "narrow.weight"))
                nn.init.normal_(param, std=0.02 / math.sqrt(2 * shape.layers) if into_residual else 0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (batch, time) to logits (batch, time, vocabulary)."""
        x = self.embedding(tokens) + self.positions.weight[: tokens.shape[1]]
        logits: Tensor = self.output(self.norm(self.blocks(x)))
        return logits

    def loss(self, texts: Tensor) -> Tensor:
        """Return the cross-entropy of predicting each next token of texts (batch, time + 1), in bf16."""
        with torch.autocast(texts.device.type, dtype=torch.bfloat16):
            logits = self(texts[:, :-1])
        return functional.cross_entropy(logits.float().flatten(0, 1), texts[:, 1:].flatten())
