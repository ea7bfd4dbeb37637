"""Batches of random numbers that look like those of a task, to time training steps on."""

from __future__ import annotations

import torch
from torch import Tensor


def classes(rows: int, inputs: int, outputs: int) -> tuple[Tensor, Tensor]:
    """Return rows of numbers, each with a class."""
    return torch.randn(rows, inputs), torch.randint(outputs, (rows,))


def numbers(rows: int, inputs: int, outputs: int) -> tuple[Tensor, Tensor]:
    """Return rows of numbers with numbers to predict."""
    return torch.randn(rows, inputs), torch.randn(rows, outputs)


def inputs(rows: int, inputs: int, outputs: int) -> tuple[Tensor, Tensor]:
    """Return rows of numbers to reconstruct."""
    del outputs
    x = torch.randn(rows, inputs)
    return x, x


def tokens(rows: int, inputs: int, outputs: int) -> tuple[Tensor, Tensor]:
    """Return windows of tokens, with a token to predict at every place."""
    x = torch.randint(outputs, (rows, inputs))
    return x, x


def points(rows: int, inputs: int, outputs: int) -> tuple[Tensor, Tensor]:
    """Return points of an equation: two coordinates and a weight, with the equation's value and the solution."""
    del inputs, outputs
    return torch.rand(rows, 3), torch.randn(rows, 2)
