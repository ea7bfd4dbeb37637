"""Groups the rows of a source into tasks: by subsets of the classes, or by the values of a column."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from service.data.arrays import AnyArray
from service.data.catalog import MAX_VALUES, MIN_GROUP_ROWS
from service.data.encoding import Target
from service.data.prepared_files import Rows
from service.spec.data import ClassSubsetsSpec


@dataclass(frozen=True, slots=True)
class Group:
    """The rows of one task, and the classes that become 0, 1, ... in it; none if labels stay as they are."""

    name: str
    rows: Rows
    classes: tuple[int, ...] = ()


class Groups(NamedTuple):
    """The tasks of a source, the names of the groups with too few rows, and how the groups were made."""

    tasks: list[Group]
    left_out: list[str]
    made_by: str


def class_subsets(target: Target, spec: ClassSubsetsSpec, rng: np.random.Generator) -> Groups:
    """Return a task for each subset of the classes; if there are more than ``spec.tasks``, that many are drawn."""
    y = target.classes
    assert y is not None, "class_subsets needs classes"
    classes = np.unique(y).tolist()
    count = math.comb(len(classes), spec.ways)
    if count <= spec.tasks:
        chosen = list(combinations(classes, spec.ways))
    else:
        drawn: dict[tuple[int, ...], None] = {}
        while len(drawn) < spec.tasks:
            drawn[tuple(sorted(rng.choice(classes, spec.ways, replace=False).tolist()))] = None
        chosen = list(drawn)
    tasks = []
    for subset in chosen:
        name = f"classes {', '.join(target.labels[index] for index in subset)}"
        tasks.append(Group(name, np.flatnonzero(np.isin(y, subset)), subset))
    return Groups(tasks, [], f"{len(chosen)} of the {count} subsets of {spec.ways} of {len(classes)} classes")


def groups_of(values: AnyArray, column: str, bins: int) -> tuple[Groups, Rows]:
    """Return a task for each value of a column, or for each quantile bin; and the number of each row's task.

    The number of a row in no task is -1. Rows where the column is empty are in no task.

    Args:
        values: The values of the column.
        column: Its name.
        bins: Quantile bins of a number with more than ``MAX_VALUES`` values; 0 makes no bins.
    """
    is_number = values.dtype.kind == "f"
    present = np.flatnonzero(~np.isnan(values) if is_number else values != "")
    distinct = np.unique(values[present])
    binned = is_number and bins > 0 and len(distinct) > MAX_VALUES
    groups = dict(_bins(column, values, present, bins) if binned else _values(column, values, distinct))
    tasks = [Group(name, rows) for name, rows in groups.items() if len(rows) >= MIN_GROUP_ROWS]
    left_out = [f"{name} ({len(rows)} rows)" for name, rows in groups.items() if len(rows) < MIN_GROUP_ROWS]
    if len(present) < len(values):
        left_out.append(f"no {column} ({len(values) - len(present)} rows)")
    numbers = np.full(len(values), -1)
    for index, task in enumerate(tasks):
        numbers[task.rows] = index
    how = f"by {len(groups)} quantile bins, as it has {len(distinct)} values" if binned else "by its values"
    return Groups(tasks, left_out, f"grouped by {column}, {how}; {column} is not a feature"), numbers


def _values(column: str, values: AnyArray, distinct: AnyArray) -> Iterator[tuple[str, Rows]]:
    names = distinct.tolist() if distinct.dtype.kind != "f" else _told_apart(distinct, 15)
    for value, name in zip(distinct, names, strict=True):
        yield f"{column} = {name}", np.flatnonzero(values == value)


def _bins(column: str, values: npt.NDArray[np.float64], present: Rows, bins: int) -> Iterator[tuple[str, Rows]]:
    edges = np.unique(np.quantile(values[present], np.linspace(0, 1, bins + 1)))
    numbers = np.clip(np.searchsorted(edges, values[present], side="right") - 1, 0, len(edges) - 2)
    names = _told_apart(edges, 4)
    for index in range(len(edges) - 1):
        closed = "]" if index == len(edges) - 2 else ")"
        yield f"{column} in [{names[index]}, {names[index + 1]}{closed}", present[numbers == index]


def _told_apart(numbers: npt.NDArray[np.float64], least_digits: int) -> list[str]:
    """Write different numbers with the fewest digits that tell them apart, at least ``least_digits``."""
    for digits in range(least_digits, 17):
        names = [f"{number:.{digits}g}" for number in numbers]
        if len(set(names)) == len(names):
            return names
    return [repr(float(number)) for number in numbers]
