# Models of users that keep to the contract in unusual ways.
from __future__ import annotations

from torch import nn


def hooked(shape: tuple[int, ...], outputs: int, task: str) -> nn.Module:
    """Return a model whose hooks scale what goes in and what comes out."""
    model = nn.Linear(shape[0], outputs)
    model.register_forward_pre_hook(lambda module, args: (3.0 * args[0] + 1.0,))
    model.register_forward_hook(lambda module, args, output: 0.5 * output)
    return model
