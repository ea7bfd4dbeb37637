# What a spec's family asks of a dataset: whether it can be had, and what one task of it looks like. Torch-free facts,
# for plan.py; the tasks themselves are made in training/families.py.
"""Families of tasks, as a plan sees them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from search_spaces.errors import one_of
from service.data_schemas import FamilySpec
from service.errors import FieldError
from service.model_schemas import AutoencoderSpec, MlpSpec
from service.schemas import JobSpec
from service.training.catalog import MIN_TASKS, DatasetInfo, Task


def check_family(spec: JobSpec, info: DatasetInfo | None) -> Iterable[FieldError]:
    """Yield what is wrong with a spec's family for a dataset."""
    family = spec.family
    if family is None or info is None:
        return
    if spec.dataset.name is None:
        yield FieldError(
            "family", spec.dataset.id, "no family with an uploaded dataset: families are made of bundled ones"
        )
    if not isinstance(spec.model, MlpSpec | AutoencoderSpec):
        yield FieldError("model.name", spec.model.name, "mlp or autoencoder with a family")
    kinds = [name for name in ("class_subsets", "group_by") if getattr(family, name) is not None]
    if len(kinds) != 1:
        given = " and ".join(kinds) or None
        yield FieldError("family", given, "one of class_subsets and group_by")
        return
    if family.group_by is not None and family.group_by not in info.columns:
        yield FieldError("family.group_by", family.group_by, one_of(family.group_by, info.columns))
    if family.class_subsets is not None:
        ways = family.class_subsets.ways
        if info.task is not Task.CLASSIFICATION:
            yield FieldError("family.class_subsets", ways, f"a dataset with classes; this one is a {info.task}")
        elif math.comb(info.outputs, ways) < MIN_TASKS:
            expected = f"a number with {MIN_TASKS} subsets or more of the {info.outputs} classes"
            yield FieldError("family.class_subsets.ways", ways, expected)


def info_of_a_task(info: DatasetInfo, family: FamilySpec | None) -> DatasetInfo:
    """Return the facts about one task of a family, which has fewer classes or lacks the column that makes the tasks."""
    if family is None:
        return info
    if family.class_subsets is not None:
        return replace(info, outputs=family.class_subsets.ways)
    return replace(info, features=info.features - 1)
