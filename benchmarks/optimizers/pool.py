# A process for each task and arm, a few at a time, each on one thread. They share nothing but the folder of the
# records, so they may be killed at any time; so may this process, whose death they notice after the run they are at.
"""Running the protocol of many tasks and arms at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final, TypeAlias, cast

import optuna
import torch
from filelock import FileLock, Timeout

from benchmarks.optimizers.arms import ARMS
from benchmarks.optimizers.measures import final_loss
from benchmarks.optimizers.protocol import Budget, Unit
from benchmarks.optimizers.tasks import TASKS

Name: TypeAlias = tuple[str, str]
"""Names of a task and an arm."""

PRELOADED: Final = ("benchmarks.optimizers.pool",)
"""What the process that the others are forked from has loaded."""


def run_units(names: Sequence[Name], budget: Budget, folder: Path, jobs: int) -> list[Name]:
    """Run the protocol of every task and arm, those of the costliest tasks first.

    Returns:
        Those that failed; their process has printed why.

    Raises:
        RuntimeError: Another process runs the benchmark in ``folder``.
    """
    cost = {task.name: task.cost for task in TASKS}
    waiting = sorted(names, key=lambda name: cost[name[0]])
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    running: dict[int, tuple[BaseProcess, Name]] = {}
    failed: list[Name] = []
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            try:
                while waiting or running:
                    while waiting and len(running) < jobs:
                        name = waiting.pop()
                        started = context.Process(target=_run, args=(name, budget, folder), daemon=True)
                        started.start()
                        running[started.sentinel] = (started, name)
                    for sentinel in wait(list(running)):
                        process, name = running.pop(cast("int", sentinel))
                        process.join()
                        if process.exitcode:
                            failed.append(name)
            finally:
                for process, _ in running.values():
                    process.terminate()
                    process.join()
    except Timeout:
        raise RuntimeError(f"another process runs the benchmark in {folder}") from None
    return failed


def _run(name: Name, budget: Budget, folder: Path) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback: what is done is on record
    torch.set_num_threads(1)
    task = next(task for task in TASKS if task.name == name[0])
    arm = next(arm for arm in ARMS if arm.name == name[1])
    unit = Unit(task, arm, budget, folder, said=lambda _: _leave_if_alone())
    outcome = unit.outcome(run=True)
    seconds = sum(record.curve.seconds[-1] for record in unit.records.runs)
    print(f"{task.name}, {arm.title}: {final_loss(outcome.confirmed):.4g} ({seconds:.0f} s of training)", flush=True)


def _leave_if_alone() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        os._exit(1)
