"""Times one step of an optimizer on the parameters of a GPT with random gradients, and measures its memory."""

from __future__ import annotations

import statistics
import time

import torch

from benchmarks.gpu.clock import allocated_gib, call_ms, forget_peak, free_memory, peak_gib
from benchmarks.gpu.gpt import Gpt
from benchmarks.gpu.jobs import Figures, serve
from benchmarks.gpu.optimizers import STEPPED
from benchmarks.gpu.sizes import DEVICE, SIZES


def measure(name: str) -> Figures:
    """Measure one optimizer.

    Returns:
        ``mean_ms``: a step, updates of P included; the median over rounds. ``typical_ms``: the median over all steps.
        ``slowest_ms``: the slowest step of a round, the median over rounds. ``rounds``: how many there were.
        ``state_gib``: memory of the state. ``peak_gib``: the most memory during a step, parameters and gradients
        included.
    """
    free_memory()
    torch.manual_seed(0)
    model = Gpt(SIZES.stepped).to(DEVICE)
    for param in model.parameters():
        param.grad = torch.randn_like(param) * 0.01
    before = allocated_gib()
    optimizers = STEPPED[name].make(model, 0.001)

    def step() -> None:
        for optimizer in optimizers:
            optimizer.step()

    call_ms(step, SIZES.warm_up)
    after = allocated_gib()
    forget_peak()
    rounds: list[list[float]] = []
    started = time.monotonic()
    while not rounds or (len(rounds) < SIZES.rounds and time.monotonic() - started < SIZES.round_seconds):
        rounds.append(call_ms(step, SIZES.steps))
    return {
        "mean_ms": statistics.median(map(statistics.mean, rounds)),
        "typical_ms": statistics.median(ms for each in rounds for ms in each),
        "slowest_ms": statistics.median(map(max, rounds)),
        "rounds": len(rounds),
        "state_gib": None if before is None or after is None else after - before,
        "peak_gib": peak_gib(),
    }


if __name__ == "__main__":
    serve(measure)
