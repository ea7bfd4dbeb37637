from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from service.db.models import Trial
from service.planning.plan import make_plan
from service.running.context import JobContext
from service.running.decisions import limits_of
from service.spec.job import MAX_STEPS, JobSpec
from service.states import TrialState


def job_with(patience: int | None, **best: tuple[float, int]) -> JobContext:
    """Return a job of 400 steps whose arms have one trial each, of so many seconds and steps."""
    plan = make_plan(
        JobSpec.model_validate(
            {
                "dataset": {"name": "digits"},
                "model": {"name": "mlp"},
                "controls": ["adamw_more_steps"],
                "training": {"patience": patience},
                "budget": {"steps": 400},
            }
        )
    )
    trials = {
        arm: [
            Trial(number=0, arm=arm, state=TrialState.COMPLETE, params={}, value=0.1, seconds=seconds, last_step=steps)
        ]
        for arm, (seconds, steps) in best.items()
    }
    record = SimpleNamespace(trials=lambda arm: trials[arm], counted_trials=lambda: None)
    return cast("JobContext", SimpleNamespace(plan=plan, record=record))


@pytest.mark.parametrize(
    ("patience", "warpadam", "adamw", "steps"),
    [
        (None, (4.0, 400), (2.0, 400), 800),
        (40, (4.0, 400), (0.5, 100), 800),  # AdamW's run ended early; a step of it takes 5 ms all the same
        (40, (1.0, 100), (2.0, 400), 400),
        (40, (1.0, 100), (0.125, 50), 400),
        (None, (1.0, 400), (2.0, 400), 400),
        (None, (4e6, 400), (2.0, 400), MAX_STEPS),
    ],
)
def test_more_steps_are_as_many_as_adamw_can_do_in_the_seconds_of_warpadam(
    patience: int | None, warpadam: Any, adamw: Any, steps: int
) -> None:
    job = job_with(patience, warpadam=warpadam, adamw=adamw)
    assert limits_of(job, job.plan.arm("adamw_more_steps"), ()).steps == steps
    assert limits_of(job, job.plan.arm("adamw"), ()).steps == 400
