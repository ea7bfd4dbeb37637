# Trials of an earlier job: which are taken over, what of them a sampler sees, and that they are nobody's result.
from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState as OptunaState

from service.artifacts import ArtifactStore
from service.data.catalog import BUNDLED
from service.data.prepared import PreparedData
from service.db.models import Trial
from service.db.session import Database
from service.db.studies import study_name
from service.errors import FieldError, InvalidSpecError
from service.ledger import jobs, runs
from service.planning.plan import make_plan, plan_of
from service.running.arm_search import ArmSearch
from service.running.arm_study import EARLIER, NUMBER
from service.running.context import JobContext
from service.settings import Settings
from service.spec.job import JobSpec
from service.states import JobState, TrialState
from service.submission.earlier_trials import (
    EARLIER_TRIALS_FILE,
    TRIED_AGAIN,
    EarlierTrial,
    EarlierTrials,
    find_earlier_trials,
    read_earlier_trials,
)
from service.training.run import CurvePoint, Ended
from service.version import versions
from tests.conftest import SpecMaker
from tests.service.conftest import Submit, get_trials, queue_job

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

LRS = [0.01 * (index + 1) for index in range(7)]


def earlier_job(db: Database, submit: Submit, **parts: Any) -> str:
    """A job that has ended, with seven completed trials of AdamW and one that failed."""
    job_id = submit(**parts)
    fill(db, job_id)
    return job_id


def fill(db: Database, job_id: str) -> None:
    """Make the trials of the job that is queued, and end it."""
    taken = runs.claim(db, "worker", 30.0)
    assert taken is not None
    assert taken.job_id == job_id
    log = taken
    for arm in ("warpadam", "adamw"):
        log.start_arm(arm)
    best = plan_of(taken.spec_json, taken.info_json).arm("warpadam").space.some_values()
    for arm, params in (("warpadam", best), *(("adamw", adamw(lr)) for lr in LRS)):
        row = log.add_trial(arm, params, running=True)
        log.add_points([(row.id, CurvePoint(10, 1.0, 0.5, 0.1))])
        log.finish_trial(row.id, Ended(TrialState.COMPLETE, params["lr"] if arm == "adamw" else 0.3, None, 0.1), 0.1)
    failed = log.add_trial("adamw", adamw(0.09), running=True)
    log.finish_trial(failed.id, Ended(TrialState.FAILED, cause="killed"), 0.1)
    log.end(JobState.FAILED, "of the tests")


def adamw(lr: float) -> dict[str, Any]:
    return {"lr": lr, "beta1": 0.9, "beta2": 0.95, "weight_decay": 0.0}


def open_search(
    db: Database, storage: optuna.storages.RDBStorage, settings: Settings, body: dict[str, Any], arm: str = "adamw"
) -> ArmSearch:
    """Queue a job with what it takes over, take it as a worker does, and open one of its arms."""
    plan = make_plan(JobSpec.model_validate(body))
    found, artifacts = find_earlier_trials(db, plan), ArtifactStore(settings.artifacts_url)
    assert found is not None

    artifacts.put(queue_job(db, plan.spec), EARLIER_TRIALS_FILE, found)
    taken = runs.claim(db, "worker", 30.0)
    assert taken is not None
    log = taken
    job = JobContext(log, plan, PreparedData("file:///data.npz", "0"), artifacts, lambda: False)
    return ArmSearch(job, plan.arm(arm), storage)


def test_values_of_the_same_work_are_shown_and_belong_to_nobody(
    db: Database, submit: Submit, storage: optuna.storages.RDBStorage, settings: Settings, spec: SpecMaker
) -> None:
    job_id = earlier_job(db, submit)
    search = open_search(db, storage, settings, spec(search={"sampler": "tpe", "pruner": "none", "from_job": job_id}))
    shown = [trial for trial in search.study.trials if trial.state == OptunaState.COMPLETE]
    assert [trial.value for trial in shown] == LRS
    assert {trial.user_attrs[EARLIER] for trial in shown} == {f"{job_id}/{number}" for number in range(1, 8)}
    assert not any(NUMBER in trial.user_attrs for trial in shown)
    mine = search._log.job_id
    assert get_trials(db, mine) == []
    done = search.next()
    assert done is not None
    search.started(done)
    search.progress(done, CurvePoint(10, 0.5, 0.5, 0.1))
    search.finished(done, Ended(TrialState.COMPLETE, 0.5, None, 0.1))
    assert [(row.number, row.value) for row in get_trials(db, mine)] == [(0, 0.5)]
    stored = optuna.load_study(study_name=study_name(mine, "adamw"), storage=storage).trials
    assert [(trial.user_attrs, trial.value) for trial in stored] == [({NUMBER: 0}, 0.5)]


def test_an_arm_that_is_opened_again_knows_them_still(
    db: Database, submit: Submit, storage: optuna.storages.RDBStorage, settings: Settings, spec: SpecMaker
) -> None:
    job_id = earlier_job(db, submit)
    search = open_search(db, storage, settings, spec(search={"sampler": "tpe", "pruner": "none", "from_job": job_id}))
    jobs.delete_row(db, job_id)
    first = search.next()
    assert first is not None
    search.started(first)
    search.finished(first, Ended(TrialState.COMPLETE, 0.5, None, 0.1))
    again = ArmSearch(search._job, search._arm, storage)
    values = [trial.value for trial in again.study.trials if trial.state == OptunaState.COMPLETE]
    assert values == [*LRS, 0.5]


def test_of_other_work_the_best_configs_are_tried_first_and_no_value_is_taken(
    db: Database, submit: Submit, storage: optuna.storages.RDBStorage, settings: Settings, spec: SpecMaker
) -> None:
    job_id = earlier_job(db, submit)
    body = spec(
        dataset={"name": "breast_cancer"},
        search={"sampler": "random", "pruner": "none", "from_job": job_id},
        budget={"trials_per_arm": 7, "steps": 10, "batch_size": 32},
    )
    search = open_search(db, storage, settings, body)
    assert not [trial for trial in search.study.trials if trial.state == OptunaState.COMPLETE]
    asked = [search.next() for _ in range(TRIED_AGAIN + 1)]
    lrs = [assignment.run.config["lr"] for assignment in asked if assignment is not None]
    assert lrs[:TRIED_AGAIN] == LRS[:TRIED_AGAIN]
    assert asked[-1] is not None
    assert asked[-1].run.config["lr"] == 0.01  # then the preset's own, without the two that were tried


@pytest.mark.parametrize("known", [True, False], ids=["other versions", "versions that were not recorded"])
def test_of_other_versions_the_best_configs_are_tried_first_and_no_value_is_taken(
    db: Database,
    submit: Submit,
    storage: optuna.storages.RDBStorage,
    settings: Settings,
    spec: SpecMaker,
    known: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as before:
        before.setattr(runs, "versions", lambda: versions() | {"code": "0" * 12} if known else {})
        job_id = earlier_job(db, submit)
    search = open_search(db, storage, settings, spec(search={"sampler": "tpe", "pruner": "none", "from_job": job_id}))
    assert not [trial for trial in search.study.trials if trial.state == OptunaState.COMPLETE]
    first = search.next()
    assert first is not None
    assert first.run.config["lr"] == LRS[0]


def test_one_trial_of_another_version_makes_the_values_of_its_arm_no_longer_comparable(
    db: Database, submit: Submit, settings: Settings, spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = submit()
    with monkeypatch.context() as before:
        before.setattr(runs, "versions", lambda: versions() | {"code": "0" * 12})
        first = runs.claim(db, "worker", 30.0)
        assert first is not None
        row = first.add_trial("adamw", adamw(0.5), running=True)
        first.finish_trial(row.id, Ended(TrialState.COMPLETE, 0.5, None, 0.1), 0.1)
        first.release()
    fill(db, job_id)
    content = find_earlier_trials(db, make_plan(JobSpec.model_validate(spec(search={"from_job": job_id}))))
    assert content is not None
    store = ArtifactStore(settings.artifacts_url)
    store.put("job-new", EARLIER_TRIALS_FILE, content)
    comparable = {arm: read_earlier_trials(store, "job-new", arm) for arm in ("warpadam", "adamw")}
    assert {arm: found and found.comparable for arm, found in comparable.items()} == {"warpadam": True, "adamw": False}


@pytest.mark.usefixtures("db")
def test_a_trial_without_a_stored_loss_wins_no_tie() -> None:
    losses = {0: None, 1: 0.2, 2: 0.1}
    trials = tuple(
        EarlierTrial(number=number, params={"lr": number}, value=0.5, seconds=1.0, val_loss=loss)
        for number, loss in losses.items()
    )
    found = EarlierTrials(job_id="job-0", comparable=False, trials=trials)
    assert found.best() == [{"lr": 2}, {"lr": 1}, {"lr": 0}]


@pytest.mark.parametrize("seed", [0, 1], ids=["comparable", "not comparable"])
def test_the_arm_that_nobody_tunes_runs_its_one_trial_whatever_is_known(
    db: Database, submit: Submit, storage: optuna.storages.RDBStorage, settings: Settings, spec: SpecMaker, seed: int
) -> None:
    job_id = submit()
    taken = runs.claim(db, "worker", 30.0)
    assert taken is not None
    row = taken.add_trial("adamw_default", {}, running=True)
    taken.finish_trial(row.id, Ended(TrialState.COMPLETE, 0.4, None, 0.1), 0.1)
    taken.end(JobState.FAILED, "of the tests")
    body = spec(search={"sampler": "tpe", "pruner": "none", "from_job": job_id}, seed=seed)
    search = open_search(db, storage, settings, body, "adamw_default")
    assignment = search.next()
    assert assignment is not None
    assert assignment.run.config["lr"] == 0.001
    assert search.next() is None


@pytest.mark.parametrize(
    ("changes", "comparable"),
    [
        ({}, True),
        ({"name": "another name"}, True),
        ({"confirm": {"seeds": 8}}, True),
        ({"seed": 1}, False),
        ({"dataset": {"name": "breast_cancer"}}, False),
        ({"model": {"name": "mlp", "hidden": [9]}}, False),
        ({"training": {"schedule": "constant"}}, False),
        ({"budget": {"trials_per_arm": 9, "steps": 10, "batch_size": 32, "max_seconds": 5}}, True),
        ({"budget": {"steps": 11, "batch_size": 32}}, False),
    ],
)
def test_values_compare_only_where_a_config_would_cost_the_same(
    db: Database, submit: Submit, settings: Settings, spec: SpecMaker, changes: dict[str, Any], comparable: bool
) -> None:
    job_id = earlier_job(db, submit)
    body = spec(**changes)
    plan = make_plan(JobSpec.model_validate(body | {"search": {**body["search"], "from_job": job_id}}))
    content, store = find_earlier_trials(db, plan), ArtifactStore(settings.artifacts_url)
    assert content is not None
    store.put("job-new", EARLIER_TRIALS_FILE, content)
    found = read_earlier_trials(store, "job-new", "adamw")
    assert found is not None
    assert (found.comparable, [trial.number for trial in found.trials]) == (comparable, list(range(1, 8)))
    assert read_earlier_trials(store, "job-new", "muon") is None


def test_steps_that_each_job_finds_out_make_no_comparable_values(db: Database, submit: Submit, spec: SpecMaker) -> None:
    parts: dict[str, Any] = {"controls": ["adamw_more_steps"]}
    job_id = earlier_job(db, submit, **parts)
    with db.write() as session:
        row = session.query(Trial).filter(Trial.job_id == job_id, Trial.number == 7).one()
        row.arm = "adamw_more_steps"
    content = find_earlier_trials(db, make_plan(JobSpec.model_validate(spec(search={"from_job": job_id}, **parts))))
    assert content is not None
    comparable = {arm: found["comparable"] for arm, found in json.loads(content).items()}
    assert comparable == {"warpadam": True, "adamw": True, "adamw_more_steps": False}


@pytest.mark.parametrize(("sha256", "comparable"), [("0" * 64, True), ("1" * 64, False)])
def test_values_of_user_code_compare_only_if_its_source_is_the_same(
    db: Database, submit: Submit, spec: SpecMaker, sha256: str, comparable: bool
) -> None:
    model = {"entrypoint": "models:make", "config": {}}
    known = replace(BUNDLED["wine"].info, tensors=((3, 13), (3,)), sources={"models:make": "0" * 64})
    parsed = JobSpec.model_validate(spec(model=model))
    queued = queue_job(db, parsed, known)
    fill(db, queued)
    body = spec(model=model, search={"from_job": queued})
    plan = make_plan(JobSpec.model_validate(body), replace(known, sources={"models:make": sha256}))
    content = find_earlier_trials(db, plan)
    assert content is not None
    assert {found["comparable"] for found in json.loads(content).values()} == {comparable}


SPACES: list[tuple[dict[str, Any], str]] = [
    ({"search_space": {"preset": "quick", "overrides": {"lr": 0.01}}}, "lr is a number from 0.0001 to 0.3 there"),
    ({"search_space": {"preset": "default"}}, "arm warpadam has the same search space: strategy is"),
    ({"search_space": {"preset": "quick", "overrides": {"eps": 1e-6}}}, "eps is not tuned there"),
    ({"baselines": ["muon"]}, "must name a job that has the arm muon; this one has warpadam, adamw"),
    ({"arms": "per_structure"}, "must name a job that has the arm warpadam-kronecker"),
]


@pytest.mark.parametrize(("changes", "expected"), SPACES)
def test_another_search_space_is_refused_by_the_name_of_the_parameter(
    db: Database, submit: Submit, spec: SpecMaker, changes: dict[str, Any], expected: str
) -> None:
    body = spec(search={"from_job": earlier_job(db, submit)}) | changes
    with pytest.raises(InvalidSpecError) as caught:
        find_earlier_trials(db, make_plan(JobSpec.model_validate(body)))
    (error,) = caught.value.errors
    assert error.field == "search.from_job"
    assert expected in error.message


def test_a_job_that_has_nothing_to_give_is_refused(db: Database, submit: Submit, spec: SpecMaker) -> None:
    def refusal(job_id: str) -> FieldError:
        with pytest.raises(InvalidSpecError) as caught:
            find_earlier_trials(db, make_plan(JobSpec.model_validate(spec(search={"from_job": job_id}))))
        (error,) = caught.value.errors
        assert (error.field, error.value) == ("search.from_job", job_id)
        return error

    unknown = refusal("job-0")
    assert (unknown.message, unknown.code) == ("names no job", "unknown_name")
    assert unknown.hint == "GET /v1/jobs lists the jobs."
    queued = submit()
    assert refusal(queued).message == "must name a job that has ended; this one is queued"
    jobs.cancel(db, queued)
    assert refusal(queued).message == "must name a job with completed trials; this one has none"
