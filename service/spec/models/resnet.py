"""A residual network for small images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Ge, Le
from pydantic import Field

from service.errors import FieldError
from service.spec.base import Activation
from service.spec.dataset_info import DatasetInfo
from service.spec.models.base import ModelSpec, Shape, check_images, linear_shapes

if TYPE_CHECKING:
    from service.spec.job import JobSpec


class ResnetSpec(ModelSpec):
    """A residual network as for CIFAR: three stages of ``width``, twice and four times ``width``, batch norm."""

    build: ClassVar = "service.training.networks:build_resnet"

    name: Literal["resnet"] = "resnet"
    width: Annotated[int, Ge(1), Le(256)] = Field(16, description="Channels of the first stage.")
    blocks: Annotated[int, Ge(1), Le(18)] = Field(1, description="Residual blocks of a stage.")
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


def _convolution(before: int, width: int, side: int) -> list[Shape]:
    return [(width, before, side, side), (width,), (width,)]
