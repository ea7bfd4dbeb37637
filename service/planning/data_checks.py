# The checks of a spec for which one must know its data: is there such a dataset, can the model be trained on it, has it
# tensors of the rank that is asked for. The other checks are in spec_checks.py and family.py.
"""Whether data and model of a spec fit together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from search_spaces.errors import one_of
from service.data.catalog import DATASETS, DatasetInfo
from service.errors import FieldError
from service.spec.data import DatasetSpec
from service.spec.job import JobSpec, RangeOverride
from service.spec.models import MODELS


def check_dataset(spec: JobSpec, _info: DatasetInfo | None) -> Iterable[FieldError]:
    """Yield what is wrong with the choice of the data; that an uploaded dataset exists was seen before."""
    chosen = spec.datasets
    if "dataset" not in chosen and spec.dataset != DatasetSpec():
        yield FieldError("dataset", spec.dataset.label, "nothing: each task has its own, in family.datasets")
    for place, given in chosen.items():
        yield from _check_choice(place, given, "dataset" in spec.model_fields_set)
        if given.entrypoint is not None and spec.family is not None:
            yield FieldError("family", given.entrypoint, "no family with a dataset of user code")


def _check_choice(place: str, given: DatasetSpec, is_given: bool) -> Iterable[FieldError]:
    if given.name is None and given.id is None and given.entrypoint is None:
        field = f"{place}.name" if is_given or place != "dataset" else place
        others = "id for an uploaded dataset, or entrypoint for one of your own code"
        yield FieldError(field, None, f"a value: the field is required, or {others}")
    elif given.name is not None and given.id is not None:
        yield FieldError(f"{place}.id", given.id, f"nothing beside {place}.name, which is a bundled dataset")
    elif given.name is not None and given.name not in DATASETS:
        yield FieldError(f"{place}.name", given.name, one_of(given.name, DATASETS))
    if given.entrypoint is not None and (given.name or given.id) is not None:
        yield FieldError(f"{place}.entrypoint", given.entrypoint, f"nothing beside {place}.name or {place}.id")
    if given.config and given.entrypoint is None:
        yield FieldError(f"{place}.config", given.config, f"nothing without {place}.entrypoint, whose arguments it has")
    owner = "the factory says it" if given.entrypoint else "a bundled dataset has its own"
    for field in ("target", "task"):
        if given.id is None and getattr(given, field) is not None:
            yield FieldError(f"{place}.{field}", getattr(given, field), f"null: {owner}")
    if given.id is None and given.exclude:
        yield FieldError(f"{place}.exclude", given.exclude, "nothing: only an uploaded table has columns to leave out")


def check_model(spec: JobSpec, info: DatasetInfo | None) -> Iterable[FieldError]:
    """Yield what keeps the model from being trained on the data."""
    if info is None:
        return
    if info.task in spec.model.tasks:
        yield from spec.model.check(spec, info)
        return
    fitting = [name for name, model in MODELS.items() if info.task in model.tasks]
    hint = f"A {spec.model.name} is trained for {' or '.join(spec.model.tasks)}."
    message = f"must be {one_of(spec.model.name, fitting)} for {info.task}"
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
            path = f"search_space.overrides.rank{place}"
            yield FieldError(path, value, f"at most {rows}, the rows of the largest tensor")
