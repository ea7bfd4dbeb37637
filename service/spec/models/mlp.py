"""A chain of linear layers."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from annotated_types import Len
from pydantic import Field

from service.spec.base import Activation, Width
from service.spec.dataset_info import DatasetInfo
from service.spec.models.base import ModelSpec, Shape, linear_shapes
from service.spec.tasks import Task


class MlpSpec(ModelSpec):
    """A multi-layer perceptron: linear layers with an activation between them."""

    tasks: ClassVar = (Task.CLASSIFICATION, Task.REGRESSION, Task.AUTOENCODING)
    build: ClassVar = "service.training.networks:build_linear_layers"

    name: Literal["mlp"] = "mlp"
    hidden: Annotated[list[Width], Len(1, 8)] = Field([64, 64], description="Widths of the hidden layers.")
    activation: Activation = "relu"

    def layer_sizes(self, data: DatasetInfo) -> list[int]:  # noqa: D102
        return [data.features, *self.hidden, data.outputs]

    def tensor_shapes(self, data: DatasetInfo) -> list[Shape]:  # noqa: D102
        return linear_shapes(self.layer_sizes(data))
