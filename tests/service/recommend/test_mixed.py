from __future__ import annotations

from typing import Any, cast

import pytest

from service.db.models import ConfirmRun, Trial
from service.ledger.made_with import MadeWith, RunKey
from service.recommend.findings import Searched
from service.recommend.mixed import about_versions
from service.recommend.recommendation import Finalist
from service.states import TrialState

OLD, OLDER, NEW = {"torch": "2.13.0"}, {"torch": "2.12.0"}, {"torch": "2.14.0"}
ONE, TWO = ("confirm", 0, 1), ("confirm", 0, 2)


def said(trials: dict[int, dict[str, str]], runs: dict[RunKey, dict[str, str]]) -> list[str]:
    """What is said of a job with the trials 0, 1 and 2, of which 0 is the finalist and 2 does not count."""
    rows = [Trial(number=number, state=TrialState.COMPLETE) for number in (0, 1)]
    failed = Trial(number=3, state=TrialState.FAILED)
    searched = Searched(cast("Any", None), [*rows, failed], None)
    confirmed = [
        ConfirmRun(phase=phase, trial_number=trial, seed=seed, state=TrialState.COMPLETE)
        for phase, trial, seed in (ONE, TWO, ("confirm", 1, 1))
    ]
    return [*about_versions(MadeWith(NEW, trials, runs), [searched], [Finalist(Trial(number=0), 0.0)], confirmed)]


def test_nothing_is_said_of_a_job_of_one_version() -> None:
    assert said({0: NEW, 1: NEW, 2: OLD}, {ONE: NEW, TWO: NEW, ("confirm", 1, 1): OLD}) == []


@pytest.mark.parametrize(
    ("trials", "sentence"),
    [
        ({0: OLD, 1: NEW}, "1 of the 2 trials of the search were made with torch 2.13.0 instead of 2.14.0, so"),
        (
            {0: OLD, 1: OLDER},
            "2 of the 2 trials of the search were made with torch 2.12.0 instead of 2.14.0 or "
            "torch 2.13.0 instead of 2.14.0, so",
        ),
        ({1: NEW}, "1 of the 2 trials of the search were made with versions that were not recorded, so"),
    ],
)
def test_trials_of_other_versions_are_named(trials: dict[int, dict[str, str]], sentence: str) -> None:
    (found,) = said(trials, {ONE: NEW, TWO: NEW})
    assert found.startswith(sentence)


def test_an_answer_that_mixes_versions_says_so() -> None:
    (found,) = said({0: NEW, 1: NEW}, {ONE: NEW, TWO: OLD})
    assert found.startswith(
        "1 of the 2 runs on fresh seeds were made with torch 2.13.0 instead of 2.14.0, so this answer mixes versions"
    )
