# Models of users that keep to the contract in unusual ways.
from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def hooked(shape: tuple[int, ...], outputs: int, task: str) -> nn.Module:
    """Return a model whose hooks scale what goes in and what comes out."""
    model = nn.Linear(shape[0], outputs)
    model.register_forward_pre_hook(lambda module, args: (3.0 * args[0] + 1.0,))
    model.register_forward_hook(lambda module, args, output: 0.5 * output)
    return model


class Layers(nn.Module):
    """A part that is often frozen, as its dropout and running means would be, and a head."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.front = nn.Sequential(nn.Linear(inputs, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(16, outputs), nn.Dropout(0.1))

    def forward(self, x: Tensor) -> Any:
        return self.head(self.front(x))


def partly_frozen(shape: tuple[int, ...], outputs: int, task: str) -> nn.Module:
    """Return a model whose first part is in evaluation mode from the beginning."""
    model = Layers(shape[0], outputs)
    model.front.eval()
    return model


class KeepsFrontFrozen(Layers):
    """Keeps its first part in evaluation mode by its own ``train``."""

    def train(self, mode: bool = True) -> KeepsFrontFrozen:
        super().train(mode)
        self.front.eval()
        return self


def keeps_front_frozen(shape: tuple[int, ...], outputs: int, task: str) -> nn.Module:
    return KeepsFrontFrozen(shape[0], outputs)


class Counting(nn.Linear):
    """Keeps more than tensors: how many batches it was trained on."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.counts: dict[str, int] = {"batches": 0}

    def forward(self, x: Tensor) -> Tensor:
        self.counts["batches"] += self.training
        return super().forward(x)

    def get_extra_state(self) -> dict[str, int]:
        return self.counts

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.counts = dict(state)


def counting(shape: tuple[int, ...], outputs: int, task: str) -> nn.Module:
    return Counting(shape[0], outputs)
