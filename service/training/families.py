# From the rows of one dataset to many related tasks, split by the job's seed into those that P is learned on, those
# that choose and those that judge. It does not know where the rows come from, nor who trains on them (family_loop.py).
"""Families of tasks."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from itertools import combinations
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from sklearn import datasets as sklearn_datasets
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from service.artifacts import read_artifact
from service.data_schemas import ClassSubsetsSpec, FamilySpec
from service.training.catalog import DATASETS, HELD_OUT, MIN_TASKS, Task
from service.training.datasets import Array

MAX_VALUES: Final = 20
"""A column of numbers with more distinct values than this is cut into bins."""

BINS: Final = 10
"""Quantile bins of such a column; equal ones count once."""

MIN_ROWS: Final = 10
"""A group with fewer rows is left out: a fifth of ten, which is held out, is little enough."""

EVALUATED: Final = 0.2
"""Share of the tasks in meta-validation, and again in meta-test."""

PARTS: Final = ("meta_train", "meta_validation", "meta_test")
"""The parts of a family, in the order of the numbers that stand for them in the prepared data."""

Rows = npt.NDArray[np.int64]


class FamilyError(ValueError):
    """The rows do not make a family."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The rows of a dataset before anything is done to them.

    Attributes:
        x: rows x columns.
        y: Class indices of a classification, otherwise the target.
        columns: Names of the columns of ``x``.
        task: What the target asks for.
        images: Whether the columns are pixels, which share one scale.
    """

    x: npt.NDArray[np.float64]
    y: npt.NDArray[Any]
    columns: tuple[str, ...]
    task: Task
    images: bool


@dataclass(frozen=True, slots=True)
class Group:
    """One task: its name, its rows, and the classes that are relabelled, in order; none where labels stay."""

    name: str
    rows: Rows
    classes: tuple[int, ...] = ()


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


def bundled_table(name: str) -> Table:
    """Return the rows of a bundled dataset."""
    info, bunch = DATASETS[name], getattr(sklearn_datasets, f"load_{name}")()
    x, y = np.asarray(bunch.data, dtype=np.float64), np.asarray(bunch.target)
    return Table(x=x, y=y, columns=info.columns, task=info.task, images=info.images)


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
        tasks, left_out, made_by = _class_subsets(table, spec.class_subsets, rng)
        strata: npt.NDArray[Any] = table.y
    else:
        assert spec.group_by is not None, "a family has one of the two"
        tasks, left_out, made_by, strata = _groups(table, spec.group_by)
    if len(tasks) < MIN_TASKS:
        few = f"the family has {len(tasks)} tasks of {MIN_ROWS} rows or more, {MIN_TASKS} are needed ({made_by})"
        raise FamilyError(f"{few}; left out: {', '.join(left_out) or 'none'}")
    held_out = _held_out(len(table.x), tasks, strata, seed)
    order = rng.permutation(len(tasks))
    evaluated = min(spec.evaluate_tasks, max(1, math.floor(len(tasks) * EVALUATED)))
    parts = np.zeros(len(tasks), dtype=np.int64)
    parts[order[:evaluated]], parts[order[evaluated : 2 * evaluated]] = 2, 1
    seen = np.unique(np.concatenate([task.rows for task, part in zip(tasks, parts, strict=True) if part == 0]))
    x, y = _standardise(table, seen[~held_out[seen]], spec.group_by)
    family = Family(
        x=x,
        y=y,
        held_out=held_out,
        rows=np.concatenate([task.rows for task in tasks]),
        sizes=np.array([len(task.rows) for task in tasks]),
        classes=np.array([task.classes for task in tasks], dtype=np.int64).reshape(len(tasks), -1),
        parts=parts,
    )
    by_part = {
        name: [task.name for task, part in zip(tasks, parts, strict=True) if part == index]
        for index, name in enumerate(PARTS)
    }
    return family, FamilySummary(made_by=made_by, tasks=by_part, left_out=left_out)


def _class_subsets(
    table: Table, spec: ClassSubsetsSpec, rng: np.random.Generator
) -> tuple[list[Group], list[str], str]:
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
        Group(f"classes {', '.join(map(str, subset))}", np.flatnonzero(np.isin(table.y, subset)), subset)
        for subset in chosen
    ]
    return tasks, [], f"{len(chosen)} of the {count} subsets of {spec.ways} of {len(classes)} classes"


def _groups(table: Table, column: str) -> tuple[list[Group], list[str], str, npt.NDArray[Any]]:
    values = table.x[:, table.columns.index(column)]
    groups = dict(_values(column, values) if len(np.unique(values)) <= MAX_VALUES else _bins(column, values))
    tasks = [Group(name, rows) for name, rows in groups.items() if len(rows) >= MIN_ROWS]
    left_out = [f"{name} ({len(rows)} rows)" for name, rows in groups.items() if len(rows) < MIN_ROWS]
    strata = np.full(len(values), -1)
    for index, task in enumerate(tasks):
        strata[task.rows] = index
    distinct = len(np.unique(values))
    how = "by its values" if distinct <= MAX_VALUES else f"by {len(groups)} quantile bins, as it has {distinct} values"
    return tasks, left_out, f"grouped by {column}, {how}; {column} is no feature", strata


def _values(column: str, values: npt.NDArray[np.float64]) -> Iterator[tuple[str, Rows]]:
    for value in np.unique(values):
        yield f"{column} = {value:g}", np.flatnonzero(values == value)


def _bins(column: str, values: npt.NDArray[np.float64]) -> Iterator[tuple[str, Rows]]:
    edges = np.unique(np.quantile(values, np.linspace(0, 1, BINS + 1)))
    numbers = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
    for index in range(len(edges) - 1):
        closed = "]" if index == len(edges) - 2 else ")"
        name = f"{column} in [{edges[index]:.4g}, {edges[index + 1]:.4g}{closed}"
        yield name, np.flatnonzero(numbers == index)


def _held_out(rows: int, tasks: Sequence[Group], strata: npt.NDArray[Any], seed: int) -> npt.NDArray[np.bool_]:
    """Hold a fifth of the rows that are in any task out, the same share of each class or group."""
    used = np.unique(np.concatenate([task.rows for task in tasks]))
    _, test = train_test_split(used, test_size=HELD_OUT, random_state=seed, stratify=strata[used])
    mask = np.zeros(rows, dtype=np.bool_)
    mask[test] = True
    return mask


def _standardise(table: Table, rows: Rows, group_by: str | None) -> tuple[Array, Array]:
    x = table.x if group_by is None else np.delete(table.x, table.columns.index(group_by), axis=1)
    scaler = StandardScaler().fit(x[rows])
    if table.images:
        scaler.scale_ = np.full_like(scaler.scale_, np.sqrt(scaler.var_.mean()))
    scaled = scaler.transform(x).astype(np.float32)
    if table.task is Task.CLASSIFICATION:
        return scaled, table.y.astype(np.int64)
    target = StandardScaler().fit(table.y[rows][:, None])
    return scaled, target.transform(table.y[:, None]).astype(np.float32)
