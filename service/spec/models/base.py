"""What a model of a job says about itself."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

from service.errors import FieldError
from service.spec.base import SpecModel
from service.spec.dataset_info import DatasetInfo
from service.spec.tasks import Task

if TYPE_CHECKING:
    from service.spec.job import JobSpec

Shape = tuple[int, ...]


class ModelSpec(SpecModel):
    """Base of the models. A subclass has the fields of its spec; ``name`` is a ``Literal`` with a default.

    Attributes:
        tasks: Tasks of the data that it can be trained on.
        build: Import string of ``(spec, shape, sizes) -> nn.Module``: the spec as a dict, the shape of an image, and
            what :meth:`layer_sizes` returns. Exported scripts contain the source of this function and of what it uses.
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


def linear_shapes(sizes: list[int]) -> list[Shape]:
    """Return the shapes of the weights and biases of linear layers between ``sizes``."""
    return [shape for fan_in, fan_out in pairwise(sizes) for shape in ((fan_out, fan_in), (fan_out,))]


def check_images(model: ModelSpec, data: DatasetInfo) -> Iterable[FieldError]:
    """Refuse data without images."""
    if not data.shape:
        hint = "This dataset has no images; choose mlp."
        yield FieldError("model.name", model.name, "needs images", hint, "conflict")
