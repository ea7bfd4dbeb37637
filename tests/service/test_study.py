from __future__ import annotations

from collections.abc import Callable

import optuna
import pytest
from optuna.trial import TrialState as OptunaState

from service.db.session import Database
from service.db.studies import study_name
from service.engines.base import Assignment
from service.ledger import lease
from service.ledger.runs import RunLog
from service.plan import make_plan
from service.schemas import JobSpec, SearchSpec
from service.states import TrialState
from service.study import NUMBER, ArmSearch, make_pruner, make_sampler
from service.training.run import Ended, Progress
from tests.service.conftest import Submit, get_trials, running_in_optuna

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

Open = Callable[..., ArmSearch]


@pytest.fixture
def log(db: Database, submit: Submit) -> RunLog:
    submit(budget={"trials_per_arm": 6, "steps": 10}, search={"sampler": "tpe", "pruner": "median"})
    taken = lease.claim(db, "worker", 30.0)
    assert taken is not None
    return RunLog(db, taken)


@pytest.fixture
def open_arm(log: RunLog, storage: optuna.storages.RDBStorage) -> Open:
    plan = make_plan(log.lease.spec)

    def make(arm: str = "warpadam", storage: optuna.storages.BaseStorage = storage) -> ArmSearch:
        return ArmSearch(log, plan, plan.arm(arm), storage, ("file:///data.npz", "0"), lambda: False)

    return make


def take(search: ArmSearch) -> Assignment:
    assignment = search.next()
    assert assignment is not None
    search.started(assignment)
    return assignment


def complete(search: ArmSearch, loss: float) -> None:
    assignment = take(search)
    search.progress(assignment, Progress(5, loss, loss, 0.1))
    search.progress(assignment, Progress(10, loss, loss, 0.2))
    search.finished(assignment, Ended(TrialState.COMPLETE, loss, None, 0.2))


def told(search: ArmSearch) -> list[tuple[object, OptunaState, float | None]]:
    return [(t.user_attrs.get(NUMBER), t.state, t.value) for t in search.study.trials]


def test_the_first_trials_are_the_presets_good_points(open_arm: Open) -> None:
    search = open_arm()
    first = take(search)
    expected = make_plan(search._plan.spec).arm("warpadam").space.first_trials[0]
    assert first.run.config == make_plan(search._plan.spec).arm("warpadam").config(expected)


def test_every_trial_uses_the_jobs_seed_and_sees_no_test_data(open_arm: Open, log: RunLog) -> None:
    search = open_arm()
    runs = [take(search).run for _ in range(3)]
    assert {(run.seed, run.test) for run in runs} == {(log.lease.spec.seed, False)}


def test_the_arm_ends_at_its_cap(open_arm: Open) -> None:
    search = open_arm()
    for _ in range(6):
        complete(search, 0.5)
    assert search.next() is None


def test_a_lost_trial_is_handed_out_again_and_its_repeated_points_are_reported_once(open_arm: Open) -> None:
    search = open_arm()
    first = take(search)
    search.progress(first, Progress(5, 0.4, 0.4, 0.1))
    assert search.lost(first, "killed")
    again = take(search)
    assert again == first
    search.progress(again, Progress(5, 0.4, 0.4, 0.1))
    search.progress(again, Progress(10, 0.3, 0.3, 0.2))
    assert not search.lost(again, "killed")  # the second of two attempts
    search.finished(again, Ended(TrialState.FAILED, cause="killed"))
    assert [trial.state for trial in search.study.trials if NUMBER in trial.user_attrs] == [OptunaState.FAIL]


def test_a_diverged_trial_is_told_as_the_worst_finite_loss_so_far(open_arm: Open) -> None:
    search = open_arm()
    complete(search, 0.5)
    complete(search, 3.5)
    search.finished(take(search), Ended(TrialState.DIVERGED, None, cause="the training loss is nan"))
    assert told(search)[2] == (2, OptunaState.PRUNED, 3.5)


def test_a_study_that_was_lost_is_rebuilt_from_the_ledger(
    open_arm: Open, storage: optuna.storages.RDBStorage, log: RunLog
) -> None:
    search = open_arm()
    for loss in (0.5, 0.4):
        complete(search, loss)
    pruned, diverged, failed = take(search), take(search), take(search)
    search.progress(pruned, Progress(5, 0.9, 0.9, 0.1))
    search.finished(pruned, Ended(TrialState.PRUNED, 0.9))
    search.finished(diverged, Ended(TrialState.DIVERGED))
    search.finished(failed, Ended(TrialState.FAILED, cause="broken"))
    before = {number: (t.params, t.value, t.intermediate_values) for number, t in finished(search).items()}

    optuna.delete_study(study_name=study_name(log.job_id, "warpadam"), storage=storage)
    rebuilt = open_arm()
    after = {number: (t.params, t.value, t.intermediate_values) for number, t in finished(rebuilt).items()}
    assert after == before
    assert set(after) == {0, 1, 2, 3}
    complete(rebuilt, 0.3)  # the sixth trial, sampled from the rebuilt study
    assert rebuilt.next() is None


def finished(search: ArmSearch) -> dict[int, optuna.trial.FrozenTrial]:
    states = (OptunaState.COMPLETE, OptunaState.PRUNED)
    return {t.user_attrs[NUMBER]: t for t in search.study.get_trials(states=states)}


def test_reopening_fails_the_ghosts_of_a_dead_worker_and_repeats_their_trials(
    open_arm: Open, storage: optuna.storages.RDBStorage, log: RunLog, db: Database
) -> None:
    dead = open_arm()
    complete(dead, 0.5)
    interrupted = take(dead)  # and the worker is gone
    dead.study.ask()  # it died before the ledger knew of this one
    assert len(running_in_optuna(storage)) == 2
    log.recover_trials(max_attempts=2)

    search = open_arm()
    assert running_in_optuna(storage) == []
    again = take(search)
    assert (again.key, again.run) == (interrupted.key, interrupted.run)
    search.progress(again, Progress(10, 0.2, 0.2, 0.1))
    search.finished(again, Ended(TrialState.COMPLETE, 0.2))
    assert [trial.attempts for trial in get_trials(db, log.job_id)] == [1, 2]
    assert {number: t.value for number, t in finished(search).items()} == {0: 0.5, 1: 0.2}
    for _ in range(4):
        complete(search, 0.4)
    assert search.next() is None
    assert len(get_trials(db, log.job_id)) == 6


def test_reopening_a_study_that_is_in_line_changes_nothing(open_arm: Open) -> None:
    search = open_arm()
    complete(search, 0.5)
    before = told(search)
    assert told(open_arm()) == before


def test_the_pruner_stops_a_trial_that_is_far_behind_and_never_at_the_last_step(open_arm: Open) -> None:
    search = open_arm()
    for _ in range(5):  # the median pruner watches five trials before it acts
        complete(search, 0.1)
    bad = take(search)
    assert search.progress(bad, Progress(1, 9.0, 9.0, 0.1))  # in the first quarter of the steps
    assert not search.progress(bad, Progress(5, 9.0, 9.0, 0.1))
    assert search.progress(bad, Progress(10, 9.0, 9.0, 0.1))
    search.finished(bad, Ended(TrialState.PRUNED, 9.0))
    assert told(search)[5] == (5, OptunaState.PRUNED, 9.0)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("tpe", optuna.samplers.TPESampler),
        ("random", optuna.samplers.RandomSampler),
        ("gp", optuna.samplers.GPSampler),
        ("qmc", optuna.samplers.QMCSampler),
    ],
)
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_every_sampler_searches_a_conditional_space_and_repeats_itself(
    name: str, kind: type[optuna.samplers.BaseSampler], database_url: str
) -> None:
    from search_spaces import get_preset
    from search_spaces.to_optuna import suggest

    def search(seed: int) -> list[dict[str, object]]:
        sampler = make_sampler(SearchSpec.model_validate({"sampler": name}), seed)
        assert isinstance(sampler, kind)
        study = optuna.create_study(sampler=sampler)
        for index in range(12):
            asked = study.ask()
            suggest(asked, get_preset("default"))
            study.tell(asked, (index * 7 % 5) / 5)
        return [trial.params for trial in study.trials]

    assert search(1) == search(1)
    assert search(1) != search(2)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("asha", optuna.pruners.SuccessiveHalvingPruner),
        ("hyperband", optuna.pruners.HyperbandPruner),
        ("median", optuna.pruners.MedianPruner),
        ("none", optuna.pruners.NopPruner),
    ],
)
@pytest.mark.parametrize("steps", [1, 3, 400])
def test_every_pruner_takes_any_number_of_steps(
    name: str, kind: type[optuna.pruners.BasePruner], steps: int, database_url: str
) -> None:
    pruner = make_pruner(SearchSpec.model_validate({"pruner": name}), steps)
    assert isinstance(pruner, kind)
    study = optuna.create_study(pruner=pruner)
    for loss in (1.0, 2.0, 3.0):
        trial = study.ask()
        trial.report(loss, steps)
        trial.should_prune()
        study.tell(trial, loss)


def test_the_arms_of_a_job_get_samplers_of_their_own(open_arm: Open, log: RunLog) -> None:
    spec = JobSpec.model_validate(log.lease.spec.to_json())
    assert spec == log.lease.spec
    assert open_arm("warpadam").study.study_name != open_arm("adamw").study.study_name
