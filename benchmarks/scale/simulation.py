# Slots without training: an engine that answers for any number of runs at once in simulated time, so that what is
# measured is the driver and the database. It speaks the contract of the real engines and knows neither of the two.
"""An engine that trains nothing."""

from __future__ import annotations

import heapq
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

from service.engines.base import Assignment, Work
from service.spec.job import ResourcesSpec
from service.states import TrialState
from service.training.run import Ended, Progress

POINTS: Final = 20
"""Points of a learning curve, as many as the service's training loop yields."""

MEAN_STEP_S: Final = 0.01
"""Simulated seconds of an optimizer step; runs differ by a factor of about two, so that their points interleave."""

DIVERGING: Final = 0.02
"""Share of the runs whose loss becomes infinite half-way."""

Answer = TypeVar("Answer")


@dataclass(slots=True)
class Clock:
    """Where the real seconds went.

    Attributes:
        seconds: Name of a call of the Work -> seconds spent in it.
        calls: Name -> number of calls.
        asks: Seconds of each call that asked for a run, in order.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    asks: list[float] = field(default_factory=list)

    def of(self, name: str, call: Callable[[], Answer]) -> Answer:
        """Return what ``call`` returns and note how long it took."""
        began = time.perf_counter()
        answer = call()
        taken = time.perf_counter() - began
        self.seconds[name] = self.seconds.get(name, 0.0) + taken
        self.calls[name] = self.calls.get(name, 0) + 1
        if name == "next":
            self.asks.append(taken)
        return answer


class _Curve:
    """The learning curve of one run: a power law whose depth depends on its config."""

    def __init__(self, assignment: Assignment) -> None:
        draw = random.Random(f"{sorted(assignment.run.config.items())}/{assignment.run.seed}")  # noqa: S311
        self.assignment, self.count = assignment, min(POINTS, assignment.run.steps)
        self.index, self.last = 0, math.inf
        self.floor, self.rate = draw.uniform(0.05, 1.0), draw.uniform(0.2, 1.5)
        self.step_s = MEAN_STEP_S * math.exp(draw.gauss(0.0, 0.4))
        self.diverges_at = self.count // 2 if draw.random() < DIVERGING else None

    def seconds_to_next(self) -> float:
        return self.step_s * self.assignment.run.steps / self.count

    def advance(self) -> Progress | None:
        """Return the next point; None where the loss is no longer finite."""
        self.index += 1
        if self.index == self.diverges_at:
            return None
        step = round(self.index * self.assignment.run.steps / self.count)
        self.last = self.floor + self.index**-self.rate
        return Progress(step, self.last, self.last, self.step_s * step)


class SimulatedEngine:
    """Runs a Work in simulated time.

    Args:
        slots: Runs at once.
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self.clock = Clock()

    def run(self, work: Work, resources: ResourcesSpec, silence_s: float) -> None:
        """Run what ``work`` hands out, in the order of simulated time."""
        del resources, silence_s
        running: list[tuple[float, int, _Curve]] = []
        now, serial, more = 0.0, 0, True
        while not work.halted():
            while more and len(running) < self._slots:
                assignment = self.clock.of("next", work.next)
                more = assignment is not None
                if assignment is not None:
                    self._start(work, assignment)
                    curve, serial = _Curve(assignment), serial + 1
                    heapq.heappush(running, (now + curve.seconds_to_next(), serial, curve))
            if not running:
                return
            now, number, curve = heapq.heappop(running)
            if self._goes_on(work, curve):
                heapq.heappush(running, (now + curve.seconds_to_next(), number, curve))
            else:
                more = True

    def close(self) -> None:
        """There is nothing to end."""

    def _start(self, work: Work, assignment: Assignment) -> None:
        self.clock.of("started", lambda: work.started(assignment))

    def _goes_on(self, work: Work, curve: _Curve) -> bool:
        """Take a run to its next point; return False if that was its end."""
        assignment, point = curve.assignment, curve.advance()
        if point is None:
            ended = Ended(TrialState.DIVERGED, cause="the simulated loss is inf")
        elif not self.clock.of("progress", lambda: work.progress(assignment, point)):
            ended = Ended(TrialState.PRUNED, point.val_loss, None, point.seconds)
        elif curve.index == curve.count:
            ended = Ended(TrialState.COMPLETE, point.val_loss, None, point.seconds)
        else:
            return True
        self.clock.of("finished", lambda: work.finished(assignment, ended))
        return False
