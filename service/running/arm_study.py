# The Optuna study of one arm, as a projection of the ledger's trials: brought in line when it is opened, told of every
# end. The worker that owns the job is its one writer: it asks and reports in memory, and stores a trial when that has
# ended. Whether a trial goes on and what is written first is study.py's business.
"""One arm's Optuna study."""

from __future__ import annotations

import gc
import logging
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, create_trial
from optuna.trial import TrialState as OptunaState

from search_spaces import Scalar
from search_spaces.to_optuna import distributions, first_trials
from service.db.models import Trial
from service.db.studies import study_name
from service.planning.arms import ArmPlan
from service.planning.earlier_trials import EarlierTrials
from service.planning.objective import Objective
from service.running.samplers import make_pruner
from service.spec.job import JobSpec
from service.states import ENDED_TRIAL, TrialState
from service.training.run import Ended, Progress

log = logging.getLogger(__name__)

NUMBER: Final = "trial"
"""User attribute of an Optuna trial: the number of the ledger's trial."""

EARLIER: Final = "earlier trial"
"""User attribute of a trial that another job made: that job and its number there. Such a trial is in memory only."""

NO_LOSS: Final = 1e12
"""What a diverged trial is told as when its arm has not seen a finite loss yet."""

Curves = Callable[[Collection[int]], Mapping[int, Sequence[Progress]]]


@dataclass(slots=True)
class OpenTrial:
    """A trial that has not ended: its Optuna trial, and the last step that was reported."""

    asked: optuna.Trial
    reported: int = 0


@contextmanager
def _no_collection() -> Iterator[None]:
    """Switch the garbage collector off: with the many objects of a large study it takes as long as reading them."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


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
        earlier: Trials of an earlier job that the sampler is to know; they stay in memory.
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
        earlier: EarlierTrials | None = None,
    ) -> None:
        self._spec, self._arm, self._storage, self._objective = spec, arm, storage, objective
        self._two = spec.objective.trade_off is not None
        name, directions = study_name(job_id, arm.name), [StudyDirection.MINIMIZE] * (2 if self._two else 1)
        self._stored = optuna.create_study(storage=storage, study_name=name, load_if_exists=True, directions=directions)
        self._memory = optuna.storages.InMemoryStorage()
        self.study = optuna.create_study(
            storage=self._memory,
            study_name=name,
            pruner=make_pruner(spec.engine, spec.search, objective),
            directions=directions,
        )
        self._memory_id = self._memory.get_study_id_from_name(name)
        self._stored_id = storage.get_study_id_from_name(name)
        self._notes: dict[str, Any] = {}
        self._worst, self._slowest = -math.inf, 0.0
        tried = self._show(earlier) if earlier is not None else []
        self._align(rows, curves)
        self._enqueue([*tried, *(row.params for row in rows)], earlier.best() if earlier else [])

    def resume(self, row: Trial) -> OpenTrial:
        """Open a trial of the ledger that runs again."""
        frozen = self._frozen(row, OptunaState.RUNNING, ())
        return OpenTrial(optuna.Trial(self.study, self._memory.create_new_trial(self._memory_id, frozen)))

    def ask(self, sampler: optuna.samplers.BaseSampler) -> optuna.Trial:
        """Ask for a new trial, and store where in its sequence the sampler is."""
        self.study.sampler = sampler
        asked = self.study.ask()
        for key, value in self._memory.get_study_system_attrs(self._memory_id).items():
            if self._notes.get(key) != value:
                self._notes[key] = value
                self._storage.set_study_system_attr(self._stored_id, key, value)
        return asked

    def report(self, trial: OpenTrial, point: Progress) -> None:
        """Report a point; a second attempt repeats those of the first. Two objectives have no pruner to report to."""
        if point.step > trial.reported:
            if not self._two:
                trial.asked.report(self._objective.signal(point), point.step)
            trial.reported = point.step

    def tell(self, trial: OpenTrial, ended: Ended) -> None:
        """Tell how a trial ended."""
        self._tell(trial, ended)
        self._stored.add_trial(self.study.get_trials(deepcopy=False)[trial.asked.number])

    def _tell(self, trial: OpenTrial, ended: Ended) -> None:
        value = ended.val_loss if ended.value is None else ended.value
        self._compare(value, ended.seconds)
        if ended.state == TrialState.DIVERGED:
            self._tell_diverged(trial)
        elif ended.state == TrialState.COMPLETE:
            assert value is not None, "a completed trial has a value"
            self.study.tell(trial.asked, [value, ended.seconds] if self._two else value)
        else:
            self.study.tell(trial.asked, state=self._told_as(ended.state))

    def _compare(self, value: float | None, seconds: float) -> None:
        """Remember the worst finite value and the longest run: what a diverged trial is told as."""
        if value is not None:
            self._worst = max(self._worst, value)
        self._slowest = max(self._slowest, seconds)

    def drop(self, trial: OpenTrial) -> None:
        """Leave a trial to the next worker: samplers have seen the last of it."""
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
        """Bring both studies in line with the ledger: what ended there and is not stored is added.

        Trials are gone through in the order in which they ended, so that one which is rebuilt is what it was when it
        was told; what pruners had noted about it is lost.
        """
        ended = [row for row in rows if row.state in ENDED_TRIAL]
        with _no_collection():
            stored = {trial.user_attrs.get(NUMBER): trial for trial in self._stored.get_trials(deepcopy=False)}
        missing = {row.id for row in ended if row.number not in stored}
        points = curves(missing)
        for row in sorted(ended, key=lambda row: (row.finished_at or row.created_at, row.number)):
            self._compare(row.value, row.seconds)
            if row.id in missing:
                stored[row.number] = self._frozen(row, self._told_as(row.state), points[row.id])
                self._stored.add_trial(stored[row.number])
        if missing:
            log.info("study brought in line", extra={"study": self.study.study_name, "added": len(missing)})
        self.study.add_trials([stored[row.number] for row in ended])
        self._notes.update(self._storage.get_study_system_attrs(self._stored_id))
        for key, value in self._notes.items():
            self._memory.set_study_system_attr(self._memory_id, key, value)

    def _show(self, earlier: EarlierTrials) -> list[dict[str, Scalar]]:
        """Let the sampler know the trials of an earlier job, where their values compare; return what they tried."""
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
        """Enqueue what is worth trying first: the best of an earlier job, then the good points of the space."""
        wanted = [*best, *(values for values in first_trials(self._arm.space) if values not in best)]
        for values in wanted[: self._spec.budget.trials_per_arm]:
            if values not in tried:
                self.study.enqueue_trial(values)

    def _told_as(self, state: TrialState) -> OptunaState:
        """Return what samplers are told of a trial that has ended; a failed one teaches them nothing."""
        if state == TrialState.COMPLETE or (state == TrialState.DIVERGED and self._complete_only):
            return OptunaState.COMPLETE
        if state == TrialState.DIVERGED or (state == TrialState.PRUNED and not self._two):
            return OptunaState.PRUNED
        return OptunaState.FAIL

    def _frozen(self, row: Trial, state: OptunaState, points: Sequence[Progress]) -> FrozenTrial:
        """Return a trial of the ledger: one that ended, or one that runs again."""
        signals = {} if self._two else {point.step: self._objective.signal(point) for point in points}
        value, seconds = row.value, row.seconds
        if row.state == TrialState.DIVERGED:
            value, seconds = self._penalty(), self._slowest
            if not self._two:
                signals[max(signals, default=0) + 1] = value
        valued = state in (OptunaState.COMPLETE, OptunaState.PRUNED)
        return create_trial(
            state=state,
            value=value if valued and not self._two else None,
            values=[value, seconds] if valued and self._two and value is not None else None,
            params=dict(row.params),
            distributions=distributions(self._arm.space, row.params),
            intermediate_values=signals,
            user_attrs={NUMBER: row.number},
        )
