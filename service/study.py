# One arm of a job as an Optuna study. The ledger is the truth: a study is brought in line with it whenever it is
# opened, and every change is written to the ledger first. Optuna decides what to try next and what to stop early.
"""The search of one arm: ask, report, tell."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import optuna
from optuna.trial import TrialState as OptunaState
from optuna.trial import create_trial

from search_spaces.to_optuna import distributions, first_trials, suggest
from service.artifacts import ArtifactStore
from service.db.models import Trial
from service.db.studies import study_name
from service.engines.base import Assignment, Pruning
from service.ledger.runs import RunLog
from service.plan import ArmPlan, JobPlan
from service.samplers import make_pruner, make_pruning, make_sampler
from service.states import TrialState
from service.training.run import Ended, Progress

log = logging.getLogger(__name__)

NUMBER: Final = "trial"
"""User attribute of an Optuna trial: the number of the ledger's trial."""

NO_LOSS: Final = 1e12
"""What a diverged trial is told as when its arm has not seen a finite loss yet."""

_TOLD: Final = (OptunaState.COMPLETE, OptunaState.PRUNED)
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
    ) -> None:
        self._log, self._plan, self._arm, self._storage = log, plan, arm, storage
        self._data, self._artifacts, self._worker_halted = data, artifacts, halted
        self._budget = plan.spec.budget
        self._seconds_before = log.start_arm(arm.name).seconds_used
        self._began: float | None = None
        rows = log.trials(arm.name)
        self._trials: dict[int, Trial] = {row.id: row for row in rows}
        self._waiting = [row for row in rows if row.state == TrialState.QUEUED]
        self._open: dict[int, _Open] = {}
        self.pruning: Pruning | None = make_pruning(plan.spec.engine, plan.spec.search, self._budget.steps)
        self.study = optuna.create_study(
            storage=storage,
            study_name=study_name(log.job_id, arm.name),
            load_if_exists=True,
            pruner=optuna.pruners.NopPruner()  # the engine decides
            if self.pruning
            else make_pruner(plan.spec.search, self._budget.steps),
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
                self._open[row.id] = _Open(self._add(row, OptunaState.RUNNING))
        elif len(self._trials) < self._budget.trials_per_arm:
            arm_seed = f"{self._plan.spec.seed}/{self._arm.name}"
            self.study.sampler = make_sampler(self._plan.spec.search, arm_seed, len(self._trials))
            asked = self.study.ask()
            try:
                row = self._log.add_trial(self._arm.name, suggest(asked, self._arm.space))
            except BaseException:
                self.study.tell(asked, state=OptunaState.FAIL)  # or whoever owns the job now would take it for running
                raise
            asked.set_user_attr(NUMBER, row.number)
            self._trials[row.id] = row
            self._open[row.id] = _Open(asked)
        else:
            return None
        url = self._artifacts.checkpoint_url(self._log.job_id, _checkpoint_name(row))
        seed = self._plan.spec.seed
        run = self._plan.run(self._arm.name, row.params, self._data, seed=seed, test=False, checkpoint_url=url)
        return Assignment(row.id, run, self._plan.spec.resources.max_attempts - row.attempts - 1)

    def started(self, assignment: Assignment) -> None:
        """Count the attempt; the arm's clock runs from its first one, when a slot has loaded what it needs."""
        self._began = self._began if self._began is not None else time.monotonic()
        self._trials[assignment.key].attempts = self._log.start_trial(assignment.key)

    def progress(self, assignment: Assignment, point: Progress) -> bool:
        """Record the point, and ask the pruner unless it is the last one.

        A second attempt repeats the points of the first: that it went on from them is settled.
        """
        self._log.add_point(assignment.key, point)
        trial = self._open[assignment.key]
        if point.step < trial.reported:
            return True
        if point.step > trial.reported:
            trial.asked.report(point.val_loss, point.step)
            trial.reported = point.step
        return point.step == self._budget.steps or not trial.asked.should_prune()

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
        return True

    def interrupted(self, assignment: Assignment) -> None:
        """At the end of the arm's time the trial is over; otherwise it waits for the next worker."""
        if self.out_of_time:
            self._end_at_cap(assignment.key)
        else:
            self._log.requeue_trial(assignment.key, self.seconds_used)

    def halted(self) -> bool:
        """Stop when the worker says so, or when the arm's time is up."""
        return self._worker_halted() or self.out_of_time

    def close(self) -> None:
        """Leave nothing open in Optuna; at the end of the arm's time, trials that wait for another attempt are over."""
        if self.out_of_time:
            for row in self._waiting:
                self._end_at_cap(row.id)
        for trial in self._open.values():
            self.study.tell(trial.asked, state=OptunaState.FAIL, skip_if_finished=True)

    def _end_at_cap(self, trial_id: int) -> None:
        points = self._log.points(trial_id)
        last = points[max(points)] if points else None
        cause = f"the arm reached budget.max_seconds = {self._budget.max_seconds:g}"
        self._end(trial_id, Ended(TrialState.PRUNED, last, cause=cause))

    # --- Optuna

    def _end(self, trial_id: int, ended: Ended) -> None:
        self._log.finish_trial(trial_id, ended, self.seconds_used)
        self._artifacts.delete_checkpoints(self._log.job_id, _checkpoint_name(self._trials[trial_id]))
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

        Trials that are still open there belong to a worker that is gone: they are failed, as the samplers would take
        them for running ones. Trials that ended in the ledger and are missing in the study are added.
        """
        old = self.study.get_trials(deepcopy=False)
        for trial in old:
            if trial.state == OptunaState.RUNNING:
                self.study.tell(trial.number, state=OptunaState.FAIL)
        known = {trial.user_attrs.get(NUMBER) for trial in old if trial.state in _TOLD}
        missing = [row for row in self._trials.values() if row.state in _TOLD_AS and row.number not in known]
        for row in missing:
            self._add(row, _TOLD_AS[row.state])
        if missing:
            log.info("study brought in line", extra={"study": self.study.study_name, "added": len(missing)})
        waiting = [trial.system_attrs.get("fixed_params") for trial in old if trial.state == OptunaState.WAITING]
        tried = [*waiting, *(row.params for row in self._trials.values())]
        for values in first_trials(self._arm.space)[: self._budget.trials_per_arm]:
            if values not in tried:
                self.study.enqueue_trial(values)

    def _add(self, row: Trial, state: OptunaState) -> optuna.Trial:
        """Add a trial of the ledger to the study: one that ended, or one that runs again."""
        points = {} if state == OptunaState.RUNNING else self._log.points(row.id)
        value = row.value
        if row.state == TrialState.DIVERGED:
            value = points[max(points, default=0) + 1] = self._penalty()
            state = OptunaState.COMPLETE if self._complete_only else state
        frozen = create_trial(
            state=state,
            value=None if state == OptunaState.RUNNING else value,
            params=dict(row.params),
            distributions=distributions(self._arm.space, row.params),
            intermediate_values=points,
            user_attrs={NUMBER: row.number},
        )
        study_id = self._storage.get_study_id_from_name(self.study.study_name)
        return optuna.Trial(self.study, self._storage.create_new_trial(study_id, template_trial=frozen))
