"""A plain convolutional network."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Ge, Le, Len
from pydantic import Field

from service.errors import FieldError
from service.spec.base import Activation
from service.spec.dataset_info import DatasetInfo
from service.spec.models.base import ModelSpec, Shape, check_images, linear_shapes

if TYPE_CHECKING:
    from service.spec.job import JobSpec


class ConvnetSpec(ModelSpec):
    """3 x 3 convolutions, each followed by an activation and 2 x 2 pooling; the mean over all places is classified."""

    build: ClassVar = "service.training.networks:build_convnet"

    name: Literal["convnet"] = "convnet"
    channels: Annotated[list[Annotated[int, Ge(1), Le(1024)]], Len(1, 6)] = Field(
        [16, 32], description="Channels of the convolutions."
    )
    activation: Activation = "relu"

    def tensor_shapes(self, data: DatasetInfo) -> list[Shape]:  # noqa: D102
        pairs = pairwise([data.shape[0], *self.channels])
        convolutions: list[Shape] = [shape for before, width in pairs for shape in ((width, before, 3, 3), (width,))]
        return convolutions + linear_shapes([self.channels[-1], data.outputs])

    def check(self, job: JobSpec, data: DatasetInfo) -> Iterable[FieldError]:  # noqa: ARG002, D102
        yield from check_images(self, data)
