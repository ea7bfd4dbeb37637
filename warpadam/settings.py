"""Reads the settings of a parameter group, and checks them before anything moves.

A group is a dict that schedulers and users may change between any two steps.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import fields
from numbers import Integral, Real
from typing import Any, Final

import numpy
import torch
from torch import Tensor

from warpadam.config import WarpAdamConfig, as_float
from warpadam.errors import InvalidConfigError

CONFIG_FIELDS: Final = tuple(field.name for field in fields(WarpAdamConfig))

LAYOUT_FIELDS: Final = ("structure", "placement", "learner", "rank", "block_size", "max_dim")
"""The settings that decide what the state of a parameter looks like."""

_SIMILARITY: Final = 0.85
"""Similarity from which an unknown key of a group counts as a misspelt setting. Other keys are left alone: schedulers
and users keep their own numbers in a group."""


def config_of(group: Mapping[str, Any]) -> WarpAdamConfig:
    """Return the settings of a group as a config, which checks them. Its ``lr`` is not the group's; see `rate_of`."""
    return WarpAdamConfig(**{name: group[name] for name in CONFIG_FIELDS if name != "lr"})


def rate_of(group: Mapping[str, Any]) -> float | Tensor:
    """Return the lr of a group: a number, or a tensor without axes.

    It may be negative: a linear schedule that runs too long passes zero, and torch.optim steps on.

    Raises:
        InvalidConfigError: It is neither a finite number nor a tensor of one element.
    """
    lr = group["lr"]
    if isinstance(lr, Tensor) and lr.numel() == 1 and not lr.is_complex():
        return lr.detach().reshape(())
    number = math.nan if isinstance(lr, bool) or not isinstance(lr, Real) else as_float(lr)
    if not math.isfinite(number):
        raise InvalidConfigError("lr", lr, "must be a finite number or a tensor of one element")
    return number


def momentum_dtype_of(group: Mapping[str, Any]) -> torch.dtype | None:
    """Return the dtype in which a group stores its momentum; None if it is that of the rest of the state.

    Raises:
        InvalidConfigError: It is neither None nor ``torch.bfloat16``.
    """
    dtype = group.get("momentum_dtype")
    if dtype is not None and dtype != torch.bfloat16:
        raise InvalidConfigError("momentum_dtype", dtype, "must be None or torch.bfloat16")
    return dtype


def checked_start(lr: Any) -> Any:
    """Return the number in ``lr`` if it is a tensor, so that a config can check it.

    Raises:
        InvalidConfigError: The tensor has more than one element, or none.
    """
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise InvalidConfigError("lr", tuple(lr.shape), "Tensor lr must be 1-element")
    return lr.item() if isinstance(lr, Tensor) else lr


def check_names(group: Mapping[str, Any]) -> None:
    """Refuse a key of a new group that looks like a misspelt setting.

    Raises:
        InvalidConfigError: There is such a key.
    """
    known = (*CONFIG_FIELDS, "maximize", "momentum_dtype", "split", "params", "param_names")
    for name in group:
        similar = [] if name in known else difflib.get_close_matches(str(name), known, n=1, cutoff=_SIMILARITY)
        if similar or name == "learning_rate":
            meant = similar[0] if similar else "lr"
            raise InvalidConfigError(name, group[name], "is not a setting of a group", f"Did you mean {meant!r}?")


def plain_group(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return a group to save, with values that torch reads back everywhere.

    ``torch.load`` refuses numbers of numpy and enums, so they become Python's numbers and strings.
    ``torch.distributed.checkpoint`` refuses a dtype, so that of the momentum becomes ``"bfloat16"``.
    """
    dtype = group.get("momentum_dtype")
    plain = {name: _plain(value) for name, value in group.items()}
    return plain if dtype is None else {**plain, "momentum_dtype": str(dtype).removeprefix("torch.")}


def _plain(value: Any) -> Any:
    if type(value) in (list, tuple):
        return type(value)(map(_plain, value))
    if isinstance(value, Mapping):
        return {_plain(key): _plain(own) for key, own in value.items()}
    if isinstance(value, numpy.generic):
        return value.item()
    if isinstance(value, str):
        return str.__str__(value)  # of an enum, its value
    if isinstance(value, Real) and not isinstance(value, bool):
        return int(value) if isinstance(value, Integral) else as_float(value)
    return value
