# What a forest plot shows: shares of the baseline's mean, the same for every reader of a result.
from __future__ import annotations

import pytest

from service.result.effects import Effect, axis_end, change, effects, figure, percent, search_figure
from service.result.job_result import JobResult
from service.spec.metrics import METRICS
from tests.service.results import NO_FINDINGS, STATISTICS, a_comparison, a_result


def result(**changes: object) -> JobResult:
    rows = [
        a_comparison(arm="sgd", metric="test_loss", improvement=-0.25, interval=(-0.5, 0.0), against_mean=0.5),
        a_comparison(arm="warpadam", metric="training_seconds"),
        a_comparison(arm="warpadam", against="shuffled_p", metric="test_loss"),
    ]
    findings = NO_FINDINGS.model_copy(update={"comparisons": rows})
    statistics = STATISTICS.model_copy(update={"luck": 0.125, "luck_interval": (0.09, 0.21)})
    fields = {"statistics": statistics, "at_equal_seconds": STATISTICS, "findings": findings}
    return a_result(**fields | changes)


def test_a_plot_has_both_comparisons_of_the_verdict_and_each_other_arm_against_the_baseline() -> None:
    assert effects(result()) == [
        Effect("equal steps", 0.3, 0.2, 0.4, 0.125),
        Effect("equal time", 0.3, 0.2, 0.4, None),
        Effect("sgd", -0.5, -1.0, 0.0, None),
    ]


def test_without_equal_time_the_first_row_has_the_name_of_the_challenger() -> None:
    assert [effect.label for effect in effects(result(at_equal_seconds=None))] == ["warpadam", "sgd"]


def test_a_mean_of_0_has_no_shares() -> None:
    without = STATISTICS.model_copy(update={"baseline_mean": 0.0, "relative_improvement": None})
    assert effects(result(statistics=without, at_equal_seconds=None, findings=NO_FINDINGS)) == []
    assert axis_end(result(statistics=without, at_equal_seconds=None, findings=NO_FINDINGS)) == 0.01


def test_an_arm_that_is_far_off_does_not_squeeze_the_others() -> None:
    assert axis_end(result()) == pytest.approx(1.0)
    far = a_comparison(arm="sgd", improvement=-50.0, interval=(-60.0, -40.0))
    findings = NO_FINDINGS.model_copy(update={"comparisons": [far]})
    assert axis_end(result(findings=findings)) == pytest.approx(1.2)


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "0 %"),
        (-1e-17, "0 %"),
        (0.01, "1 %"),
        (0.004, "0.4 %"),
        (0.0042, "0.42 %"),
        (0.2345, "23.4 %"),
        (-2.9842, "-298.4 %"),
        (12.0, "1,200 %"),
    ],
)
def test_percent(share: float, text: str) -> None:
    assert percent(share) == text


@pytest.mark.parametrize(
    ("metric", "score", "text"),
    [
        ("balanced_accuracy", 0.725, "72.5 %"),
        ("r2", 0.95664, "0.9566"),
        ("r2", -4427256.13, "-4.427e+06"),
        ("mae", 1234.5678, "1235"),
        ("mae", None, "-"),
    ],
)
def test_a_score_is_written_as_people_do(metric: str, score: float | None, text: str) -> None:
    assert figure(score, METRICS[metric]) == text


def test_what_a_search_found_is_the_score_where_one_is_judged() -> None:
    assert search_figure("val_accuracy", 0.275) == "72.5 %"
    assert search_figure("val_loss", 0.275) == search_figure("steps_to_target", 0.275) == "0.275"
    assert search_figure("val_of_another_installation", None) == "-"


@pytest.mark.parametrize(
    ("metric", "relative", "words"),
    [
        ("training_seconds", -2.9, "3.9 times slower"),
        ("training_seconds", -0.2, "20 % more time"),
        ("training_seconds", 0.75, "4 times faster"),
        ("seconds_to_loss_of_baseline", 0.25, "25 % less time"),
        ("steps_to_loss_of_baseline", -5.91, "6.9 times as many steps"),
        ("steps_to_loss_of_baseline", -0.5, "50 % more steps"),
        ("steps_to_loss_of_baseline", 0.625, "62.5 % fewer steps"),
        ("steps_to_loss_of_baseline", 0.0, "equal"),
        ("test_loss", -5.91, "6.9 times worse"),
        ("1 - test_accuracy", 0.1, "10 % better"),
        ("test_loss", None, "-"),
    ],
)
def test_a_difference_is_said_in_units_that_people_know(metric: str, relative: float | None, words: str) -> None:
    assert change(a_comparison(metric=metric, relative_improvement=relative)) == words
