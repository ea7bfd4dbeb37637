"""Makes a family of tasks: groups of the rows of one source, or many sources, with the tasks split by the seed.

The rows of one source are grouped by subsets of the classes, or by the values of a column. Tasks are meta-train (P is
learned on them), meta-validation (they choose a config) or meta-test (they give the verdict). In every task a fifth of
the rows is held out, and losses are measured there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from service.data.arrays import AnyArray
from service.data.catalog import MAX_VALUES, MIN_GROUP_ROWS, MIN_TASKS
from service.data.facts import EXACT
from service.data.prepared_files import FAMILY_PARTS, Array, Family, Rows
from service.data.sources import RowSource, Target
from service.data.splits import hold_out, hold_out_together
from service.errors import JobFailedError
from service.spec.data import ClassSubsetsSpec, FamilySpec
from service.spec.dataset_info import HELD_OUT

EVALUATED: Final = 0.2
"""Largest share of the tasks in meta-validation, and the same in meta-test."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilySummary:
    """The tasks of a family, in words: how the rows became tasks, their names by part, groups with too few rows."""

    made_by: str
    tasks: Mapping[str, list[str]]
    left_out: list[str]


class Group(NamedTuple):
    """The rows of one task, and the classes that become 0, 1, ... in it; none if labels stay as they are."""

    name: str
    rows: Rows
    classes: tuple[int, ...] = ()


class Groups(NamedTuple):
    """The tasks of a source, how they were made, and the names of the groups with too few rows.

    The same share of each of the ``strata`` is held out. It has a number for each row of the source, -1 if unused.
    """

    tasks: list[Group]
    strata: Rows
    made_by: str
    left_out: list[str]


def prepare_family(source: RowSource, spec: FamilySpec, seed: int) -> tuple[Family, FamilySummary]:
    """Make tasks of the rows of one source. The features are scaled by the training rows of the meta-training tasks.

    A fifth of the tasks, at most ``evaluate_tasks``, are in meta-validation, and as many in meta-test. ``seed`` decides
    the held-out rows, the subsets that are drawn, and the part of each task.

    Raises:
        JobFailedError: Fewer than three tasks have enough rows.
    """
    rng = np.random.default_rng(seed)
    if spec.class_subsets is not None:
        groups = _class_subsets(source.target, spec.class_subsets, rng)
    else:
        assert spec.group_by is not None, "a family of one source has class_subsets or group_by"
        groups = _groups_of(source.column(spec.group_by), spec.group_by, spec.bins)
    tasks = groups.tasks
    if len(tasks) < MIN_TASKS:
        few = f"the family has {len(tasks)} tasks of at least {MIN_GROUP_ROWS} rows, but needs {MIN_TASKS}"
        raise JobFailedError(f"{few} ({groups.made_by}); left out: {', '.join(groups.left_out) or 'none'}")
    used = np.flatnonzero(groups.strata >= 0)
    if source.split.together is None:
        _, chosen = hold_out(used, HELD_OUT, seed, groups.strata)
    else:
        chosen = hold_out_together(used, HELD_OUT, seed, groups.strata, source.split.together)
    held_out = _mask(chosen, source.rows)
    parts = _parts(len(tasks), spec.evaluate_tasks, rng)
    seen = np.unique(np.concatenate([task.rows for task, part in zip(tasks, parts, strict=True) if part == 0]))
    x, y = _encoded(source, seen[~held_out[seen]], without=spec.group_by)
    return _family(x, y, held_out, tasks, parts), _summary(groups.made_by, tasks, parts, groups.left_out)


def prepare_datasets(sources: Mapping[str, RowSource], spec: FamilySpec, seed: int) -> tuple[Family, FamilySummary]:
    """Make a task of each source. Each has its own held-out rows and is scaled by its own training rows.

    The sources are given by name, all with the same features and kind of target. ``seed`` decides the held-out rows
    and the part of each task.
    """
    parts = _parts(len(sources), spec.evaluate_tasks, np.random.default_rng(seed))
    xs: list[npt.NDArray[np.float32]] = []
    ys: list[AnyArray] = []
    masks: list[npt.NDArray[np.bool_]] = []
    tasks: list[Group] = []
    start = 0
    for name, source in sources.items():
        every = np.arange(source.rows)
        alone = source.split.parts(source.rows, seed, source.target.classes, source.target.labels)
        held_out = _mask(alone["test"], source.rows)  # as in a job on it alone
        x, y = _encoded(source, every[~held_out])
        xs.append(x)
        ys.append(y)
        masks.append(held_out)
        tasks.append(Group(name, start + every))
        start += source.rows
    family = _family(np.concatenate(xs), np.concatenate(ys), np.concatenate(masks), tasks, parts)
    return family, _summary(f"{len(tasks)} datasets, a task each", tasks, parts, [])


def _encoded(source: RowSource, training: Rows, without: str | None = None) -> tuple[npt.NDArray[np.float32], Array]:
    """Return features and targets of all rows, scaled by the ``training`` rows."""
    encoder = source.encoder(training, without)
    x = np.empty((source.rows, encoder.width), dtype=np.float32)
    encoder.write(np.arange(source.rows), x)
    if source.target.values is None:
        return x, np.zeros((source.rows, 1), dtype=np.float32)
    return x, source.target.encode(training)[0]


def _parts(tasks: int, evaluate_tasks: int, rng: np.random.Generator) -> Rows:
    """Return the part of each task."""
    order = rng.permutation(tasks)
    evaluated = min(evaluate_tasks, max(1, math.floor(tasks * EVALUATED)))
    parts = np.zeros(tasks, dtype=np.int64)
    parts[order[:evaluated]], parts[order[evaluated : 2 * evaluated]] = 2, 1
    return parts


def _family(x: Array, y: Array, held_out: npt.NDArray[np.bool_], tasks: Sequence[Group], parts: Rows) -> Family:
    return Family(
        x=x,
        y=y,
        held_out=held_out,
        rows=np.concatenate([task.rows for task in tasks]),
        sizes=np.array([len(task.rows) for task in tasks]),
        classes=np.array([task.classes for task in tasks], dtype=np.int64).reshape(len(tasks), -1),
        parts=parts,
    )


def _summary(made_by: str, tasks: Sequence[Group], parts: Rows, left_out: list[str]) -> FamilySummary:
    by_part = {
        part: [task.name for task, found in zip(tasks, parts, strict=True) if found == index]
        for index, part in enumerate(FAMILY_PARTS)
    }
    return FamilySummary(made_by=made_by, tasks=by_part, left_out=left_out)


def _mask(chosen: Rows, rows: int) -> npt.NDArray[np.bool_]:
    mask = np.zeros(rows, dtype=np.bool_)
    mask[chosen] = True
    return mask


def _class_subsets(target: Target, spec: ClassSubsetsSpec, rng: np.random.Generator) -> Groups:
    """Return a task for each subset of the classes; if there are more than ``spec.tasks``, that many are drawn.

    Rows of all classes are used, so that any subsets hold out the same rows.
    """
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
    return Groups(tasks, y, f"{len(chosen)} of the {count} subsets of {spec.ways} of {len(classes)} classes", [])


def _groups_of(values: AnyArray, column: str, bins: int) -> Groups:
    """Return a task for each value of a column, or for each quantile bin of a number with many values.

    Rows where the column is empty are in no task.

    Raises:
        JobFailedError: Numbers are too large to tell neighbours apart, which would mix the rows of two tasks.
    """
    is_number = values.dtype.kind == "f"
    present = np.flatnonzero(~np.isnan(values) if is_number else values != "")
    distinct = np.unique(values[present])
    binned = is_number and bins > 0 and len(distinct) > MAX_VALUES
    if is_number and not binned and np.abs(distinct).max(initial=0.0) >= EXACT:  # which 2**53 + 1 has become, too
        raise JobFailedError(
            f"family.group_by: column {column} has numbers of 2**53 or more, not all of which can be told apart as "
            "floats; upload it as texts, with a letter before each number"
        )
    groups = dict(_bins(column, values, present, bins) if binned else _values(column, values, distinct))
    tasks = [Group(name, rows) for name, rows in groups.items() if len(rows) >= MIN_GROUP_ROWS]
    left_out = [f"{name} ({len(rows)} rows)" for name, rows in groups.items() if len(rows) < MIN_GROUP_ROWS]
    if len(present) < len(values):
        left_out.append(f"no {column} ({len(values) - len(present)} rows)")
    strata = np.full(len(values), -1)
    for index, task in enumerate(tasks):
        strata[task.rows] = index
    how = f"by {len(groups)} quantile bins, as it has {len(distinct)} values" if binned else "by its values"
    return Groups(tasks, strata, f"grouped by {column}, {how}; {column} is not a feature", left_out)


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
