from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState as OptunaState

from search_spaces import Scalar
from service.artifacts import ArtifactStore, write_artifact
from service.data.prepared import PreparedData
from service.db.session import Database
from service.db.studies import study_name
from service.engines.base import Assignment
from service.errors import LeaseLostError
from service.ledger import jobs, runs
from service.ledger.runs import RunLog
from service.planning.objective import Objective
from service.planning.plan import make_plan
from service.running.arm_search import ArmSearch
from service.running.arm_study import NUMBER, ArmStudy
from service.running.context import JobContext
from service.running.decisions import ArmLimits
from service.running.samplers import make_pruner, make_sampler
from service.settings import Settings
from service.spec.job import EngineSpec, ExtendSpec, JobSpec, SearchSpec
from service.states import ENDED_TRIAL, TrialState
from service.submission.extend import extended
from service.training.run import CurvePoint, Ended
from tests.service.conftest import Submit, get_trials, running_in_optuna

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

CAP = 10

Open = Callable[..., ArmSearch]


def context(log: RunLog, settings: Settings) -> JobContext:
    data = PreparedData("file:///data.npz", "0")
    return JobContext(log, make_plan(log.spec), data, ArtifactStore(settings.artifacts_url), lambda: False)


@pytest.fixture
def log(db: Database, submit: Submit) -> RunLog:
    submit(budget={"trials_per_arm": CAP, "steps": 10}, search={"sampler": "tpe", "pruner": "median"})
    taken = runs.claim(db, "worker", 30.0)
    assert taken is not None
    return taken


@pytest.fixture
def open_arm(log: RunLog, storage: optuna.storages.RDBStorage, settings: Settings) -> Open:
    job = context(log, settings)

    def make(arm: str = "warpadam", storage: optuna.storages.BaseStorage = storage) -> ArmSearch:
        return ArmSearch(job, job.plan.arm(arm), storage)

    return make


def take(search: ArmSearch) -> Assignment:
    assignment = search.next()
    assert assignment is not None
    search.started(assignment)
    return assignment


def complete(search: ArmSearch, loss: float) -> None:
    assignment = take(search)
    search.progress(assignment, CurvePoint(5, loss, loss, 0.1))
    search.progress(assignment, CurvePoint(10, loss, loss, 0.2))
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
    assert {(run.seed, run.test) for run in runs} == {(log.spec.seed, False)}


def test_the_arm_ends_at_its_cap(open_arm: Open) -> None:
    search = open_arm()
    for _ in range(CAP):
        complete(search, 0.5)
    assert search.next() is None


@pytest.fixture
def log_of_twelve(db: Database, submit: Submit) -> RunLog:
    submit(budget={"trials_per_arm": 12, "steps": 10}, search={"sampler": "tpe", "pruner": "none"})
    taken = runs.claim(db, "worker", 30.0)
    assert taken is not None
    return taken


def run_to_the_cap(search: ArmSearch) -> list[dict[str, Scalar]]:
    """Complete all trials, the better the nearer their lr is to 0.02; return what was tried."""
    while (assignment := search.next()) is not None:
        search.started(assignment)
        loss = abs(math.log10(float(str(assignment.run.config["lr"])) / 0.02))
        search.progress(assignment, CurvePoint(10, loss, loss, 0.1))
        search.finished(assignment, Ended(TrialState.COMPLETE, loss, None, 0.1))
    return [dict(trial.params) for trial in search._trials.values()]


def test_the_last_quarter_of_the_trials_are_next_to_the_best_and_another_worker_tries_the_same(
    log_of_twelve: RunLog, storage: optuna.storages.RDBStorage, settings: Settings
) -> None:
    job = context(log_of_twelve, settings)
    arm = job.plan.arm("adamw")
    assert len(arm.space.first_trials) < 9
    first = ArmSearch(job, arm, storage)
    for _ in range(10):
        complete(first, 0.1 * float(str(len(first._trials))))  # the first one stays the best
    first.close()
    second = ArmSearch(job, arm, storage)
    tried = run_to_the_cap(second)
    best = dict(arm.space.first_trials[0])
    assert tried[9] == {**best, "lr": pytest.approx(0.01 * 10**0.25)}
    assert tried[10] == {**best, "lr": pytest.approx(0.01 * 10**-0.25)}
    assert tried[11]["lr"] != best["lr"] or tried[11]["weight_decay"] != best["weight_decay"]


def test_a_search_that_is_not_refined_leaves_all_trials_to_the_sampler(
    db: Database, submit: Submit, storage: optuna.storages.RDBStorage, settings: Settings
) -> None:
    submit(budget={"trials_per_arm": 12, "steps": 10}, search={"sampler": "random", "pruner": "none", "refine": 0})
    taken = runs.claim(db, "worker", 30.0)
    assert taken is not None
    job = context(taken, settings)
    arm = job.plan.arm("adamw")
    tried = run_to_the_cap(ArmSearch(job, arm, storage))
    lrs = [float(str(values["lr"])) for values in tried]
    ladder = {float(str(values["lr"])) for values in arm.space.first_trials}
    steps = [4 * math.log10(lr / one) for lr in lrs[8:] for one in ladder]
    assert not any(abs(step - round(step)) < 1e-6 for step in steps)


def test_the_ledger_keeps_the_loss_of_the_point_that_is_judged(open_arm: Open, db: Database, log: RunLog) -> None:
    """It decides between trials of an equal score."""
    search = open_arm()
    assignment = take(search)
    for step, loss in enumerate([0.9, 0.5, 0.1, 0.4, 0.6, 0.8, 0.9, 0.9, 0.9, 0.9], start=1):
        search.progress(assignment, CurvePoint(step, loss, loss, 0.1))
    search.finished(assignment, Ended(TrialState.COMPLETE, 0.9, None, 0.2))
    (row,) = get_trials(db, log.job_id)
    assert row.value == pytest.approx((0.9 + 0.5 + 0.1 + 0.4) / 4)
    assert row.val_loss == 0.5


def test_a_lost_trial_begins_again_and_its_repeated_points_are_reported_once(open_arm: Open) -> None:
    search = open_arm()
    first = take(search)
    search.progress(first, CurvePoint(5, 0.4, 0.4, 0.1))
    assert search.lost(first, "killed")
    search.started(first)
    again = first
    search.progress(again, CurvePoint(5, 0.4, 0.4, 0.1))
    search.progress(again, CurvePoint(10, 0.3, 0.3, 0.2))
    assert search.lost(again, "killed")  # it came further than the first, as that did: neither counts
    for may_begin_again in (True, False):
        search.started(again)
        search.progress(again, CurvePoint(5, 0.4, 0.4, 0.1))
        assert search.lost(again, "killed") is may_begin_again
    search.finished(again, Ended(TrialState.FAILED, cause="killed"))
    assert [trial.state for trial in search.study.trials if NUMBER in trial.user_attrs] == [OptunaState.FAIL]


def test_points_that_a_resumed_trial_repeats_are_kept_and_not_judged_again(
    open_arm: Open, db: Database, log: RunLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = open_arm()
    first = take(search)
    for step in (2, 4, 6):
        assert search.progress(first, CurvePoint(step, 0.4, 0.4, 0.1))
    assert search.lost(first, "killed")
    monkeypatch.setattr(optuna.Trial, "should_prune", lambda _: True)
    monkeypatch.setattr(ArmSearch, "_may_prune", True)  # not before the first trials have ended otherwise
    again = first
    search.started(again)
    answers = [search.progress(again, CurvePoint(step, 0.4, 0.4, 0.1)) for step in (2, 4, 6)]
    assert answers == [True, True, False]
    search.finished(again, Ended(TrialState.PRUNED, 0.4))
    assert [point.step for point in log.curves([first.key])[first.key]] == [2, 4, 6]


def test_a_search_that_cannot_write_its_new_trial_leaves_none_running_in_optuna(
    open_arm: Open, log: RunLog, db: Database, storage: optuna.storages.RDBStorage
) -> None:
    search = open_arm()
    complete(search, 0.5)
    with db.write() as session:
        jobs.require_job(session, log.job_id).lease_token += 1  # as if another worker had the job
    with pytest.raises(LeaseLostError):
        search.next()
    assert running_in_optuna(storage) == []


@pytest.mark.parametrize(("owner", "call"), [(ArmStudy, "tell"), (RunLog, "curves")], ids=["tells", "opens a study"])
def test_a_worker_that_stood_still_stores_no_trial_that_another_has_stored(
    owner: type,
    call: str,
    log: RunLog,
    db: Database,
    storage: optuna.storages.RDBStorage,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def search(log: RunLog) -> ArmSearch:
        job = context(log, settings)
        return ArmSearch(job, job.plan.arm("warpadam"), storage)

    def overtaken(*given: Any) -> Any:
        monkeypatch.undo()
        with db.write() as session:
            jobs.require_job(session, log.job_id).lease_token += 1
        search(replace(log, token=log.token + 1))
        return original(*given)

    first = search(log)
    if owner is RunLog:  # there is a trial to store, whose learning curve is read
        monkeypatch.setattr(ArmStudy, "tell", lambda *_: None)
        complete(first, 0.5)
    original = getattr(owner, call)
    monkeypatch.setattr(owner, call, overtaken)
    with pytest.raises(LeaseLostError):
        search(log) if owner is RunLog else complete(first, 0.5)
    (study,) = storage.get_all_studies()
    assert [trial.user_attrs[NUMBER] for trial in storage.get_all_trials(study._study_id)] == [0]


@pytest.mark.parametrize("state", ENDED_TRIAL)
def test_the_checkpoints_of_a_trial_go_when_it_ends_and_not_when_it_is_put_back(
    open_arm: Open, state: TrialState
) -> None:
    search = open_arm()
    assignments = [take(search) for _ in range(3)]
    urls = [f"{assignment.run.checkpoint_url}/step-1.ckpt" for assignment in assignments]
    assert len(set(urls)) == 3
    for url in urls:
        write_artifact(url, b"state")
    ended, interrupted, lost = assignments
    search.interrupted(interrupted)
    search.lost(lost, "killed")
    search.finished(ended, Ended(state, 0.5, cause="why"))
    assert [Path(url.removeprefix("file://")).exists() for url in urls] == [False, True, True]


def test_a_diverged_trial_is_told_as_the_worst_finite_loss_so_far(open_arm: Open) -> None:
    search = open_arm()
    complete(search, 0.5)
    complete(search, 3.5)
    search.finished(take(search), Ended(TrialState.DIVERGED, None, cause="the training loss is nan"))
    assert told(search)[2] == (2, OptunaState.PRUNED, 3.5)


@pytest.mark.parametrize(
    ("parts", "penalties"),
    [
        ({"search": {"sampler": "gp", "pruner": "none"}}, [[0.5], [3.5]]),
        ({"search": {"pruner": "none"}, "objective": {"trade_off": "seconds"}}, [[0.5, 0.3], [3.5, 0.3]]),
        (
            {"search": {"sampler": "gp", "pruner": "none"}, "objective": {"metric": "steps_to_target", "target": 0.6}},
            [[5.0], [12.9]],  # 2.9 above the target at the end of ten steps
        ),
    ],
    ids=["gp", "two objectives", "steps"],
)
def test_where_only_completed_trials_count_a_diverged_one_is_told_as_the_worst_of_them(
    db: Database,
    submit: Submit,
    storage: optuna.storages.RDBStorage,
    settings: Settings,
    parts: dict[str, Any],
    penalties: list[list[float]],
) -> None:
    job_id = submit(budget={"trials_per_arm": CAP, "steps": 10}, **parts)
    log = runs.claim(db, "worker", 30.0)
    assert log is not None
    job = context(log, settings)

    def reopen() -> ArmSearch:
        return ArmSearch(job, job.plan.arm("adamw"), storage)

    def diverge(search: ArmSearch) -> None:
        assignment = take(search)
        search.progress(assignment, CurvePoint(5, 1e25, 1e25, 0.3))
        search.finished(assignment, Ended(TrialState.DIVERGED, 1e25, None, 0.3))

    def seen(search: ArmSearch) -> dict[int, tuple[OptunaState, list[float] | None, dict[int, float]]]:
        return {number: (t.state, t.values, t.intermediate_values) for number, t in finished(search.study).items()}

    search = reopen()
    diverge(search)
    complete(search, 0.5)
    diverge(search)
    complete(search, 3.5)
    diverge(search)
    before = seen(search)
    assert (before[0][0], before[0][1]) == (OptunaState.FAIL, None)  # nothing completed yet
    assert [before[number][:2] for number in (2, 4)] == [(OptunaState.COMPLETE, values) for values in penalties]
    search.close()

    assert seen(reopen()) == before
    assert len(optuna.load_study(study_name=study_name(job_id, "adamw"), storage=storage).trials) == 5
    optuna.delete_study(study_name=study_name(job_id, "adamw"), storage=storage)
    assert seen(reopen()) == before


def test_a_study_that_was_lost_is_rebuilt_from_the_ledger(
    open_arm: Open, storage: optuna.storages.RDBStorage, log: RunLog
) -> None:
    search = open_arm()
    for loss in (0.5, 0.4):
        complete(search, loss)
    pruned, diverged, failed = take(search), take(search), take(search)
    search.progress(pruned, CurvePoint(5, 0.9, 0.9, 0.1))
    search.finished(pruned, Ended(TrialState.PRUNED, 0.9))
    search.finished(diverged, Ended(TrialState.DIVERGED))
    search.finished(failed, Ended(TrialState.FAILED, cause="broken"))
    complete(search, 7.0)  # worse than what the diverged one was told as
    before = {number: (t.params, t.value, t.intermediate_values) for number, t in finished(search.study).items()}

    optuna.delete_study(study_name=study_name(log.job_id, "warpadam"), storage=storage)
    rebuilt = open_arm()
    after = {number: (t.params, t.value, t.intermediate_values) for number, t in finished(rebuilt.study).items()}
    assert after == before
    assert set(after) == {0, 1, 2, 3, 4, 5}
    assert after[3][2] == {1: 0.9}
    for _ in range(CAP - 6):
        complete(rebuilt, 0.3)  # sampled from the rebuilt study
    assert rebuilt.next() is None


def finished(study: optuna.Study) -> dict[int, optuna.trial.FrozenTrial]:
    return {t.user_attrs[NUMBER]: t for t in study.get_trials() if t.state.is_finished()}


def test_a_dead_worker_leaves_nothing_running_in_optuna_and_its_trials_are_repeated(
    open_arm: Open, storage: optuna.storages.RDBStorage, log: RunLog, db: Database
) -> None:
    dead = open_arm()
    complete(dead, 0.5)
    interrupted = take(dead)  # and the worker is gone
    log.recover_trials()

    search = open_arm()
    assert running_in_optuna(storage) == []
    again = take(search)
    assert (again.key, again.run) == (interrupted.key, interrupted.run)
    search.progress(again, CurvePoint(10, 0.2, 0.2, 0.1))
    search.finished(again, Ended(TrialState.COMPLETE, 0.2))
    assert [trial.attempts for trial in get_trials(db, log.job_id)] == [1, 2]
    stored = optuna.load_study(study_name=dead.study.study_name, storage=storage)
    assert stored.metric_names == ["val_loss"]
    assert stored.user_attrs == {"job": "small", "dataset": "wine", "arm": "warpadam"}
    for study in (search.study, stored):
        assert {number: t.value for number, t in finished(study).items()} == {0: 0.5, 1: 0.2}
    for _ in range(CAP - 2):
        complete(search, 0.4)
    assert search.next() is None
    assert len(get_trials(db, log.job_id)) == CAP


def test_a_trial_whose_worker_died_before_its_last_loss_was_stored_as_its_end_has_no_retry(
    open_arm: Open, log: RunLog, db: Database
) -> None:
    """Ray takes a negative number of retries for as many as it likes."""
    take(open_arm())
    (trial,) = get_trials(db, log.job_id)
    for _ in range(log.spec.resources.max_attempts + 1):
        log.lose(trial, "killed", 0, log.spec.resources.max_attempts)
    log.recover_trials()
    assert take(open_arm()).retries == 0


def test_reopening_a_study_that_is_in_line_changes_nothing(open_arm: Open) -> None:
    search = open_arm()
    complete(search, 0.5)
    before = told(search)
    assert told(open_arm()) == before


def test_the_pruner_stops_a_trial_that_is_far_behind_and_never_at_the_last_step(open_arm: Open) -> None:
    search = open_arm()
    bad = after_the_first_eight(search, [0.1 * i for i in range(1, 9)])
    assert search.progress(bad, CurvePoint(1, 9.0, 9.0, 0.1))  # in the first quarter of the steps
    assert not search.progress(bad, CurvePoint(5, 9.0, 9.0, 0.1))
    assert search.progress(bad, CurvePoint(10, 9.0, 9.0, 0.1))
    search.finished(bad, Ended(TrialState.PRUNED, 9.0))
    assert told(search)[8] == (8, OptunaState.PRUNED, 9.0)


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp", "qmc"])
def test_a_space_with_one_point_is_searched_with_one_trial_even_after_an_extension(
    db: Database, submit: Submit, storage: optuna.storages.RDBStorage, settings: Settings, sampler: str
) -> None:
    submit(search={"sampler": sampler, "pruner": "none"})
    taken = runs.claim(db, "worker", 30.0)
    assert taken is not None
    job = context(taken, settings)
    search = ArmSearch(job, job.plan.arm("adamw_default"), storage)
    assignment = take(search)
    assert assignment.run.config == {"lr": 0.001, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.01}
    assert search.next() is None
    search.finished(assignment, Ended(TrialState.COMPLETE, 0.5, None, 0.2))
    assert told(search) == [(0, OptunaState.COMPLETE, 0.5)]
    more = replace(job, plan=make_plan(extended(taken.spec, ExtendSpec(trials=5), settings)))
    again = ArmSearch(more, more.plan.arm("adamw_default"), storage)
    assert again.next() is None
    assert again.reached == "trials_per_arm"
    assert told(again) == told(search)


def after_the_first_eight(search: ArmSearch, finals: list[float]) -> Assignment:
    """Complete eight trials, whose losses at the first rung are 1, 2, ... 8; return the ninth."""
    for early, final in enumerate(finals, start=1):
        assignment = take(search)
        assert search.progress(assignment, CurvePoint(5, float(early), float(early), 0.1))
        for step in range(6, 11):  # at its best point a run has its final loss, as neighbours count too
            assert search.progress(assignment, CurvePoint(step, final, final, 0.2))
        search.finished(assignment, Ended(TrialState.COMPLETE, final, None, 0.2))
    return take(search)


@pytest.mark.parametrize("pruner", ["asha", "median"])
def test_later_trials_are_compared_with_the_first_ones(
    db: Database, submit: Submit, storage: optuna.storages.RDBStorage, settings: Settings, pruner: str
) -> None:
    submit(budget={"trials_per_arm": CAP, "steps": 10}, search={"sampler": "random", "pruner": pruner})
    taken = runs.claim(db, "worker", 30.0)
    assert taken is not None
    job = context(taken, settings)
    search = ArmSearch(job, job.plan.arm("adamw"), storage)
    worse_than_all = after_the_first_eight(search, [0.1 * i for i in range(1, 9)])
    assert not search.progress(worse_than_all, CurvePoint(5, 9.0, 9.0, 0.1))


def test_the_first_eight_trials_are_never_stopped(open_arm: Open) -> None:
    search = open_arm()
    for index in range(8):
        assignment = take(search)
        assert search.progress(assignment, CurvePoint(5, 10.0**index, 10.0**index, 0.1))
        search.progress(assignment, CurvePoint(10, 1.0, 1.0 + index, 0.2))
        search.finished(assignment, Ended(TrialState.COMPLETE, 1.0 + index, None, 0.2))
    assert search.fidelity is not None
    assert (search.fidelity.tau, search.fidelity.trusted) == (1.0, True)


def test_pruning_is_off_where_early_losses_do_not_rank_runs_as_final_ones_do(open_arm: Open) -> None:
    search = open_arm()
    bad = after_the_first_eight(search, [4.0, 1.0, 3.0, 2.0, 4.5, 1.5, 3.5, 2.5])
    assert search.fidelity is not None
    assert search.fidelity.tau is not None
    assert search.fidelity.tau < 0.5
    assert search.progress(bad, CurvePoint(5, 99.0, 99.0, 0.1))
    again = open_arm()  # another worker measures the same
    assert again.fidelity == search.fidelity


def test_pruning_stays_off_in_the_arms_after_one_that_could_not_be_trusted(
    open_arm: Open, log: RunLog, storage: optuna.storages.RDBStorage, settings: Settings
) -> None:
    job = context(log, settings)
    search = ArmSearch(job, job.plan.arm("adamw"), storage, ArmLimits(steps=10, pruning=False))
    bad = after_the_first_eight(search, [0.1 * i for i in range(1, 9)])
    assert search.fidelity is not None
    assert search.fidelity.trusted
    assert search.progress(bad, CurvePoint(5, 99.0, 99.0, 0.1))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("tpe", optuna.samplers.TPESampler),
        ("random", optuna.samplers.RandomSampler),
        ("gp", optuna.samplers.GPSampler),
        ("qmc", optuna.samplers.QMCSampler),
    ],
)
def test_every_sampler_searches_a_conditional_space_and_repeats_itself(
    name: str, kind: type[optuna.samplers.BaseSampler], database_url: str
) -> None:
    from search_spaces import get_preset
    from search_spaces.to_optuna import suggest

    def search(arm_seed: str) -> list[dict[str, object]]:
        study = optuna.create_study()
        for index in range(12):
            study.sampler = make_sampler(SearchSpec.model_validate({"sampler": name}), arm_seed, index)
            assert isinstance(study.sampler, kind)
            asked = study.ask()
            suggest(asked, get_preset("default"))
            study.tell(asked, (index * 7 % 5) / 5)
        return [trial.params for trial in study.trials]

    assert search("1/warpadam") == search("1/warpadam")
    assert search("1/warpadam") != search("2/warpadam")
    assert len({str(params) for params in search("1/warpadam")}) == 12


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
    objective = Objective(metric="val_loss", target=None, steps=steps, max_seconds=60.0)
    pruner = make_pruner(EngineSpec(), SearchSpec.model_validate({"pruner": name}), objective)
    assert isinstance(pruner, kind)
    study = optuna.create_study(pruner=pruner)
    for loss in (1.0, 2.0, 3.0):
        trial = study.ask()
        trial.report(loss, steps)
        trial.should_prune()
        study.tell(trial, loss)


def test_an_interrupted_search_goes_on_as_it_would_have(
    db: Database, submit: Submit, storage: optuna.storages.RDBStorage, settings: Settings
) -> None:
    def params(interrupted: bool) -> list[dict[str, Scalar]]:
        job_id = submit(budget={"trials_per_arm": 16, "steps": 10}, search={"sampler": "tpe", "pruner": "none"})
        taken = runs.claim(db, "worker", 30.0)
        assert taken is not None
        job = context(taken, settings)

        def reopen() -> ArmSearch:
            return ArmSearch(job, job.plan.arm("warpadam"), storage)

        search = reopen()
        for index in range(16):
            if interrupted and index in (2, 13):
                search.interrupted(take(search))
                search.close()
                search = reopen()
            complete(search, (index * 7 % 5) / 5)
        assert running_in_optuna(storage) == []
        return [trial.params for trial in get_trials(db, job_id)]

    assert params(interrupted=True) == params(interrupted=False)


def test_a_first_trial_that_got_lost_with_its_worker_is_tried_all_the_same(open_arm: Open) -> None:
    dead = open_arm()
    dead.study.ask()  # the worker died before it could write the trial
    search = open_arm()
    tried = [take(search).run.config for _ in range(3)]
    plan = search._plan.arm("warpadam")
    assert all(plan.config(values) in tried for values in plan.space.first_trials)


def test_at_the_end_of_the_arms_time_a_trial_that_waits_for_its_second_attempt_is_over(
    open_arm: Open, log: RunLog, db: Database, storage: optuna.storages.RDBStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = open_arm()
    assignment = take(search)
    search.progress(assignment, CurvePoint(5, 0.4, 0.4, 0.1))
    search.lost(assignment, "killed")
    monkeypatch.setattr(ArmSearch, "out_of_time", True)
    search.interrupted(assignment)
    search.close()
    (trial,) = get_trials(db, log.job_id)
    assert (trial.state, trial.cause) == (TrialState.PRUNED, "the arm reached budget.max_seconds = 600")
    assert running_in_optuna(storage) == []


def test_a_diverged_trial_looks_worse_to_the_sampler_than_a_pruned_one(open_arm: Open) -> None:
    search = open_arm()
    complete(search, 0.5)
    pruned, diverged = take(search), take(search)
    search.progress(pruned, CurvePoint(5, 0.9, 0.9, 0.1))
    search.finished(pruned, Ended(TrialState.PRUNED, 0.9))
    search.finished(diverged, Ended(TrialState.DIVERGED))
    by_number = finished(search.study)
    assert by_number[2].last_step is not None
    assert by_number[1].last_step is not None
    assert by_number[2].last_step < by_number[1].last_step  # it is ranked by how far it came, then by its value
    assert by_number[2].value == 0.9


def test_the_clock_of_an_arm_runs_from_its_first_run_on(open_arm: Open) -> None:
    search = open_arm()
    assert search.seconds_used == 0.0
    take(search)
    assert search.seconds_used > 0.0


def test_the_arms_of_a_job_get_samplers_of_their_own(open_arm: Open, log: RunLog) -> None:
    spec = JobSpec.model_validate(log.spec.to_json())
    assert spec == log.spec
    assert open_arm("warpadam").study.study_name != open_arm("adamw").study.study_name
