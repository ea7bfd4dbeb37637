"""Estimates what a job would do and cost, for a dry run.

A child process takes a few steps with each arm's first trial, so that this process needs no torch. The figures are
those of the API's machine.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypedDict

from service.accounts import user_code_popen
from service.data.facts import ColumnUse
from service.errors import UnavailableError
from service.optimizers import OPTIMIZERS
from service.planning.arms import MORE_STEPS, ArmPlan, Role
from service.planning.atlas import Similar, similar_to
from service.planning.limits import too_large_for_this_machine
from service.planning.objective import decided_by_outliers
from service.planning.plan import JobPlan
from service.processes import Turns, process_group
from service.settings import Settings
from service.spec.tasks import Task
from service.submission import warm_start

TIMEOUT_S: Final = 60.0
"""Longest time for the steps of all arms, the loading of torch included."""

LOOP_TIMEOUT_S: Final = 180.0
"""The same for a training loop of the user's, which loads its data for each arm."""

NOTE: Final = (
    "seconds are those of one run after the other on the machine of the API, with the first trial of each arm, without "
    "pruning, validation, compilation and starting up"
)
MORE_STEPS_NOTE: Final = f"{MORE_STEPS} is counted with the steps of the others"
LOOP_NOTE: Final = "the seconds of a training loop include its validation"
LIMIT_NOTE: Final = "trials_in_time counts those that are done before budget.max_seconds ends the search of their arm"
FAMILY_NOTE: Final = "the networks of a run on a family are counted as if they trained one after the other"

_turns: Final = Turns()
"""Two measurements at once would slow each other down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmEstimate:
    """What an arm would do and cost.

    Attributes:
        parameters: What it tunes.
        trials: Its cap on trials.
        trials_in_time: About as many of them are done before ``budget.max_seconds`` ends the search of the arm.
        confirm_runs: Runs on fresh seeds.
        seconds_a_run: Training time of one run of its first trial.
        search_seconds: Training time of all its trials, as if there were no ``budget.max_seconds``.
        seconds: Training time of all trials and runs, its trials capped at ``budget.max_seconds``.
        p_bytes: Memory of P, of the first trial.
    """

    name: str
    role: Role
    optimizer: str
    parameters: tuple[str, ...]
    trials: int
    trials_in_time: int
    confirm_runs: int
    seconds_a_run: float
    search_seconds: float
    seconds: float
    p_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEstimate:
    """What a job would do and cost; nothing was queued.

    Attributes:
        arms: In the order in which they would run.
        trials: Of all arms.
        trials_in_time: About as many of them are done before ``budget.max_seconds`` ends the search of their arm.
        seconds: Training time of all trials and runs on fresh seeds, divided by the slots.
        p_bytes: The largest memory of P of a run.
        steps: Steps of a run.
        parameters: Parameters of the model.
        note: How the seconds were found.
        task: What the model is trained for, and why.
        columns: What the job does with each column of an uploaded table.
        warnings: What may be wrong with the rows of an uploaded dataset, such as a column that holds the answer.
        similar: The jobs of the atlas that are most like it; None for a training loop of the user's.
    """

    arms: tuple[ArmEstimate, ...]
    trials: int
    trials_in_time: int
    confirm_runs: int
    seconds: float
    p_bytes: int
    steps: int
    parameters: int
    note: str
    task: str
    columns: tuple[ColumnUse, ...]
    warnings: tuple[str, ...]
    similar: Similar | None


class _Footprint(TypedDict):
    """What was measured of one arm."""

    seconds_a_step: float
    p_bytes: float


def estimate(
    plan: JobPlan, settings: Settings, columns: tuple[ColumnUse, ...] = (), warnings: tuple[str, ...] = ()
) -> JobEstimate:
    """Return what a job would do and cost; ``columns`` and ``warnings`` about its data are put into the answer.

    Its steps, which may be code of users, are timed where the ``settings`` of the operator let slots run.

    Raises:
        UnavailableError: The cost could not be measured.
    """
    if too_large := too_large_for_this_machine(plan):
        raise UnavailableError(f"the steps of the arms cannot be timed: {too_large}")
    measured = _measure(plan, settings)
    notes = [NOTE]
    if MORE_STEPS in plan.spec.controls:
        notes.append(MORE_STEPS_NOTE)
    if plan.spec.family is not None:
        notes.append(FAMILY_NOTE)
    if plan.task == Task.LOOP:
        notes.append(LOOP_NOTE)
    if plan.spec.warm_start is not None:
        notes.append(warm_start.note(plan.spec, plan.spec.warm_start))
    spec = plan.spec
    if odd := decided_by_outliers(spec.objective.metric, spec.dataset.target_transform, plan.info.target_outliers):
        notes.append(f"{odd}; the verdict would be inconclusive")
    arms = tuple(_arm_estimate(plan, arm, measured[arm.name]) for arm in plan.arms)
    if any(arm.trials_in_time < arm.trials for arm in arms):
        notes.append(LIMIT_NOTE)
    return JobEstimate(
        arms=arms,
        trials=sum(arm.trials for arm in arms),
        trials_in_time=sum(arm.trials_in_time for arm in arms),
        confirm_runs=sum(arm.confirm_runs for arm in arms),
        seconds=sum(arm.seconds for arm in arms),
        p_bytes=max(arm.p_bytes for arm in arms),
        steps=plan.spec.budget.steps,
        parameters=plan.spec.model.parameter_count(plan.info),
        note="; ".join(notes),
        task=f"{plan.task}: {reason}" if (reason := plan.info.task_reason) else plan.task,
        columns=columns,
        warnings=warnings,
        similar=similar_to(plan),
    )


def seconds_at(plan: JobPlan, seconds_a_step: float) -> float:
    """Return the seconds of a job whose steps take so long."""
    guess = _Footprint(seconds_a_step=seconds_a_step, p_bytes=0.0)
    return sum(_arm_estimate(plan, arm, guess).seconds for arm in plan.arms)


def _arm_estimate(plan: JobPlan, arm: ArmPlan, measured: _Footprint) -> ArmEstimate:
    budget, confirm, slots = plan.spec.budget, plan.spec.confirm, plan.spec.resources.slots
    trials, runs = plan.trials(arm), confirm.seeds + sum(plan.race_rounds(arm))
    seconds_a_run = measured["seconds_a_step"] * _steps_of_a_run(plan, arm)
    search_seconds = seconds_a_run * math.ceil(trials / slots)
    fits = search_seconds <= budget.max_seconds
    return ArmEstimate(
        name=arm.name,
        role=arm.role,
        optimizer=arm.optimizer,
        parameters=arm.space.names,
        trials=trials,
        trials_in_time=trials if fits else min(trials, slots * int(budget.max_seconds / seconds_a_run)),
        confirm_runs=runs,
        seconds_a_run=seconds_a_run,
        search_seconds=search_seconds,
        seconds=min(search_seconds, budget.max_seconds) + runs * seconds_a_run / slots,
        p_bytes=int(measured["p_bytes"]),
    )


def _steps_of_a_run(plan: JobPlan, arm: ArmPlan) -> int:
    """Return the steps on all networks of a run; an upper limit for a family, where tasks share steps."""
    family, steps = plan.spec.family, plan.spec.budget.steps
    if family is None:
        return steps
    learning = family.learn_tasks * family.learn_steps if OPTIMIZERS[arm.optimizer].learns_p else 0
    return steps * family.evaluate_tasks + learning


def _measure(plan: JobPlan, settings: Settings) -> dict[str, _Footprint]:
    """Measure every arm in a child process."""
    request = {
        "sizes": plan.sizes,
        "model": plan.network,
        "shape": plan.info.shape,
        "activation": plan.spec.model.activation_name,
        "task": plan.task,
        "batch_size": min(plan.spec.budget.batch_size, plan.spec.model.training_rows(plan.info)),
        "training": plan.spec.training.model_dump(),
        "seed": plan.spec.seed,
        "steps": plan.spec.budget.steps,
        "arms": [
            {"name": arm.name, "optimizer": arm.optimizer, "config": arm.config(arm.space.some_values())}
            for arm in plan.arms
        ],
    }
    command = [sys.executable, "-P", "-m", "service.training.footprint"]
    limit_s = LOOP_TIMEOUT_S if plan.task == Task.LOOP else TIMEOUT_S
    try:
        with (
            _turns.take("other jobs were timed", TIMEOUT_S),
            tempfile.TemporaryDirectory(prefix="warptune-timed-") as folder,
            process_group(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                **user_code_popen(settings, [Path(folder)]),
            ) as process,
        ):
            answer, errors = process.communicate(json.dumps(request), limit_s)
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"the steps of the arms were not timed within {limit_s:g} seconds") from error
    if process.returncode:
        last = errors.strip().rsplit("\n", 1)[-1]
        if process.returncode < 0:  # for instance because the machine is out of memory
            last = f"their process was killed by the signal {-process.returncode}"
        raise UnavailableError(f"the steps of the arms could not be timed: {last}")
    found: dict[str, _Footprint] = json.loads(answer)
    return found
