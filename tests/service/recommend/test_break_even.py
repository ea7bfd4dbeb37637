# When P has repaid its learning: figures from curves that are written out, so that they can be worked out by hand.
from __future__ import annotations

from collections.abc import Sequence

import pytest

from service.db.models import ConfirmRun, Trial
from service.ledger.curves import stored_curve
from service.planning.plan import JobPlan, make_plan
from service.recommend.break_even import find_break_even
from service.result.job_result import BreakEven
from service.spec.job import JobSpec
from service.states import TrialState
from service.training.run import Progress
from tests.conftest import SpecMaker

BASELINE, CHALLENGER = Trial(number=0, arm="adamw"), Trial(number=1, arm="warpadam")


@pytest.fixture
def plan(spec: SpecMaker) -> JobPlan:
    family = {"class_subsets": {"ways": 2}, "learn_tasks": 10, "learn_steps": 9}
    return make_plan(JobSpec.model_validate(spec(family=family)))


def confirm_run(
    trial: Trial, seed: int, losses: Sequence[float], a_step_s: float, learning_s: float = 0.0
) -> ConfirmRun:
    """A run with a point every 10 steps."""
    curve = stored_curve(
        [
            Progress(10 * i, loss, loss, 10 * i * a_step_s, learning_seconds=learning_s)
            for i, loss in enumerate(losses, start=1)
        ]
    )
    return ConfirmRun(trial_number=trial.number, arm=trial.arm, seed=seed, state=TrialState.COMPLETE, curve=curve)


def both(warp: Sequence[float], warp_step_s: float = 0.02) -> list[ConfirmRun]:
    return [
        run
        for seed in (1, 2)
        for run in (
            confirm_run(BASELINE, seed, [0.9, 0.7, 0.5, 0.4], 0.01),
            confirm_run(CHALLENGER, seed, warp, warp_step_s, learning_s=3.0),
        )
    ]


def found(plan: JobPlan, runs: Sequence[ConfirmRun]) -> BreakEven:
    result = find_break_even(plan, BASELINE, CHALLENGER, runs, tasks=2)
    assert result is not None
    return result


def test_learning_is_repaid_by_the_steps_and_seconds_saved_on_each_task(plan: JobPlan) -> None:
    result = found(plan, both([0.4, 0.3, 0.2, 0.1]))
    assert (result.seeds, result.missed) == (2, 0)
    assert (result.baseline_steps, result.challenger_steps) == (40, 10)
    assert (result.learning_steps, result.tasks_in_steps) == (90, 3)  # 30 saved on each
    assert (result.baseline_seconds, result.challenger_seconds) == pytest.approx((0.2, 0.1))  # two tasks side by side
    assert (result.learning_seconds, result.tasks_in_seconds) == (3.0, 30)
    assert "10.0 steps to the loss that the baseline has after 40.0" in result.summary
    assert "after 3 tasks in steps, after 30 tasks in seconds" in result.summary


def test_a_step_that_costs_more_than_it_saves_is_never_repaid_in_seconds(plan: JobPlan) -> None:
    result = found(plan, both([0.5, 0.4, 0.3, 0.2], warp_step_s=0.03))
    assert (result.tasks_in_steps, result.tasks_in_seconds) == (5, None)
    assert "never in seconds" in result.summary


def test_a_p_that_does_not_get_there_saves_nothing_and_says_how_often(plan: JobPlan) -> None:
    result = found(plan, both([0.9, 0.8, 0.7, 0.6]))
    assert (result.missed, result.challenger_steps, result.tasks_in_steps) == (2, 40, None)


def test_without_a_seed_that_both_completed_there_is_no_break_even(plan: JobPlan) -> None:
    runs = both([0.4, 0.3, 0.2, 0.1])
    for run in runs[::2]:
        run.state = TrialState.DIVERGED
    assert find_break_even(plan, BASELINE, CHALLENGER, runs, tasks=2) is None
