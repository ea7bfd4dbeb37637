# A whole result of a job, for tests that store one or show one.
from __future__ import annotations

from typing import Any

from service.result.job_result import ArmResult, Comparison, Findings, JobResult, Pair, TrivialResult, Verdict, Word

NO_FINDINGS = Findings(note="", comparisons=[], arms=[], pareto=[], pruning="")

STATISTICS = Verdict(
    word=Word.HELPS,
    pairs=6,
    baseline_mean=0.5,
    challenger_mean=0.35,
    improvement=0.15,
    relative_improvement=0.3,
    min_effect=0.01,
    interval=(0.1, 0.2),
    p_helps=0.0156,
    p_hurts=1.0,
    luck_interval=None,
    luck=None,
    alpha=0.05,
    look=1,
    more_pairs=None,
    win_rate=1.0,
)


TRIVIAL = TrivialResult(
    predicts="the frequencies of the classes",
    value=1.0625,
    val_loss=1.0625,
    val_score=0.375,
    mean_test_loss=1.03125,
    mean_test_score=0.40625,
)


def an_arm(arm: str, **changes: Any) -> ArmResult:
    """Return the result of an arm."""
    fields: dict[str, Any] = {
        "trial": 3,
        "config": {},
        "value": 0.5,
        "mean_test_loss": 0.25,
        "mean_test_score": 0.9375,
        "mean_seconds": 1.5,
        "runs": 6,
        "planned": 6,
    }
    return ArmResult(arm=arm, **fields | changes)


def a_comparison(**changes: Any) -> Comparison:
    """Return one comparison of the findings."""
    fields: dict[str, Any] = {
        "arm": "muon",
        "against": "adamw",
        "metric": "seconds_to_loss_of_baseline",
        "pairs": 8,
        "missed": 0,
        "mean": 0.25,
        "against_mean": 0.5,
        "improvement": 0.25,
        "relative_improvement": 0.5,
        "interval": (0.2, 0.3),
        "p_holm": 0.0625,
        "win_rate": 0.875,
    }
    return Comparison(**fields | changes)


def a_result(**changes: Any) -> JobResult:
    """Return a result in which P helps; keyword arguments replace its fields."""
    fields: dict[str, Any] = {
        "verdict": Word.HELPS,
        "reason": "it is better",
        "arm": "warpadam",
        "trial": 3,
        "config": {"lr": 0.01, "betas": [0.9, 0.95]},
        "challenger": "warpadam",
        "baseline": "adamw",
        "statistics": STATISTICS,
        "at_equal_seconds": None,
        "pairs": [
            Pair(
                seed=1,
                baseline=0.5,
                warpadam=0.35,
                baseline_test_loss=0.5,
                warpadam_test_loss=0.35,
                missed=(),
            )
        ],
        "finalists": [an_arm("warpadam"), an_arm("adamw")],
        "job_id": "job-0",
        "findings": NO_FINDINGS,
        "learned_p": None,
        "warm_start": None,
        "made_with": {"warptune": "0"},
    }
    return JobResult(**fields | changes)
