# Samplers that are made anew for each trial still look at every value of a space.
from __future__ import annotations

import optuna
import pytest

from search_spaces import Scalar, get_preset
from search_spaces.to_optuna import suggest
from service.running.samplers import make_sampler
from service.spec.job import SearchSpec


def asked(sampler: str, trials: int) -> list[dict[str, Scalar]]:
    space, found = get_preset("paper"), []
    study = optuna.create_study()
    study.enqueue_trial(dict(space.first_trials[1]))
    for number in range(trials):
        study.sampler = make_sampler(SearchSpec.model_validate({"sampler": sampler}), "0/warpadam", number)
        trial = study.ask()
        found.append(suggest(trial, space))
        study.tell(trial, float(number % 5))
    return found


@pytest.mark.parametrize("sampler", ["random", "qmc", "tpe"])
def test_parameters_that_exist_under_a_condition_are_varied_too(sampler: str) -> None:
    trials = asked(sampler, 30)
    for name in ("strategy", "lr", "rank", "block_size"):
        values = {values[name] for values in trials if name in values}
        assert len(values) > 1, name
    assert asked(sampler, 30) == trials
