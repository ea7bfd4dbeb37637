# What follows from the trials of a search in a small space, which tries some settings twice.
from __future__ import annotations

import json

import optuna
import pytest

from service.db.session import Database
from service.ledger import runs
from service.recommend.recommendation import best_trials
from service.running.arm_search import ArmSearch
from service.settings import Settings
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
