# Which rows of a table are a task: every subset of the classes, or every value of a column. What is done with the tasks
# is in families.py.
"""Tasks as groups of rows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from service.data.catalog import MAX_VALUES, MIN_GROUP_ROWS
from service.data.family_tables import Rows, Table
from service.spec.data import ClassSubsetsSpec


@dataclass(frozen=True, slots=True)
class Group:
    """One task: its name, its rows, and the classes that are relabelled, in order; none where labels stay."""

    name: str
    rows: Rows
    classes: tuple[int, ...] = ()


class Groups(NamedTuple):
    """The tasks of a table, the groups with too few rows, and in one sentence how they were made."""

    tasks: list[Group]
    left_out: list[str]
    made_by: str


def class_subsets(table: Table, spec: ClassSubsetsSpec, rng: np.random.Generator) -> Groups:
    """Return a task for each subset of the classes; of more than ``spec.tasks`` that many are drawn."""
    classes = np.unique(table.y).tolist()
    count = math.comb(len(classes), spec.ways)
    if count <= spec.tasks:
        chosen = list(combinations(classes, spec.ways))
    else:
        drawn: dict[tuple[int, ...], None] = {}
        while len(drawn) < spec.tasks:
            drawn[tuple(sorted(rng.choice(classes, spec.ways, replace=False).tolist()))] = None
        chosen = list(drawn)
    tasks = [
        Group(
            f"classes {', '.join(table.labels[index] for index in subset)}",
            np.flatnonzero(np.isin(table.y, subset)),
            subset,
        )
        for subset in chosen
    ]
    return Groups(tasks, [], f"{len(chosen)} of the {count} subsets of {spec.ways} of {len(classes)} classes")


def groups_of(table: Table, column: str, bins: int) -> tuple[Groups, npt.NDArray[Any]]:
    """Return a task for each value of a column, or for each of its quantile bins, and the number of each row's group.

    Args:
        table: The rows.
        column: The column; rows where it is empty are in no task.
        bins: Quantile bins of a number with more than ``MAX_VALUES`` values; 0 for none.
    """
    values = table.columns[column]
    is_number = values.dtype.kind == "f"
    present = np.flatnonzero(~np.isnan(values) if is_number else values != "")
    distinct = np.unique(values[present])
    binned = is_number and bins > 0 and len(distinct) > MAX_VALUES
    groups = dict(_bins(column, values, present, bins) if binned else _values(column, values, distinct))
    tasks = [Group(name, rows) for name, rows in groups.items() if len(rows) >= MIN_GROUP_ROWS]
    left_out = [f"{name} ({len(rows)} rows)" for name, rows in groups.items() if len(rows) < MIN_GROUP_ROWS]
    if len(present) < len(values):
        left_out.append(f"no {column} ({len(values) - len(present)} rows)")
    strata = np.full(len(values), -1)
    for index, task in enumerate(tasks):
        strata[task.rows] = index
    how = f"by {len(groups)} quantile bins, as it has {len(distinct)} values" if binned else "by its values"
    return Groups(tasks, left_out, f"grouped by {column}, {how}; {column} is no feature"), strata


def _values(column: str, values: npt.NDArray[Any], distinct: npt.NDArray[Any]) -> Iterator[tuple[str, Rows]]:
    names = distinct.tolist() if distinct.dtype.kind != "f" else _shown(distinct, 15)
    for value, shown in zip(distinct, names, strict=True):
        yield f"{column} = {shown}", np.flatnonzero(values == value)


def _bins(column: str, values: npt.NDArray[np.float64], present: Rows, bins: int) -> Iterator[tuple[str, Rows]]:
    edges = np.unique(np.quantile(values[present], np.linspace(0, 1, bins + 1)))
    numbers = np.clip(np.searchsorted(edges, values[present], side="right") - 1, 0, len(edges) - 2)
    shown = _shown(edges, 4)
    for index in range(len(edges) - 1):
        closed = "]" if index == len(edges) - 2 else ")"
        yield f"{column} in [{shown[index]}, {shown[index + 1]}{closed}", present[numbers == index]


def _shown(numbers: npt.NDArray[np.float64], least: int) -> list[str]:
    """Return different numbers with as few digits as tell them apart, ``least`` at least."""
    for digits in range(least, 17):
        shown = [f"{number:.{digits}g}" for number in numbers]
        if len(set(shown)) == len(shown):
            return shown
    return [repr(float(number)) for number in numbers]
