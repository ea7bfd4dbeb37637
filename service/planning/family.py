# What a spec's family asks of its data: whether it can be had, and what one task of it looks like. Torch-free facts,
# for plan.py; the tasks themselves are made in training/families.py.
"""Families of tasks, as a plan sees them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from search_spaces.errors import one_of
from service.data.catalog import DATASETS, MAX_VALUES, MIN_GROUP_ROWS, MIN_TASKS, DatasetInfo, Task
from service.errors import FieldError, InvalidSpecError
from service.spec.data import FamilySpec
from service.spec.job import JobSpec
from service.spec.model import AutoencoderSpec, MlpSpec

KINDS: Final = ("class_subsets", "group_by", "datasets")
"""Fields of a family, one of which says what its tasks are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One of the datasets of a family.

    Attributes:
        label: What it is called.
        info: Facts about it.
        categories: The columns of which each value becomes a feature.
        counts: How many rows have each value, of the columns that have few values.
    """

    label: str
    info: DatasetInfo
    categories: frozenset[str] = frozenset()
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def values(self, column: str) -> list[str] | None:
        """Return the values of a column of categories; None for another one."""
        return sorted(self.counts[column]) if column in self.categories else None


def check_family(spec: JobSpec, info: DatasetInfo | None) -> Iterable[FieldError]:
    """Yield what is wrong with a spec's family for a dataset."""
    family = spec.family
    if family is None:
        return
    kinds = [name for name in KINDS if getattr(family, name) is not None]
    if len(kinds) != 1:
        yield FieldError("family", " and ".join(kinds) or None, f"one of {', '.join(KINDS)}")
        return
    if info is None:
        return
    if not isinstance(spec.model, MlpSpec | AutoencoderSpec):
        yield FieldError("model.name", spec.model.name, "mlp or autoencoder with a family")
    if family.group_by is not None and family.group_by not in info.columns:
        columns = one_of(family.group_by, info.columns) if info.columns else "null: this dataset is no table"
        yield FieldError("family.group_by", family.group_by, columns)
    if family.class_subsets is not None:
        ways = family.class_subsets.ways
        if info.task is not Task.CLASSIFICATION:
            yield FieldError("family.class_subsets", ways, f"a dataset with classes; this one is a {info.task}")
        elif math.comb(info.outputs, ways) < MIN_TASKS:
            expected = f"a number with {MIN_TASKS} subsets or more of the {info.outputs} classes"
            yield FieldError("family.class_subsets.ways", ways, expected)


def check_groups(member: Member, column: str, bins: int) -> None:
    """Refuse a column of an uploaded table that makes too few tasks, as far as its counts tell, or leaves no feature.

    Raises:
        InvalidSpecError: It does.
    """
    info, counts = member.info, member.counts.get(column)
    expected = None
    if column in info.columns and info.features == info.widths[info.columns.index(column)]:
        expected = "a column of a table that has another one which varies"
    elif counts is not None and not (bins and len(counts) > MAX_VALUES and column not in member.categories):
        tasks = sum(count >= MIN_GROUP_ROWS for count in counts.values())
        if tasks < MIN_TASKS:
            expected = f"a column with {MIN_TASKS} values that {MIN_GROUP_ROWS} rows have; of this one's {tasks} have"
    if expected is not None and column in info.columns:
        raise InvalidSpecError(FieldError("family.group_by", column, expected))


def info_of_a_task(info: DatasetInfo, family: FamilySpec | None) -> DatasetInfo:
    """Return the facts about one task of a family, which has fewer classes or lacks the column that makes the tasks."""
    if family is None or family.datasets is not None:
        return info
    if family.class_subsets is not None:
        return replace(info, outputs=family.class_subsets.ways)
    assert family.group_by is not None, "a family has one of the three"
    width = info.widths[info.columns.index(family.group_by)] if info.widths else 1
    features = info.features - width
    return replace(info, features=features, outputs=features if info.task is Task.AUTOENCODING else info.outputs)


def bundled_info(spec: JobSpec) -> DatasetInfo | None:
    """Return the facts about the bundled dataset of a spec, or about the bundled datasets of its family.

    Raises:
        InvalidSpecError: Those of the family do not go together.
    """
    if spec.family is None or spec.family.datasets is None:
        return DATASETS.get(spec.dataset.name or "")
    labels = [chosen.label for chosen in spec.family.datasets]
    if not all(label in DATASETS for label in labels):
        return None
    return info_of_datasets([Member(label=label, info=DATASETS[label]) for label in labels])


def info_of_datasets(members: Sequence[Member]) -> DatasetInfo:
    """Return the facts about a task of a family of datasets: they must be alike in all that a model sees.

    Raises:
        InvalidSpecError: Some differ from the first one; says which, and in what.
    """
    first, errors = members[0], []
    for index, other in enumerate(members[1:], 1):
        if other.label in [member.label for member in members[:index]]:
            errors.append(FieldError(f"family.datasets[{index}]", other.label, "every dataset once"))
        elif differences := list(_differences(first, other)):
            expected = f"what family.datasets[0] is, {first.label}: {'; '.join(differences)}"
            errors.append(FieldError(f"family.datasets[{index}]", other.label, expected))
    if errors:
        raise InvalidSpecError(*errors)
    return replace(first.info, rows=min(member.info.rows for member in members))


def _differences(first: Member, other: Member) -> Iterator[str]:
    """Yield in what two datasets are not alike, the most telling first and alone."""
    one, two = first.info, other.info
    if one.task is not two.task:
        yield f"a {one.task}, not a {two.task}"
    elif one.columns != two.columns:
        lacking = [name for name in one.columns if name not in two.columns]
        more = [name for name in two.columns if name not in one.columns]
        what = [f"no column {name}" for name in lacking] + [f"a column {name} more" for name in more]
        yield f"the same columns; this one has {', '.join(what) or 'them in another order'}"
    elif one.shape != two.shape or (one.features != two.features and not one.columns):
        yield f"{one.shape or one.features} features, not {two.shape or two.features}"
    else:
        for name, width, found in zip(one.columns, one.widths, two.widths, strict=False):
            if width != found:
                yield f"column {name} makes {width} features, not {found}"
            elif first.values(name) != other.values(name):
                yield f"column {name} has the values {first.values(name)}, not {other.values(name)}"
        if one.outputs != two.outputs:
            yield f"{one.outputs} {'classes' if one.task is Task.CLASSIFICATION else 'outputs'}, not {two.outputs}"
