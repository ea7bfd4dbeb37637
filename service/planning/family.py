"""What a family of tasks asks of its data: whether the data can give one, and what one task of it looks like.

This works with facts about the data only; the tasks themselves are made in service/data/families.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from search_spaces.errors import must_be_one_of
from service.data.catalog import BUNDLED, MAX_VALUES, MIN_GROUP_ROWS, MIN_TASKS
from service.data.facts import Column, ColumnKind
from service.errors import FieldError, InvalidSpecError, conflict
from service.spec.data import ClassSubsetsSpec, FamilySpec
from service.spec.dataset_info import DatasetInfo
from service.spec.job import JobSpec
from service.spec.models import AutoencoderSpec, MlpSpec
from service.spec.tasks import Task

KINDS: Final = ("class_subsets", "group_by", "datasets")
"""Fields of a family. Exactly one of them says what its tasks are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyDataset:
    """A dataset that makes the tasks of a family, or one of them; ``columns`` are those of an uploaded one, by name."""

    label: str
    info: DatasetInfo
    columns: Mapping[str, Column] = field(default_factory=dict)

    def values(self, name: str) -> list[str] | None:
        """Return the values of a column of categories; None for another column."""
        column = self.columns.get(name)
        return sorted(column.levels or {}) if column and column.kind is ColumnKind.CATEGORY else None


def check_family(spec: JobSpec, info: DatasetInfo | None) -> Iterable[FieldError]:
    """Yield what is wrong with a spec's family; without ``info``, only what can be seen in the spec."""
    family = spec.family
    if family is None:
        return
    given = [kind for kind in KINDS if getattr(family, kind) is not None]
    if len(given) != 1:
        yield conflict("family", " and ".join(given) or None, f"must have one of {', '.join(KINDS)}")
        return
    if info is None:
        return
    if not isinstance(spec.model, MlpSpec | AutoencoderSpec):
        yield conflict("model.name", spec.model.name, "must be mlp or autoencoder with a family")
    if family.group_by is not None and not info.columns:
        yield conflict("family.group_by", family.group_by, "must be null: this dataset has no columns")
    elif family.group_by is not None and family.group_by not in info.columns:
        message, hint = must_be_one_of(family.group_by, info.columns)
        if why := info.left_out.get(family.group_by):
            hint = f"This column is left out: {why}. Give it a kind in dataset.columns to use it."
        yield FieldError("family.group_by", family.group_by, message, hint, "unknown_name")
    if family.class_subsets is not None:
        yield from _check_class_subsets(family.class_subsets, info)


def _check_class_subsets(subsets: ClassSubsetsSpec, info: DatasetInfo) -> Iterator[FieldError]:
    if info.task != Task.CLASSIFICATION:
        classes = f"needs a dataset with classes; this one is for {info.task}"
        yield conflict("family.class_subsets", subsets.ways, classes)
    elif math.comb(info.outputs, subsets.ways) < MIN_TASKS:
        message = f"must leave {MIN_TASKS} subsets or more of the {info.outputs} classes"
        yield FieldError("family.class_subsets.ways", subsets.ways, message, code="out_of_range")


def check_groups(dataset: FamilyDataset, column: str, bins: int) -> None:
    """Refuse a column of an uploaded table that makes too few tasks, as far as its counts tell, or leaves no feature.

    Raises:
        InvalidSpecError: The column cannot make the tasks.
    """
    info = dataset.info
    if column not in info.columns:
        return  # check_family says so
    if info.features == info.widths[info.columns.index(column)]:
        raise InvalidSpecError(conflict("family.group_by", column, "must leave another column that varies"))
    facts = dataset.columns[column]
    counts = facts.levels
    if counts is None or (bins and len(counts) > MAX_VALUES and facts.kind is ColumnKind.NUMBER):
        return  # the tasks are bins of numbers, which are not counted
    tasks = sum(count >= MIN_GROUP_ROWS for count in counts.values())
    if tasks < MIN_TASKS:
        message = f"must have {MIN_TASKS} values with {MIN_GROUP_ROWS} rows each; {tasks} of this column's values do"
        raise InvalidSpecError(conflict("family.group_by", column, message))


def task_info(info: DatasetInfo, family: FamilySpec | None) -> DatasetInfo:
    """Return the facts about one task of a family: it has fewer classes, or no column that makes the tasks."""
    if family is None or family.datasets is not None:
        return info
    if family.class_subsets is not None:
        return replace(info, outputs=family.class_subsets.ways)
    assert family.group_by is not None, "a family has one of the three"
    width = info.widths[info.columns.index(family.group_by)] if info.widths else 1
    features = info.features - width
    return replace(info, features=features, outputs=features if info.task == Task.AUTOENCODING else info.outputs)


def bundled_info(spec: JobSpec) -> DatasetInfo | None:
    """Return the facts about the bundled dataset of a spec, or about the bundled datasets of its family.

    Raises:
        InvalidSpecError: Those of the family do not fit together.
    """
    if spec.family is None or spec.family.datasets is None:
        name = spec.dataset.name or ""
        return BUNDLED[name].info if name in BUNDLED else None
    labels = [chosen.label for chosen in spec.family.datasets]
    if not all(label in BUNDLED for label in labels):
        return None
    return common_info([FamilyDataset(label=label, info=BUNDLED[label].info) for label in labels])


def common_info(datasets: Sequence[FamilyDataset]) -> DatasetInfo:
    """Return the facts about a task of a family of datasets, which must be alike in all that a model sees.

    Raises:
        InvalidSpecError: Some differ from the first one; says which, and how.
    """
    first, errors = datasets[0], []
    for index, other in enumerate(datasets[1:], 1):
        place = f"family.datasets[{index}]"
        if other.label in [dataset.label for dataset in datasets[:index]]:
            errors.append(conflict(place, other.label, "is a dataset that the family has already"))
        elif differences := list(_differences(first, other)):
            message = f"must be like family.datasets[0], {first.label}: {'; '.join(differences)}"
            errors.append(conflict(place, other.label, message))
    if errors:
        raise InvalidSpecError(*errors)
    return replace(first.info, rows=min(dataset.info.rows for dataset in datasets))


def _differences(first: FamilyDataset, other: FamilyDataset) -> Iterator[str]:
    """Say how two datasets differ; a difference that explains the others is named alone."""
    one, two = first.info, other.info
    if one.task is not two.task:
        yield f"a {one.task}, not a {two.task}"
    elif one.columns != two.columns:
        missing = [f"no column {name}" for name in one.columns if name not in two.columns]
        extra = [f"an extra column {name}" for name in two.columns if name not in one.columns]
        yield f"the same columns; this one has {', '.join(missing + extra) or 'them in another order'}"
    elif one.shape != two.shape or (one.features != two.features and not one.columns):
        yield f"{one.shape or one.features} features, not {two.shape or two.features}"
    else:
        for name, width, found in zip(one.columns, one.widths, two.widths, strict=False):
            if width != found:
                yield f"column {name} makes {width} features, not {found}"
            elif first.values(name) != other.values(name):
                yield f"column {name} has the values {first.values(name)}, not {other.values(name)}"
        if one.outputs != two.outputs:
            yield f"{one.outputs} {'classes' if one.task == Task.CLASSIFICATION else 'outputs'}, not {two.outputs}"
