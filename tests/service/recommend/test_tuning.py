# How a search went: which parameters are said to matter, and when none are.
from __future__ import annotations

import optuna
import pytest

from search_spaces import get_preset
from search_spaces.to_optuna import suggest
from service.db.models import Trial
from service.planning.arms import ArmPlan, warpadam_arms
from service.recommend.tuning import importances
from service.states import TrialState


@pytest.fixture
def arm() -> ArmPlan:
    (arm,) = warpadam_arms(get_preset("default"), per_structure=False)
    return arm


def searched(arm: ArmPlan, values: list[float]) -> list[Trial]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    return [
        Trial(
            number=number,
            arm=arm.name,
            state=TrialState.COMPLETE,
            params=suggest(study.ask(), arm.space),
            value=value,
            seconds=1.0,
        )
        for number, value in enumerate(values)
    ]


def test_a_parameter_that_few_trials_have_is_not_said_to_matter(arm: ArmPlan) -> None:
    rows = searched(arm, [float(number) for number in range(12)])
    assert 0 < sum("rank" in row.params for row in rows) < 12
    found = importances(arm, rows)
    assert found.keys() == set.intersection(*(set(row.params) for row in rows))
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert sum(found.values()) == pytest.approx(1.0)


@pytest.mark.parametrize("values", [[0.0] * 12, [1.0, 2.0, 3.0], []], ids=["all equal", "three trials", "none"])
def test_trials_that_tell_nothing_apart_have_no_importances(arm: ArmPlan, values: list[float]) -> None:
    assert importances(arm, searched(arm, values)) == {}


def test_what_decides_the_cost_matters_most(arm: ArmPlan) -> None:
    rows = searched(arm, [0.0] * 60)
    for row in rows:
        row.value = float(row.params["lr"])
    assert next(iter(importances(arm, rows))) == "lr"
