"""What every part of a spec is built from."""

from __future__ import annotations

import json
from typing import Annotated, Final, Literal, TypeVar

from annotated_types import Ge, Le
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError
from typing_extensions import TypeAliasType

from service.errors import FieldError, OtherVersionError

Stored = TypeVar("Stored")


class SpecModel(BaseModel):
    """Base of every part of a spec: unknown fields are refused, nothing is coerced, nothing changes.

    The text below a field is its description in the schema.
    """

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    def without_defaults(self) -> dict[str, JsonValue]:
        """Return the fields that differ from their defaults, as plain JSON values.

        A later version, with more fields, returns the same.
        """
        return self.model_dump(mode="json", exclude_defaults=True)


PRINTABLE: Final = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$"
"""Text on one line, without control characters."""

ID: Final = r"^[\w-]+$"
"""An id, or the name of an encoding."""

TAG: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"

ENTRYPOINT: Final = r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*$"

Name = Annotated[str, Field(max_length=100, pattern=PRINTABLE)]
ColumnName = Annotated[str, Field(max_length=200, pattern=PRINTABLE)]

Width = Annotated[int, Ge(1), Le(4096)]
Activation = TypeAliasType("Activation", Literal["relu", "tanh", "gelu", "silu"])
"""Named, so that the schema has it once."""


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
        pattern=ENTRYPOINT,
        description="package.module:function, in a module that the operator has allowed.",
        examples=["examples.gated_mlp:make_model"],
    ),
]
UserConfig = Annotated[
    dict[str, JsonValue],
    AfterValidator(_plain),
    Field(max_length=100, description="Keyword arguments of the function.", examples=[{"width": 32}]),
]


def read_stored(kind: type[Stored], stored: object, what: str) -> Stored:
    """Return an object from its JSON. Fields of a dataclass that only another version knows are left out.

    Args:
        kind: A pydantic model or a dataclass.
        stored: What the database holds.
        what: What it is called in the error.

    Raises:
        OtherVersionError: Another version of the service wrote something that this one cannot read.
    """
    try:
        return TypeAdapter(kind).validate_python(stored)
    except ValidationError as error:
        wrong = [
            FieldError(
                ".".join(map(str, item["loc"])),
                item["input"] if isinstance(item["input"], str | int | float) else None,
                item["msg"],
            )
            for item in error.errors()[:3]
        ]
        raise OtherVersionError(what, "; ".join(map(str, wrong))) from error
