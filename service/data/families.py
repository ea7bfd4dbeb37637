# Many related tasks as arrays, split by the job's seed into those that P is learned on, those that choose and those
# that judge. Where the rows come from is in family_tables.py, which rows are a task in grouping.py, who trains on them
# in family_loop.py.
"""Families of tasks."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import train_test_split

from service.artifacts import read_artifact
from service.data.catalog import HELD_OUT, MAX_VALUES, MIN_GROUP_ROWS, MIN_TASKS, Task
from service.data.facts import EXACT
from service.data.family_tables import Rows, Table
from service.data.grouping import class_subsets, groups_of
from service.data.split import Array, Split
from service.spec.data import FamilySpec

EVALUATED: Final = 0.2
"""Share of the tasks in meta-validation, and again in meta-test."""

PARTS: Final = ("meta_train", "meta_validation", "meta_test")
"""The parts of a family, in the order of the numbers that stand for them in the prepared data."""


class FamilyError(ValueError):
    """The rows do not make a family."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """The arrays of one task of a prepared family."""

    x_train: Array
    y_train: Array
    x_held_out: Array
    y_held_out: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A prepared family, as arrays: rows are standardised once and shared by the tasks.

    Attributes:
        x: rows x features.
        y: Class index, or standardised target, of each row.
        held_out: Whether a row is never trained on; the same in every task.
        rows: The rows of all tasks, task after task.
        sizes: Rows of each task.
        classes: tasks x ways: the classes of each task, in the order of their labels; no columns where labels stay.
        parts: Part of each task, an index of ``PARTS``.
    """

    x: Array
    y: Array
    held_out: npt.NDArray[np.bool_]
    rows: Rows
    sizes: Rows
    classes: Rows
    parts: Rows

    def to_npz(self) -> bytes:
        """Return the arrays as an uncompressed NPZ file; equal arrays give equal bytes."""
        buffer = io.BytesIO()
        np.savez(buffer, **{field.name: getattr(self, field.name) for field in fields(self)})
        return buffer.getvalue()

    def members(self, part: str) -> list[Member]:
        """Return the tasks of a part."""
        starts = np.concatenate([[0], np.cumsum(self.sizes)])
        return [self._member(int(index), starts) for index in np.flatnonzero(self.parts == PARTS.index(part))]

    def one_task(self) -> Split:
        """Return the first of the tasks that judge as the split of a run on one task; what is held out is test too."""
        first = self.members("meta_test")[0]
        held_out = (first.x_held_out, first.y_held_out)
        return Split(
            x_train=first.x_train,
            y_train=first.y_train,
            x_val=held_out[0],
            y_val=held_out[1],
            x_test=held_out[0],
            y_test=held_out[1],
        )

    def _member(self, index: int, starts: Rows) -> Member:
        rows = self.rows[starts[index] : starts[index + 1]]
        held_out = self.held_out[rows]
        y = self.y[rows]
        if self.classes.shape[1]:
            order = self.classes[index]
            by_class = np.argsort(order)
            y = by_class[np.searchsorted(order, y, sorter=by_class)]
        x = self.x[rows]
        return Member(x_train=x[~held_out], y_train=y[~held_out], x_held_out=x[held_out], y_held_out=y[held_out])


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilySummary:
    """What a family came out as.

    Attributes:
        made_by: How the rows became tasks, in one sentence.
        tasks: Names of the tasks by part.
        left_out: Groups with too few rows.
    """

    made_by: str
    tasks: Mapping[str, list[str]]
    left_out: list[str]


@lru_cache(maxsize=2)
def load_family(url: str, sha256: str) -> Family:
    """Read a prepared family from the artifact store; the last ones are kept in memory.

    Raises:
        ValueError: The file is not the one that was prepared for the job.
    """
    content = read_artifact(url)
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise ValueError(f"the prepared data has changed: its SHA-256 is {digest}, expected {sha256}")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return Family(**{field.name: arrays[field.name] for field in fields(Family)})


def prepare_family(table: Table, spec: FamilySpec, seed: int) -> tuple[Family, FamilySummary]:
    """Make tasks of a table, split them, and standardise the rows by what the meta-training tasks train on.

    A fifth of the rows is held out, in every task that has them; losses are measured there. The tasks are split after
    that: a fifth each, at most ``evaluate_tasks``, for meta-validation and meta-test, the others for meta-training.

    Args:
        table: The rows.
        spec: What makes the tasks.
        seed: Of both splits, and of the subsets that are drawn.

    Raises:
        FamilyError: Fewer than three tasks come out.
    """
    rng = np.random.default_rng(seed)
    if spec.class_subsets is not None:
        groups, strata = class_subsets(table, spec.class_subsets, rng), table.y
    else:
        assert spec.group_by is not None, "a family has one of the two"
        _check_told_apart(table.columns[spec.group_by], spec.group_by, spec.bins)
        groups, strata = groups_of(table, spec.group_by, spec.bins)
    tasks, left_out = groups.tasks, groups.left_out
    if len(tasks) < MIN_TASKS:
        few = f"the family has {len(tasks)} tasks of {MIN_GROUP_ROWS} rows or more, {MIN_TASKS} are needed"
        raise FamilyError(f"{few} ({groups.made_by}); left out: {', '.join(left_out) or 'none'}")
    every = np.arange(len(table.y))  # of classes that are in no task too, so that all draws hold out the same rows
    used = every if spec.class_subsets is not None else np.unique(np.concatenate([task.rows for task in tasks]))
    held_out = _held_out(len(table.y), used, strata, seed)
    parts = _parts(len(tasks), spec.evaluate_tasks, rng)
    seen = np.unique(np.concatenate([task.rows for task, part in zip(tasks, parts, strict=True) if part == 0]))
    learned_from = seen[~held_out[seen]]
    family = Family(
        x=table.features(learned_from, spec.group_by),
        y=table.targets(learned_from),
        held_out=held_out,
        rows=np.concatenate([task.rows for task in tasks]),
        sizes=np.array([len(task.rows) for task in tasks]),
        classes=np.array([task.classes for task in tasks], dtype=np.int64).reshape(len(tasks), -1),
        parts=parts,
    )
    return family, _summary(groups.made_by, [task.name for task in tasks], parts, left_out)


def _check_told_apart(values: npt.NDArray[Any], column: str, bins: int) -> None:
    """Refuse values of which some, as floats, would be their neighbours, and so their rows those of other tasks."""
    if values.dtype.kind != "f" or (bins and len(np.unique(values[~np.isnan(values)])) > MAX_VALUES):
        return
    if np.nanmax(np.abs(values), initial=0.0) >= EXACT:  # which 2**53 + 1 has become, too
        raise FamilyError(
            f"family.group_by: column {column} has numbers of 2**53 or more, not all of which can be told apart as "
            "floats; upload it as texts, with a letter before each number"
        )


def prepare_datasets(tables: Mapping[str, Table], spec: FamilySpec, seed: int) -> tuple[Family, FamilySummary]:
    """Make a task of each table: each has its own held-out rows and is standardised by its own others.

    Args:
        tables: The tables by name; alike in their features.
        spec: How many tasks judge.
        seed: Of the splits.
    """
    parts = _parts(len(tables), spec.evaluate_tasks, np.random.default_rng(seed))
    xs: list[Array] = []
    ys: list[Array] = []
    masks: list[npt.NDArray[np.bool_]] = []
    for table in tables.values():
        every = np.arange(len(table.y))
        strata = table.y if table.task is Task.CLASSIFICATION else None  # as a job on this table alone would hold out
        held_out = _held_out(len(every), every, strata, seed)
        xs.append(table.features(every[~held_out], None))
        ys.append(table.targets(every[~held_out]))
        masks.append(held_out)
    sizes = np.array([len(mask) for mask in masks])
    has_classes = all(table.task is Task.CLASSIFICATION for table in tables.values())
    family = Family(
        x=np.concatenate(xs, dtype=np.float32),
        y=np.concatenate(ys, dtype=np.int64) if has_classes else np.concatenate(ys, dtype=np.float32),
        held_out=np.concatenate(masks),
        rows=np.arange(sizes.sum()),
        sizes=sizes,
        classes=np.zeros((len(sizes), 0), dtype=np.int64),
        parts=parts,
    )
    return family, _summary(f"{len(sizes)} datasets, a task each", list(tables), parts, [])


def _parts(tasks: int, evaluate_tasks: int, rng: np.random.Generator) -> Rows:
    """Return the part of each task."""
    order = rng.permutation(tasks)
    evaluated = min(evaluate_tasks, max(1, math.floor(tasks * EVALUATED)))
    parts = np.zeros(tasks, dtype=np.int64)
    parts[order[:evaluated]], parts[order[evaluated : 2 * evaluated]] = 2, 1
    return parts


def _summary(made_by: str, names: Sequence[str], parts: Rows, left_out: list[str]) -> FamilySummary:
    by_part = {
        part: [name for name, found in zip(names, parts, strict=True) if found == index]
        for index, part in enumerate(PARTS)
    }
    return FamilySummary(made_by=made_by, tasks=by_part, left_out=left_out)


def _held_out(rows: int, used: Rows, strata: npt.NDArray[Any] | None, seed: int) -> npt.NDArray[np.bool_]:
    """Hold a fifth of the rows that are ``used`` out, the same share of each class or group if there are some."""
    stratify = None if strata is None else strata[used]
    _, test = train_test_split(used, test_size=HELD_OUT, random_state=seed, stratify=stratify)
    mask = np.zeros(rows, dtype=np.bool_)
    mask[test] = True
    return mask
