"""A space in Optuna: only active parameters are suggested, and stored trials can be rebuilt.

A sampler treats rebuilt trials as if they were its own.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import optuna
import pytest

from search_spaces import PRESETS, Choice, Parameter, Scalar, SearchSpace, apply_overrides, get_preset
from search_spaces.errors import SearchSpaceError
from search_spaces.to_optuna import distributions, first_trials, suggest

optuna.logging.set_verbosity(optuna.logging.WARNING)

pytestmark = pytest.mark.filterwarnings("ignore:Argument ``group``:optuna.exceptions.ExperimentalWarning")

NARROW = {"structure": ["low_rank", "kronecker"], "rank": [2, 4], "lr": {"low": 0.01, "high": 0.02}, "beta1": 0.9}


def study_of(seed: int = 0, storage: str | None = None) -> optuna.Study:
    sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, n_startup_trials=3)
    return optuna.create_study(sampler=sampler, storage=storage)


def loss(values: dict[str, Scalar]) -> float:
    return abs(math.log10(float(values["lr"])) + 2) + len(values)


def ask(study: optuna.Study, space: SearchSpace) -> optuna.Trial:
    trial = study.ask()
    suggest(trial, space)
    return trial


def rebuilt(space: SearchSpace, values: dict[str, Any], value: float) -> optuna.trial.FrozenTrial:
    return optuna.trial.create_trial(params=values, distributions=distributions(space, values), value=value)


@pytest.mark.parametrize("name", PRESETS)
def test_suggested_values_are_a_full_assignment(name: str) -> None:
    space, study = get_preset(name), study_of()
    for _ in range(8):
        trial = study.ask()
        values = suggest(trial, space)
        space.check(values)
        assert trial.params == values
        study.tell(trial, loss(values))


def test_only_active_parameters_are_asked_for() -> None:
    space = apply_overrides(get_preset("wide"), {"structure": "low_rank"})
    trial = ask(study_of(), space)
    assert "rank" in trial.params
    assert "cov_beta" not in trial.params


@pytest.mark.parametrize("name", PRESETS)
def test_distributions_are_exactly_those_that_suggest_registers(name: str) -> None:
    space, study = get_preset(name), study_of()
    for _ in range(8):
        trial = ask(study, space)
        assert distributions(space, trial.params) == trial.distributions
        assert list(distributions(space, trial.params)) == list(trial.params)


def test_distributions_of_a_wrong_assignment_are_refused() -> None:
    with pytest.raises(SearchSpaceError, match="lr: "):
        distributions(get_preset("adamw"), {"beta1": 0.9})


@pytest.mark.parametrize("name", PRESETS)
def test_sampler_goes_on_from_rebuilt_trials(name: str) -> None:
    space, first, second = get_preset(name), study_of(), study_of(seed=1)
    for _ in range(12):
        trial = ask(first, space)
        stored = json.loads(json.dumps(trial.params))
        second.add_trial(rebuilt(space, stored, loss(stored)))
        first.tell(trial, loss(stored))
    for _ in range(4):
        trial = ask(second, space)
        space.check(trial.params)
        second.tell(trial, loss(trial.params))
    assert len(second.get_trials(states=[optuna.trial.TrialState.COMPLETE])) == 16


def test_sampler_cannot_tell_rebuilt_trials_from_its_own() -> None:
    space, own, copy = get_preset("default"), study_of(), study_of()
    for _ in range(12):
        trial = ask(own, space)
        values = dict(trial.params)
        own.tell(trial, loss(values))
        copy.add_trial(rebuilt(space, values, loss(values)))
    own.sampler, copy.sampler = study_of(seed=7).sampler, study_of(seed=7).sampler
    assert ask(own, space).params == ask(copy, space).params


@pytest.mark.parametrize("name", PRESETS)
def test_enqueued_first_trials_come_back_unchanged(name: str) -> None:
    space, study = get_preset(name), study_of()
    for values in first_trials(space):
        study.enqueue_trial(values)
    for values in first_trials(space):
        assert suggest(study.ask(), space) == values


def test_first_trials_and_fixed_values_survive_a_database(tmp_path: Path) -> None:
    space, study = get_preset("quick"), study_of(storage=f"sqlite:///{tmp_path}/study.db")
    study.enqueue_trial(first_trials(space)[0])
    trial = study.ask()
    assert suggest(trial, space) == first_trials(space)[0]
    study.tell(trial, 1.0)
    stored = study.trials[0]
    assert distributions(space, stored.params) == stored.distributions
    study.add_trial(rebuilt(space, stored.params, 1.0))
    assert study.trials[1].params == stored.params


@pytest.mark.parametrize("value", [0.1, 3, "text", True, False])
def test_fixed_value_of_any_kind_is_suggested(value: Scalar) -> None:
    space = SearchSpace(name="fixed", parameters=(Parameter(name="x", domain=Choice(values=(value,))),))
    study = study_of()
    for _ in range(5):
        trial = study.ask()
        assert suggest(trial, space) == {"x": value}
        study.tell(trial, 0.0)


def test_suggestions_respect_overrides() -> None:
    space, study = apply_overrides(get_preset("default"), NARROW), study_of()
    for values in first_trials(space):
        study.enqueue_trial(values)
    for _ in range(20):
        trial = ask(study, space)
        values = trial.params
        assert str(values["strategy"]).startswith(("low_rank/", "kronecker/"))
        assert values.get("rank", 2) in (2, 4)
        assert 0.01 <= float(values["lr"]) <= 0.02
        assert values["beta1"] == 0.9
        study.tell(trial, loss(values))
