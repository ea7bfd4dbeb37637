"""Checks whether the data and the model of a spec fit together.

These are the checks for which one must know the data. Families are checked in family.py, the rest in spec_checks.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from search_spaces.errors import must_be_one_of
from service.data.catalog import BUNDLED
from service.errors import FieldError, conflict
from service.spec.data import DatasetSpec
from service.spec.dataset_info import DatasetInfo
from service.spec.job import JobSpec, RangeOverride
from service.spec.models import MODELS


def check_dataset(spec: JobSpec) -> Iterable[FieldError]:
    """Yield what is wrong with the choice of the data, except that an uploaded dataset does not exist."""
    chosen = spec.datasets
    if "dataset" not in chosen and spec.dataset != DatasetSpec():
        yield conflict("dataset", spec.dataset.label, "must be left out: family.datasets has one for each task")
    for place, given in chosen.items():
        if given.name is None and given.id is None and given.entrypoint is None:
            is_whole = place == "dataset" and place not in spec.model_fields_set
            hint = "Give a name for a bundled dataset, an id for an uploaded one, or an entrypoint for your own code."
            yield FieldError(place if is_whole else f"{place}.name", None, "is required", hint, "missing")
        yield from _check_choice(place, given)
        if given.entrypoint is not None and spec.family is not None:
            yield conflict("family", given.entrypoint, "cannot be used with a dataset of your own code")


def _check_choice(place: str, given: DatasetSpec) -> Iterable[FieldError]:
    if given.name is not None and given.id is not None:
        yield conflict(f"{place}.id", given.id, f"cannot be used together with {place}.name")
    elif given.name is not None and given.name not in BUNDLED:
        yield FieldError(f"{place}.name", given.name, *must_be_one_of(given.name, BUNDLED), "unknown_name")
    if given.entrypoint is not None and (given.name or given.id) is not None:
        both = f"cannot be used together with {place}.name or {place}.id"
        yield conflict(f"{place}.entrypoint", given.entrypoint, both)
    if given.config and given.entrypoint is None:
        yield conflict(f"{place}.config", given.config, f"needs {place}.entrypoint, whose arguments it holds")
    owner = "the factory says it" if given.entrypoint else "a bundled dataset has its own"
    for field in ("target", "task"):
        if given.id is None and getattr(given, field) is not None:
            yield conflict(f"{place}.{field}", getattr(given, field), f"must be null: {owner}")
    if given.id is None and given.exclude:
        only = "must be empty: only an uploaded table has columns to leave out"
        yield conflict(f"{place}.exclude", given.exclude, only)


def check_model(spec: JobSpec, info: DatasetInfo | None) -> Iterable[FieldError]:
    """Yield what keeps the model from being trained on the data."""
    if info is None:
        return
    if info.task in spec.model.tasks:
        yield from spec.model.check(spec, info)
        return
    fitting = [name for name, model in MODELS.items() if info.task in model.tasks]
    hint = f"A {spec.model.name} is trained for {' or '.join(spec.model.tasks)}."
    message = f"must be one of {', '.join(fitting)} for {info.task}"
    yield FieldError("model.name", spec.model.name, message, hint, "conflict")


def check_rank(spec: JobSpec, info: DatasetInfo) -> Iterable[FieldError]:
    """Refuse a rank that the user asked for and no tensor has: it would silently mean a smaller one."""
    shapes = spec.model.tensor_shapes(info)
    rows = max((shape[0] for shape in shapes if len(shape) > 1), default=1)
    wished = spec.search_space.overrides.get("rank")
    places: Mapping[str, object] = {"": wished}
    if isinstance(wished, RangeOverride):
        places = {".high": wished.high}
    elif isinstance(wished, list):
        places = {f"[{index}]": value for index, value in enumerate(wished)}
    for place, value in places.items():
        if isinstance(value, int) and value > rows:
            message = f"must be at most {rows}, the rows of the largest tensor"
            yield FieldError(f"search_space.overrides.rank{place}", value, message, code="out_of_range")
