# One arm of a job as work for an engine: what to try next, what to stop early, what to write. The ledger is the truth
# and every change is written to it first; Optuna's side of it is in projection.py.
"""The search of one arm: ask, report, tell."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import optuna

from search_spaces.to_optuna import suggest
from service.artifacts import ArtifactStore
from service.db.models import Trial
from service.engines.base import Assignment, Pruning
from service.ledger.runs import RunLog
from service.planning.arms import ArmPlan
from service.planning.earlier_trials import read_earlier_trials
from service.planning.objective import Objective, make_objective
from service.planning.plan import JobPlan
from service.recommend.fidelity import UNPRUNED, Fidelity, measure
from service.running.arm_study import NUMBER, ArmStudy, OpenTrial
from service.running.samplers import first_rung, make_pruning, make_sampler
from service.states import TrialState
from service.training.run import Ended, Progress

POINTS_EVERY_S: Final = 0.5
"""Longest time that points wait to be written: those of short trials share a transaction, a long one waits for none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What earlier arms decide about an arm.

    Attributes:
        steps: Steps of its runs.
        target: Validation loss to reach, where that is the baseline's; None before there is one.
        pruning: Whether its trials may be stopped early, as far as earlier arms tell.
    """

    steps: int
    target: float | None = None
    pruning: bool = True


def _checkpoint_name(row: Trial) -> str:
    return f"trial-{row.number}"


class ArmSearch:
    """The trials of one arm, as work for an engine.

    Args:
        log: Writes to the ledger.
        plan: The job's plan.
        arm: The arm to search.
        storage: Optuna's tables.
        data: URL and SHA-256 of the prepared split.
        artifacts: Keeps the checkpoints of the trials.
        halted: Whether the worker wants everything stopped.
        terms: What earlier arms decide; the spec's steps and its own target if not given.
    """

    def __init__(
        self,
        log: RunLog,
        plan: JobPlan,
        arm: ArmPlan,
        storage: optuna.storages.BaseStorage,
        data: tuple[str, str],
        artifacts: ArtifactStore,
        halted: Callable[[], bool],
        terms: Terms | None = None,
    ) -> None:
        self._log, self._plan, self._arm = log, plan, arm
        self._data, self._artifacts, self._worker_halted = data, artifacts, halted
        self._budget = plan.spec.budget
        self._terms = terms or Terms(steps=self._budget.steps)
        self.objective = objective_of(plan, self._terms)
        self._seconds_before = log.start_arm(arm.name).seconds_used
        self._began: float | None = None
        rows = log.trials(arm.name)
        self._trials: dict[int, Trial] = {row.id: row for row in rows}
        self._waiting = [row for row in rows if row.state == TrialState.QUEUED]
        self._open: dict[int, OpenTrial] = {}
        self._curves: dict[int, list[Progress]] = {}
        self._unwritten: list[tuple[int, Progress]] = []
        self._written = time.monotonic()
        self.pruning: Pruning | None = make_pruning(plan.spec.engine, plan.spec.search, self.objective)
        earlier = read_earlier_trials(artifacts, log.job_id, arm.name) if plan.spec.search.from_job else None
        self._projection = ArmStudy(log.job_id, plan.spec, arm, storage, rows, log.curves, self.objective, earlier)
        self.study = self._projection.study
        self.fidelity: Fidelity | None = None
        self._measure()

    @property
    def seconds_used(self) -> float:
        """Wall-clock seconds of this arm so far, from its first run on, those of earlier workers included."""
        return self._seconds_before + (time.monotonic() - self._began if self._began is not None else 0.0)

    @property
    def out_of_time(self) -> bool:
        """Whether the arm has reached ``budget.max_seconds``."""
        return self.seconds_used >= self._budget.max_seconds

    @property
    def reached(self) -> str:
        """Name of the cap that ended the arm."""
        return "trials_per_arm" if len(self._trials) >= self._budget.trials_per_arm else "max_seconds"

    def next(self) -> Assignment | None:
        """Return an interrupted trial, or a new one that Optuna asks for; None at the arm's cap."""
        if self._waiting:
            row = self._waiting.pop(0)
            if row.id not in self._open:
                self._open[row.id] = self._projection.resume(row)
        elif len(self._trials) < self._budget.trials_per_arm:
            arm_seed = f"{self._plan.spec.seed}/{self._arm.name}"
            asked = self._projection.ask(make_sampler(self._plan.spec.search, arm_seed, len(self._trials)))
            try:
                row = self._log.add_trial(self._arm.name, suggest(asked, self._arm.space), running=True)
            except BaseException:
                self._projection.drop(OpenTrial(asked))  # or whoever owns the job now would take it for running
                raise
            asked.set_user_attr(NUMBER, row.number)
            self._trials[row.id] = row
            self._open[row.id] = OpenTrial(asked)
        else:
            return None
        url = self._artifacts.checkpoint_url(self._log.job_id, _checkpoint_name(row))
        seed, steps = self._plan.spec.seed, self._terms.steps
        run = self._plan.run(
            self._arm.name, row.params, self._data, seed=seed, test=False, steps=steps, checkpoint_url=url
        )
        retries = self._plan.spec.resources.max_attempts - row.attempts - (row.state == TrialState.QUEUED)
        return Assignment(row.id, run, retries, prunable=self._may_prune)

    def started(self, assignment: Assignment) -> None:
        """Count the attempt; the arm's clock runs from its first one, when a slot has loaded what it needs."""
        self._write_points()  # those of an earlier attempt, which the new one makes anew
        self._curves[assignment.key] = []
        self._began = self._began if self._began is not None else time.monotonic()
        row = self._trials[assignment.key]
        if row.state == TrialState.QUEUED:  # a new one was stored as running its first attempt
            row.state, row.attempts = TrialState.RUNNING, self._log.start_trial(row.id)

    def progress(self, assignment: Assignment, point: Progress) -> bool:
        """Record the point, and ask the pruner unless it is the last one.

        The first trials are asked about too, though whatever it says they go on: `asha` and `hyperband` note only of
        trials that they were asked about how far those came, and compare later ones with these.

        A second attempt repeats the points of the first: that it went on from them is settled.
        """
        self._curves[assignment.key].append(point)
        self._unwritten.append((assignment.key, point))
        self._write_points(POINTS_EVERY_S)
        trial = self._open[assignment.key]
        if point.step < trial.reported:
            return True
        self._projection.report(trial, point)
        if point.step == self._terms.steps or not self._asks_pruner:
            return True
        return not trial.asked.should_prune() or not self._may_prune

    def finished(self, assignment: Assignment, ended: Ended) -> None:
        """Record how the trial ended, then tell Optuna."""
        if ended.state == TrialState.PRUNED and ended.cause is None:
            ended = ended._replace(cause=f"pruner {self._plan.spec.search.pruner}")
        self._end(assignment.key, ended)

    def lost(self, assignment: Assignment, cause: str) -> bool:
        """Let the trial begin again while it has attempts left."""
        row = self._trials[assignment.key]
        if row.attempts >= self._plan.spec.resources.max_attempts:
            return False
        self._log.retry_trial(row.id, cause)
        row.state = TrialState.QUEUED
        return True

    def interrupted(self, assignment: Assignment) -> None:
        """At the end of the arm's time the trial is over; otherwise it waits for the next worker."""
        self._write_points()
        if self.out_of_time:
            self._end_at_cap(assignment.key)
        else:
            self._log.requeue_trial(assignment.key, self.seconds_used)

    def halted(self) -> bool:
        """Stop when the worker says so, or when the arm's time is up."""
        self._write_points(POINTS_EVERY_S)
        return self._worker_halted() or self.out_of_time

    def close(self) -> None:
        """Leave nothing open in Optuna; at the end of the arm's time, trials that wait for another attempt are over."""
        if self.out_of_time:
            for row in self._waiting:
                self._end_at_cap(row.id)
        for trial in self._open.values():
            self._projection.drop(trial)

    def _write_points(self, every_s: float = 0.0) -> None:
        """Write the points that wait, unless some were written less than ``every_s`` ago."""
        if self._unwritten and time.monotonic() - self._written >= every_s:
            self._log.add_points(self._unwritten)
            self._unwritten, self._written = [], time.monotonic()

    def _end_at_cap(self, trial_id: int) -> None:
        points = self._curve(trial_id)
        last = points[-1].val_loss if points else None
        cause = f"the arm reached budget.max_seconds = {self._budget.max_seconds:g}"
        self._end(trial_id, Ended(TrialState.PRUNED, last, cause=cause))

    def _end(self, trial_id: int, ended: Ended) -> None:
        trial = self._open.pop(trial_id, None)
        points = self._curve(trial_id)
        self._curves.pop(trial_id, None)
        if ended.state == TrialState.COMPLETE and points:
            ended = ended._replace(value=self.objective.cost(points))
        elif ended.val_loss is not None and points:
            ended = ended._replace(value=self.objective.signal(points[-1]))
        self._log.finish_trial(trial_id, ended, self.seconds_used, self._unwritten)
        self._unwritten, self._written = [], time.monotonic()
        row = self._trials[trial_id]
        self._artifacts.delete_checkpoints(self._log.job_id, _checkpoint_name(row))
        row.state, row.value = ended.state, ended.val_loss if ended.value is None else ended.value
        if trial is not None:  # otherwise it waited for its turn and was not asked again
            self._projection.tell(trial, ended)
        self._measure()

    def _curve(self, trial_id: int) -> list[Progress]:
        """Return the curve so far; that of a trial which waits for its turn is in the ledger."""
        return self._curves[trial_id] if trial_id in self._curves else self._log.curves([trial_id])[trial_id]

    # --- pruning

    @property
    def _asks_pruner(self) -> bool:
        """Whether the pruner looks at the trials: not with two objectives, nor once it is known not to be trusted."""
        trusted = self.fidelity is None or self.fidelity.trusted
        return self._terms.pruning and trusted and not self._plan.spec.objective.trade_off

    @property
    def _may_prune(self) -> bool:
        """Whether trials are stopped: not before the first ones have shown that early losses rank runs."""
        return self.fidelity is not None and self._asks_pruner

    def _measure(self) -> None:
        if self.fidelity is None and not self._plan.spec.objective.trade_off:
            self.fidelity = arm_fidelity(self._log, self._plan, self._arm, self._terms, list(self._trials.values()))


def objective_of(plan: JobPlan, terms: Terms) -> Objective:
    """Return what an arm's trials are judged by."""
    return make_objective(plan.spec.objective, terms.steps, plan.spec.budget.max_seconds, terms.target)


def arm_fidelity(log: RunLog, plan: JobPlan, arm: ArmPlan, terms: Terms, rows: list[Trial]) -> Fidelity | None:
    """Return how well early losses rank the trials of an arm; None while its first ones have not ended."""
    curves = log.curves([row.id for row in rows[:UNPRUNED]]) if len(rows) >= UNPRUNED else {}
    return measure(arm.name, rows, curves, objective_of(plan, terms), first_rung(terms.steps))
