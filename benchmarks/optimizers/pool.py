"""Run the protocol for many tasks and arms, each in a process of its own with one thread.

The processes share only the folder of records, so you can kill any of them at any time. If this process dies, the
others notice after their current run and exit.
"""

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
"""Modules to load in the fork server, so that new processes start quickly."""


def run_units(names: Sequence[Name], budget: Budget, folder: Path, jobs: int) -> list[Name]:
    """Run the protocol for every task and arm, the most expensive tasks first.

    Returns:
        The tasks and arms that failed. Their processes have printed why.

    Raises:
        RuntimeError: Another process is running the benchmark in ``folder``.
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
        raise RuntimeError(
            f"another process is running the benchmark in {folder}; wait for it, or choose another folder with --out"
        ) from None
    return failed


def _run(name: Name, budget: Budget, folder: Path) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # exit on Ctrl-C without a traceback; finished runs are already saved
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
