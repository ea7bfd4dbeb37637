# The models that a job may train, as specs: fields and ranges only. What fits which dataset is decided in
# planning/data_checks.py, what a spec becomes is training/networks.py's business.
"""Specs of models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le, Len
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue


class SpecModel(BaseModel):
    """Base of every part of a spec: unknown fields are refused, nothing is coerced, nothing changes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


Width = Annotated[int, Ge(1), Le(4096)]
Activation = Literal["relu", "tanh", "gelu", "silu"]


class MlpSpec(SpecModel):
    """A multi-layer perceptron: linear layers with an activation between them."""

    name: Literal["mlp"] = "mlp"
    hidden: Annotated[list[Width], Len(1, 8)] = Field([64, 64], description="Widths of the hidden layers.")
    activation: Activation = "relu"


class AutoencoderSpec(SpecModel):
    """A symmetric autoencoder: ``hidden`` down to ``code`` and back up; it reconstructs its standardised input."""

    name: Literal["autoencoder"] = "autoencoder"
    hidden: Annotated[list[Width], Len(1, 8)] = Field([96, 48], description="Widths from the input to the code.")
    code: Width = Field(30, description="Width of the code layer.")
    activation: Activation = "tanh"


class ConvnetSpec(SpecModel):
    """3 x 3 convolutions, each followed by an activation and 2 x 2 pooling; the mean over all places is classified."""

    name: Literal["convnet"] = "convnet"
    channels: Annotated[list[Annotated[int, Ge(1), Le(1024)]], Len(1, 6)] = Field(
        [16, 32], description="Channels of the convolutions."
    )
    activation: Activation = "relu"


class ResnetSpec(SpecModel):
    """A residual network as for CIFAR: three stages of ``width``, twice and four times ``width``, batch norm."""

    name: Literal["resnet"] = "resnet"
    width: Annotated[int, Ge(1), Le(256)] = Field(16, description="Channels of the first stage.")
    blocks: Annotated[int, Ge(1), Le(18)] = Field(1, description="Residual blocks of a stage.")
    activation: Activation = "relu"


class TransformerSpec(SpecModel):
    """A causal transformer that predicts the next character or byte of a text; norm before each part."""

    name: Literal["transformer"] = "transformer"
    tokens: Literal["bytes", "characters"] = Field("bytes", description="What the text is cut into.")
    context: Annotated[int, Ge(2), Le(4096)] = Field(64, description="Tokens of a window.")
    layers: Annotated[int, Ge(1), Le(24)] = 2
    heads: Annotated[int, Ge(1), Le(64)] = Field(4, description="Attention heads; they divide the width.")
    width: Width = 64
    activation: Activation = "gelu"


class PinnSpec(SpecModel):
    """A physics-informed network: what it lacks to solve its equation, inside and at the boundary, is the loss."""

    name: Literal["pinn"] = "pinn"
    equation: Literal["poisson_2d", "burgers"] = Field(
        description="Poisson's on the unit square, or Burgers' with the viscosity 0.01 / pi; as the dataset is called."
    )
    hidden: Annotated[list[Width], Len(1, 8)] = Field([32, 32, 32], description="Widths of the hidden layers.")
    activation: Literal["tanh", "gelu", "silu"] = Field("tanh", description="Twice differentiable ones.")


def _plain(config: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Refuse what a database cannot keep as JSON."""
    text = json.dumps(config, ensure_ascii=False)
    if "\\u0000" in text:
        raise ValueError("text without the character NUL")
    if not text.isascii() and text.encode("utf-8", "ignore") != text.encode("utf-8", "surrogatepass"):
        raise ValueError("text without half a surrogate pair")
    return config


Entrypoint = Annotated[
    str,
    Field(
        max_length=100,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*$",
        description="package.module:factory, in a module that the operator has allowed.",
        examples=["examples.gated_mlp:make_model"],
    ),
]
UserConfig = Annotated[
    dict[str, JsonValue],
    AfterValidator(_plain),
    Field(max_length=100, description="Keyword arguments of the factory.", examples=[{"width": 32}]),
]


class EntrypointSpec(SpecModel):
    """A module of your own: what a factory returns that takes the shape of a row, the outputs and the task."""

    name: Literal["entrypoint"] = "entrypoint"
    entrypoint: Entrypoint
    config: UserConfig = {}

    @property
    def activation(self) -> str:
        """None of the service's: the module has its own."""
        return ""


def _with_name(value: Any) -> Any:
    """Let ``name`` be left out beside an entrypoint."""
    is_user_code = isinstance(value, dict) and "entrypoint" in value and "name" not in value
    return {"name": "entrypoint", **value} if is_user_code else value


AnyModel = MlpSpec | AutoencoderSpec | ConvnetSpec | ResnetSpec | TransformerSpec | PinnSpec | EntrypointSpec
ModelSpec = Annotated[AnyModel, Field(discriminator="name"), BeforeValidator(_with_name)]

MODELS: Mapping[str, type[AnyModel]] = {
    "mlp": MlpSpec,
    "autoencoder": AutoencoderSpec,
    "convnet": ConvnetSpec,
    "resnet": ResnetSpec,
    "transformer": TransformerSpec,
    "pinn": PinnSpec,
    "entrypoint": EntrypointSpec,
}
"""Name of a model -> its spec."""
