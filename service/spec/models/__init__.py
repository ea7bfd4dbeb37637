"""The models of the service, one file each: fields, ranges, shapes and checks.

To add one, write a file like ``mlp.py`` and list its class here; outside of the service, call ``MODELS.register``. The
torch half, which ``build`` names, can be a function of the same file that imports torch inside.
"""

from __future__ import annotations

from typing import Final

from service.registry import Registry
from service.spec.models.autoencoder import AutoencoderSpec
from service.spec.models.base import ModelSpec
from service.spec.models.convnet import ConvnetSpec
from service.spec.models.entrypoint import EntrypointSpec
from service.spec.models.mlp import MlpSpec
from service.spec.models.pinn import PinnSpec
from service.spec.models.resnet import ResnetSpec
from service.spec.models.transformer import TransformerSpec

__all__ = [
    "MODELS",
    "AutoencoderSpec",
    "ConvnetSpec",
    "EntrypointSpec",
    "MlpSpec",
    "ModelSpec",
    "PinnSpec",
    "ResnetSpec",
    "TransformerSpec",
]

MODELS: Final = Registry[type[ModelSpec]](
    "model",
    (MlpSpec, AutoencoderSpec, ConvnetSpec, ResnetSpec, TransformerSpec, PinnSpec, EntrypointSpec),
    name_of=lambda model: str(model.model_fields["name"].default),
)
"""Every model by its name."""
