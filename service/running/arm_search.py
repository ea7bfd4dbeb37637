"""The search of one arm, as work for an engine: what to try next, what to stop early, what to write.

The ledger is the truth: every change is written there first. Optuna's copy of it is in arm_study.py.
"""

from __future__ import annotations

import time
from typing import Final

import optuna

from search_spaces.to_optuna import suggest
from service.db.models import Trial
from service.engines.base import Assignment, Pruning
from service.planning.arms import ArmPlan
from service.recommend.findings import OUT_OF_TIME
from service.result.job_result import Fidelity
from service.running.arm_study import NUMBER, ArmStudy, OpenTrial
from service.running.context import JobContext
from service.running.decisions import ArmLimits, arm_fidelity, objective_of
from service.running.samplers import make_pruning, make_sampler
from service.states import LIVE_TRIAL, TrialState
from service.submission.earlier_trials import read_earlier_trials
from service.training.run import CurvePoint, Ended

POINTS_EVERY_S: Final = 0.5
"""Longest time that points wait to be written. Points of short trials share a transaction."""


class ArmSearch:
    """The trials of one arm, as work for an engine.

    ``limits`` is what earlier arms decide about it; by default the spec's steps and its own target.
    """

    def __init__(
        self, job: JobContext, arm: ArmPlan, storage: optuna.storages.BaseStorage, limits: ArmLimits | None = None
    ) -> None:
        self._job, self._log, self._plan, self._arm = job, job.record, job.plan, arm
        self._budget, self._cap = self._plan.spec.budget, self._plan.trials(arm)
        self._limits = limits or ArmLimits(steps=self._budget.steps)
        self.objective = objective_of(job, self._limits)
        self._seconds_before = self._log.start_arm(arm.name).seconds_used
        self._began: float | None = None
        rows = self._log.trials(arm.name)
        self._trials: dict[int, Trial] = {row.id: row for row in rows}
        self._waiting = [row for row in rows if row.state == TrialState.QUEUED]
        self._open: dict[int, OpenTrial] = {}
        self._curves: dict[int, list[CurvePoint]] = {}
        self._unwritten: list[tuple[int, CurvePoint]] = []
        self._written = time.monotonic()
        spec = self._plan.spec
        self.pruning: Pruning | None = make_pruning(spec.engine, spec.search, self.objective)
        earlier = read_earlier_trials(job.artifacts, self._log.job_id, arm.name) if spec.search.from_job else None
        self._arm_study = ArmStudy(job, arm, storage, rows, self.objective, earlier)
        self.study = self._arm_study.study
        self.fidelity: Fidelity | None = None
        self._measure()

    @property
    def seconds_used(self) -> float:
        """Wall-clock seconds of this arm so far, counted from its first run, including those of earlier workers."""
        return self._seconds_before + (time.monotonic() - self._began if self._began is not None else 0.0)

    @property
    def out_of_time(self) -> bool:
        """Whether the arm has reached ``budget.max_seconds``."""
        return self.seconds_used >= self._budget.max_seconds

    @property
    def reached(self) -> str:
        """What ended the arm: the cap that it has reached, or that the job was stopped."""
        if len(self._trials) >= self._cap:
            return "trials_per_arm"
        return "max_seconds" if self.out_of_time else "stopped"

    @property
    def was_stopped(self) -> bool:
        """Whether the arm ended at no cap, but because the job is stopped."""
        return self.reached == "stopped"

    def _has_enough(self) -> bool:
        """Return whether the arm gets no new trial: it is at its cap, or a verdict on the stopped job needs none."""
        if len(self._trials) >= self._cap:
            return True
        if not self._job.draining() or len(self._trials) < self._limits.if_stopped:
            return False
        may_complete = any(row.state in (*LIVE_TRIAL, TrialState.COMPLETE) for row in self._trials.values())
        return may_complete or self._limits.if_stopped == 0

    def next(self) -> Assignment | None:
        """Return an interrupted trial, or a new one from Optuna; None when the arm has enough, or its turn is over."""
        if self._job.turn_is_over():
            return None
        if self._waiting:
            row = self._waiting.pop(0)
            if row.id not in self._open:
                self._open[row.id] = self._arm_study.resume(row)
        elif not self._has_enough():
            arm_seed, asked_before = f"{self._plan.spec.seed}/{self._arm.name}", len(self._trials)
            sampler = make_sampler(self._plan.spec.search, arm_seed, asked_before)
            refine = asked_before >= (1 - self._plan.spec.search.refine) * self._cap
            asked = self._arm_study.ask(sampler, refine=refine)
            try:
                row = self._log.add_trial(self._arm.name, suggest(asked, self._arm.space), running=True)
            except BaseException:
                self._arm_study.drop(OpenTrial(asked))  # otherwise it would look as if it still runs
                raise
            asked.set_user_attr(NUMBER, row.number)
            self._trials[row.id] = row
            self._open[row.id] = OpenTrial(asked)
        else:
            return None
        url = self._job.artifacts.checkpoint_url(self._log.job_id, f"trial-{row.number}")
        seed, steps = self._plan.spec.seed, self._limits.steps
        run = self._plan.run(
            self._arm.name, row.params, self._job.data, seed=seed, test=False, steps=steps, checkpoint_url=url
        )
        retries = max(0, self._plan.spec.resources.max_attempts - row.losses - 1)
        facts = {**self._log.facts, "trial": row.number}
        return Assignment(row.id, run, retries, row.furthest_step, self._may_prune, facts)

    def started(self, assignment: Assignment) -> None:
        """Count the attempt. The arm's clock starts with its first attempt, when a slot has loaded what it needs."""
        self._write_points()  # the ledger drops those of an earlier attempt when the new one starts
        self._curves[assignment.key] = []
        self._began = self._began if self._began is not None else time.monotonic()
        row = self._trials[assignment.key]
        if row.state == TrialState.QUEUED:  # a new one was stored as running its first attempt
            row.state, row.attempts = TrialState.RUNNING, self._log.start_trial(row.id)

    def progress(self, assignment: Assignment, point: CurvePoint) -> bool:
        """Record the point, and ask the pruner unless it is the last one.

        It is also asked about the first trials, although those go on whatever it says: `asha` and `hyperband` remember
        only the trials that they were asked about, and compare later ones with them.

        A second attempt repeats the points of the first, which were judged already.
        """
        self._curves[assignment.key].append(point)
        self._unwritten.append((assignment.key, point))
        self._write_points(POINTS_EVERY_S)
        trial = self._open[assignment.key]
        if point.step < trial.reported:
            return True
        self._arm_study.report(trial, self._curves[assignment.key])
        if point.step == self._limits.steps or not self._asks_pruner:
            return True
        return not trial.asked.should_prune() or not self._may_prune

    def finished(self, assignment: Assignment, ended: Ended) -> None:
        """Record how the trial ended, then tell Optuna."""
        if ended.state == TrialState.PRUNED and ended.cause is None:
            ended = ended._replace(cause=f"pruner {self._plan.spec.search.pruner}")
        self._end(assignment.key, ended)

    def lost(self, assignment: Assignment, cause: str) -> bool:
        """Let the trial begin again while it has attempts left."""
        points, attempts = self._curves[assignment.key], self._plan.spec.resources.max_attempts
        row = self._log.lose(self._trials[assignment.key], cause, points[-1].step if points else 0, attempts)
        self._trials[row.id] = row
        return row.state == TrialState.QUEUED

    def delayed(self, cause: str, pause_s: float) -> None:
        """Record that a process could not start."""
        self._log.delay_start(cause, pause_s)

    def interrupted(self, assignment: Assignment) -> None:
        """End the trial if the arm's time is up; otherwise leave it to the next worker."""
        self._write_points()
        if self.out_of_time:
            self._end_at_cap(assignment.key)
        else:
            self._log.requeue_trial(assignment.key, self.seconds_used)

    def halted(self) -> bool:
        """Stop when the worker says so, or when the arm's time is up."""
        self._write_points(POINTS_EVERY_S)
        return self._job.halted() or self.out_of_time

    def close(self) -> None:
        """Leave nothing open in Optuna. If the arm's time is up, end the trials that wait for another attempt."""
        if self.out_of_time:
            for row in self._waiting:
                self._end_at_cap(row.id)
        for trial in self._open.values():
            self._arm_study.drop(trial)

    def _write_points(self, every_s: float = 0.0) -> None:
        """Write the waiting points, unless some were written less than ``every_s`` ago."""
        if self._unwritten and time.monotonic() - self._written >= every_s:
            self._log.add_points(self._unwritten)
            self._unwritten, self._written = [], time.monotonic()

    def _end_at_cap(self, trial_id: int) -> None:
        points = self._curve(trial_id)
        last = points[-1].val_loss if points else None
        cause = f"{OUT_OF_TIME} = {self._budget.max_seconds:g}"
        self._end(trial_id, Ended(TrialState.PRUNED, last, cause=cause))

    def _end(self, trial_id: int, ended: Ended) -> None:
        trial = self._open.pop(trial_id, None)
        points = self._curve(trial_id)
        self._curves.pop(trial_id, None)
        if ended.state == TrialState.COMPLETE and points:
            judged = self.objective.best_point(points)
            ended = ended._replace(value=self.objective.cost(points), val_loss=judged.val_loss)
        elif ended.val_loss is not None and points:
            ended = ended._replace(value=self.objective.signal(points))
        row = self._trials[trial_id]
        p_every = self._arm.p_every(row.params)
        self._log.finish_trial(trial_id, ended, self.seconds_used, self._unwritten, p_every)
        self._job.run_ended()
        self._unwritten, self._written = [], time.monotonic()
        self._job.artifacts.delete_checkpoints(self._log.job_id, f"trial-{row.number}")
        row.state, row.val_loss = ended.state, ended.val_loss
        row.value = ended.val_loss if ended.value is None else ended.value
        if trial is not None:  # otherwise it was still waiting for its turn
            self._arm_study.tell(trial, ended)
        self._measure()

    def _curve(self, trial_id: int) -> list[CurvePoint]:
        """Return the curve so far; the ledger has that of a waiting trial."""
        return self._curves[trial_id] if trial_id in self._curves else self._log.curves([trial_id])[trial_id]

    # --- pruning

    @property
    def _asks_pruner(self) -> bool:
        """Whether the pruner is asked: not with two objectives, and not once we know that it cannot be trusted."""
        trusted = self.fidelity is None or self.fidelity.trusted
        return self._limits.pruning and trusted and not self._plan.spec.objective.trade_off

    @property
    def _may_prune(self) -> bool:
        """Whether trials are stopped: only after the first ones have shown that early losses rank runs."""
        return self.fidelity is not None and self._asks_pruner

    def _measure(self) -> None:
        if self.fidelity is None:
            self.fidelity = arm_fidelity(self._job, self._arm, self._limits, list(self._trials.values()))
