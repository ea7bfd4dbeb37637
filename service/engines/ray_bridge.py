# Between Ray Tune and a Work. Ray Tune asks a searcher, a stopper and callbacks, all in the thread that runs the Tuner;
# they only pass on. The bridge knows which Tune trial is which run and carries what the Work raises out of Ray's loop.
"""Ray Tune's questions, answered by a Work."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final, ParamSpec, TypeVar

import ray
from ray import tune
from ray.exceptions import RayError
from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from service.engines.attempt import Train, ended_at
from service.engines.base import Assignment, Work
from service.engines.ray_session import capacity
from service.engines.ray_trainable import ENDED, POINT, TASK, Task
from service.errors import JobFailedError
from service.spec.job import ResourcesSpec
from service.states import TrialState
from service.training.run import Ended, Progress

log = logging.getLogger(__name__)

CENSUS_S: Final = 5.0
"""Seconds between two looks at which nodes there are."""

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(slots=True)
class _Open:
    """A run that has not ended, and the Tune trial that does it."""

    assignment: Assignment
    trial: Trial | None = None
    began: bool = False
    heard: float = field(default_factory=time.monotonic)
    last: Progress | None = None
    ended: Ended | None = None
    silent: bool = False


class Bridge:
    """The state between one Tuner and one Work.

    Args:
        work: What to run, and whom to tell.
        train: What an actor does with a run.
        resources: What a run takes.
        silence_s: Seconds without a new point after which a run is taken for hung.

    Raises:
        JobFailedError: No node can run even one.
    """

    def __init__(self, work: Work, train: Train, resources: ResourcesSpec, silence_s: float) -> None:
        self._work, self._train, self._resources, self._silence_s = work, train, resources, silence_s
        self._open: dict[str, _Open] = {}
        self._error: Exception | None = None
        self._limit, self._counted = 0, 0.0
        self._count_nodes()

    def __getstate__(self) -> dict[str, object]:
        return {}  # Ray Tune writes its Tuner to a file, for a restore that we do not use

    # --- asked by the searcher and the stopper

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the config of a new Tune trial, ``FINISHED``, or None when there is no room or no run now."""
        if sum(item.trial is None or item.trial.status != Trial.PAUSED for item in self._open.values()) >= self._limit:
            return None
        assignment = self._ask(self._work.next)
        if assignment is None:
            return None if self._open or self._error else str(Searcher.FINISHED)
        device = "cuda:0" if self._resources.gpus_per_trial else "cpu"  # the only one that the actor sees
        run = replace(assignment.run, threads=self._resources.cpus_per_trial, device=device)
        self._open[trial_id] = _Open(replace(assignment, run=run))
        return {TASK: Task(self._train, run, self._work.pruning, assignment.prunable)}

    def goes_on(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Take a result; return whether the Work wants more of the run."""
        item = self._open.get(trial_id)
        if item is None:
            return True
        item.heard, item.ended = time.monotonic(), result.get(ENDED)
        point: Progress | None = result.get(POINT)
        if point is None or (item.last and point.step <= item.last.step):
            return True  # a paused run repeats the points that it had reached
        item.last = point
        return bool(self._ask(self._work.progress, item.assignment, point))

    def must_stop(self) -> bool:
        """Tell whether everything must stop now; if so, no actor is left alive to finish its step."""
        if self._error is None and not self._ask(self._work.halted) and self._error is None:
            return False
        self.kill_all()
        return True

    # --- told by the callbacks

    def tick(self) -> None:
        """Look for runs that hang and for nodes that are gone."""
        now = time.monotonic()
        for item in self._open.values():
            running = item.began and item.trial is not None and item.trial.status == Trial.RUNNING
            if running and not item.silent and now - item.heard > self._silence_s:
                item.silent = True
                _kill(item.trial)
        if now - self._counted > CENSUS_S:
            self._ask(self._count_nodes)

    def started(self, trial: Trial) -> None:
        """An actor is ready to begin with a run, or to go on with a paused one."""
        item = self._open.get(trial.trial_id)
        if item is None:
            return
        item.trial, item.heard = trial, time.monotonic()
        if not item.began:
            item.began = True
            self._ask(self._work.started, item.assignment)
            trial.max_failures = trial.run_metadata.num_failures + item.assignment.retries

    def completed(self, trial: Trial) -> None:
        """A run has ended, or its scheduler has stopped it."""
        item = self._open.pop(trial.trial_id, None)
        if item is not None:
            ended = item.ended or ended_at(item.last, TrialState.PRUNED)
            self._ask(self._work.finished, item.assignment, ended)

    def lost(self, trial: Trial, *, again: bool) -> None:
        """A run's actor has died; ``again`` when Ray Tune starts another."""
        item = self._open[trial.trial_id]
        cause = f"it was silent for {self._silence_s:g} seconds" if item.silent else _cause(trial)
        log.warning("a ray actor was lost", extra={"cause": cause})
        if not item.began:
            if not again:
                self._error = self._error or JobFailedError(f"a Ray actor could not start: {cause}")
            return
        may = self._ask(self._work.lost, item.assignment, cause)
        if again:
            assert may or self._error, "a Work allows as many attempts as its assignment said"
            retries = item.assignment.retries - 1
            self._open[trial.trial_id] = _Open(replace(item.assignment, retries=retries), trial)
        else:
            del self._open[trial.trial_id]
            self._ask(self._work.finished, item.assignment, Ended(TrialState.FAILED, cause=cause))

    # --- the end

    def kill_all(self) -> None:
        """Kill the actor of every run that has not ended."""
        for item in self._open.values():
            _kill(item.trial)

    def settle(self) -> None:
        """Tell the Work of the runs that did not come to their end, or raise what it raised."""
        if self._error is not None:
            raise self._error
        for item in self._open.values():
            self._work.interrupted(item.assignment)

    def _ask(self, question: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Call the Work; after it has raised, Ray's loop is left as fast as it lets us."""
        if self._error is None:
            began = time.monotonic()
            try:
                return question(*args, **kwargs)
            except Exception as error:  # noqa: BLE001 - settle raises it again, outside of Ray's loop
                self._error = error
            finally:
                for item in self._open.values():  # meanwhile nobody listened: that is no run's silence
                    item.heard += time.monotonic() - began
        return None

    def _count_nodes(self) -> None:
        fits = capacity(self._resources)
        self._limit = min(fits, self._resources.max_concurrent or fits)
        self._counted = time.monotonic()


def _kill(trial: Trial | None) -> None:
    actor = trial.temporary_state.ray_actor if trial is not None else None
    if actor is not None:
        with suppress(RayError, ValueError):  # it is dead already
            ray.kill(actor)


def _cause(trial: Trial) -> str:
    error = trial.get_error()
    text = " ".join(str(error).split()) if error else "its actor died"
    return text[:1000]


class WorkSearcher(Searcher):
    """Hands the runs of a Work to Ray Tune."""

    def __init__(self, bridge: Bridge) -> None:
        super().__init__()
        self._bridge = bridge

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """Return the next run."""
        return self._bridge.suggest(trial_id)

    def on_trial_complete(self, trial_id: str, **_: Any) -> None:  # type: ignore[override]
        """Do nothing: the callback is told too, with more."""

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the ledger has it all."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""


class WorkStopper(tune.Stopper):
    """Stops what a Work wants stopped."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Take a result; return whether the run is to be stopped."""
        return not self._bridge.goes_on(trial_id, result)

    def stop_all(self) -> bool:
        """Tell whether everything must stop now."""
        return self._bridge.must_stop()


class TellingCallback(tune.Callback):
    """Tells a Work what happens to its runs."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge

    def on_step_begin(self, **_: Any) -> None:  # type: ignore[override]
        """Look around; Ray Tune comes by at least ten times a second."""
        self._bridge.tick()

    def on_trial_start(self, *, trial: Trial, **_: Any) -> None:  # type: ignore[override]
        """Pass on."""
        self._bridge.started(trial)

    def on_trial_complete(self, *, trial: Trial, **_: Any) -> None:  # type: ignore[override]
        """Pass on."""
        self._bridge.completed(trial)

    def on_trial_recover(self, *, trial: Trial, **_: Any) -> None:  # type: ignore[override]
        """Pass on."""
        self._bridge.lost(trial, again=True)

    def on_trial_error(self, *, trial: Trial, **_: Any) -> None:  # type: ignore[override]
        """Pass on."""
        self._bridge.lost(trial, again=False)
