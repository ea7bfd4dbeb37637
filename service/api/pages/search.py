"""The search of a job as its page shows it: learning curves, trials and their settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from sqlalchemy.orm import Session

from service.api.pages import charts
from service.api.pages.importance import LEAST_TRIALS, Importances
from service.api.views import ArmView, JobView, TrialView
from service.db.models import Job, Trial
from service.db.session import Database
from service.errors import OtherVersionError
from service.ledger import queries
from service.ledger.jobs import require_job
from service.planning.objective import make_objective
from service.planning.plan import JobPlan, plan_of
from service.result.compared import differing
from service.spec.metrics import metric_of
from service.states import TrialState, count_ended
from service.training.run import CurvePoint

BEST_TRIALS: Final = 25
"""Rows of the table of trials."""

DRAWN_TRIALS: Final = 100
"""Trials of an arm whose settings are drawn, the best ones."""

FAILED_TRIALS: Final = 20
"""Trials whose cause is on the page."""


NOT_COMPLETE: Final = (TrialState.FAILED, TrialState.DIVERGED)
"""States of trials that have a cause."""


class Run(NamedTuple):
    """The run of an arm whose learning curve is drawn: its best trial, or the one that runs before any has ended."""

    arm: str
    colour: int
    trial: int
    is_running: bool
    step: int
    loss: float


class Settings(NamedTuple):
    """What the trials of an arm say about its settings.

    ``shares`` are the importances: None while they are computed, empty with too few trials.
    """

    arm: str
    colour: int
    trials: int
    drawn: int
    shares: dict[str, float] | None
    parallel: charts.Parallel | None
    least_trials: int = LEAST_TRIALS


class Search(NamedTuple):
    """The search of a job, for its page."""

    best_so_far: charts.Chart | None = None
    runs: Sequence[Run] = ()
    learning: charts.Chart | None = None
    best: Sequence[TrialView] = ()
    failed: Sequence[TrialView] = ()
    settings: Sequence[Settings] = ()

    @property
    def parameters(self) -> list[str]:
        """Names of the settings in which the best trials differ."""
        return differing([trial.config for trial in self.best])

    @property
    def is_computing(self) -> bool:
        """Whether a part of it comes in a moment."""
        return any(arm.shares is None for arm in self.settings)


def read_search(db: Database, job: JobView, importances: Importances, value_label: str) -> Search:
    """Return the search of a job; nothing if another version of the service made the job."""
    with db.read() as session:
        row = require_job(session, job.id)
        try:
            plan = plan_of(row.spec, row.dataset_info)
        except OtherVersionError:
            return Search()
        metric = metric_of(plan.spec.objective.metric)
        runs, learning = _learning(session, row, plan, job.arms)
        failed = [
            trial
            for state in NOT_COMPLETE
            for trial in queries.trials_page(session, job.id, FAILED_TRIALS, None, state=state)
        ]

        def view(trials: Sequence[Trial]) -> list[TrialView]:
            return [TrialView.of(trial, plan) for trial in trials]

        return Search(
            best_so_far=charts.search(
                [arm.name for arm in job.arms],
                queries.trial_values(session, job.id),
                rises=bool(metric and metric.higher_is_better),
            ),
            runs=runs,
            learning=learning,
            best=view(queries.best_trials(session, job.id, BEST_TRIALS)),
            failed=view(failed[:FAILED_TRIALS]),
            settings=_settings(session, db, plan, job, importances, value_label),
        )


def _learning(
    session: Session, row: Job, plan: JobPlan, arms: Sequence[ArmView]
) -> tuple[list[Run], charts.Chart | None]:
    budget = plan.spec.budget
    objective = make_objective(
        plan.spec.objective, budget.steps, budget.max_seconds, None, at_best=plan.best_by is not None
    )
    runs, curves = [], {arm.name: list[list[tuple[int, float]]]() for arm in arms}
    for index, arm in enumerate(arms):
        number = arm.best.number if arm.best else None
        for running in queries.trials_page(session, row.id, 1, None, arm=arm.name, state=TrialState.RUNNING):
            number = running.number if number is None else number
        if number is None:
            continue
        trial, stored = queries.trial(session, row.id, number)
        points = [CurvePoint(p.step, p.train_loss, p.val_loss, p.seconds, p.val_score) for p in stored]
        if points:
            judged = objective.best_point(points)
            curves[arm.name] = [[(point.step, point.val_loss) for point in points]]
            is_running = trial.state == TrialState.RUNNING
            runs.append(Run(arm.name, index % charts.COLOURS, number, is_running, judged.step, judged.val_loss))
    return runs, charts.learning(curves, {run.arm: run.step for run in runs})


def _settings(
    session: Session, db: Database, plan: JobPlan, job: JobView, importances: Importances, value_label: str
) -> list[Settings]:
    found = []
    for index, arm in enumerate(job.arms):
        space, complete = plan.arm(arm.name).space, arm.trials.get(TrialState.COMPLETE, 0)
        if space.has_one_point or complete < 2:
            continue
        best = queries.best_trials(session, job.id, DRAWN_TRIALS, arm=arm.name, state=TrialState.COMPLETE)
        values = [(trial.params, trial.value) for trial in best if trial.value is not None]
        shares: dict[str, float] | None = {}
        if complete >= LEAST_TRIALS:
            shares = importances.of(db, job.id, plan.arm(arm.name), count_ended(arm.trials))
        drawn = charts.parallel(space, values, value_label)
        found.append(Settings(arm.name, index % charts.COLOURS, complete, len(values), shares, drawn))
    return found
