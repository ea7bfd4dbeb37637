"""The networks behind the models of a spec: chains of linear layers, images, texts, differential equations.

An exported script contains the source of the networks that it needs, so these use torch only. Their tensor shapes,
worked out without torch, are in ``service/spec/models``; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from service.registry import import_object
from service.spec.models import MODELS

Spec = Mapping[str, Any]
"""Spec of a model, as plain JSON values."""

Activation = Callable[[], nn.Module]

ACTIVATIONS: Mapping[str, Activation] = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU, "silu": nn.SiLU}


def linear_layers(sizes: Sequence[int], activation: str) -> nn.Sequential:
    """Return linear layers of the given widths with an activation between them, freshly initialised."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1])


def build_network(spec: Spec | None, shape: tuple[int, ...], sizes: Sequence[int], activation: str) -> nn.Module:
    """Return the model of a run, freshly initialised. The arguments are fields of a :class:`Run`."""
    if spec is None:
        return linear_layers(sizes, activation)
    model: nn.Module = import_object(MODELS[spec["name"]].build)(spec, shape, sizes)
    return model


def build_linear_layers(spec: Spec, shape: tuple[int, ...], sizes: Sequence[int]) -> nn.Module:
    """Return the chain of an mlp or an autoencoder."""
    del shape
    return linear_layers(sizes, spec["activation"])


class Images(nn.Module):
    """Gives flat rows the shape of images."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self._shape = shape

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return x.view(len(x), *self._shape)


def build_convnet(spec: Spec, shape: tuple[int, ...], sizes: Sequence[int]) -> nn.Module:
    """Return convolutions with pooling, and a linear layer on the mean over all places."""
    layers: list[nn.Module] = [Images(shape)]
    before, activation = shape[0], ACTIVATIONS[spec["activation"]]
    for width in spec["channels"]:
        layers += [nn.Conv2d(before, width, 3, padding=1), activation(), nn.MaxPool2d(2, ceil_mode=True)]
        before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, sizes[-1]))


def _convolution(before: int, width: int, side: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(before, width, side, stride=stride, padding=side // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width))


class ResidualBlock(nn.Module):
    """Two convolutions with a shortcut around them: a 1 x 1 convolution where the width changes."""

    def __init__(self, before: int, width: int, activation: Activation) -> None:
        super().__init__()
        stride = 1 if before == width else 2
        self.first = _convolution(before, width, 3, stride)
        self.second = _convolution(width, width, 3)
        self.shortcut = nn.Identity() if before == width else _convolution(before, width, 1, stride)
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        out = self.second(self.activation(self.first(x)))
        result: Tensor = self.activation(out + self.shortcut(x))
        return result


def build_resnet(spec: Spec, shape: tuple[int, ...], sizes: Sequence[int]) -> nn.Module:
    """Return a residual network of three stages. Source: He et al. 2016, section 4.2."""
    before, activation = spec["width"], ACTIVATIONS[spec["activation"]]
    layers: list[nn.Module] = [Images(shape), _convolution(shape[0], before, 3), activation()]
    for stage in range(3):
        width = spec["width"] << stage
        for _ in range(spec["blocks"]):
            layers.append(ResidualBlock(before, width, activation))
            before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, sizes[-1]))


class TransformerBlock(nn.Module):
    """Causal self-attention and a two-layer perceptron, each after a norm and with a shortcut around it."""

    def __init__(self, width: int, heads: int, activation: Activation) -> None:
        super().__init__()
        self._heads = heads
        self.norm_1 = nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.norm_2 = nn.LayerNorm(width)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), activation(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        rows, length, width = x.shape
        parts = self.queries_keys_values(self.norm_1(x)).view(rows, length, 3, self._heads, width // self._heads)
        queries, keys, values = parts.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        x = x + self.mix(attended.transpose(1, 2).reshape(rows, length, width))
        result: Tensor = x + self.perceptron(self.norm_2(x))
        return result


class Transformer(nn.Module):
    """Predicts the next token at every place: rows x places -> rows x tokens x places, as cross_entropy wants it."""

    def __init__(self, tokens: int, context: int, width: int, blocks: list[TransformerBlock]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, width)
        self.positions = nn.Embedding(context, width)
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, tokens)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        places = torch.arange(x.shape[1], device=x.device)
        logits: Tensor = self.head(self.norm(self.blocks(self.embedding(x) + self.positions(places))))
        return logits.transpose(1, 2)


def build_transformer(spec: Spec, shape: tuple[int, ...], sizes: Sequence[int]) -> nn.Module:
    """Return a transformer; the last of ``sizes`` is the number of different tokens."""
    del shape
    width, activation = spec["width"], ACTIVATIONS[spec["activation"]]
    blocks = [TransformerBlock(width, spec["heads"], activation) for _ in range(spec["layers"])]
    return Transformer(sizes[-1], spec["context"], width, blocks)


def _slopes(u: Tensor, points: Tensor) -> Tensor:
    (slopes,) = torch.autograd.grad(u.sum(), points, create_graph=True)
    return slopes


def _poisson_2d(u: Tensor, points: Tensor) -> Tensor:
    slopes = _slopes(u, points)
    return -_slopes(slopes[:, 0], points)[:, 0] - _slopes(slopes[:, 1], points)[:, 1]


def _burgers(u: Tensor, points: Tensor) -> Tensor:
    slopes = _slopes(u, points)
    viscosity = 0.01 / torch.pi
    return slopes[:, 1] + u * slopes[:, 0] - viscosity * _slopes(slopes[:, 0], points)[:, 0]


EQUATIONS = {"poisson_2d": _poisson_2d, "burgers": _burgers}
"""Left-hand sides: - u_xx - u_yy at (x, y), and u_t + u u_x - 0.01 / pi u_xx at (x, t)."""


class Pinn(nn.Module):
    """A network for the solution u of an equation.

    A row has two coordinates and the weight of the condition there, 0 inside. It becomes two columns: the left-hand
    side of the equation, or where there is a condition the weighted u; and u itself.
    """

    def __init__(self, network: nn.Module, equation: str) -> None:
        super().__init__()
        self.network = network
        self._left_hand_side = EQUATIONS[equation]

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        with torch.enable_grad():  # evaluation needs it too: the equation has derivatives
            points = x[:, :2].detach().requires_grad_()
            u = self.network(points).squeeze(1)
            left = self._left_hand_side(u, points)
        weights = x[:, 2]
        return torch.stack([torch.where(weights > 0, weights * u, left), u], dim=1)


def build_pinn(spec: Spec, shape: tuple[int, ...], sizes: Sequence[int]) -> nn.Module:
    """Return a chain of linear layers for the solution of an equation."""
    del shape
    return Pinn(linear_layers(sizes, spec["activation"]), spec["equation"])


def residual_loss(output: Tensor, y: Tensor) -> Tensor:
    """Return the mean squared error in the equation and its conditions; the column of the solution is not used."""
    return functional.mse_loss(output[:, 0], y[:, 0])
