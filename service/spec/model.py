"""The model of a job: one of those that are registered in ``service.spec.models``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Union

from pydantic import BeforeValidator, Field

from service.spec.base import Entrypoint, SpecModel, UserConfig
from service.spec.models import (
    MODELS,
    AutoencoderSpec,
    ConvnetSpec,
    EntrypointSpec,
    MlpSpec,
    ModelSpec,
    PinnSpec,
    ResnetSpec,
    TransformerSpec,
)

__all__ = [
    "MODELS",
    "AnyModel",
    "AutoencoderSpec",
    "ConvnetSpec",
    "Entrypoint",
    "EntrypointSpec",
    "MlpSpec",
    "ModelSpec",
    "PinnSpec",
    "ResnetSpec",
    "SpecModel",
    "TransformerSpec",
    "UserConfig",
]


def _with_name(value: object) -> object:
    """Let ``name`` be left out when there is an entrypoint."""
    if isinstance(value, dict) and "entrypoint" in value and "name" not in value:
        return {"name": "entrypoint", **value}
    return value


if TYPE_CHECKING:
    AnyModel = ModelSpec
else:
    AnyModel = Annotated[Union[tuple(MODELS.values())], Field(discriminator="name"), BeforeValidator(_with_name)]  # noqa: UP007
