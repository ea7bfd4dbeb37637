"""A model with most kinds of parameters, and one way to train it, for the tests of torch's habits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from warpadam import Strategy, WarpAdam


class Mixed(nn.Module):
    """Convolutions of three kinds, a tied embedding, norms, a scalar, an empty and a frozen parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 9)
        self.conv = nn.Conv2d(1, 4, 2)
        self.depthwise = nn.Conv2d(4, 4, 2, groups=4)
        self.up = nn.ConvTranspose2d(4, 1, 3)
        self.norm = nn.LayerNorm(9)
        self.fixed = nn.Linear(9, 9).requires_grad_(False)
        self.gain = nn.Parameter(torch.tensor(1.0))
        self.nothing = nn.Parameter(torch.zeros(0, 3))
        self.unused = nn.Linear(2, 2)
        self.out = nn.Linear(9, 7)
        self.out.weight = self.table.weight

    def forward(self, tokens: Tensor) -> Tensor:
        images = self.table(tokens).view(-1, 1, 3, 3)
        hidden = self.up(self.depthwise(self.conv(images)).tanh()).flatten(1)
        result: Tensor = self.out(self.fixed(self.norm(hidden)) * self.gain + self.nothing.sum())
        return result


def tokens(step: int, count: int = 6) -> Tensor:
    """The batch of a step."""
    return torch.randint(0, 7, (count,), generator=torch.Generator().manual_seed(step))


def loss_of(model: nn.Module, batch: Tensor) -> Tensor:
    """Cross-entropy of predicting the next token."""
    return nn.functional.cross_entropy(model(batch).float(), (batch + 1) % 7)


def make_model(dtype: torch.dtype = torch.float32) -> Mixed:
    """The same model every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Mixed().to(dtype)


def make_optimizer(model: nn.Module, strategy: Strategy, **settings: Any) -> WarpAdam:
    """Small enough limits that every fall-back of a structure is met."""
    defaults: dict[str, Any] = {"lr": 0.01, "meta_every": 2, "p_lr": 0.02, "rank": 2, "max_dim": 8, "block_size": 16}
    return WarpAdam(model.named_parameters(), **strategy._asdict(), **{**defaults, **settings})


def train(model: nn.Module, optimizer: WarpAdam, steps: Iterable[int]) -> None:
    """Step with the gradients of each step's batch."""
    for step in steps:
        optimizer.zero_grad()
        loss_of(model, tokens(step)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
