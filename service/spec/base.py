"""What every part of a spec is built from."""

from __future__ import annotations

import json
from typing import Annotated, Literal

from annotated_types import Ge, Le
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue


class SpecModel(BaseModel):
    """Base of every part of a spec: unknown fields are refused, nothing is coerced, nothing changes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


Width = Annotated[int, Ge(1), Le(4096)]
Activation = Literal["relu", "tanh", "gelu", "silu"]


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
