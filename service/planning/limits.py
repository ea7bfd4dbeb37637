"""What a job may ask for: the limits of the operator, and what the machine of the workers has.

The machine counts only where the API knows it: not for the engine ``ray``, whose nodes may have more. Memory is counted
as a lower bound, so that no job is refused that would run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from service.errors import FieldError
from service.planning.plan import JobPlan
from service.processes import machine_cpus, machine_memory_bytes
from service.settings import Settings

SLOT_BYTES: Final = 150 << 20
"""Memory that a slot takes before it trains: Python with torch takes some 200 MB."""

BYTES_A_PARAMETER: Final = 16
"""A parameter, its gradient and two moments, as 32-bit numbers. P comes on top; its size depends on the trial."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What the machine has on which jobs of the engine ``optuna`` run; None for what is not known.

    ``cpus_setting`` is the setting that decides about the CPUs.
    """

    cpus: int | None
    memory_bytes: int | None
    cpus_setting: str = "worker_cpus"

    @classmethod
    def here(cls, settings: Settings) -> Machine:
        """Return what this machine has for slots."""
        cpus = settings.cpus_of_slots
        if cpus is not None:
            return cls(len(cpus), machine_memory_bytes(), "slot_cpus")
        return cls(machine_cpus(), machine_memory_bytes())

    @classmethod
    def of_workers(cls, settings: Settings) -> Machine:
        """Return what the largest machine with a worker has, as far as the API can know.

        With SQLite the workers are on its own machine, because they share a file.
        """
        here = cls.here(settings) if settings.database_url.startswith("sqlite") else cls(None, None)
        memory_bytes = settings.worker_memory_bytes or here.memory_bytes
        if here.cpus_setting == "slot_cpus":
            return replace(here, memory_bytes=memory_bytes)
        return cls(settings.worker_cpus or here.cpus, memory_bytes)


def over_limits(plan: JobPlan, settings: Settings) -> Iterator[FieldError]:
    """Yield what is over a limit of the operator."""
    spec, parameters, slots = plan.spec, plan.spec.model.parameter_count(plan.info), _slots(plan)
    if settings.max_slots is not None and slots[1] is None:
        yield _over(*slots, f"must be given, and be at most {settings.max_slots}", "max_slots")
    for field, value, setting in (
        (*slots, "max_slots"),
        ("budget.steps", spec.budget.steps, "max_steps"),
        ("budget.trials_per_arm", spec.budget.trials_per_arm, "max_trials"),
    ):
        limit = getattr(settings, setting)
        if limit is not None and value is not None and value > limit:
            yield _over(field, value, f"must be at most {limit}", setting)
    if settings.max_parameters is not None and parameters > settings.max_parameters:
        most = f"must have at most {settings.max_parameters:,} parameters, and has {parameters:,}"
        yield _over("model", spec.model.name, most, "max_parameters")
    if spec.engine.name == "optuna":
        yield from _memory(plan, settings.slot_memory_bytes, 1, "a slot may take", "slot_memory_bytes")
    at_once = _most_at_once(plan)
    yield from _memory(plan, settings.max_job_memory_bytes, at_once, "a job may take", "max_job_memory_bytes")


def over_machine(plan: JobPlan, machine: Machine) -> Iterator[FieldError]:
    """Yield what the machine of a worker cannot do."""
    if plan.spec.engine.name != "optuna":
        return
    cpus = plan.spec.resources.cpus_per_trial
    if machine.cpus is not None and cpus > machine.cpus:
        whose = "of the worker's machine" if machine.cpus_setting == "worker_cpus" else "that trials may use"
        most = f"must be at most {machine.cpus}, the CPUs {whose}"
        yield _over("resources.cpus_per_trial", cpus, most, machine.cpus_setting)
    has = "the worker's machine has"
    yield from _memory(plan, machine.memory_bytes, _most_at_once(plan), has, "worker_memory_bytes")


def _memory(
    plan: JobPlan, limit_bytes: int | None, at_once: int | None, whose: str, setting: str
) -> Iterator[FieldError]:
    """Yield why the runs of a job do not fit into some memory, where ``at_once`` of them go on at once."""
    if limit_bytes is None or at_once is None:
        return
    field, value = _slots(plan)
    on_gpu = plan.spec.resources.gpus_per_trial > 0  # its memory holds the model then
    needed = SLOT_BYTES if on_gpu else bytes_of_a_run(plan)
    limit = f"and {whose} {_gib(limit_bytes)}"
    if needed > limit_bytes:
        parameters = plan.spec.model.parameter_count(plan.info)
        what = f"{parameters:,} parameters take at least {_gib(needed)} with their gradients and the state of Adam"
        yield _over("model", plan.spec.model.name, f"is too large: its {what}, {limit}", setting)
    elif at_once * needed > limit_bytes:
        most = f"must be at most {limit_bytes // needed}: each run takes at least {_gib(needed)}, {limit}"
        yield _over(field, value, most, setting)


def _slots(plan: JobPlan) -> tuple[str, int | None]:
    """Return the field that says how many runs may go on at once, and its value; None is as many as a cluster can."""
    if plan.spec.engine.name == "ray":
        return "resources.max_concurrent", plan.spec.resources.max_concurrent
    return "resources.slots", plan.spec.resources.slots


def _most_at_once(plan: JobPlan) -> int | None:
    """Return how many runs go on at once, which is less than allowed if no phase has as many; None if not known."""
    allowed = _slots(plan)[1]
    race = sum(max(plan.race_rounds(arm), default=0) for arm in plan.arms)
    runs = max(race, plan.spec.confirm.seeds * len(plan.arms), *map(plan.trials, plan.arms))
    return None if allowed is None else min(allowed, runs)


def _over(field: str, value: object, message: str, setting: str) -> FieldError:
    return FieldError(field, value, message, f"The setting WARPTUNE_{setting.upper()} decides it.", "over_limit")


def bytes_of_a_run(plan: JobPlan) -> int:
    """Return the memory that a run on the CPU takes at least."""
    return SLOT_BYTES + BYTES_A_PARAMETER * plan.spec.model.parameter_count(plan.info)


def too_large_for_this_machine(plan: JobPlan) -> str | None:
    """Return why the steps of a job cannot be timed on this machine; None if its memory may do."""
    needed, has = bytes_of_a_run(plan), machine_memory_bytes()
    return f"a run takes at least {_gib(needed)}, and this machine has {_gib(has)}" if needed > has else None


def _gib(size_bytes: int) -> str:
    """Return a number of bytes for a person."""
    return f"{size_bytes / (1 << 30):.1f} GiB"
