"""An engine that trains nothing. It simulates any number of slots, so only driver and database take real time.

Runs get made-up learning curves and end in the order of simulated time. The engine follows the same contract as the
real ones; it knows neither the search nor the database.
"""

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
from service.training.run import CurvePoint, Ended

POINTS: Final = 20
"""Points of a learning curve. The service's training loop yields the same number."""

MEAN_STEP_S: Final = 0.01
"""Simulated seconds of an optimizer step. Runs differ by a factor of about two, so their points interleave."""

DIVERGING: Final = 0.02
"""Share of runs that diverge half-way."""

Answer = TypeVar("Answer")


@dataclass(slots=True)
class Clock:
    """Counts the real seconds spent in each call of a Work.

    Attributes:
        seconds: Seconds spent in each call, by its name.
        calls: Number of calls, by name.
        asks: Seconds of each call of ``next``, in order.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    asks: list[float] = field(default_factory=list)

    def of(self, name: str, call: Callable[[], Answer]) -> Answer:
        """Run ``call``, note how long it took, and return its result."""
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

    def advance(self) -> CurvePoint | None:
        """Return the next point, or None if the run has diverged."""
        self.index += 1
        if self.index == self.diverges_at:
            return None
        step = round(self.index * self.assignment.run.steps / self.count)
        self.last = self.floor + self.index**-self.rate
        return CurvePoint(step, self.last, self.last, self.step_s * step)


class SimulatedEngine:
    """Runs a Work in simulated time.

    Args:
        slots: How many runs are active at once.
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self.clock = Clock()

    def run(self, work: Work, resources: ResourcesSpec, silence_s: float) -> None:
        """Run everything that ``work`` hands out, in the order of simulated time."""
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
        """Do nothing; there are no processes to stop."""

    def _start(self, work: Work, assignment: Assignment) -> None:
        self.clock.of("started", lambda: work.started(assignment))

    def _goes_on(self, work: Work, curve: _Curve) -> bool:
        """Advance a run to its next point; return False if the run has ended."""
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
