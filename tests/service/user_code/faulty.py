# User code that breaks its contract, one factory for each way; and one of each kind that keeps to it.
from __future__ import annotations

import os
import sys
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

X = np.linspace(0, 1, 120, dtype=np.float32).reshape(30, 4)
Y = np.arange(30) % 3


def good_model(shape: tuple[int, ...], outputs: int, task: str, *, width: int = 4) -> nn.Module:
    print("printed where an answer could be")
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[-1], width), nn.Tanh(), nn.Linear(width, outputs))


def good_dataset(seed: int, *, rows: int = 30) -> tuple[Any, Any, str]:
    return np.random.default_rng(seed).normal(size=(rows, 4)), Y[:rows], "classification"


def too_large(seed: int) -> Any:
    kept = b"x" * (900 << 20)
    time.sleep(600)
    return kept


def good_images(seed: int) -> tuple[Any, Any, str]:
    return np.random.default_rng(seed).random((30, 6, 5, 3)), Y, "classification"


def good_autoencoding(seed: int) -> tuple[Any, Any, str]:
    return X, None, "autoencoding"


class Broken(nn.Module):
    """A linear layer, and then whatever is asked for."""

    def __init__(self, shape: tuple[int, ...], outputs: int, how: str) -> None:
        super().__init__()
        self.how, self.linear = how, nn.Linear(shape[-1], outputs)

    def forward(self, x: Tensor) -> Any:
        y = self.linear(x)
        if self.how == "raises":
            return self.linear(y)
        return {
            "wide": torch.cat([y, y], dim=1),
            "list": [y],
            "nan": y * float("nan"),
            "cut": y.detach(),
            "truths": y > 0,
            "integers": y.long(),
            "complex": y.to(torch.complex64),
            "sparse": y.to_sparse(),
            "without numbers": y.to("meta"),
            "no backward": NoBackward.apply(y),  # type: ignore[no-untyped-call]
            "no eval": y,
        }[self.how]

    def train(self, mode: bool = True) -> Broken:
        if self.how == "no eval" and not mode:
            raise ValueError("it only trains")
        return super().train(mode)


class NoBackward(torch.autograd.Function):
    """Passes its input on, and has no gradient."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        return y.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        raise ValueError("no gradient")


def broken(shape: tuple[int, ...], outputs: int, task: str, *, how: str) -> Any:
    return Broken(shape, outputs, how)


def no_module(shape: tuple[int, ...], outputs: int, task: str) -> Any:
    return [nn.Linear(shape[-1], outputs)]


def no_parameters(shape: tuple[int, ...], outputs: int, task: str) -> Any:
    return nn.Flatten()


class HasVersion(nn.Linear):
    """Keeps more than tensors."""

    def get_extra_state(self) -> dict[str, int]:
        return {"version": 1}

    def set_extra_state(self, state: dict[str, int]) -> None:
        assert state == {"version": 1}


def has_version(shape: tuple[int, ...], outputs: int, task: str) -> Any:
    return HasVersion(shape[-1], outputs)


def double(shape: tuple[int, ...], outputs: int, task: str) -> Any:
    return nn.Linear(shape[-1], outputs).double()


def lazy(shape: tuple[int, ...], outputs: int, task: str) -> Any:
    return nn.LazyLinear(outputs)


class FirstRows(nn.Module):
    """The number of each row, in place of the row."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.arange(len(x))


def sparse(shape: tuple[int, ...], outputs: int, task: str) -> Any:
    return nn.Sequential(FirstRows(), nn.Embedding(8, 4, sparse=True), nn.Linear(4, outputs))


def unseeded(shape: tuple[int, ...], outputs: int, task: str) -> Any:
    model = nn.Linear(shape[-1], outputs)
    nn.init.constant_(model.bias, np.random.default_rng().normal())
    return model


def raises(*args: Any, **config: Any) -> Any:
    raise RuntimeError("no such table")


def leaves(*args: Any, **config: Any) -> Any:
    sys.exit("gone")


def dies(*args: Any, **config: Any) -> Any:
    os._exit(7)


def forks(*args: Any, **config: Any) -> Any:
    """Fork a process that has done its work and leaves, wait for it, and make a good dataset."""
    child = os.fork()
    if not child:
        sys.exit()
    assert os.waitpid(child, 0)[1] == 0
    return good_dataset(0)


def hangs(*args: Any, **config: Any) -> Any:
    time.sleep(600)


def dataset(seed: int, *, what: str) -> Any:
    with_nan = X.copy()
    with_nan[3, 2] = np.nan
    return {
        "two values": (X, Y),
        "list": (X.tolist(), Y, "classification"),
        "objects": (X.astype(object), Y, "classification"),
        "few rows": (X[:5], Y[:5], "classification"),
        "nan": (with_nan, Y, "classification"),
        "long y": (X, np.arange(31) % 3, "classification"),
        "one class": (X, Y * 0, "classification"),
        "rare class": (X, np.r_[Y[:-1], 9], "classification"),
        "no y": (X, None, "regression"),
        "y too": (X, Y, "autoencoding"),
        "task": (X, Y, "ranking"),
        "masked": (np.ma.masked_greater(X, 0.5), Y, "classification"),
        "masked y": (X, np.ma.masked_equal(Y, 2), "classification"),
        "bfloat16": (torch.from_numpy(X).bfloat16(), Y, "classification"),
        "texts": (X, np.array(["a", "b", "c"])[Y], "regression"),
        "clock": (X + time.perf_counter() % 1, Y, "classification"),
    }[what]
