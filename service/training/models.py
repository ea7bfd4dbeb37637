# From a spec to a torch module and its loss. The optimizers are in optimizers.py.
"""Models of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

from torch import Tensor, nn
from torch.nn import functional

from service.data.catalog import Task
from service.training.entrypoints import user_model
from service.training.networks import Pinn, Transformer, TransformerBlock, convnet, residual_loss, resnet

ACTIVATIONS: Final[Mapping[str, type[nn.Module]]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}

LOSSES: Final[Mapping[Task, Callable[[Tensor, Tensor], Tensor]]] = {
    Task.CLASSIFICATION: functional.cross_entropy,
    Task.REGRESSION: functional.mse_loss,
    Task.AUTOENCODING: functional.mse_loss,
    Task.LANGUAGE: functional.cross_entropy,
    Task.PHYSICS: residual_loss,
}
"""Mean over the rows (and columns); a regression's target and an autoencoder's input are standardised."""


def build_model(sizes: Sequence[int], activation: str) -> nn.Sequential:
    """Return linear layers of the given widths with an activation between them, freshly initialised."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1])


def build_network(
    spec: Mapping[str, Any] | None, shape: tuple[int, ...], sizes: Sequence[int], activation: str
) -> nn.Module:
    """Return the model of a run, freshly initialised.

    Args:
        spec: Spec of a model that is no chain of linear layers; None for a chain.
        shape: Channels, height and width of an image.
        sizes: Widths of the layers of a chain, which a physics-informed network has inside; of another model, those of
            its input and its output.
        activation: Name of the activation.
    """
    if spec is None:
        return build_model(sizes, activation)
    if spec["name"] == "entrypoint":
        return user_model(spec, shape or (sizes[0],), sizes[-1])
    if spec["name"] == "pinn":
        return Pinn(build_model(sizes, activation), spec["equation"])
    activate, outputs = ACTIVATIONS[activation], sizes[-1]
    if spec["name"] == "convnet":
        return convnet(shape, spec["channels"], activate, outputs)
    if spec["name"] == "resnet":
        return resnet(shape, spec["width"], spec["blocks"], activate, outputs)
    blocks = [TransformerBlock(spec["width"], spec["heads"], activate) for _ in range(spec["layers"])]
    return Transformer(outputs, spec["context"], spec["width"], blocks)
