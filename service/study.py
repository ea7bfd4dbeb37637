# One arm of a job as an Optuna study. The ledger is the truth: a study is brought in line with it whenever it is
# opened, and every change is written to the ledger first. Optuna decides what to try next and what to stop early.
"""The search of one arm: ask, report, tell."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import optuna
from optuna.trial import TrialState as OptunaState
from optuna.trial import create_trial

from search_spaces.to_optuna import distributions, first_trials, suggest
from service.db.models import Trial
from service.db.projection import Projection, horizon
from service.db.studies import study_name
from service.engines.base import Assignment
from service.ledger.runs import RunLog
from service.plan import ArmPlan, JobPlan
from service.samplers import make_pruner, make_sampler
from service.states import TrialState
from service.training.run import Ended, Progress

log = logging.getLogger(__name__)

NUMBER: Final = "trial"
"""User attribute of an Optuna trial: the number of the ledger's trial."""

NO_LOSS: Final = 1e12
"""What a diverged trial is told as when its arm has not seen a finite loss yet."""

POINTS_EVERY_S: Final = 0.5
"""Longest time that points wait to be written: short trials then share a transaction, a long one waits for none."""

CHUNK: Final = 500
"""Trials that are written in one transaction when a study is brought in line."""

_TOLD_AS: Final = {
    TrialState.COMPLETE: OptunaState.COMPLETE,
    TrialState.PRUNED: OptunaState.PRUNED,
    TrialState.DIVERGED: OptunaState.PRUNED,
}
"""What samplers learn from. A failed trial teaches them nothing and is not rebuilt."""


@dataclass(slots=True)
class _Open:
    """A trial that has not ended: its Optuna trial, and the last step that was reported to it."""

    asked: optuna.Trial
    reported: int = 0


class ArmSearch:
    """The trials of one arm, as work for an engine.

    Args:
        log: Writes to the ledger.
        plan: The job's plan.
        arm: The arm to search.
        storage: Optuna's tables.
        data: URL and SHA-256 of the prepared split.
        halted: Whether the worker wants everything stopped.
    """

    def __init__(
        self,
        log: RunLog,
        plan: JobPlan,
        arm: ArmPlan,
        storage: optuna.storages.RDBStorage,
        data: tuple[str, str],
        halted: Callable[[], bool],
    ) -> None:
        self._log, self._plan, self._arm = log, plan, arm
        self._storage = Projection(storage, NUMBER)
        self._data, self._worker_halted = data, halted
        self._budget = plan.spec.budget
        self._seconds_before = log.start_arm(arm.name).seconds_used
        self._began: float | None = None
        rows = log.trials(arm.name)
        self._trials: dict[int, Trial] = {row.id: row for row in rows}
        self._waiting = [row for row in rows if row.state == TrialState.QUEUED]
        self._open: dict[int, _Open] = {}
        self._points: list[tuple[int, Progress]] = []
        self._points_written = time.monotonic()
        self.study = optuna.create_study(
            storage=self._storage,
            study_name=study_name(log.job_id, arm.name),
            pruner=make_pruner(plan.spec.search, plan.spec.budget.steps),
        )
        self._worst = max((row.value for row in rows if row.value is not None), default=-math.inf)
        self._project()

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

    # --- Work

    def next(self) -> Assignment | None:
        """Return an interrupted trial, or a new one that Optuna asks for; None at the arm's cap."""
        if self._waiting:
            row = self._waiting.pop(0)
            if row.id not in self._open:
                self._open[row.id] = _Open(self._again(row))
        elif len(self._trials) < self._budget.trials_per_arm:
            arm_seed = f"{self._plan.spec.seed}/{self._arm.name}"
            self.study.sampler = make_sampler(self._plan.spec.search, arm_seed, len(self._trials))
            asked = self.study.ask()
            row = self._log.add_trial(self._arm.name, suggest(asked, self._arm.space))
            asked.set_user_attr(NUMBER, row.number)
            self._trials[row.id] = row
            self._open[row.id] = _Open(asked)
        else:
            return None
        run = self._plan.run(self._arm.name, row.params, self._data, seed=self._plan.spec.seed, test=False)
        return Assignment(row.id, run)

    def started(self, assignment: Assignment) -> None:
        """Count the attempt; the arm's clock runs from its first one, when a slot has loaded what it needs."""
        self._write_points()  # those of an earlier attempt, which the new one makes anew
        self._began = self._began if self._began is not None else time.monotonic()
        self._trials[assignment.key].attempts = self._log.start_trial(assignment.key)

    def progress(self, assignment: Assignment, point: Progress) -> bool:
        """Record the point, and ask the pruner unless it is the last one."""
        self._points.append((assignment.key, point))
        self._write_points(POINTS_EVERY_S)
        trial = self._open[assignment.key]
        if point.step > trial.reported:  # a second attempt repeats the points of the first
            trial.asked.report(point.val_loss, point.step)
            trial.reported = point.step
        return point.step == self._budget.steps or not trial.asked.should_prune()

    def finished(self, assignment: Assignment, ended: Ended) -> None:
        """Record how the trial ended, then tell Optuna."""
        if ended.state == TrialState.PRUNED and ended.cause is None:
            ended = ended._replace(cause=f"pruner {self._plan.spec.search.pruner}")
        self._end(assignment.key, ended)

    def lost(self, assignment: Assignment, cause: str) -> bool:
        """Queue the trial again while it has attempts left."""
        row = self._trials[assignment.key]
        if row.attempts >= self._plan.spec.resources.max_attempts:
            return False
        self._log.retry_trial(row.id, cause)
        self._waiting.append(row)
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
            self.study.tell(trial.asked, state=OptunaState.FAIL, skip_if_finished=True)

    def _write_points(self, every_s: float = 0.0) -> None:
        """Write the points that wait, unless some were written less than ``every_s`` ago."""
        if self._points and time.monotonic() - self._points_written >= every_s:
            self._log.add_points(self._points)
            self._points, self._points_written = [], time.monotonic()

    def _end_at_cap(self, trial_id: int) -> None:
        self._write_points()
        points = self._log.points(trial_id)
        last = points[max(points)] if points else None
        cause = f"the arm reached budget.max_seconds = {self._budget.max_seconds:g}"
        self._end(trial_id, Ended(TrialState.PRUNED, last, cause=cause))

    # --- Optuna

    def _end(self, trial_id: int, ended: Ended) -> None:
        self._log.finish_trial(trial_id, ended, self.seconds_used, self._points)
        self._points, self._points_written = [], time.monotonic()
        if ended.val_loss is not None:
            self._worst = max(self._worst, ended.val_loss)
        trial = self._open.pop(trial_id, None)
        if trial is None:
            return  # it waited for its turn and was not asked again
        if ended.state == TrialState.DIVERGED:
            self._tell_diverged(trial)
        elif ended.state == TrialState.COMPLETE:
            self.study.tell(trial.asked, ended.val_loss)
        else:
            self.study.tell(trial.asked, state=_TOLD_AS.get(ended.state, OptunaState.FAIL))

    def _tell_diverged(self, trial: _Open) -> None:
        """Tell the worst finite loss so far, one step after the last point.

        Samplers rank stopped trials by how far they came: at a later step a diverged one would look better than others.
        """
        trial.asked.report(self._penalty(), trial.reported + 1)
        if self._complete_only:
            self.study.tell(trial.asked, self._penalty())
        else:
            self.study.tell(trial.asked, state=OptunaState.PRUNED)

    @property
    def _complete_only(self) -> bool:
        """Whether the sampler looks at nothing but completed trials."""
        return self._plan.spec.search.sampler == "gp"

    def _penalty(self) -> float:
        return self._worst if math.isfinite(self._worst) else NO_LOSS

    def _project(self) -> None:
        """Bring the study in line with the ledger.

        Trials that ended in the ledger and are missing in the study are added. Whatever an earlier worker left open
        there, the storage has failed.
        """
        told = self._storage.told()
        rows = [row for row in self._trials.values() if row.state in _TOLD_AS]
        missing = [row for row in rows if row.number not in told]
        for start in range(0, len(missing), CHUNK):
            self._storage.write(self._ended(missing[start : start + CHUNK], told))
        if missing:
            log.info("study brought in line", extra={"study": self.study.study_name, "added": len(missing)})
        for frozen in self._ended(horizon(rows, _complete_value), told):
            self._storage.create_new_trial(self.study._study_id, frozen)
        tried = [row.params for row in self._trials.values()]
        for values in first_trials(self._arm.space)[: self._budget.trials_per_arm]:
            if values not in tried:
                self.study.enqueue_trial(values)

    def _ended(self, rows: Sequence[Trial], notes: Mapping[int, dict[str, Any]]) -> Iterator[optuna.trial.FrozenTrial]:
        """Yield ended trials of the ledger as they were told to Optuna, with what pruners noted about them."""
        curves = self._log.curves([row.id for row in rows])
        for row in rows:
            state, value, points = _TOLD_AS[row.state], row.value, curves.get(row.id, {})
            if row.state == TrialState.DIVERGED:
                value = points[max(points, default=0) + 1] = self._penalty()
                state = OptunaState.COMPLETE if self._complete_only else state
            yield self._frozen(row, state, value, points, notes.get(row.number, {}))

    def _again(self, row: Trial) -> optuna.Trial:
        """Open a trial of the ledger that runs again."""
        frozen = self._frozen(row, OptunaState.RUNNING, None, {}, {})
        return optuna.Trial(self.study, self._storage.create_new_trial(self.study._study_id, frozen))

    def _frozen(
        self,
        row: Trial,
        state: OptunaState,
        value: float | None,
        points: dict[int, float],
        notes: dict[str, Any],
    ) -> optuna.trial.FrozenTrial:
        return create_trial(
            state=state,
            value=value,
            params=dict(row.params),
            distributions=distributions(self._arm.space, row.params),
            intermediate_values=points,
            user_attrs={NUMBER: row.number},
            system_attrs=notes,
        )


def _complete_value(row: Trial) -> float | None:
    return row.value if row.state == TrialState.COMPLETE else None
