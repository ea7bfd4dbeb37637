# The checks of a spec for which one must know its data: is there such a dataset, can the model be trained on it, has it
# tensors of the rank that is asked for. The other checks are in plan.py.
"""Whether data and model of a spec fit together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from search_spaces.errors import one_of
from service.errors import FieldError
from service.model_schemas import AutoencoderSpec, ConvnetSpec, PinnSpec, ResnetSpec, TransformerSpec
from service.schemas import JobSpec, RangeOverride
from service.training.catalog import DATASETS, HELD_OUT, DatasetInfo, Task, tensor_shapes


def check_dataset(spec: JobSpec, info: DatasetInfo | None) -> Iterable[FieldError]:
    """Yield what is wrong with the choice of the data.

    Args:
        spec: The spec.
        info: Facts about its dataset; None where there is none of that name.
    """
    name, given = spec.dataset.name, spec.dataset
    if name is None and given.id is None and given.entrypoint is None:
        expected = (
            "a value: the field is required, or id for an uploaded dataset, or entrypoint for one of your own code"
        )
        yield FieldError("dataset.name", None, expected)
    elif name is not None and given.id is not None:
        yield FieldError("dataset.id", given.id, "nothing beside dataset.name, which is a bundled dataset")
    elif name is not None and info is None:
        yield FieldError("dataset.name", name, one_of(name, DATASETS))
    if given.entrypoint is not None and (name or given.id) is not None:
        yield FieldError("dataset.entrypoint", given.entrypoint, "nothing beside dataset.name or dataset.id")
    if given.entrypoint is not None and spec.family is not None:
        yield FieldError("family", given.entrypoint, "no family with a dataset of user code")
    if given.config and given.entrypoint is None:
        yield FieldError("dataset.config", given.config, "nothing without dataset.entrypoint, whose arguments it has")
    owner = "the factory says it" if given.entrypoint else "a bundled dataset has its own"
    for field in ("target", "task"):
        if given.id is None and getattr(given, field) is not None:
            yield FieldError(f"dataset.{field}", getattr(given, field), f"null: {owner}")


def check_model(spec: JobSpec, info: DatasetInfo | None) -> Iterable[FieldError]:
    """Yield what keeps the model from being trained on the data."""
    if info is None:
        return
    if (info.task is Task.LANGUAGE) != isinstance(spec.model, TransformerSpec):
        fits = "transformer for a text" if info.task is Task.LANGUAGE else "another one: a transformer takes a text"
        yield FieldError("model.name", spec.model.name, fits)
        return
    if (info.task is Task.PHYSICS) != isinstance(spec.model, PinnSpec):
        fits = f"pinn for {spec.dataset.name}" if info.task is Task.PHYSICS else "another one: a pinn takes an equation"
        yield FieldError("model.name", spec.model.name, fits)
        return
    if isinstance(spec.model, PinnSpec) and spec.model.equation != spec.dataset.name:
        yield FieldError("model.equation", spec.model.equation, f"{spec.dataset.name}, as the dataset is")
    if isinstance(spec.model, PinnSpec) and spec.training.compile:
        yield FieldError("training.compile", True, "false with a pinn, whose derivatives torch.compile cannot take")
    if isinstance(spec.model, TransformerSpec):
        yield from _check_transformer(spec.model, info)
    elif isinstance(spec.model, ConvnetSpec | ResnetSpec):
        yield from _check_convolutions(spec, info)
    name = spec.dataset.name
    if name is not None and isinstance(spec.model, AutoencoderSpec) and not info.images:
        images = [other for other, info in DATASETS.items() if info.images]
        yield FieldError("model.name", spec.model.name, f"mlp for dataset {name!r}; an autoencoder takes {images}")


def _check_convolutions(spec: JobSpec, info: DatasetInfo) -> Iterable[FieldError]:
    if not info.shape:
        yield FieldError("model.name", spec.model.name, "mlp: the rows of this dataset are no images")
    elif info.task is Task.AUTOENCODING:
        yield FieldError("model.name", spec.model.name, "autoencoder or mlp to reconstruct images")
    if isinstance(spec.model, ResnetSpec) and spec.budget.batch_size < 2:
        yield FieldError("budget.batch_size", spec.budget.batch_size, "2 at least with resnet's batch norm")


def _check_transformer(model: TransformerSpec, info: DatasetInfo) -> Iterable[FieldError]:
    if model.width % model.heads:
        yield FieldError("model.heads", model.heads, f"a divisor of model.width, which is {model.width}")
    longest = int(info.rows * HELD_OUT) - 1
    if model.tokens == "bytes" and model.context > longest:
        yield FieldError("model.context", model.context, f"at most {longest}, what the validation part has")


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
            path = f"search_space.overrides.rank{place}"
            yield FieldError(path, value, f"at most {rows}, the rows of the largest tensor")
