# What became of every P, for a person to read. Reads the optimizer's state and never changes it; what a structure is
# like inside is asked of the structure. The memory of P before training is in memory.py, its time in profiling.py.
"""What P has learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from warpadam.learners.scale import scale_direction
from warpadam.optimizer import WarpAdam
from warpadam.reports import Listed, listed, p_entries, table, times
from warpadam.structures.measures import Measures, product


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TensorReport:
    """What one parameter's P is like.

    Attributes:
        name: The parameter's name, or its place in the groups.
        shape: Its shape.
        strategy: Structure, placement and learner of its group.
        factors: Measures of each factor of P; a vector is ``diagonal`` unless the structure is ``full``.
        norm: Frobenius norm of P over that of the identity.
        distance: ||P - I|| over ||I||, Frobenius.
        condition: Largest over smallest singular value of P; for factors longer than 512 an estimate from below.
        scale: Smallest and largest learned step scale S, (1, 1) without one; it is not part of the numbers above.
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
    """Report what every parameter's P is like now; before its first step it is the identity.

    Args:
        optimizer: Left as it is.

    Cost: singular values of every factor, in fp64 on the CPU; seconds for a large model. Waits for the device.

    >>> optimizer = WarpAdam(torch.nn.Linear(3, 2).named_parameters())
    >>> [(row.name, row.condition, row.distance) for row in diagnose(optimizer)]
    [('weight', 1.0, 0.0), ('bias', 1.0, 0.0)]
    """
    return Diagnosis(_report(item, optimizer.state.get(item.param, {})) for item in listed(optimizer))


def _report(item: Listed, state: Mapping[str, Tensor]) -> TensorReport:
    rule, group = item.rule, item.group
    names = p_entries(rule) & state.keys()
    known = {name: state[name] for name in names} or rule.init_carried(torch.float32, item.param.device)
    measures = rule.distortion.measure(known)
    whole = product(measures.values())
    scale = scale_direction(known, torch.ones(rule.distortion.layout, device=item.param.device))
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
