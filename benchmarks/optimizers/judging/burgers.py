"""The task ``burgers_operator``: a DeepONet maps the start of a flow to the flow at later times.

The flow obeys Burgers' equation u_t + u u_x = nu u_xx on a circle, with smooth random starts. It is solved by a
pseudo-spectral method, with fourth-order Runge-Kutta steps for what diffusion leaves. 100 starts are held out.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from benchmarks.optimizers.tabular import mlp
from benchmarks.optimizers.training import GradientTask, Problem

POINTS: Final = 64
"""Points of the circle; also the sensors at which the network sees the start."""

VISCOSITY: Final = 0.05
TIMES: Final = (0.25, 0.5, 0.75, 1.0)
STEPS_PER_TIME: Final = 100
WAVES: Final = 4
"""Wave numbers in a start."""

STARTS: Final = (2000, 100)
"""Starts to train on, and held-out ones."""

FEATURES: Final = 64
BATCH_STARTS: Final = 64
BATCH_PLACES: Final = 64
"""Places (time and angle) at which a batch compares the flows of its starts."""


class Flows(NamedTuple):
    """Starts (n, POINTS) and the flows at all places (n, places)."""

    starts: Tensor
    flows: Tensor


class DeepONet(nn.Module):
    """The scalar product of features of the start (branch) and features of the place (trunk)."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = mlp((POINTS, 96, 96, FEATURES), nn.GELU)
        self.trunk = mlp((3, 96, 96, FEATURES), nn.GELU)

    def forward(self, starts: Tensor, places: Tensor) -> Tensor:
        """Map starts (n, POINTS) and places (m, 3) to flows (n, m)."""
        flows: Tensor = self.branch(starts) @ self.trunk(places).T / FEATURES**0.5
        return flows


def solve(starts: npt.NDArray[np.float64], time: float, steps: int) -> npt.NDArray[np.float64]:
    """Return the flows (n, POINTS) that the starts (n, POINTS) become after ``time``."""
    waves = np.fft.rfftfreq(POINTS, 1 / POINTS)
    kept = waves <= POINTS / 3  # the square of what is kept has no aliases
    step = time / steps
    half_decay = np.exp(-VISCOSITY * waves**2 * step / 2)

    def advection(spectrum: npt.NDArray[np.complex128]) -> npt.NDArray[np.complex128]:
        flow = np.fft.irfft(spectrum * kept, POINTS)
        return np.asarray(-0.5j * waves * np.fft.rfft(flow**2) * kept)

    spectrum = np.fft.rfft(starts)
    for _ in range(steps):  # the integrating factor takes diffusion exactly
        k1 = advection(spectrum)
        k2 = advection(half_decay * (spectrum + step / 2 * k1))
        k3 = advection(half_decay * spectrum + step / 2 * k2)
        k4 = advection(half_decay * (half_decay * spectrum + step * k3))
        middle = half_decay * (k2 + k3)
        spectrum = half_decay**2 * (spectrum + step / 6 * k1) + step / 3 * middle + step / 6 * k4
    return np.asarray(np.fft.irfft(spectrum, POINTS))


@lru_cache
def burgers() -> tuple[Flows, Flows, Tensor]:
    """Return the flows to train on, the held-out flows, and the places (m, 3): time, cosine and sine of the angle."""
    draw = np.random.default_rng(0)
    angle = 2 * np.pi * np.arange(POINTS) / POINTS
    waves = np.arange(1, WAVES + 1)
    cosines, sines = draw.standard_normal((2, sum(STARTS), WAVES)) / waves
    starts = cosines @ np.cos(np.outer(waves, angle)) + sines @ np.sin(np.outer(waves, angle))
    flows = [starts]
    for before, time in zip((0.0, *TIMES), TIMES, strict=False):
        flows.append(solve(flows[-1], time - before, STEPS_PER_TIME))
    stacked = np.concatenate(flows[1:], axis=1)
    places = [np.column_stack([np.full(POINTS, time), np.cos(angle), np.sin(angle)]) for time in TIMES]
    both = Flows(torch.tensor(starts, dtype=torch.float32), torch.tensor(stacked, dtype=torch.float32))
    train, held_out = Flows(*(x[: STARTS[0]] for x in both)), Flows(*(x[STARTS[0] :] for x in both))
    return train, held_out, torch.tensor(np.concatenate(places), dtype=torch.float32)


def _burgers_operator(seed: int) -> Problem:
    train, held_out, places = burgers()
    model = DeepONet()
    draw = torch.Generator().manual_seed(seed)

    def batch_loss() -> Tensor:
        rows = torch.randint(len(train.starts), (BATCH_STARTS,), generator=draw)
        columns = torch.randint(len(places), (BATCH_PLACES,), generator=draw)
        error: Tensor = model(train.starts[rows], places[columns]) - train.flows[rows[:, None], columns]
        return error.square().mean()

    def validation_loss() -> float:
        error: Tensor = model(held_out.starts, places) - held_out.flows
        return (error.square().sum() / held_out.flows.square().sum()).item()

    return Problem(model, batch_loss, validation_loss)


TASKS: Final = (GradientTask(name="burgers_operator", version="1", steps=500, cost=2.0, problem=_burgers_operator),)
