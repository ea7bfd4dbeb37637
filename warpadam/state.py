"""What the optimizer's state holds for one parameter, by name and shape.

An update rule lists its entries in the layout of P. In ``optimizer.state`` those with one number for each element, such
as the moments, have the parameter's own shape, as in torch.optim. Entries that a rule does not know belong to someone
else: they are kept and never touched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from warpadam.learners.base import ELEMENTWISE, MOMENTUM, State, UpdateRule
from warpadam.structures import Distortion


class Entry(NamedTuple):
    """One entry of a state.

    Attributes:
        shape: Its shape in the layout of P.
        on_cpu: Whether it is a counter that stays on the CPU.
        elementwise: Whether it has the layout of the gradient, so that the optimizer's state holds it in the
            parameter's shape.
    """

    shape: tuple[int, ...]
    on_cpu: bool
    elementwise: bool

    def shape_for(self, param: Tensor) -> tuple[int, ...]:
        """Return the shape in the optimizer's state of ``param``."""
        return tuple(param.shape) if self.elementwise else self.shape


@cache
def required_entries(rule: UpdateRule, distortion: Distortion, learns: bool) -> Mapping[str, Entry]:
    """Return the entries that every step of a rule needs.

    Args:
        rule: The update rule.
        distortion: The structure of P.
        learns: Whether ``p_lr`` is more than 0.
    """
    return _entries(rule.init_state(distortion, torch.float32, torch.device("meta"), learns=learns), distortion)


@cache
def known_entries(rule: UpdateRule, distortion: Distortion) -> Mapping[str, Entry]:
    """Return all entries that a rule may find: those that it needs, and those that come with a P that was given."""
    carried = rule.init_carried(distortion, torch.float32, torch.device("meta"))
    return {**_entries(carried, distortion), **required_entries(rule, distortion, True)}


def _entries(state: Mapping[str, Tensor], distortion: Distortion) -> dict[str, Entry]:
    return {
        name: Entry(
            shape=tuple(value.shape),
            on_cpu=value.device.type == "cpu",
            elementwise=name in ELEMENTWISE and tuple(value.shape) == distortion.layout,
        )
        for name, value in state.items()
    }


def state_dtype(param: Tensor) -> torch.dtype:
    """Return the dtype in which a parameter is stepped: fp32, or fp64 for an fp64 parameter."""
    return torch.float64 if param.dtype == torch.float64 else torch.float32


def complete_state(
    state: State,
    param: Tensor,
    rule: UpdateRule,
    distortion: Distortion,
    learns: bool,
    momentum_dtype: torch.dtype | None,
) -> None:
    """Add the entries that a step needs and ``state`` lacks, as they are before the first step."""
    required = required_entries(rule, distortion, learns)
    if required.keys() <= state.keys():
        return
    initial = rule.init_state(distortion, state_dtype(param), param.device, learns=learns)
    for name, entry in required.items():
        if name not in state:
            value = initial[name]
            if name in MOMENTUM:
                value = value.to(_stored_dtype(name, param, momentum_dtype))
            state[name] = distortion.from_layout(value, tuple(param.shape)) if entry.elementwise else value


def recomputed(saved: Mapping[str, Any], param: Tensor, rule: UpdateRule, distortion: Distortion) -> State:
    """Return the recomputable entries that a saved state of a parameter lacks although it has what they are made of.

    Args:
        saved: Saved entries.
        param: The parameter that they are loaded for.
        rule: The rule that will step it.
        distortion: The structure of its P.
    """
    known = known_entries(rule, distortion)
    return {
        name: rule.recompute(saved, name, saved[source].to(param.device, state_dtype(param)))
        for name, source in rule.recomputable(distortion).items()
        if name not in saved
        and {source, "step"} <= saved.keys()
        and tuple(getattr(saved[source], "shape", ())) == known[source].shape
    }


def misfits(
    state: Mapping[str, Any], param: Tensor, rule: UpdateRule, distortion: Distortion, learns: bool
) -> Iterator[str]:
    """Say which entries a saved state of a parameter lacks, and which do not have the right shape.

    Args:
        state: Saved entries. A number counts as a tensor without axes.
        param: The parameter that it is loaded for.
        rule: The rule that will step the parameter.
        distortion: The structure of its P.
        learns: Whether ``p_lr`` is more than 0.
    """
    missing = [name for name in required_entries(rule, distortion, learns) if name not in state]
    if missing:
        yield f"has no {', '.join(missing)}"
    for name, entry in known_entries(rule, distortion).items():
        expected = entry.shape_for(param)
        if name not in state:
            continue
        if not isinstance(state[name], Tensor | int | float):
            yield f"has {name} of type {type(state[name]).__name__}, not a tensor"
        elif (shape := tuple(getattr(state[name], "shape", ()))) != expected:
            yield f"has {name} of shape {shape} in the state and {expected} in the optimizer"


def restored(
    saved: Mapping[str, Any],
    cast: Mapping[str, Any],
    param: Tensor,
    rule: UpdateRule,
    distortion: Distortion,
    momentum_dtype: torch.dtype | None,
) -> State:
    """Return a loaded state: known entries exactly as saved, others as torch has cast them.

    Args:
        saved: The entries that were saved; they are copied.
        cast: The same entries after torch cast them to the parameter's dtype and device.
        param: The parameter.
        rule: The rule that will step it.
        distortion: The structure of its P.
        momentum_dtype: In which dtype the entries in ``MOMENTUM`` are stored; the state's own if None.
    """
    state = dict(cast)
    for name, entry in known_entries(rule, distortion).items():
        if name in saved:
            dtype = torch.float32 if entry.on_cpu else _stored_dtype(name, param, momentum_dtype)
            device = torch.device("cpu") if entry.on_cpu else param.device
            value = torch.as_tensor(saved[name], device=device)
            state[name] = value.to(device=device, dtype=dtype, copy=True)
    return state


def _stored_dtype(name: str, param: Tensor, momentum_dtype: torch.dtype | None) -> torch.dtype:
    return momentum_dtype if momentum_dtype is not None and name in MOMENTUM else state_dtype(param)
