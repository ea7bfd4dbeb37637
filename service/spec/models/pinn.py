"""A network for the solution of a differential equation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Len
from pydantic import Field

from service.errors import FieldError
from service.spec.base import Width
from service.spec.dataset_info import DatasetInfo
from service.spec.models.base import ModelSpec, Shape, linear_shapes
from service.spec.tasks import Task

if TYPE_CHECKING:
    from service.spec.job import JobSpec


class PinnSpec(ModelSpec):
    """A physics-informed network: its loss is the error in the equation, inside and at the boundary."""

    tasks: ClassVar = (Task.PHYSICS,)
    build: ClassVar = "service.training.networks:build_pinn"

    name: Literal["pinn"] = "pinn"
    equation: Literal["poisson_2d", "burgers"] = Field(
        description="Poisson's on the unit square, or Burgers' with the viscosity 0.01 / pi; as the dataset is called."
    )
    hidden: Annotated[list[Width], Len(1, 8)] = Field([32, 32, 32], description="Widths of the hidden layers.")
    activation: Literal["tanh", "gelu", "silu"] = Field("tanh", description="Twice differentiable ones.")

    def layer_sizes(self, data: DatasetInfo) -> list[int]:  # noqa: ARG002
        """Return the widths from the two coordinates to the solution."""
        return [2, *self.hidden, 1]

    def tensor_shapes(self, data: DatasetInfo) -> list[Shape]:  # noqa: D102
        return linear_shapes(self.layer_sizes(data))

    def check(self, job: JobSpec, data: DatasetInfo) -> Iterable[FieldError]:  # noqa: ARG002, D102
        if self.equation != job.dataset.name:
            message = f"must be {job.dataset.name}, as the dataset is"
            yield FieldError("model.equation", self.equation, message, code="conflict")
        if job.training.compile:
            hint = "torch.compile cannot take the derivatives of a pinn."
            yield FieldError("training.compile", True, "must be false with a pinn", hint, "conflict")
