# The lines that say what a job costs, in the words of each interface.
from __future__ import annotations

from typing import Any

import pytest

from service.cli.flags import in_flags
from service.client.quick_spec import describe_cost


def plan(search_seconds: float = 2000.0, **in_time: int) -> Any:
    """The estimate of a job with 1,000 trials of each tuned arm; so many of them fit."""
    arms: list[dict[str, Any]] = [
        {
            "name": name,
            "role": "untuned" if name == "adamw_default" else "baseline",
            "trials": 1 if name == "adamw_default" else 1000,
            "trials_in_time": count,
            "search_seconds": search_seconds,
        }
        for name, count in in_time.items()
    ]
    trials = sum(arm["trials"] for arm in arms)
    in_all = sum(in_time.values())
    return {"arms": arms, "trials": trials, "trials_in_time": in_all, "confirm_runs": 54, "seconds": 700.4}


def test_a_job_that_fits_is_one_line() -> None:
    assert list(describe_cost(plan(warpadam=1000, adamw=1000))) == ["2,000 trials and 54 more runs, about 700 s"]


def test_trials_that_do_not_fit_are_counted_and_the_limit_is_named_as_it_is_given() -> None:
    short = plan(warpadam=300, adamw=1000)
    first, second = describe_cost(short)
    assert first == "about 1,300 of 2,000 trials and 54 more runs, about 700 s"
    only = "  ! only about 300 of 1,000 trials of warpadam fit into"
    assert second == f"{only} budget.max_seconds; for all, it must be about 2200"
    assert list(describe_cost(short, in_flags))[1] == f"{only} --max-seconds; for all, it must be about 2200"
    both = list(describe_cost(plan(warpadam=300, adamw=400)))[1]
    assert "about 300 of 1,000 trials of warpadam and about 400 of 1,000 trials of adamw fit" in both


def test_a_limit_that_leaves_an_arm_without_a_trial_says_that_the_job_would_fail() -> None:
    (line,) = describe_cost(plan(warpadam=0, adamw=0, adamw_default=0), in_flags)
    none = "no trial of warpadam, adamw and adamw_default would be done within --max-seconds"
    assert line == f"  ! the job would probably fail: {none}; for all, it must be about 2200"
    (line,) = describe_cost(plan(warpadam=0, adamw=3, adamw_default=1))
    assert "would probably fail: no trial of warpadam would be done within budget.max_seconds" in line


def test_a_job_goes_on_without_a_trial_of_settings_that_nobody_tunes() -> None:
    first, second = describe_cost(plan(warpadam=1000, adamw=1000, adamw_default=0))
    assert first.startswith("about 2,000 of 2,001 trials and 54 more runs")
    assert second == "  ! no trial of adamw_default fits into budget.max_seconds; for all, it must be about 2200"
    _, second = describe_cost(plan(warpadam=2, adamw=1000, adamw_default=0))
    assert "only about 2 of 1,000 trials of warpadam fit into" in second


@pytest.mark.parametrize(
    ("search_seconds", "advice"),
    [
        (0.01, "for all, it must be about 1"),
        (2.1, "for all, it must be about 3"),
        (600_000.0, "for all, it must be about 604800"),
        (
            28_000_000.0,
            "all would take about 31,000,000 s, and at most 604,800 are allowed: give fewer trials or steps",
        ),
    ],
)
def test_the_limit_that_is_advised_is_one_that_can_be_given(search_seconds: float, advice: str) -> None:
    line = list(describe_cost(plan(search_seconds, warpadam=300, adamw=400)))[-1]
    assert line.endswith(f"trials of adamw fit into budget.max_seconds; {advice}")


def test_a_short_time_is_not_rounded_to_nothing() -> None:
    assert list(describe_cost(plan(warpadam=1000) | {"seconds": 0.312})) == [
        "1,000 trials and 54 more runs, about 0.31 s"
    ]


def test_a_service_that_does_not_say_it_is_understood() -> None:
    old = plan(warpadam=1000, adamw=1000)
    del old["trials_in_time"]
    assert list(describe_cost(old)) == ["2,000 trials and 54 more runs, about 700 s"]
