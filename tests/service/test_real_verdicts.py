# The verdict on real runs: what helps, what cannot matter and what hurts are told apart, and noise is not called help.
from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import optuna
import pytest

from service.db.models import ConfirmRun, RecommendationRow
from service.db.session import Database
from service.recommend import verdict as verdict_module
from service.recommend.verdict import compare
from service.result.job_result import Word
from service.spec.job import ExtendSpec
from service.states import JobState
from service.submission import Context
from service.submission.extend import extend
from tests.service import faults
from tests.service.conftest import Submit, WorkerMaker, get_job, get_trials, running_in_optuna

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def result(db: Database, job_id: str) -> dict[str, Any]:
    assert get_job(db, job_id).cause is None
    with db.read() as session:
        return session.get_one(RecommendationRow, job_id).data


def autoencoder(**parts: Any) -> dict[str, Any]:
    return {
        "dataset": {"name": "digits"},
        "model": {"name": "autoencoder", "hidden": [32], "code": 8},
        "budget": {"trials_per_arm": 4, "steps": 200, "batch_size": 128},
        "confirm": {"seeds": 8},
    } | parts


@pytest.mark.slow
def test_a_kronecker_p_helps_an_autoencoder_of_digits(db: Database, submit: Submit, make_worker: WorkerMaker) -> None:
    space = {"preset": "quick", "overrides": {"structure": "kronecker"}}
    budget = {"trials_per_arm": 12, "steps": 200, "batch_size": 128}  # with four, luck could explain the difference
    job_id = submit(**autoencoder(search_space=space, budget=budget))
    make_worker().run_next()
    found = result(db, job_id)
    assert (found["verdict"], found["arm"]) == ("helps", "warpadam"), found["reason"]
    assert found["statistics"]["p_helps"] == 1 / 2**8
    by_metric = {row["metric"]: row for row in found["findings"]["comparisons"]}
    assert by_metric["steps_to_loss_of_baseline"]["mean"] < by_metric["steps_to_loss_of_baseline"]["against_mean"]
    assert by_metric["training_seconds"]["improvement"] < 0  # P is not free
    assert all(row["p_holm"] <= 1 for row in by_metric.values())


@pytest.mark.slow
def test_a_p_that_cannot_matter_makes_no_difference(db: Database, submit: Submit, make_worker: WorkerMaker) -> None:
    adam = {"lr": 0.01, "beta1": 0.9, "beta2": 0.999, "weight_decay": 0.1}  # the baseline's first trial
    space = {
        "preset": "paper",
        "overrides": {**adam, "structure": "diagonal", "p_lr": 0.001, "meta_every": 10, "p_decay": 0.0},
    }
    budget = {"trials_per_arm": 1, "steps": 200, "batch_size": 128}
    job_id = submit(**autoencoder(search_space=space, budget=budget))
    make_worker().run_next()
    found = result(db, job_id)
    assert (found["verdict"], found["arm"]) == ("no_difference", "adamw"), found["reason"]


@pytest.mark.slow
def test_a_bad_lr_hurts(db: Database, submit: Submit, make_worker: WorkerMaker) -> None:
    space = {"preset": "quick", "overrides": {"structure": "kronecker", "lr": 5e-4}}
    job_id = submit(**autoencoder(search_space=space))
    make_worker().run_next()
    found = result(db, job_id)
    assert (found["verdict"], found["arm"]) == ("hurts", "adamw"), found["reason"]


@pytest.mark.slow
def test_an_lr_with_which_nothing_is_learned_gives_no_word(
    db: Database, submit: Submit, make_worker: WorkerMaker
) -> None:
    space = {"preset": "quick", "overrides": {"structure": "kronecker", "lr": 1e-5}}
    job_id = submit(**autoencoder(search_space=space))
    make_worker().run_next()
    found = result(db, job_id)
    assert (found["verdict"], found["arm"]) == ("inconclusive", "adamw"), found["reason"]
    assert found["reason"].startswith("the search of warpadam was blind: none of its trials is better on validation")
    (warpadam, adamw, untuned), trivial = found["finalists"], found["trivial"]
    assert adamw["mean_test_loss"] < untuned["mean_test_loss"] < trivial["mean_test_loss"]
    assert warpadam["mean_test_loss"] == pytest.approx(trivial["mean_test_loss"], rel=0.1)


@pytest.mark.slow
def test_adamw_against_adamw_is_rarely_said_to_help(
    db: Database, submit: Submit, make_worker: WorkerMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """500 jobs, each of two sets of eight runs of one AdamW config, drawn from 64 real runs on fresh seeds."""
    monkeypatch.setattr(verdict_module, "RESAMPLES", 50)
    small = {"trials_per_arm": 1, "steps": 30, "batch_size": 32}
    job_id = submit(budget=small, confirm={"seeds": 64})
    make_worker().run_next()
    assert get_job(db, job_id).cause is None
    with db.read() as session:
        losses = [run.test_loss for run in session.query(ConfirmRun).filter_by(arm="adamw").order_by(ConfirmRun.id)]
    pool = np.array(losses, dtype=float)
    assert len(pool) == 64
    assert pool.std() > 0
    rng, helped = np.random.default_rng(0), 0
    for _ in range(500):
        drawn = rng.choice(pool, 16, replace=False).tolist()
        helped += compare(drawn[:8], drawn[8:], 0.0).word is Word.HELPS
    assert helped <= 25 + 3 * (500 * 0.05 * 0.95) ** 0.5, helped  # 5 %, and three binomial standard deviations


@pytest.mark.parametrize(
    ("dataset", "objective"),
    [
        ("wine", {"metric": "val_accuracy"}),
        ("diabetes", {"metric": "val_r2"}),
        ("wine", {"metric": "steps_to_target", "target": 0.8}),
        ("wine", {"metric": "seconds_to_target", "target": "baseline"}),
        ("wine", {"metric": "val_loss", "trade_off": "seconds"}),
    ],
    ids=lambda value: str(value.get("trade_off", value["metric"])) if isinstance(value, dict) else None,
)
@pytest.mark.slow
def test_every_objective_leads_to_a_recommendation(
    db: Database,
    storage: optuna.storages.RDBStorage,
    submit: Submit,
    make_worker: WorkerMaker,
    dataset: str,
    objective: dict[str, Any],
) -> None:
    job_id = submit(
        dataset={"name": dataset},
        objective=objective,
        budget={"trials_per_arm": 5, "steps": 20, "batch_size": 32},
        search={"sampler": "tpe", "pruner": "none"},
    )
    make_worker().run_next()
    found = result(db, job_id)
    trials = get_trials(db, job_id)
    assert len(trials) == 11
    assert running_in_optuna(storage) == []
    assert found["statistics"]["pairs"] == 6
    findings = found["findings"]
    assert next(arm["arm"] for arm in findings["arms"]) == (
        "adamw" if "target" in objective and objective["target"] == "baseline" else "warpadam"
    )
    if "trade_off" in objective:
        front = findings["pareto"]
        assert front
        for better, other in itertools.pairwise(front):
            assert better["seconds"] <= other["seconds"]
            assert better["value"] > other["value"]
        study = optuna.load_study(study_name=f"{job_id}/warpadam", storage=storage)
        assert len(study.directions) == 2
        assert len(study.best_trials) >= 1
    else:
        assert findings["pareto"] == []
    if objective.get("target") == "baseline":
        adamw = [trial for trial in trials if trial.arm == "adamw"]
        assert min(trial.number for trial in adamw) == 0
        misses = [trial for trial in trials if trial.arm == "warpadam" and (trial.value or 0) > 600]
        hits = [trial for trial in trials if trial.arm == "warpadam" and (trial.value or 0) < 60]
        assert len(misses) + len(hits) == 5  # none is dropped


@pytest.mark.slow
def test_arms_and_controls_run_with_the_same_caps_and_adamw_gets_the_seconds_of_p_as_steps(
    db: Database, submit: Submit, make_worker: WorkerMaker
) -> None:
    job_id = submit(
        arms="per_structure",
        search_space={"preset": "quick"},
        baselines=["adamw", "muon", "soap", "sgd"],
        controls=["diagonal_pre", "random_p", "adamw_more_steps"],
        budget={"trials_per_arm": 2, "steps": 20, "batch_size": 32},
    )
    make_worker().run_next()
    found = result(db, job_id)
    trials = get_trials(db, job_id)
    arms = ["warpadam-kronecker", "warpadam-diagonal", "adamw", "muon", "soap", "sgd"]
    arms += ["diagonal_pre", "random_p", "adamw_more_steps"]
    assert Counter(trial.arm for trial in trials) == {**dict.fromkeys(arms, 2), "adamw_default": 1}
    assert {trial.last_step for trial in trials if trial.arm != "adamw_more_steps"} == {20}
    assert all(trial.last_step > 20 for trial in trials if trial.arm == "adamw_more_steps")
    assert found["challenger"].startswith("warpadam-")
    assert found["baseline"] in ("adamw", "muon", "soap", "sgd")
    described = {row["arm"] for row in found["findings"]["comparisons"]}
    assert described == set(arms) - {found["baseline"]}


def test_an_extended_job_keeps_its_runs_adds_the_new_ones_and_says_that_it_looks_again(
    db: Database, context: Context, submit: Submit, make_worker: WorkerMaker
) -> None:
    job_id = submit()
    worker = make_worker()
    worker.run_next()
    before = {(t.number, t.value) for t in get_trials(db, job_id)}
    first = result(db, job_id)

    extend(context, job_id, ExtendSpec(trials=1, seeds=2), lambda session, job: {})
    assert worker.run_next()
    job = get_job(db, job_id)
    assert (job.state, job.looks) == (JobState.SUCCEEDED, 2)
    after = {(t.number, t.value) for t in get_trials(db, job_id)}
    assert before < after
    assert len(after) == 7  # one more of each arm that is tuned
    second = result(db, job_id)
    assert (first["statistics"]["look"], second["statistics"]["look"]) == (1, 2)
    assert second["statistics"]["alpha"] == 0.025
    assert len(second["pairs"]) == 8
    assert "look 2, tested at level 0.025" in second["reason"]
    kept = [(pair["seed"], pair["baseline"]) for pair in first["pairs"]]
    if first["finalists"][1]["trial"] == second["finalists"][1]["trial"]:
        assert [(pair["seed"], pair["baseline"]) for pair in second["pairs"]][:6] == kept


def test_a_confirmation_run_that_failed_is_repeated_by_an_extension(
    db: Database, context: Context, submit: Submit, make_worker: WorkerMaker
) -> None:
    job_id = submit()
    worker = make_worker(faults.first_comparison_raises)
    worker.run_next()
    found = result(db, job_id)
    said = "warpadam failed on 1 seed (RuntimeError: the first comparison is broken), which an extension runs again"
    assert said in found["reason"]
    extend(context, job_id, ExtendSpec(), lambda session, job: {})
    worker.run_next()
    found = result(db, job_id)
    assert all(pair["warpadam"] is not None for pair in found["pairs"])
    assert (len(found["pairs"]), found["statistics"]["look"]) == (6, 2)
