"""The Optuna study of one arm, as a copy of the ledger's trials.

It is brought in line with the ledger when it is opened. The worker that owns the job is its only writer: it asks and
reports in memory, and stores a trial once that has ended.
"""

from __future__ import annotations

import gc
import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, create_trial
from optuna.trial import TrialState as OptunaState

from search_spaces import Scalar
from search_spaces.refine import refinement
from search_spaces.to_optuna import distributions, first_trials
from service.db.models import Trial
from service.db.studies import study_name
from service.ledger.datasets import label_of
from service.planning.arms import ArmPlan
from service.planning.objective import Objective
from service.running.context import JobContext
from service.running.samplers import make_pruner
from service.states import ENDED_TRIAL, TrialState
from service.submission.earlier_trials import EarlierTrials
from service.training.run import CurvePoint, Ended

log = logging.getLogger(__name__)

NUMBER: Final = "trial"
"""User attribute of an Optuna trial: the number of the ledger's trial."""

EARLIER: Final = "earlier trial"
"""User attribute of a trial of another job: the job and its number there. Such a trial is in memory only."""

NO_LOSS: Final = 1e12
"""Value that a diverged trial gets when its arm has not seen a finite loss yet."""


@dataclass(slots=True)
class OpenTrial:
    """A trial that has not ended: its Optuna trial, and the last step that was reported."""

    asked: optuna.Trial
    reported: int = 0


class Told(NamedTuple):
    """What Optuna is told of a trial."""

    state: OptunaState
    value: float | None = None
    seconds: float = 0.0


class ArmStudy:
    """The study of an arm. It has the arm's trials in the ledger, and those of an earlier job only in memory."""

    def __init__(
        self,
        job: JobContext,
        arm: ArmPlan,
        storage: optuna.storages.BaseStorage,
        rows: Sequence[Trial],
        objective: Objective,
        earlier: EarlierTrials | None = None,
    ) -> None:
        spec = job.plan.spec
        self._job, self._spec, self._arm, self._storage, self._objective = job, spec, arm, storage, objective
        self._two = spec.objective.trade_off is not None
        name, directions = study_name(job.record.job_id, arm.name), [StudyDirection.MINIMIZE] * (2 if self._two else 1)
        self._stored = optuna.create_study(storage=storage, study_name=name, load_if_exists=True, directions=directions)
        self._describe()
        self._memory = optuna.storages.InMemoryStorage()
        self.study = optuna.create_study(
            storage=self._memory,
            study_name=name,
            pruner=make_pruner(spec.engine, spec.search, objective),
            directions=directions,
        )
        self._memory_id = self._memory.get_study_id_from_name(name)
        self._stored_id = storage.get_study_id_from_name(name)
        self._stored_attrs: dict[str, object] = {}
        self._complete_only = self._two or spec.search.sampler == "gp"  # only completed trials count for the sampler
        self._worst, self._slowest = -math.inf, 0.0
        tried = self._add_earlier(earlier) if earlier is not None else []
        self._align(rows)
        self._enqueue([*tried, *(row.params for row in rows)], earlier.best() if earlier else [])

    def _describe(self) -> None:
        """Tell the Optuna dashboard what the study is about."""
        metric = self._objective.score
        cost = (
            f"{metric.best:g} - {metric.field}" if metric and metric.higher_is_better else self._spec.objective.metric
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._stored.set_metric_names([cost, "seconds"] if self._two else [cost])
        for name, value in {"job": self._spec.name, "dataset": label_of(self._spec), "arm": self._arm.name}.items():
            self._stored.set_user_attr(name, value)

    def resume(self, row: Trial) -> OpenTrial:
        """Open a trial of the ledger that runs again."""
        frozen = self._frozen(row, Told(OptunaState.RUNNING), ())
        return OpenTrial(optuna.Trial(self.study, self._memory.create_new_trial(self._memory_id, frozen)))

    def ask(self, sampler: optuna.samplers.BaseSampler, *, refine: bool = False) -> optuna.Trial:
        """Ask for a new trial, and store where in its sequence the sampler is.

        With ``refine`` it is one next to the best so far, if there is such a point that was not tried.
        """
        self.study.sampler = sampler
        if refine and (near := self._refinement()) is not None:
            self.study.enqueue_trial(near)
        asked = self.study.ask()
        for key, value in self._memory.get_study_system_attrs(self._memory_id).items():
            if self._stored_attrs.get(key) != value:
                self._check_lease()
                self._stored_attrs[key] = value
                self._storage.set_study_system_attr(self._stored_id, key, value)
        return asked

    def _refinement(self) -> dict[str, Scalar] | None:
        trials = self.study.get_trials(deepcopy=False)
        if self._two or any(trial.state == OptunaState.WAITING for trial in trials):
            return None
        complete = [trial for trial in trials if trial.state == OptunaState.COMPLETE]
        best_first = [trial.params for trial in sorted(complete, key=lambda trial: (trial.value, trial.number))]
        return refinement(self._arm.space, best_first, [trial.params for trial in trials])

    def report(self, trial: OpenTrial, points: Sequence[CurvePoint]) -> None:
        """Report the last of ``points``, unless an earlier attempt did.

        With two objectives there is no pruner to report to.
        """
        step = points[-1].step
        if step > trial.reported:
            if not self._two:
                trial.asked.report(self._objective.signal(points), step)
            trial.reported = step

    def tell(self, trial: OpenTrial, ended: Ended) -> None:
        """Tell Optuna how a trial ended, and store it.

        Of a diverged one we tell the worst finite loss so far, one step after its last point. Samplers rank stopped
        trials by how far they came, so at a later step it would look better than others.
        """
        told = self._told(ended.state, ended.val_loss if ended.value is None else ended.value, ended.seconds)
        if ended.state == TrialState.DIVERGED and told.value is not None and not self._two:
            trial.asked.report(told.value, trial.reported + 1)
        if told.state == OptunaState.COMPLETE:
            assert told.value is not None, "a completed trial has a value"
            self.study.tell(trial.asked, [told.value, told.seconds] if self._two else told.value)
        else:
            self.study.tell(trial.asked, state=told.state)
        self._store(self.study.get_trials(deepcopy=False)[trial.asked.number])

    def _store(self, trial: FrozenTrial) -> None:
        """Add a trial to Optuna's tables."""
        self._check_lease()
        self._stored.add_trial(trial)

    def _check_lease(self) -> None:
        """Raise LeaseLostError if this worker stood still, and another one has the job and writes to its studies."""
        self._job.record.requests()

    def _told(self, state: TrialState, value: float | None, seconds: float) -> Told:
        """Return what samplers see of an ended trial. It is called once for each, in the order in which they ended.

        A diverged one gets the worst finite value so far and the longest time. Where only completed trials count, it is
        shown as completed with the worst value of those: its own loss may be far above all others, or no cost at all.
        Before there is one, nothing can be said. A failed trial teaches nothing.
        """
        if value is not None and (state == TrialState.COMPLETE or not self._complete_only):
            self._worst = max(self._worst, value)
        self._slowest = max(self._slowest, seconds)
        if state == TrialState.COMPLETE:
            return Told(OptunaState.COMPLETE, value, seconds)
        if state == TrialState.DIVERGED and not self._complete_only:
            return Told(OptunaState.PRUNED, self._worst if math.isfinite(self._worst) else NO_LOSS)
        if state == TrialState.DIVERGED and math.isfinite(self._worst):
            return Told(OptunaState.COMPLETE, self._worst, self._slowest)
        if state == TrialState.PRUNED and not self._two:
            return Told(OptunaState.PRUNED, value)
        return Told(OptunaState.FAIL)

    def drop(self, trial: OpenTrial) -> None:
        """Leave a trial to the next worker; the samplers of this one forget it."""
        self.study.tell(trial.asked, state=OptunaState.FAIL, skip_if_finished=True)

    def _align(self, rows: Sequence[Trial]) -> None:
        """Bring both studies in line with the ledger: add what ended there and is not stored.

        We take the trials in the order in which they ended, so that a rebuilt trial is what Optuna was told. What
        pruners had noted about it is lost. A failed trial whose job was retried is there twice: as it failed, and as it
        ended at last.
        """
        ended = [row for row in rows if row.state in ENDED_TRIAL]
        in_order = sorted(ended, key=lambda row: (row.finished_at or row.created_at, row.number))
        outcomes = {row.id: self._told(row.state, row.value, row.seconds) for row in in_order}
        gc.disable()  # on the many objects of a large study the collector takes as long as reading them
        try:
            stored = {trial.user_attrs.get(NUMBER): trial for trial in self._stored.get_trials(deepcopy=False)}
        finally:
            gc.enable()
        told = {number: trial.state for number, trial in stored.items()}
        missing = {row.id for row in ended if told.get(row.number) != outcomes[row.id].state}
        points = self._job.record.curves(missing)
        for row in in_order:
            if row.id in missing:
                stored[row.number] = self._frozen(row, outcomes[row.id], points[row.id])
                self._store(stored[row.number])
        if missing:
            log.info("study brought in line", extra={"study": self.study.study_name, "added": len(missing)})
        self.study.add_trials([stored[row.number] for row in ended])
        attrs = self._storage.get_study_system_attrs(self._stored_id)
        self._stored_attrs.update(attrs)
        for key, value in attrs.items():
            self._memory.set_study_system_attr(self._memory_id, key, value)

    def _add_earlier(self, earlier: EarlierTrials) -> list[dict[str, Scalar]]:
        """Add the trials of an earlier job, if their values can be compared; return what they tried."""
        shown = earlier.trials if earlier.comparable else ()
        for trial in shown:
            values = [trial.value, trial.seconds] if self._two else [trial.value]
            known = create_trial(
                values=values,
                params=dict(trial.params),
                distributions=distributions(self._arm.space, trial.params),
                user_attrs={EARLIER: f"{earlier.job_id}/{trial.number}"},
            )
            self.study.add_trial(known)
        return [trial.params for trial in shown]

    def _enqueue(self, tried: Sequence[Mapping[str, Scalar]], best: Sequence[dict[str, Scalar]]) -> None:
        """Enqueue what to try first: the best of an earlier job, then the good points of the space."""
        wanted = [*best, *(values for values in first_trials(self._arm.space) if values not in best)]
        for values in wanted[: self._spec.budget.trials_per_arm]:
            if values not in tried:
                self.study.enqueue_trial(values)

    def _frozen(self, row: Trial, told: Told, points: Sequence[CurvePoint]) -> FrozenTrial:
        """Return a trial of the ledger as Optuna has it: one that ended, or one that runs again."""
        signals = {}
        if not self._two:
            signals = {point.step: self._objective.signal(points[: i + 1]) for i, point in enumerate(points)}
        if row.state == TrialState.DIVERGED and told.value is not None and not self._two:
            signals[max(signals, default=0) + 1] = told.value
        return create_trial(
            state=told.state,
            value=None if self._two else told.value,
            values=[told.value, told.seconds] if self._two and told.value is not None else None,
            params=dict(row.params),
            distributions=distributions(self._arm.space, row.params),
            intermediate_values=signals,
            user_attrs={NUMBER: row.number},
        )
