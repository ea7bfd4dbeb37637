# The Optuna study of one arm, as a projection of the ledger's trials: brought in line when it is opened, told of every
# end. Whether a trial goes on and what is written first is study.py's business.
"""One arm's Optuna study."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import optuna
from optuna.trial import TrialState as OptunaState
from optuna.trial import create_trial

from search_spaces.to_optuna import distributions, first_trials
from service.arms import ArmPlan
from service.db.models import Trial
from service.db.studies import study_name
from service.objective import Objective
from service.samplers import make_pruner
from service.schemas import JobSpec
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

Curves = Callable[[Collection[int]], Mapping[int, Sequence[Progress]]]


@dataclass(slots=True)
class OpenTrial:
    """A trial that has not ended: its Optuna trial, and the last step that was reported."""

    asked: optuna.Trial
    reported: int = 0


class ArmStudy:
    """The study of an arm.

    Args:
        job_id: The job.
        spec: Its spec.
        arm: The arm.
        storage: Optuna's tables.
        rows: The arm's trials in the ledger.
        curves: Reads learning curves from the ledger, by trial id.
        objective: What the trials are judged by.
    """

    def __init__(
        self,
        job_id: str,
        spec: JobSpec,
        arm: ArmPlan,
        storage: optuna.storages.BaseStorage,
        rows: Sequence[Trial],
        curves: Curves,
        objective: Objective,
    ) -> None:
        self._spec, self._arm, self._storage, self._objective = spec, arm, storage, objective
        self._two = spec.objective.trade_off is not None
        self.study = optuna.create_study(
            storage=storage,
            study_name=study_name(job_id, arm.name),
            load_if_exists=True,
            pruner=make_pruner(spec.engine, spec.search, objective.steps),
            directions=["minimize"] * (2 if self._two else 1),
        )
        values = [row.value for row in rows if row.value is not None]
        self._worst = max(values, default=-math.inf)
        self._slowest = max((row.seconds for row in rows), default=0.0)
        self._align(rows, curves)

    def resume(self, row: Trial) -> OpenTrial:
        """Open a trial of the ledger that runs again."""
        return OpenTrial(self._add(row, OptunaState.RUNNING, ()))

    def report(self, trial: OpenTrial, point: Progress) -> None:
        """Report a point; a second attempt repeats those of the first. Two objectives have no pruner to report to."""
        if point.step > trial.reported:
            if not self._two:
                trial.asked.report(self._objective.signal(point), point.step)
            trial.reported = point.step

    def tell(self, trial: OpenTrial, ended: Ended) -> None:
        """Tell how a trial ended."""
        value = ended.val_loss if ended.value is None else ended.value
        if value is not None:
            self._worst = max(self._worst, value)
        self._slowest = max(self._slowest, ended.seconds)
        if ended.state == TrialState.DIVERGED:
            self._tell_diverged(trial)
        elif ended.state == TrialState.COMPLETE:
            assert value is not None, "a completed trial has a value"
            self.study.tell(trial.asked, [value, ended.seconds] if self._two else value)
        elif self._two:
            self.study.tell(trial.asked, state=OptunaState.FAIL)
        else:
            self.study.tell(trial.asked, state=_TOLD_AS.get(ended.state, OptunaState.FAIL))

    def drop(self, trial: OpenTrial) -> None:
        """Leave nothing open in Optuna."""
        self.study.tell(trial.asked, state=OptunaState.FAIL, skip_if_finished=True)

    def _tell_diverged(self, trial: OpenTrial) -> None:
        """Tell the worst finite loss so far, one step after the last point.

        Samplers rank stopped trials by how far they came: at a later step a diverged one would look better than others.
        """
        if self._two:
            self.study.tell(trial.asked, [self._penalty(), self._slowest])
            return
        trial.asked.report(self._penalty(), trial.reported + 1)
        if self._complete_only:
            self.study.tell(trial.asked, self._penalty())
        else:
            self.study.tell(trial.asked, state=OptunaState.PRUNED)

    @property
    def _complete_only(self) -> bool:
        """Whether only completed trials are looked at: by the sampler, or because there are two objectives."""
        return self._two or self._spec.search.sampler == "gp"

    def _penalty(self) -> float:
        return self._worst if math.isfinite(self._worst) else NO_LOSS

    def _align(self, rows: Sequence[Trial], curves: Curves) -> None:
        """Bring the study in line with the ledger.

        Trials that are still open there belong to a worker that is gone: they are failed, as the samplers would take
        them for running ones. Trials that ended in the ledger and are missing in the study are added.
        """
        old = self.study.get_trials(deepcopy=False)
        for trial in old:
            if trial.state == OptunaState.RUNNING:
                self.study.tell(trial.number, state=OptunaState.FAIL)
        known = {trial.user_attrs.get(NUMBER) for trial in old if trial.state in _TOLD}
        learned = set(_TOLD_AS) - ({TrialState.PRUNED} if self._two else set())
        missing = [row for row in rows if row.state in learned and row.number not in known]
        points = curves([row.id for row in missing])
        for row in missing:
            self._add(row, _TOLD_AS[row.state], points[row.id])
        if missing:
            log.info("study brought in line", extra={"study": self.study.study_name, "added": len(missing)})
        waiting = [trial.system_attrs.get("fixed_params") for trial in old if trial.state == OptunaState.WAITING]
        tried = [*waiting, *(row.params for row in rows)]
        for values in first_trials(self._arm.space)[: self._spec.budget.trials_per_arm]:
            if values not in tried:
                self.study.enqueue_trial(values)

    def _add(self, row: Trial, state: OptunaState, points: Sequence[Progress]) -> optuna.Trial:
        """Add a trial of the ledger to the study: one that ended, or one that runs again."""
        signals = {} if self._two else {point.step: self._objective.signal(point) for point in points}
        value, seconds = row.value, row.seconds
        if row.state == TrialState.DIVERGED:
            value, seconds = self._penalty(), self._slowest
            if not self._two:
                signals[max(signals, default=0) + 1] = value
            state = OptunaState.COMPLETE if self._complete_only else state
        running = state == OptunaState.RUNNING
        frozen = create_trial(
            state=state,
            value=None if running or self._two else value,
            values=[value, seconds] if self._two and not running and value is not None else None,
            params=dict(row.params),
            distributions=distributions(self._arm.space, row.params),
            intermediate_values=signals,
            user_attrs={NUMBER: row.number},
        )
        study_id = self._storage.get_study_id_from_name(self.study.study_name)
        return optuna.Trial(self.study, self._storage.create_new_trial(study_id, template_trial=frozen))
