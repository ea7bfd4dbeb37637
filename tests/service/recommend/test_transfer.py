# What is said of a warm start, from the comparison with its control.
from __future__ import annotations

from typing import Any

import pytest

from service.data.prepared import PreparedData
from service.planning.plan import make_plan
from service.recommend.transfer import find_transfer
from service.result.job_result import Comparison
from service.spec.job import JobSpec
from tests.conftest import SpecMaker

WARM = {"job": "job-1", "sha256": "a" * 64}


def found(against: str, improvement: float, p_holm: float) -> list[Comparison]:
    comparison = Comparison(
        arm="warpadam",
        against=against,
        metric="val_loss",
        pairs=8,
        missed=0,
        mean=1.0,
        against_mean=1.0 + improvement,
        improvement=improvement,
        relative_improvement=improvement / (1.0 + improvement),
        interval=(improvement, improvement),
        p_holm=p_holm,
        win_rate=1.0,
    )
    return [comparison]


CASES: list[tuple[str, float, float, bool | None, str]] = [
    ("shuffled_p", 1.0, 0.05, True, "transfer: from the P of job-1 the cost on the fresh seeds is 50.0% lower"),
    (
        "shuffled_p",
        1.0,
        0.0501,
        False,
        "no transfer shown: from the P of job-1 the cost on the fresh seeds is 50.0% lower",
    ),
    (
        "shuffled_p",
        -0.5,
        0.01,
        False,
        "no transfer shown: from the P of job-1 the cost on the fresh seeds is 100.0% higher",
    ),
    ("adamw", 1.0, 0.01, None, "transfer is unknown: too few seeds completed"),
]


@pytest.mark.parametrize(("against", "improvement", "p_holm", "transfer", "reason"), CASES)
def test_transfer_is_claimed_only_if_p_beats_the_same_p_shuffled(
    spec: SpecMaker, against: str, improvement: float, p_holm: float, transfer: bool | None, reason: str
) -> None:
    plan = make_plan(JobSpec.model_validate(spec(warm_start=WARM)))
    warm = find_transfer(plan, found(against, improvement, p_holm))
    assert warm is not None
    assert (warm.job, warm.sha256, warm.transfer) == ("job-1", "a" * 64, transfer)
    assert warm.reason.startswith(reason)


def test_a_job_without_a_warm_start_says_nothing(spec: SpecMaker) -> None:
    assert find_transfer(make_plan(JobSpec.model_validate(spec())), found("adamw", 1.0, 0.01)) is None


def test_runs_start_from_the_p_of_the_job_or_from_it_shuffled(spec: SpecMaker) -> None:
    body: dict[str, Any] = spec(warm_start=WARM, controls=["diagonal_pre", "random_p"])
    plan = make_plan(JobSpec.model_validate(body))
    assert [arm.name for arm in plan.arms] == ["warpadam", "adamw", "diagonal_pre", "random_p", "shuffled_p"]
    starts = {}
    for arm in plan.arms:
        run = plan.run(arm.name, arm.space.some_values(), PreparedData("", ""), seed=1, test=False)
        starts[arm.name] = (run.from_p_sha256, run.shuffle_seed)
    none = (None, None)
    assert starts == {
        "warpadam": ("a" * 64, None),
        "adamw": none,
        "diagonal_pre": none,
        "random_p": none,
        "shuffled_p": ("a" * 64, 0),
    }
    assert plan.arm("shuffled_p").space == plan.arm("warpadam").space
