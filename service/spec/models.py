"""The models of the service: fields, ranges, shapes and checks.

To add one, write a class like ``MlpSpec`` and list it in ``MODELS``; outside of the service, call ``MODELS.register``.
The torch half, which ``build`` names, can be a function of the same file that imports torch inside.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal

from annotated_types import Ge, Le, Len
from pydantic import Field

from service.errors import FieldError
from service.registry import Registry
from service.spec.base import Activation, Entrypoint, SpecModel, UserConfig, Width
from service.spec.dataset_info import HELD_OUT, DatasetInfo, part_bounds
from service.spec.tasks import Task

if TYPE_CHECKING:
    from service.spec.job import JobSpec

Shape = tuple[int, ...]

BUDGET_OF_LOOP: Final = ("trials_per_arm", "steps", "max_seconds")
"""Fields of a budget that apply to a training loop of the user's."""


class ModelSpec(SpecModel):
    """Base of the models. A subclass has the fields of its spec; ``name`` is a ``Literal`` with a default.

    Attributes:
        tasks: Tasks of the data that it can be trained on.
        build: Import string of ``(spec, shape, sizes) -> nn.Module``: the spec as a dict, the shape of an image, and
            what :meth:`layer_sizes` returns. Exported scripts contain the source of this function and of what it uses.
            Empty for a training loop, which builds its own model.
    """

    tasks: ClassVar[tuple[str, ...]] = (Task.CLASSIFICATION, Task.REGRESSION)
    build: ClassVar[str]

    if TYPE_CHECKING:
        name: str

    def task(self, data: DatasetInfo) -> str:
        """Return what the model is trained for on ``data``."""
        return data.task

    def layer_sizes(self, data: DatasetInfo) -> list[int]:
        """Return the widths of the layers from the input to the output; where they are not a chain, just those two."""
        return [data.features, data.outputs]

    def tensor_shapes(self, data: DatasetInfo) -> list[Shape]:
        """Return the shapes of the parameters, in the order of ``Module.parameters()``."""
        raise NotImplementedError

    def parameter_count(self, data: DatasetInfo) -> int:
        """Return the number of parameters."""
        return sum(map(math.prod, self.tensor_shapes(data)))

    def training_rows(self, data: DatasetInfo) -> int:
        """Return how many rows are left to train on."""
        return data.training_rows

    def check(self, job: JobSpec, data: DatasetInfo) -> Iterable[FieldError]:
        """Yield what keeps the model from being trained on data of one of its tasks."""
        del job, data
        return ()

    @property
    def activation_name(self) -> str:
        """Name of the activation; empty for a model that has its own."""
        return str(getattr(self, "activation", ""))


class ChainSpec(ModelSpec):
    """Base of the models that are a chain of linear layers."""

    tasks: ClassVar[tuple[str, ...]] = (Task.CLASSIFICATION, Task.REGRESSION, Task.AUTOENCODING)
    build: ClassVar = "service.training.networks:build_linear_layers"

    def tensor_shapes(self, data: DatasetInfo) -> list[Shape]:  # noqa: D102
        return linear_shapes(self.layer_sizes(data))


class MlpSpec(ChainSpec):
    """A multi-layer perceptron: linear layers with an activation between them."""

    name: Literal["mlp"] = "mlp"
    hidden: Annotated[list[Width], Len(1, 8)] = Field([64, 64])
    """Widths of the hidden layers."""
    activation: Activation = "relu"

    def layer_sizes(self, data: DatasetInfo) -> list[int]:  # noqa: D102
        return [data.features, *self.hidden, data.outputs]


class AutoencoderSpec(ChainSpec):
    """A symmetric autoencoder: ``hidden`` down to ``code`` and back up; it reconstructs its standardised input."""

    name: Literal["autoencoder"] = "autoencoder"
    hidden: Annotated[list[Width], Len(1, 8)] = Field([96, 48])
    """Widths from the input to the code."""
    code: Width = 30
    """Width of the code layer."""
    activation: Activation = "tanh"

    def task(self, data: DatasetInfo) -> str:  # noqa: ARG002, D102
        return Task.AUTOENCODING

    def layer_sizes(self, data: DatasetInfo) -> list[int]:
        """Return the widths of the layers.

        >>> from service.data.catalog import BUNDLED
        >>> AutoencoderSpec().layer_sizes(BUNDLED["digits"].info)
        [64, 96, 48, 30, 48, 96, 64]
        """
        return [data.features, *self.hidden, self.code, *reversed(self.hidden), data.features]

    def check(self, job: JobSpec, data: DatasetInfo) -> Iterable[FieldError]:  # noqa: D102
        if job.dataset.name is not None and not data.images:
            hint = f"The dataset {job.dataset.name} has no images; choose mlp."
            yield FieldError("model.name", self.name, "needs images if the dataset is a bundled one", hint, "conflict")


class ConvnetSpec(ModelSpec):
    """3 x 3 convolutions, each followed by an activation and 2 x 2 pooling; the mean over all places is classified."""

    build: ClassVar = "service.training.networks:build_convnet"

    name: Literal["convnet"] = "convnet"
    channels: Annotated[list[Annotated[int, Ge(1), Le(1024)]], Len(1, 6)] = Field([16, 32])
    """Channels of the convolutions."""
    activation: Activation = "relu"

    def tensor_shapes(self, data: DatasetInfo) -> list[Shape]:  # noqa: D102
        pairs = pairwise([data.shape[0], *self.channels])
        convolutions: list[Shape] = [shape for before, width in pairs for shape in ((width, before, 3, 3), (width,))]
        return convolutions + linear_shapes([self.channels[-1], data.outputs])

    def check(self, job: JobSpec, data: DatasetInfo) -> Iterable[FieldError]:  # noqa: ARG002, D102
        yield from check_images(self, data)


class ResnetSpec(ModelSpec):
    """A residual network as for CIFAR: three stages of ``width``, twice and four times ``width``, batch norm."""

    build: ClassVar = "service.training.networks:build_resnet"

    name: Literal["resnet"] = "resnet"
    width: Annotated[int, Ge(1), Le(256)] = 16
    """Channels of the first stage."""
    blocks: Annotated[int, Ge(1), Le(18)] = 1
    """Residual blocks of a stage."""
    activation: Activation = "relu"

    def tensor_shapes(self, data: DatasetInfo) -> list[Shape]:  # noqa: D102
        shapes = _convolution(data.shape[0], self.width, 3)
        before = self.width
        for stage in range(3):
            width = self.width << stage
            for _ in range(self.blocks):
                shapes += _convolution(before, width, 3) + _convolution(width, width, 3)
                shapes += _convolution(before, width, 1) if before != width else []
                before = width
        return shapes + linear_shapes([before, data.outputs])

    def check(self, job: JobSpec, data: DatasetInfo) -> Iterable[FieldError]:  # noqa: D102
        yield from check_images(self, data)
        size, last = job.budget.batch_size, job.training.last_batch
        if size < 2:
            hint = "The batch norm of a resnet needs two rows."
            yield FieldError("budget.batch_size", size, "must be at least 2 with a resnet", hint, "conflict")
        elif last == "keep" and data.training_rows % size == 1:
            hint = (
                f"Of {data.training_rows} training rows one would be a batch alone, too few for the batch norm of a "
                "resnet. Set it to drop, or change budget.batch_size."
            )
            yield FieldError("training.last_batch", last, "must be drop here", hint, "conflict")


class TransformerSpec(ModelSpec):
    """A causal transformer that predicts the next character or byte of a text; norm before each part."""

    tasks: ClassVar = (Task.LANGUAGE,)
    build: ClassVar = "service.training.networks:build_transformer"

    name: Literal["transformer"] = "transformer"
    tokens: Literal["bytes", "characters"] = "bytes"
    """What the text is cut into."""
    context: Annotated[int, Ge(2), Le(4096)] = 64
    """Tokens of a window."""
    layers: Annotated[int, Ge(1), Le(24)] = 2
    heads: Annotated[int, Ge(1), Le(64)] = 4
    """Attention heads; they divide the width."""
    width: Width = 64
    activation: Activation = "gelu"

    def layer_sizes(self, data: DatasetInfo) -> list[int]:
        """Return the tokens of a window, and how many different tokens there are."""
        return [self.context, data.characters if self.tokens == "characters" else data.outputs]

    def tensor_shapes(self, data: DatasetInfo) -> list[Shape]:  # noqa: D102
        tokens, width = self.layer_sizes(data)[-1], self.width
        norm: list[Shape] = [(width,), (width,)]
        block = [*norm, *linear_shapes([width, 3 * width]), *linear_shapes([width, width])]
        block += [*norm, *linear_shapes([width, 4 * width, width])]
        last = linear_shapes([width, tokens])
        return [(tokens, width), (self.context, width), *block * self.layers, *norm, *last]

    def training_rows(self, data: DatasetInfo) -> int:
        """Return how many windows the training part has."""
        return (part_bounds(self.text_tokens(data))[0] - 1) // self.context

    def text_tokens(self, data: DatasetInfo) -> int:
        """Return how many tokens the text has: its bytes, or its characters where those were counted."""
        return data.length or data.rows if self.tokens == "characters" else data.rows

    def check(self, job: JobSpec, data: DatasetInfo) -> Iterable[FieldError]:  # noqa: ARG002, D102
        if self.width % self.heads:
            yield FieldError(
                "model.heads", self.heads, f"must divide model.width, which is {self.width}", code="conflict"
            )
        longest = int(self.text_tokens(data) * HELD_OUT) - 1
        if self.context > longest:
            hint = "A window must fit into the validation part of the text."
            yield FieldError("model.context", self.context, f"must be at most {longest}", hint, "out_of_range")


class PinnSpec(ChainSpec):
    """A physics-informed network: its loss is the error in the equation, inside and at the boundary."""

    tasks: ClassVar = (Task.PHYSICS,)
    build: ClassVar = "service.training.networks:build_pinn"

    name: Literal["pinn"] = "pinn"
    equation: Literal["poisson_2d", "burgers"]
    """Poisson's on the unit square, or Burgers' with the viscosity 0.01 / pi; as the dataset is called."""
    hidden: Annotated[list[Width], Len(1, 8)] = Field([32, 32, 32])
    """Widths of the hidden layers."""
    activation: Literal["tanh", "gelu", "silu"] = "tanh"
    """Twice differentiable ones."""

    def layer_sizes(self, data: DatasetInfo) -> list[int]:  # noqa: ARG002
        """Return the widths from the two coordinates to the solution."""
        return [2, *self.hidden, 1]

    def check(self, job: JobSpec, data: DatasetInfo) -> Iterable[FieldError]:  # noqa: ARG002, D102
        if self.equation != job.dataset.name:
            message = f"must be {job.dataset.name}, as the dataset is"
            yield FieldError("model.equation", self.equation, message, code="conflict")
        if job.training.compile:
            hint = "torch.compile cannot take the derivatives of a pinn."
            yield FieldError("training.compile", True, "must be false with a pinn", hint, "conflict")


class UserCodeSpec(ModelSpec):
    """Base of what a user's own code makes."""

    name: Literal["entrypoint", "loop"]
    entrypoint: Entrypoint
    config: UserConfig = Field(default={})

    def tensor_shapes(self, data: DatasetInfo) -> list[Shape]:
        """Return the shapes that the parameters had when the job was checked."""
        return list(data.tensors)


class EntrypointSpec(UserCodeSpec):
    """A module of your own: what a function returns that takes the shape of a row, the outputs and the task."""

    tasks: ClassVar = (Task.CLASSIFICATION, Task.REGRESSION, Task.AUTOENCODING)
    build: ClassVar = "service.training.entrypoints:build_user_model"

    name: Literal["entrypoint"] = "entrypoint"


class LoopSpec(UserCodeSpec):
    """A training loop of your own: a function of ``make_optimizer`` and ``seed`` that yields its validation loss.

    It has its own model and data, so the job has no dataset.
    """

    tasks: ClassVar = (Task.LOOP,)
    build: ClassVar = ""

    name: Literal["loop"] = "loop"

    def layer_sizes(self, data: DatasetInfo) -> list[int]:  # noqa: ARG002
        """Return nothing: only the loop knows its model."""
        return []

    def check(self, job: JobSpec, data: DatasetInfo) -> Iterable[FieldError]:  # noqa: ARG002
        """Refuse what the service cannot do for a loop that it does not know."""
        hint = "A training loop decides that itself."
        for place, part, used in (("training", job.training, ("patience",)), ("budget", job.budget, BUDGET_OF_LOOP)):
            for name, field in type(part).model_fields.items():
                value, default = getattr(part, name), field.default
                if name not in used and value != default:
                    message = f"must be {json.dumps(default)} with the model loop"
                    yield FieldError(f"{place}.{name}", value, message, hint, "conflict")
        if job.warm_start is not None:
            why = "What P was learned on may be what the loop is judged by."
            yield FieldError("warm_start", job.warm_start.job, "must be null with the model loop", why, "conflict")
        if "adamw_more_steps" in job.controls:
            message = "must not have adamw_more_steps with the model loop"
            yield FieldError("controls", "adamw_more_steps", message, hint, "conflict")


def linear_shapes(sizes: list[int]) -> list[Shape]:
    """Return the shapes of the weights and biases of linear layers between ``sizes``."""
    return [shape for fan_in, fan_out in pairwise(sizes) for shape in ((fan_out, fan_in), (fan_out,))]


def check_images(model: ModelSpec, data: DatasetInfo) -> Iterable[FieldError]:
    """Refuse data without images."""
    if not data.shape:
        hint = "This dataset has no images; choose mlp."
        yield FieldError("model.name", model.name, "needs images", hint, "conflict")


def _convolution(before: int, width: int, side: int) -> list[Shape]:
    return [(width, before, side, side), (width,), (width,)]


MODELS: Final = Registry[type[ModelSpec]](
    "model",
    (MlpSpec, AutoencoderSpec, ConvnetSpec, ResnetSpec, TransformerSpec, PinnSpec, EntrypointSpec, LoopSpec),
    name_of=lambda model: str(model.model_fields["name"].default),
)
"""Every model by its name."""
