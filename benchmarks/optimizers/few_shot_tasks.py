"""Small classification tasks made of handwritten digits.

``subsets`` holds out some sets of five digits. ``disjoint`` holds out whole digits: P never sees 6 to 9. This module
does not depend on any optimizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, permutations

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from benchmarks.few_shot.networks import Rows, RowsTask


@lru_cache(maxsize=1)
def digits() -> tuple[Tensor, Tensor]:
    """Return 1797 images as rows of 64 pixels in [0, 1], and the digit in each image."""
    data = load_digits()
    return torch.tensor(data.data / 16, dtype=torch.float32), torch.tensor(data.target)


@dataclass(frozen=True)
class DigitTask(RowsTask):
    """Classify some of the digits. The label of a digit is its place in ``classes``; no row is held out."""

    classes: tuple[int, ...]

    @classmethod
    def of(cls, classes: Sequence[int]) -> DigitTask:
        """Return the task with these classes."""
        images, targets = digits()
        rows = torch.cat([(targets == digit).nonzero().squeeze(1) for digit in classes])
        labels = torch.cat([torch.full((int((targets == d).sum()),), label) for label, d in enumerate(classes)])
        fit, nothing = Rows(images[rows], labels), Rows(images[:0], targets[:0])
        return cls(fit, nothing, (64, 64, 64, len(classes)), classes=tuple(classes))


@dataclass(frozen=True)
class Split:
    """Tasks to learn P on (training), to choose settings on (validation), and to report (held_out)."""

    training: list[DigitTask]
    validation: list[DigitTask]
    held_out: list[DigitTask]


@lru_cache(maxsize=2)
def subsets() -> Split:
    """Return tasks with five of the ten digits: 200 to learn on, 32 to choose settings on, 20 to report."""
    every = list(combinations(range(10), 5))
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(0)).tolist()
    tasks = [DigitTask.of(every[index]) for index in order]
    return Split(tasks[20:220], tasks[220:], tasks[:20])


@lru_cache(maxsize=2)
def disjoint() -> Split:
    """Return tasks with three digits in some order: all of 0 to 5 to learn on, 20 of 6 to 9 to report."""
    unseen = list(permutations(range(6, 10), 3))
    order = torch.randperm(len(unseen), generator=torch.Generator().manual_seed(0)).tolist()
    held_out = [DigitTask.of(unseen[index]) for index in order[:20]]
    return Split([DigitTask.of(classes) for classes in permutations(range(6), 3)], [], held_out)


@lru_cache(maxsize=2)
def inner_disjoint() -> Split:
    """Return a split like :func:`disjoint` to choose settings on: learn on 0 to 3, judge on tasks with both 4 and 5."""
    judged = [DigitTask.of(classes) for other in range(4) for classes in permutations((4, 5, other))]
    return Split([DigitTask.of(classes) for classes in permutations(range(4), 3)], judged[:20], [])
