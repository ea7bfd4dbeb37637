# The lines that say what a job costs, in the words of each interface.
from __future__ import annotations

from typing import Any

from service.cli.flags import in_flags
from service.client.quick_spec import describe_cost


def plan(**in_time: int) -> Any:
    """The estimate of a job with 1,000 trials of each arm, which take 2 seconds each; so many of them fit."""
    arms = [
        {"name": name, "trials": 1000, "trials_in_time": count, "search_seconds": 2000.0}
        for name, count in in_time.items()
    ]
    return {"arms": arms, "trials": 2000, "trials_in_time": sum(in_time.values()), "confirm_runs": 54, "seconds": 700.4}


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


def test_a_service_that_does_not_say_it_is_understood() -> None:
    old = plan(warpadam=1000, adamw=1000)
    del old["trials_in_time"]
    assert list(describe_cost(old)) == ["2,000 trials and 54 more runs, about 700 s"]
