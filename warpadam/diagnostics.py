"""``diagnose``: a report on what every P of an optimizer has learned.

It reads the optimizer's state and never changes it. ``memory.py`` reports the memory of P, ``profiling.py`` its time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from warpadam.learners.scale import LOG_SCALE, step_scale
from warpadam.optimizer import WarpAdam
from warpadam.reports import Listed, listed, p_entries, table, times
from warpadam.structures.measures import Measures, product


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TensorReport:
    """The P of one parameter, in numbers.

    Attributes:
        name: The parameter's name, or its position in its group.
        shape: Its shape.
        strategy: Structure, placement and learner of its group.
        factors: Measures of each factor of P. A vector is ``diagonal`` unless the structure is ``full``.
        norm: Frobenius norm of P over that of the identity.
        distance: ||P - I|| / ||I|| in the Frobenius norm.
        condition: Largest singular value of P over the smallest. Estimated from below for factors longer than 512.
        scale: Smallest and largest learned step scale S, (1, 1) without one. The numbers above do not include it.
        p_bytes: Bytes of P: factors, covariances and scale.
    """

    name: str
    shape: tuple[int, ...]
    strategy: str
    factors: Mapping[str, Measures]
    norm: float
    distance: float
    condition: float
    scale: tuple[float, float]
    p_bytes: int


@final
class Diagnosis(tuple[TensorReport, ...]):
    """A report for each parameter; ``str()`` of it is a table."""

    __slots__ = ()

    @override
    def __str__(self) -> str:
        rows = [("parameter", "shape", "strategy", "norm", "distance", "condition", "scale", "bytes", "by factor")]
        for row in self:
            factors = ", ".join(f"{name} {measures.condition:.3g}" for name, measures in row.factors.items())
            low, high = row.scale
            numbers = (f"{row.norm:.3g}", f"{row.distance:.3g}", f"{row.condition:.3g}", f"{low:.3g} to {high:.3g}")
            rows.append((row.name, times(row.shape), row.strategy, *numbers, f"{row.p_bytes:,}", factors))
        return table(rows)


def diagnose(optimizer: WarpAdam) -> Diagnosis:
    """Report the current P of every parameter. Before the first step it is the identity.

    If ranks share parameters, each rank reports those that it owns.

    Args:
        optimizer: It is not changed.

    Cost: singular values of every factor, in fp64 on the CPU, which takes seconds for a large model. Waits for the
    device.

    >>> optimizer = WarpAdam(torch.nn.Linear(3, 2).named_parameters())
    >>> [(row.name, row.condition, row.distance) for row in diagnose(optimizer)]
    [('weight', 1.0, 0.0), ('bias', 1.0, 0.0)]
    """
    owned = (item for item in listed(optimizer) if optimizer.owns(item.owner))
    return Diagnosis(_report(item, item.part.entries(optimizer.state.get(item.owner, {}))) for item in owned)


def _report(item: Listed, state: Mapping[str, Tensor]) -> TensorReport:
    group = item.group
    names = p_entries(item) & state.keys()
    known = {name: state[name] for name in names} or item.identity(item.param.device)
    measures = item.distortion.measure(known)
    whole = product(measures.values())
    log_scale = known.get(LOG_SCALE, torch.zeros(1, device=item.param.device))
    scale = step_scale(log_scale, torch.empty(item.distortion.layout, device=item.param.device))
    return TensorReport(
        name=item.name,
        shape=tuple(item.param.shape),
        strategy="/".join((group["structure"], group["placement"], group["learner"])),
        factors=measures,
        norm=whole.norm,
        distance=whole.distance,
        condition=whole.condition,
        scale=(float(scale.min()), float(scale.max())) if scale.numel() else (1.0, 1.0),
        p_bytes=sum(state[name].nbytes for name in names),
    )
