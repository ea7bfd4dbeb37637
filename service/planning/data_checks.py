"""Checks whether the data and the model of a spec fit together.

These are the checks for which one must know the data. Families are checked in family.py, the rest in spec_checks.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from search_spaces.errors import one_of
from service.data.catalog import DATASETS, HELD_OUT, DatasetInfo, Task, tensor_shapes, text_tokens
from service.errors import FieldError, conflict
from service.spec.data import DatasetSpec
from service.spec.job import JobSpec, RangeOverride
from service.spec.model import AutoencoderSpec, ConvnetSpec, PinnSpec, ResnetSpec, TransformerSpec


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
    elif given.name is not None and given.name not in DATASETS:
        yield FieldError(f"{place}.name", given.name, f"must be {one_of(given.name, DATASETS)}", code="unknown_name")
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
    model, name = spec.model, spec.dataset.name
    if info.task is Task.LANGUAGE and not isinstance(model, TransformerSpec):
        yield _wrong_model(spec, "must be transformer for a text")
    elif info.task is not Task.LANGUAGE and isinstance(model, TransformerSpec):
        yield _wrong_model(spec, "must be another model: a transformer takes only a text")
    elif info.task is Task.PHYSICS and not isinstance(model, PinnSpec):
        yield _wrong_model(spec, f"must be pinn for {name}")
    elif info.task is not Task.PHYSICS and isinstance(model, PinnSpec):
        yield _wrong_model(spec, "must be another model: a pinn takes only an equation")
    elif isinstance(model, PinnSpec):
        yield from _check_pinn(spec, model)
    elif isinstance(model, TransformerSpec):
        yield from _check_transformer(model, info)
    elif isinstance(model, ConvnetSpec | ResnetSpec):
        yield from _check_convolutions(spec, info)
    elif isinstance(model, AutoencoderSpec) and name is not None and not info.images:
        images = ", ".join(other for other, known in DATASETS.items() if known.images)
        yield _wrong_model(spec, f"must be mlp for dataset {name!r}; an autoencoder takes {images}")


def _wrong_model(spec: JobSpec, message: str) -> FieldError:
    return conflict("model.name", spec.model.name, message)


def _check_pinn(spec: JobSpec, model: PinnSpec) -> Iterable[FieldError]:
    if model.equation != spec.dataset.name:
        yield conflict("model.equation", model.equation, f"must be {spec.dataset.name}, like the dataset")
    if spec.training.compile:
        yield conflict("training.compile", True, "must be false: torch.compile cannot take the derivatives of a pinn")


def _check_convolutions(spec: JobSpec, info: DatasetInfo) -> Iterable[FieldError]:
    if not info.shape:
        yield _wrong_model(spec, "must be mlp: this dataset has no images")
    elif info.task is Task.AUTOENCODING:
        yield _wrong_model(spec, "must be autoencoder or mlp to reconstruct images")
    if isinstance(spec.model, ResnetSpec) and spec.budget.batch_size < 2:
        yield conflict("budget.batch_size", spec.budget.batch_size, "must be at least 2 with resnet's batch norm")


def _check_transformer(model: TransformerSpec, info: DatasetInfo) -> Iterable[FieldError]:
    if model.width % model.heads:
        yield conflict("model.heads", model.heads, f"must divide model.width, which is {model.width}")
    longest = int(text_tokens(info, model) * HELD_OUT) - 1
    if model.context > longest:
        message = f"must be at most {longest}, the length of the validation part"
        yield FieldError("model.context", model.context, message, code="out_of_range")


def check_rank(spec: JobSpec, info: DatasetInfo) -> Iterable[FieldError]:
    """Refuse a rank that the user asked for and no tensor has: it would silently mean a smaller one."""
    shapes = tensor_shapes(info, spec.model)
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
