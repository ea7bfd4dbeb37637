"""Makes a family of tasks: groups of the rows of one source, or many sources, with the tasks split by the seed.

Tasks are meta-train (P is learned on them), meta-validation (they choose a config) or meta-test (they give the
verdict). In every task a fifth of the rows is held out, and losses are measured there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from service.data.arrays import AnyArray
from service.data.catalog import MAX_VALUES, MIN_GROUP_ROWS, MIN_TASKS
from service.data.encoding import Encoder
from service.data.facts import EXACT
from service.data.grouping import class_subsets, groups_of
from service.data.prepared_files import FAMILY_PARTS, Array, Family, Rows
from service.data.sources import RowSource
from service.data.split import hold_out
from service.errors import JobFailedError
from service.spec.data import FamilySpec
from service.spec.dataset_info import HELD_OUT

EVALUATED: Final = 0.2
"""Largest share of the tasks in meta-validation, and the same in meta-test."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilySummary:
    """The tasks of a family, in words.

    Attributes:
        made_by: How the rows became tasks.
        tasks: Names of the tasks by part.
        left_out: Groups with too few rows.
    """

    made_by: str
    tasks: Mapping[str, list[str]]
    left_out: list[str]


def prepare_family(source: RowSource, spec: FamilySpec, seed: int) -> tuple[Family, FamilySummary]:
    """Make tasks of the rows of one source. The features are scaled by the training rows of the meta-training tasks.

    A fifth of the tasks, at most ``evaluate_tasks``, are in meta-validation, and as many in meta-test.

    Args:
        source: The rows.
        spec: What makes the tasks.
        seed: Decides the held-out rows, the subsets that are drawn, and the part of each task.

    Raises:
        JobFailedError: Fewer than three tasks have enough rows.
    """
    rng = np.random.default_rng(seed)
    if spec.class_subsets is not None:
        groups, strata = class_subsets(source.target, spec.class_subsets, rng), source.target.classes
        used = np.arange(source.rows)  # of all classes, so that any subsets hold out the same rows
    else:
        assert spec.group_by is not None, "a family of one source has class_subsets or group_by"
        values = source.column(spec.group_by)
        _check_told_apart(values, spec.group_by, spec.bins)
        groups, strata = groups_of(values, spec.group_by, spec.bins)
        used = np.flatnonzero(strata >= 0)
    tasks = groups.tasks
    if len(tasks) < MIN_TASKS:
        few = f"the family has {len(tasks)} tasks of at least {MIN_GROUP_ROWS} rows, but needs {MIN_TASKS}"
        raise JobFailedError(f"{few} ({groups.made_by}); left out: {', '.join(groups.left_out) or 'none'}")
    held_out = _held_out(used, source.rows, strata, seed)
    parts = _parts(len(tasks), spec.evaluate_tasks, rng)
    seen = np.unique(np.concatenate([task.rows for task, part in zip(tasks, parts, strict=True) if part == 0]))
    training = seen[~held_out[seen]]
    family = Family(
        x=_features(source.encoder(training, spec.group_by), source.rows),
        y=_targets(source, training),
        held_out=held_out,
        rows=np.concatenate([task.rows for task in tasks]),
        sizes=np.array([len(task.rows) for task in tasks]),
        classes=np.array([task.classes for task in tasks], dtype=np.int64).reshape(len(tasks), -1),
        parts=parts,
    )
    return family, _summary(groups.made_by, [task.name for task in tasks], parts, groups.left_out)


def prepare_datasets(sources: Mapping[str, RowSource], spec: FamilySpec, seed: int) -> tuple[Family, FamilySummary]:
    """Make a task of each source. Each has its own held-out rows and is scaled by its own training rows.

    Args:
        sources: The sources by name, all with the same features and kind of target.
        spec: How many tasks are evaluated.
        seed: Decides the held-out rows and the part of each task.
    """
    parts = _parts(len(sources), spec.evaluate_tasks, np.random.default_rng(seed))
    xs: list[npt.NDArray[np.float32]] = []
    ys: list[AnyArray] = []
    masks: list[npt.NDArray[np.bool_]] = []
    for source in sources.values():
        every = np.arange(source.rows)
        held_out = _held_out(every, source.rows, source.target.classes, seed)  # the test rows of a job on it alone
        training = every[~held_out]
        xs.append(_features(source.encoder(training), source.rows))
        ys.append(_targets(source, training))
        masks.append(held_out)
    sizes = np.array([len(mask) for mask in masks])
    family = Family(
        x=np.concatenate(xs),
        y=np.concatenate(ys),
        held_out=np.concatenate(masks),
        rows=np.arange(sizes.sum()),
        sizes=sizes,
        classes=np.zeros((len(sizes), 0), dtype=np.int64),
        parts=parts,
    )
    return family, _summary(f"{len(sizes)} datasets, a task each", list(sources), parts, [])


def _features(encoder: Encoder, rows: int) -> npt.NDArray[np.float32]:
    x = np.empty((rows, encoder.width), dtype=np.float32)
    encoder.write(np.arange(rows), x)
    return x


def _targets(source: RowSource, training: Rows) -> Array:
    if source.target.values is None:
        return np.zeros((source.rows, 1), dtype=np.float32)
    return source.target.encode(training)


def _check_told_apart(values: AnyArray, column: str, bins: int) -> None:
    """Refuse numbers that are too large to tell neighbours apart, which would mix the rows of two tasks."""
    if values.dtype.kind != "f" or (bins and len(np.unique(values[~np.isnan(values)])) > MAX_VALUES):
        return
    if np.nanmax(np.abs(values), initial=0.0) >= EXACT:  # which 2**53 + 1 has become, too
        raise JobFailedError(
            f"family.group_by: column {column} has numbers of 2**53 or more, not all of which can be told apart as "
            "floats; upload it as texts, with a letter before each number"
        )


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
        for index, part in enumerate(FAMILY_PARTS)
    }
    return FamilySummary(made_by=made_by, tasks=by_part, left_out=left_out)


def _held_out(used: Rows, rows: int, strata: AnyArray | None, seed: int) -> npt.NDArray[np.bool_]:
    """Return which rows are held out: a fifth of the ``used`` ones."""
    mask = np.zeros(rows, dtype=np.bool_)
    mask[hold_out(used, HELD_OUT, seed, strata)[1]] = True
    return mask
