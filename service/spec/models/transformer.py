"""A language model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Ge, Le
from pydantic import Field

from service.errors import FieldError
from service.spec.base import Activation, Width
from service.spec.dataset_info import HELD_OUT, DatasetInfo, part_bounds
from service.spec.models.base import ModelSpec, Shape, linear_shapes
from service.spec.tasks import Task

if TYPE_CHECKING:
    from service.spec.job import JobSpec


class TransformerSpec(ModelSpec):
    """A causal transformer that predicts the next character or byte of a text; norm before each part."""

    tasks: ClassVar = (Task.LANGUAGE,)
    build: ClassVar = "service.training.networks:build_transformer"

    name: Literal["transformer"] = "transformer"
    tokens: Literal["bytes", "characters"] = Field("bytes", description="What the text is cut into.")
    context: Annotated[int, Ge(2), Le(4096)] = Field(64, description="Tokens of a window.")
    layers: Annotated[int, Ge(1), Le(24)] = 2
    heads: Annotated[int, Ge(1), Le(64)] = Field(4, description="Attention heads; they divide the width.")
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
