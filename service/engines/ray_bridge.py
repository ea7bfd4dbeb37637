"""Connects Ray Tune to a Work: the bridge is Tune's stopper and callback, and answers its searcher.

The schedulers, which stop runs early, read the numbers that ray_trainable.py adds to each point.

Tune calls it in the thread that runs the Tuner, which is the worker's main thread. The bridge knows which Tune trial
does which run. An exception of the Work would be lost in Tune's loop, so the bridge keeps it for :meth:`finish`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

import ray
from ray import tune
from ray.exceptions import RayError
from ray.tune import schedulers
from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from service.engines.base import Assignment, Pruning, Train, Work, ended_at, silence
from service.engines.ray_trainable import ENDED, OTHERS, POINT, RUN, RUNGS, SIGNAL, STEP, ActorRun
from service.engines.ray_tune import capacity
from service.errors import EngineLostError, JobFailedError, OutdatedWorkerError
from service.spec.job import ResourcesSpec
from service.states import TrialState
from service.training.run import CurvePoint, Ended
from service.version import versions, was_updated

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController

log = logging.getLogger(__name__)

START_TRIES: Final = 6
"""How often an actor may fail to start before the job fails."""

CENSUS_S: Final = 5.0
"""Seconds between two counts of the nodes."""

NO_NODE_S: Final = 300.0
"""How long a job waits for a node when the last one that could do its runs has gone."""

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(slots=True)
class _OpenRun:
    """A run that has not ended, and the Tune trial that does it."""

    assignment: Assignment
    trial: Trial | None = None
    began: bool = False
    heard: float = field(default_factory=time.monotonic)
    last: CurvePoint | None = None
    ended: Ended | None = None
    silent: bool = False

    @property
    def came_further(self) -> bool:
        """Whether this attempt has come further than earlier ones."""
        return self.last is not None and self.last.step > self.assignment.furthest_step


def _refusal(others: str) -> OutdatedWorkerError | JobFailedError:
    """Return the error for an actor that has other versions: this process may be the old one, or the node another."""
    if was_updated():
        return OutdatedWorkerError(others)
    return JobFailedError(f"a node of the Ray cluster has {others}: install the versions of the worker there")


class Bridge(tune.Stopper, tune.Callback):
    """The state between one Tuner and one Work.

    The arguments are those of :meth:`Engine.run`, and ``alive``, which tells whether Ray itself lives.

    Raises:
        JobFailedError: No node has the resources for one run.
    """

    def __init__(
        self, work: Work, train: Train, resources: ResourcesSpec, silence_s: float, alive: Callable[[], bool]
    ) -> None:
        self._work, self._train, self._resources, self._silence_s = work, train, resources, silence_s
        self._alive = alive
        self._open: dict[str, _OpenRun] = {}
        self._error: Exception | None = None
        self._limit, self._counted, self._fitted = 0, 0.0, 0.0
        self._count_nodes()

    def __getstate__(self) -> dict[str, object]:
        return {}  # Tune pickles its Tuner for a restore that we do not use

    # --- for the searcher

    def suggest(self, trial_id: str) -> dict[str, ActorRun] | str | None:
        """Return the config of a new Tune trial. None: no room or no run now; ``FINISHED``: no more runs."""
        if sum(item.trial is None or item.trial.status != Trial.PAUSED for item in self._open.values()) >= self._limit:
            return None
        assignment = self._ask(self._work.next)
        if assignment is None:
            return None if self._open or self._error else str(Searcher.FINISHED)
        device = "cuda:0" if self._resources.gpus_per_trial else "cpu"  # the only one that the actor can see
        run = replace(assignment.run, threads=self._resources.cpus_per_trial, device=device)
        self._open[trial_id] = _OpenRun(replace(assignment, run=run))
        facts = assignment.facts
        return {RUN: ActorRun(self._train, run, self._work.pruning, assignment.prunable, facts, versions())}

    # --- as a stopper

    def __call__(self, trial_id: str, result: Mapping[str, object]) -> bool:
        """Take a result of an actor; return whether to stop its run."""
        item = self._open.get(trial_id)
        if item is None:
            return False
        if OTHERS in result:
            self._error = self._error or _refusal(str(result[OTHERS]))
            return False
        point, ended = result.get(POINT), result.get(ENDED)
        item.heard, item.ended = time.monotonic(), ended if isinstance(ended, Ended) else None
        if not isinstance(point, CurvePoint) or (item.last and point.step <= item.last.step):
            return False  # after a pause, a run repeats points that it has reached before
        came_further = item.came_further
        item.last = point
        if item.trial is not None and item.came_further and not came_further:
            item.trial.max_failures += 1  # the loss of this attempt does not count any more
        return not self._ask(self._work.progress, item.assignment, point)

    def stop_all(self) -> bool:
        """Return whether everything must stop now. If so, kill all actors instead of waiting for their next point."""
        if not self._has_died() and not self._ask(self._work.halted) and self._error is None:
            return False
        self.kill_all()
        return True

    # --- as a callback

    def on_step_begin(self, **_: object) -> None:  # type: ignore[override]
        """Look for runs that hang, and now and then count the nodes. Called at least ten times a second."""
        now = time.monotonic()
        for item in self._open.values():
            running = item.began and item.trial is not None and item.trial.status == Trial.RUNNING
            if running and not item.silent and now - item.heard > self._silence_s:
                item.silent = True
                _kill(item.trial)
        if now - self._counted > CENSUS_S and not self._has_died():
            self._ask(self._count_nodes_again)

    def on_trial_start(self, *, trial: Trial, **_: object) -> None:  # type: ignore[override]
        """An actor is ready to begin a run, or to continue a paused one."""
        item = self._open.get(trial.trial_id)
        if item is None:
            return
        item.trial, item.heard = trial, time.monotonic()
        if not item.began:
            item.began = True
            self._ask(self._work.started, item.assignment)
            trial.max_failures = trial.run_metadata.num_failures + item.assignment.retries

    def on_trial_complete(self, *, trial: Trial, **_: object) -> None:  # type: ignore[override]
        """A run has ended, or the scheduler has stopped it."""
        item = self._open.pop(trial.trial_id, None)
        if item is not None:
            ended = item.ended or ended_at(item.last, TrialState.PRUNED)
            self._ask(self._work.finished, item.assignment, ended)

    def on_trial_recover(self, *, trial: Trial, **_: object) -> None:  # type: ignore[override]
        """The actor of a run has died, and Tune starts another one for it."""
        self._lost(trial, again=True)

    def on_trial_error(self, *, trial: Trial, **_: object) -> None:  # type: ignore[override]
        """The actor of a run has died for good."""
        self._lost(trial, again=False)

    def _has_died(self) -> bool:
        """Return whether something has ended all runs: an error of the Work, or the death of Ray itself."""
        if self._error is None and not self._alive():
            self._error = EngineLostError("the worker's own Ray has died")
        return self._error is not None

    def _lost(self, trial: Trial, *, again: bool) -> None:
        if self._has_died():
            return  # the run is not to blame
        item = self._open[trial.trial_id]
        cause = silence(self._silence_s) if item.silent else _cause(trial)
        log.warning("lost a ray actor", extra={"cause": cause, **item.assignment.facts})
        if not item.began:
            if again:
                self._ask(self._work.delayed, cause, 0.0)
            else:
                self._error = self._error or JobFailedError(f"no Ray actor could start in {START_TRIES} tries: {cause}")
            return
        allowed = self._ask(self._work.lost, item.assignment, cause)
        if again:
            assert allowed or self._error, "a Work must allow the retries of its assignment"
            retries, furthest = item.assignment.retries - (not item.came_further), item.assignment.furthest_step
            furthest = max(furthest, item.last.step if item.last else 0)
            later = replace(item.assignment, retries=retries, furthest_step=furthest)
            self._open[trial.trial_id] = _OpenRun(later, trial)
            trial.max_failures = trial.run_metadata.num_failures + START_TRIES - 1  # until the next actor is ready
        else:
            del self._open[trial.trial_id]
            self._ask(self._work.finished, item.assignment, Ended(TrialState.FAILED, cause=cause))

    # --- the end

    def kill_all(self) -> None:
        """Kill the actors of all runs that have not ended."""
        for item in self._open.values():
            _kill(item.trial)

    def finish(self) -> None:
        """Tell the Work about the runs that did not end, or raise what it has raised. Called after Tune's loop."""
        if self._error is not None:
            raise self._error
        for item in self._open.values():
            self._work.interrupted(item.assignment)

    def _ask(self, question: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Call a method of the Work; keep what it raises. After an error it is not called again, and Tune stops."""
        if self._error is None:
            began = time.monotonic()
            try:
                return question(*args, **kwargs)
            except Exception as error:  # noqa: BLE001 - finish() raises it, outside Tune's loop
                self._error = error
            finally:
                for item in self._open.values():  # nobody listened meanwhile, so it does not count as silence
                    item.heard += time.monotonic() - began
        return None

    def _count_nodes(self) -> None:
        fits = capacity(self._resources)
        self._limit = min(fits, self._resources.max_concurrent or fits)
        self._counted = self._fitted = time.monotonic()

    def _count_nodes_again(self) -> None:
        """Count the nodes. If the last one that could do a run has gone, wait a while for another."""
        try:
            self._count_nodes()
        except JobFailedError as error:
            self._counted = time.monotonic()
            if self._counted - self._fitted > NO_NODE_S:
                raise
            if self._limit:
                log.warning("no node for a run, waiting for one", extra={"cause": str(error), "limit_s": NO_NODE_S})
            self._limit = 0


def _kill(trial: Trial | None) -> None:
    actor = trial.temporary_state.ray_actor if trial is not None else None
    if actor is not None:
        with suppress(RayError, ValueError):  # it is already dead
            ray.kill(actor)


def _cause(trial: Trial) -> str:
    error = trial.get_error()
    text = " ".join(str(error).split()) if error else "its actor died"
    return text[:1000]


class WorkSearcher(Searcher):
    """Gives Tune the runs of a Work."""

    def __init__(self, bridge: Bridge) -> None:
        super().__init__()
        self._bridge = bridge

    def suggest(self, trial_id: str) -> dict[str, ActorRun] | str | None:  # type: ignore[override]
        """Return the config of the next Tune trial."""
        return self._bridge.suggest(trial_id)

    def on_trial_complete(self, trial_id: str, **_: object) -> None:  # type: ignore[override]
        """Do nothing: Tune tells the callback too."""

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: everything is in the ledger."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""


class _SparingASHAScheduler(schedulers.ASHAScheduler):
    """Compares all runs, but stops only those that may be stopped."""

    def on_trial_result(self, tune_controller: TuneController, trial: Trial, result: dict[str, object]) -> str:
        decision: str = super().on_trial_result(tune_controller, trial, result)
        return decision if trial.config[RUN].prunable else schedulers.TrialScheduler.CONTINUE


def make_scheduler(pruning: Pruning | None) -> schedulers.TrialScheduler:
    """Return the scheduler for a pruner. None: no run is stopped early."""
    if pruning is None:
        return schedulers.FIFOScheduler()  # type: ignore[no-untyped-call]
    match pruning.pruner:
        case "asha":
            return _SparingASHAScheduler(
                time_attr=STEP,
                metric=SIGNAL,
                mode="min",
                max_t=pruning.steps,
                grace_period=pruning.first_rung,
                reduction_factor=pruning.reduction,
            )
        case "hyperband":
            return schedulers.HyperBandScheduler(
                time_attr=RUNGS,  # its smallest rung is one unit of time
                metric=SIGNAL,
                mode="min",
                max_t=pruning.steps // pruning.first_rung,
                reduction_factor=pruning.reduction,
            )
        case "median":
            return schedulers.MedianStoppingRule(
                time_attr=STEP,
                metric=SIGNAL,
                mode="min",
                grace_period=pruning.first_rung,
                min_samples_required=pruning.startup_runs,
            )
