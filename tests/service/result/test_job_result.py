# What is stored of a job's result is read back as it was, or refused.
from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from service.errors import OtherVersionError
from service.planning.arms import Role
from service.result.job_result import (
    ANSWERS,
    ArmFinding,
    BreakEven,
    FamilyFinding,
    Fidelity,
    Findings,
    JobResult,
    LearnedP,
    ParetoPoint,
    TuningPoint,
    WarmStartOutcome,
    Word,
)
from tests.service.results import TRIVIAL, a_comparison, a_result


def everything() -> JobResult:
    """A result in which no field is empty."""
    fidelity = Fidelity(arm="warpadam", trials=8, rung_step=5, tau=0.75, trusted=True)
    arm = ArmFinding(
        arm="warpadam",
        role=Role.WARPADAM,
        tuning_curve=[TuningPoint(trials=1, seconds=0.5, best=0.25)],
        importances={"lr": 1.0},
        fidelity=fidelity,
    )
    break_even = BreakEven(
        seeds=2,
        missed=0,
        learning_steps=90,
        learning_seconds=3.0,
        baseline_steps=40.0,
        challenger_steps=20.0,
        baseline_seconds=0.2,
        challenger_seconds=0.1,
        tasks_in_steps=5,
        tasks_in_seconds=None,
        summary="repaid after 5 tasks",
    )
    findings = Findings(
        note="",
        comparisons=[a_comparison()],
        arms=[arm],
        pareto=[ParetoPoint(arm="warpadam", trial=3, value=0.25, seconds=0.5)],
        pruning="",
        family=FamilyFinding(made_by="classes", tasks={"meta_test": ["a", "b"]}, left_out=["c"], break_even=break_even),
    )
    return a_result(
        findings=findings,
        trivial=TRIVIAL,
        score="accuracy",
        summary="Mean test loss: 1 for always predicting the frequencies of the classes; 0.25 for tuned adamw",
        learned_p=LearnedP(file="p-3.safetensors", sha256="0" * 64, seed=1, test_loss=0.3, data_sha256="1" * 64),
        warm_start=WarmStartOutcome(job="job-1", sha256="2" * 64, transfer=None, reason="unknown"),
    )


@pytest.mark.parametrize("result", [a_result(), everything()], ids=["small", "everything"])
def test_a_result_is_plain_json_and_read_back_as_it_was(result: JobResult) -> None:
    stored = json.loads(json.dumps(result.to_json()))
    assert JobResult.from_json(stored) == result
    assert stored == result.to_json()


def test_the_json_is_flat_so_that_a_reader_finds_the_recommendation_at_once() -> None:
    stored = everything().to_json()
    assert (stored["verdict"], stored["arm"], stored["trial"]) == ("helps", "warpadam", 3)


def test_a_field_that_is_not_known_is_left_out() -> None:
    assert JobResult.from_json(a_result().to_json() | {"shiny": 1}) == a_result()


@pytest.mark.parametrize(
    ("how", "field"),
    [
        (lambda stored: stored.update(verdict="maybe"), "verdict"),
        (lambda stored: stored.pop("findings"), "findings"),
        (lambda stored: stored["statistics"].pop("p_helps"), "statistics.p_helps"),
        (lambda stored: stored["pairs"][0].update(missed="adamw"), "pairs.0.missed"),
        (lambda stored: stored["finalists"].append(None), "finalists.2"),
        (lambda stored: stored["findings"]["arms"][0].update(role="referee"), "findings.arms.0.role"),
        (lambda stored: stored["trivial"].pop("mean_test_loss"), "trivial.mean_test_loss"),
    ],
)
def test_what_another_version_stored_is_refused_with_the_field(
    how: Callable[[dict[str, Any]], Any], field: str
) -> None:
    stored: dict[str, Any] = json.loads(json.dumps(everything().to_json()))
    how(stored)
    with pytest.raises(OtherVersionError, match=field):
        JobResult.from_json(stored)


@pytest.mark.parametrize("stored", [None, [], "helps", {}])
def test_what_is_not_a_result_is_refused(stored: object) -> None:
    with pytest.raises(OtherVersionError):
        JobResult.from_json(stored)


def test_every_verdict_has_a_plain_answer() -> None:
    assert set(ANSWERS) == set(Word)
