# The models that are no chain of linear layers: for images, texts and differential equations. Their tensor shapes,
# without torch, are in catalog.py; a test holds the two together. What picks among them is models.py.
"""Convolutional networks, the transformer, and physics-informed networks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

Activation = Callable[[], nn.Module]


class Images(nn.Module):
    """Gives flat rows the shape of images."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self._shape = shape

    @override
    def forward(self, x: Tensor) -> Tensor:
        return x.view(len(x), *self._shape)


def convnet(shape: tuple[int, ...], channels: list[int], activation: Activation, outputs: int) -> nn.Module:
    """Return convolutions with pooling, and a linear layer on the mean over all places."""
    layers: list[nn.Module] = [Images(shape)]
    before = shape[0]
    for width in channels:
        layers += [nn.Conv2d(before, width, 3, padding=1), activation(), nn.MaxPool2d(2, ceil_mode=True)]
        before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, outputs))


def _convolution(before: int, width: int, side: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(before, width, side, stride=stride, padding=side // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width))


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut, which is a 1 x 1 convolution where the width changes."""

    def __init__(self, before: int, width: int, activation: Activation) -> None:
        super().__init__()
        stride = 1 if before == width else 2
        self.first = _convolution(before, width, 3, stride)
        self.second = _convolution(width, width, 3)
        self.shortcut = nn.Identity() if before == width else _convolution(before, width, 1, stride)
        self.activation = activation()

    @override
    def forward(self, x: Tensor) -> Tensor:
        out = self.second(self.activation(self.first(x)))
        result: Tensor = self.activation(out + self.shortcut(x))
        return result


def resnet(shape: tuple[int, ...], width: int, blocks: int, activation: Activation, outputs: int) -> nn.Module:
    """Return a residual network of three stages. Source: He et al. 2016, section 4.2."""
    layers: list[nn.Module] = [Images(shape), _convolution(shape[0], width, 3), activation()]
    before = width
    for stage in range(3):
        for _ in range(blocks):
            layers.append(ResidualBlock(before, width << stage, activation))
            before = width << stage
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, outputs))


class TransformerBlock(nn.Module):
    """Causal self-attention and a two-layer perceptron, each after a norm and beside a shortcut."""

    def __init__(self, width: int, heads: int, activation: Activation) -> None:
        super().__init__()
        self._heads = heads
        self.norm_1 = nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.norm_2 = nn.LayerNorm(width)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), activation(), nn.Linear(4 * width, width))

    @override
    def forward(self, x: Tensor) -> Tensor:
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

    @override
    def forward(self, x: Tensor) -> Tensor:
        places = torch.arange(x.shape[1], device=x.device)
        logits: Tensor = self.head(self.norm(self.blocks(self.embedding(x) + self.positions(places))))
        return logits.transpose(1, 2)


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

    @override
    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():  # also where only a loss is asked for, as the equation has derivatives
            points = x[:, :2].detach().requires_grad_()
            u = self.network(points).squeeze(1)
            left = self._left_hand_side(u, points)
        weights = x[:, 2]
        return torch.stack([torch.where(weights > 0, weights * u, left), u], dim=1)


def residual_loss(output: Tensor, y: Tensor) -> Tensor:
    """Return the mean square of what equation and conditions lack; the solution beside it is not looked at."""
    return functional.mse_loss(output[:, 0], y[:, 0])
