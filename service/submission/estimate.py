# What a job would do and cost, before it is queued. The figures come from a child process that takes a few steps with
# each arm's first trial, so that this one needs no torch; they are of the API's machine, and say so.
"""The estimate that a dry run answers."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from service.errors import UnavailableError
from service.optimizers import OPTIMIZERS
from service.planning.arms import MORE_STEPS, ArmPlan, Role
from service.planning.plan import JobPlan
from service.user_code.probe import module_path

TIMEOUT_S: Final = 60.0
"""Longest time for the steps of all arms, the loading of torch included."""

NOTE: Final = (
    "seconds are those of one run after the other on the machine of the API, with the first trial of each arm, without "
    "pruning, validation, compilation and starting up"
)
MORE_STEPS_NOTE: Final = f"{MORE_STEPS} is counted with the steps of the others"
FAMILY_NOTE: Final = "the networks of a run on a family are counted as if they trained one after the other"

_one_at_a_time = threading.Lock()
"""Two at once would time each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmEstimate:
    """What an arm would do and cost.

    Attributes:
        name: Name of the arm.
        role: Its part in the comparison.
        optimizer: What it trains with.
        parameters: What it tunes.
        trials: Its cap on trials.
        confirm_runs: Runs on fresh seeds.
        seconds_a_run: Training time of one run of its first trial.
        seconds: Training time of all trials and runs, its trials capped at ``budget.max_seconds``.
        p_bytes: Memory of P, of the first trial.
    """

    name: str
    role: Role
    optimizer: str
    parameters: tuple[str, ...]
    trials: int
    confirm_runs: int
    seconds_a_run: float
    seconds: float
    p_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEstimate:
    """What a job would do and cost; nothing was queued.

    Attributes:
        arms: Arm by arm, in the order in which they would run.
        trials: Trials of all arms.
        confirm_runs: Runs on fresh seeds of all arms.
        seconds: Training time of all of them, divided by the slots.
        p_bytes: The largest memory of P of a run.
        parameters: Parameters of the model.
        note: How the seconds were found.
    """

    arms: tuple[ArmEstimate, ...]
    trials: int
    confirm_runs: int
    seconds: float
    p_bytes: int
    parameters: int
    note: str


def estimate(plan: JobPlan, training_rows: int, notes: str = "") -> JobEstimate:
    """Return what a job would do and cost.

    Args:
        plan: Its plan.
        training_rows: Rows to train on, which a batch is capped at.
        notes: What else is to be said of the plan.

    Raises:
        UnavailableError: The figures could not be found out.
    """
    measured = _measure(plan, min(plan.spec.budget.batch_size, training_rows))
    budget, confirm = plan.spec.budget, plan.spec.confirm
    runs = confirm.seeds * (1 if confirm.top_k == 1 else confirm.top_k + 1)
    arms = []
    for arm in plan.arms:
        seconds_a_run = measured[arm.name]["seconds_a_step"] * _steps_of_a_run(plan, arm)
        slots = plan.spec.resources.slots
        search = min(seconds_a_run * budget.trials_per_arm / slots, budget.max_seconds)
        arms.append(
            ArmEstimate(
                name=arm.name,
                role=arm.role,
                optimizer=arm.optimizer,
                parameters=arm.space.names,
                trials=budget.trials_per_arm,
                confirm_runs=runs,
                seconds_a_run=seconds_a_run,
                seconds=search + runs * seconds_a_run / slots,
                p_bytes=int(measured[arm.name]["p_bytes"]),
            )
        )
    return JobEstimate(
        arms=tuple(arms),
        trials=sum(arm.trials for arm in arms),
        confirm_runs=sum(arm.confirm_runs for arm in arms),
        seconds=sum(arm.seconds for arm in arms),
        p_bytes=max(arm.p_bytes for arm in arms),
        parameters=plan.spec.model.parameter_count(plan.info),
        note="; ".join(filter(None, (NOTE, *_notes(plan), notes))),
    )


def _notes(plan: JobPlan) -> Iterator[str]:
    """Yield what the seconds leave out in a job like this one."""
    if MORE_STEPS in plan.spec.controls:
        yield MORE_STEPS_NOTE
    if plan.spec.family is not None:
        yield FAMILY_NOTE


def _steps_of_a_run(plan: JobPlan, arm: ArmPlan) -> int:
    """Return the steps on all networks of a run; with a family at most, as some tasks are stepped together."""
    family, steps = plan.spec.family, plan.spec.budget.steps
    if family is None:
        return steps
    learning = family.learn_tasks * family.learn_steps if OPTIMIZERS[arm.optimizer].learns_p else 0
    return steps * family.evaluate_tasks + learning


def _measure(plan: JobPlan, batch_size: int) -> dict[str, dict[str, float]]:
    request: dict[str, Any] = {
        "sizes": plan.sizes,
        "model": plan.network,
        "shape": plan.info.shape,
        "activation": plan.spec.model.activation_name,
        "task": plan.task,
        "batch_size": batch_size,
        "training": plan.spec.training.model_dump(),
        "arms": [
            {"name": arm.name, "optimizer": arm.optimizer, "config": arm.config(arm.space.some_values())}
            for arm in plan.arms
        ],
    }
    command = [sys.executable, "-P", "-m", "service.training.footprint"]
    if not _one_at_a_time.acquire(timeout=TIMEOUT_S):  # or waiting requests would take all threads of the API
        raise UnavailableError(f"other jobs were timed for {TIMEOUT_S:g} seconds; send the request again")
    try:
        done = subprocess.run(
            command,
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
            env=module_path(),
        )
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"the steps of the arms were not timed within {TIMEOUT_S:g} seconds") from error
    finally:
        _one_at_a_time.release()
    if done.returncode:
        last = done.stderr.strip().rsplit("\n", 1)[-1]
        if done.returncode < 0:  # as when the machine is out of memory
            last = f"their process was killed by the signal {-done.returncode}"
        raise UnavailableError(f"the steps of the arms could not be timed: {last}")
    found: dict[str, dict[str, float]] = json.loads(done.stdout)
    return found
