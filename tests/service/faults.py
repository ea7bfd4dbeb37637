# What can go wrong inside a slot process, as training functions. They count the runs of a test in files of FAULTS_DIR,
# since every slot is a process of its own; whatever is not at fault trains for real.
from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from service.engines.base import Train, default_train
from service.training.run import CurvePoint, Run


def _count(name: str) -> int:
    """Return how many times this was called with ``name`` in this test, this call included."""
    folder = Path(os.environ["FAULTS_DIR"])
    number = 1
    while True:
        try:
            (folder / f"{name}-{number}").touch(exist_ok=False)
        except FileExistsError:
            number += 1
        else:
            return number


class DiesWhileStarting:
    """Does ``train`` in processes that die by SIGKILL while they start: the first ``times`` that get this object."""

    def __init__(self, folder: str, times: int, train: Train, owner: int | None = None) -> None:
        self._folder, self._times, self._train, self._owner = folder, times, train, owner or os.getpid()

    def __call__(self, run: Run) -> Iterator[CurvePoint]:
        return self._train(run)

    def __reduce__(self) -> tuple[object, ...]:
        return _unpickled, (self._folder, self._times, self._train, self._owner)


def _unpickled(folder: str, times: int, train: Train, owner: int) -> DiesWhileStarting:
    if os.getpid() != owner:
        os.environ["FAULTS_DIR"] = folder
        if _count("start") <= times:
            os.kill(os.getpid(), signal.SIGKILL)
    return DiesWhileStarting(folder, times, train, owner)


def in_folder(folder: str, train: Train, run: Run) -> Iterator[CurvePoint]:
    """Do ``train`` with FAULTS_DIR set, in a process that was started before the test."""
    os.environ["FAULTS_DIR"] = folder
    return train(run)


def first_run_killed_once_second_raises(run: Run) -> Iterator[CurvePoint]:
    """The first attempt dies at its third point; after its second attempt, the next run raises."""
    number = _count("run")
    if number == 3:
        raise RuntimeError("the run is broken")
    for index, point in enumerate(default_train(run)):
        if number == 1 and index == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        yield point


def always_raises(run: Run) -> Iterator[CurvePoint]:
    raise RuntimeError("every run is broken")
    yield


def second_run_raises(run: Run) -> Iterator[CurvePoint]:
    if _count("run") == 2:
        raise RuntimeError("the second run is broken")
    return default_train(run)


def untuned_raises(run: Run) -> Iterator[CurvePoint]:
    """AdamW with its own lr raises, whatever the seed."""
    if run.arm == "adamw" and run.config["lr"] == 1e-3:
        raise RuntimeError("the config is broken")
    return default_train(run)


def second_run_killed_once(run: Run) -> Iterator[CurvePoint]:
    """The second run dies at its third point; its second attempt does not."""
    kill = _count("run") == 2
    for index, point in enumerate(default_train(run)):
        if kill and index == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        yield point


def one_config_always_killed(run: Run) -> Iterator[CurvePoint]:
    """Whatever config the second run has dies at every attempt."""
    folder = Path(os.environ["FAULTS_DIR"])
    if _count("run") == 2:
        (folder / "fatal").write_text(repr(run.config))
    fatal = folder / "fatal"
    if fatal.exists() and fatal.read_text() == repr(run.config):
        os.kill(os.getpid(), signal.SIGKILL)
    return default_train(run)


def hangs(run: Run) -> Iterator[CurvePoint]:
    """A run that says nothing for a minute."""
    _count("hanging")
    time.sleep(60)
    return default_train(run)


STEP_S = 0.01
"""Least time of a step of a trial, where they are counted."""


def counted(run: Run) -> Iterator[CurvePoint]:
    """A real run that leaves a line with its name for every step; the steps of trials are slow."""
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    name = (run.checkpoint_url or "").rpartition("/")[2]
    steps = os.open(Path(os.environ["FAULTS_DIR"]) / "steps", os.O_CREAT | os.O_APPEND | os.O_WRONLY)

    def count(*_: object) -> None:
        os.write(steps, f"{name}\n".encode())
        time.sleep(STEP_S if name.startswith("trial") else 0.0)

    hook = register_optimizer_step_pre_hook(count)
    try:
        yield from default_train(run)
    finally:
        hook.remove()
        os.close(steps)


def slow(run: Run) -> Iterator[CurvePoint]:
    """A real run that takes a while at every point."""
    for point in default_train(run):
        _count("point")
        time.sleep(0.3)
        yield point


def slow_search(run: Run) -> Iterator[CurvePoint]:
    """A real run that takes a while at every point if it is a trial."""
    return slow(run) if "/trial-" in (run.checkpoint_url or "") else default_train(run)


def slow_search_of_adamw(run: Run) -> Iterator[CurvePoint]:
    return slow_search(run) if run.arm == "adamw" else default_train(run)


def slow_to_confirm(run: Run) -> Iterator[CurvePoint]:
    """A real run that takes a while at every point if it is a confirmation run."""
    return slow(run) if "/confirm-" in (run.checkpoint_url or "") else default_train(run)


def first_run_raises(run: Run) -> Iterator[CurvePoint]:
    if _count("run") == 1:
        raise RuntimeError("the first run is broken")
    return default_train(run)


def first_comparison_raises(run: Run) -> Iterator[CurvePoint]:
    """The first confirmation run of warpadam on the first fresh seed raises."""
    if (run.arm, run.seed) == ("warpadam", 1) and _count("comparison") == 1:
        raise RuntimeError("the first comparison is broken")
    return default_train(run)
