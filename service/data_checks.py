# The checks of a spec for which one must know its data: is there such a dataset, can the model be trained on it, has it
# tensors of the rank that is asked for. The other checks are in plan.py.
"""Whether data and model of a spec fit together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from search_spaces.errors import one_of
from service.errors import FieldError
from service.schemas import AutoencoderSpec, JobSpec, RangeOverride
from service.training.catalog import DATASETS, DatasetInfo, tensor_shapes


def check_dataset(spec: JobSpec, info: DatasetInfo | None) -> Iterable[FieldError]:
    """Yield what is wrong with the choice of the data.

    Args:
        spec: The spec.
        info: Facts about its dataset; None where there is none of that name.
    """
    name, given = spec.dataset.name, spec.dataset
    if name is None and given.id is None:
        yield FieldError("dataset.name", None, "a value: the field is required, or id for an uploaded dataset")
    elif name is not None and given.id is not None:
        yield FieldError("dataset.id", given.id, "nothing beside dataset.name, which is a bundled dataset")
    elif name is not None and info is None:
        yield FieldError("dataset.name", name, one_of(name, DATASETS))
    for field in ("target", "task"):
        if name is not None and getattr(given, field) is not None:
            yield FieldError(f"dataset.{field}", getattr(given, field), "null: a bundled dataset has its own")


def check_model(spec: JobSpec, info: DatasetInfo | None) -> Iterable[FieldError]:
    """Yield what keeps the model from being trained on the data."""
    name = spec.dataset.name
    if name is not None and info is not None and isinstance(spec.model, AutoencoderSpec) and not info.images:
        images = [other for other, info in DATASETS.items() if info.images]
        yield FieldError("model.name", spec.model.name, f"mlp for dataset {name!r}; an autoencoder takes {images}")


def check_rank(spec: JobSpec, info: DatasetInfo) -> Iterable[FieldError]:
    """Refuse a rank that the user asked for and no tensor has: it would silently mean a smaller one."""
    shapes = tensor_shapes(info, spec.model)
    rows = max(shape[0] for shape in shapes if len(shape) > 1)
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
