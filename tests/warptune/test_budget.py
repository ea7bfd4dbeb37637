# How many trials and steps fit into the minutes that a caller gives.
from __future__ import annotations

import pytest

from service.client.answers import ArmEstimate, Estimate
from service.errors import InvalidSpecError
from warptune.budget import fit


def arm(name: str, seconds_a_run: float, trials: int, confirm_runs: int) -> ArmEstimate:
    return {
        "name": name,
        "role": name,
        "optimizer": name,
        "parameters": [],
        "trials": trials,
        "trials_in_time": trials,
        "confirm_runs": confirm_runs,
        "seconds_a_run": seconds_a_run,
        "search_seconds": seconds_a_run * trials,
        "seconds": seconds_a_run * (trials + confirm_runs),
        "p_bytes": 0,
    }


def plan() -> Estimate:
    """A trial of each arm takes 3 seconds, and the rest of the job 2 * 20 + 1 * 20 + 1 * 10 = 70."""
    arms = [arm("warpadam", 2.0, 20, 20), arm("adamw", 1.0, 20, 20), arm("adamw_default", 1.0, 1, 9)]
    return {
        "arms": arms,
        "trials": 41,
        "trials_in_time": 41,
        "confirm_runs": 49,
        "seconds": 130.0,
        "p_bytes": 0,
        "steps": 400,
        "parameters": 1,
        "note": "",
        "task": "",
        "columns": [],
        "warnings": [],
        "similar": None,
    }


@pytest.mark.parametrize(
    ("seconds", "trials", "steps"), [(60_000, 100, 400), (130 + 15, 20, 400), (94 + 15, 8, 400), (47 + 15, 8, 200)]
)
def test_more_time_means_more_trials_and_too_little_means_fewer_steps(seconds: float, trials: int, steps: int) -> None:
    assert fit(plan(), 400, seconds / 60 + 1e-9, 1, keep_steps=False) == (trials, steps)


def test_two_slots_do_twice_as_much() -> None:
    assert fit(plan(), 400, (65 + 15) / 60 + 1e-9, 2, keep_steps=False) == (20, 400)


def test_steps_that_the_caller_chose_stay() -> None:
    message = r"minutes: must be at least 1.9 for 8 trials .* \(got 1\). Or give fewer steps than 400"
    with pytest.raises(InvalidSpecError, match=message):
        fit(plan(), 400, 1, 1, keep_steps=True)
    assert fit(plan(), 400, 1.9, 1, keep_steps=True).steps == 400


@pytest.mark.parametrize("minutes", [0.1, 0.4])
def test_too_little_time_for_anything_is_refused(minutes: float) -> None:
    with pytest.raises(InvalidSpecError, match=r"must be at least 0.5 .* \(got 0..\). Or take a smaller model"):
        fit(plan(), 400, minutes, 1, keep_steps=False)
    assert fit(plan(), 400, 0.5, 1, keep_steps=False).trials == 8
