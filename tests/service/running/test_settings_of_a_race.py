# What follows from the trials of a search in a small space, which tries some settings twice.
from __future__ import annotations

import json

import optuna
import pytest

from service.db.models import Trial
from service.db.session import Database
from service.ledger import runs
from service.recommend.recommendation import best_trials
from service.running.arm_search import ArmSearch
from service.running.decisions import had_no_choice
from service.settings import Settings
from service.states import TrialState
from tests.service.conftest import Submit
from tests.service.running.test_arm_search import context, run_to_the_cap

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

FIXED = {"structure": "kronecker", "beta1": 0.9, "beta2": 0.99, "weight_decay": 0.0, "p_lr": 0.0, "meta_every": 5}


def test_the_trials_of_a_race_have_different_settings(
    db: Database, submit: Submit, storage: optuna.storages.RDBStorage, settings: Settings
) -> None:
    overrides = {**FIXED, "lr": [0.003, 0.01, 0.03]}
    submit(
        budget={"trials_per_arm": 20, "steps": 10},
        search={"pruner": "none"},
        search_space={"preset": "default", "overrides": overrides},
    )
    log = runs.claim(db, "worker", 30.0)
    assert log is not None
    job = context(log, settings)
    tried = [
        json.dumps(params, sort_keys=True)
        for params in run_to_the_cap(ArmSearch(job, job.plan.arm("warpadam"), storage))
    ]
    assert len(tried) == 20 > len(set(tried)) >= 6
    racing = best_trials(log.trials("warpadam"), 6)
    assert len({json.dumps(trial.params, sort_keys=True) for trial in racing}) == 6


def test_no_other_could_have_won_if_all_that_completed_have_the_same_settings(
    db: Database, submit: Submit, settings: Settings
) -> None:
    submit(search_space={"preset": "quick"})
    log = runs.claim(db, "worker", 30.0)
    assert log is not None
    plan = context(log, settings).plan

    def trial(number: int, lr: float, state: TrialState = TrialState.COMPLETE) -> Trial:
        return Trial(number=number, arm="adamw", params={"lr": lr}, state=state, value=0.5)

    same = [trial(0, 0.1), trial(1, 0.1), trial(2, 0.2, TrialState.DIVERGED)]
    assert had_no_choice(plan, "adamw", same)
    assert not had_no_choice(plan, "adamw", [*same, trial(3, 0.2)])
    assert not had_no_choice(plan, "adamw", same[:1])  # nothing is known of others
