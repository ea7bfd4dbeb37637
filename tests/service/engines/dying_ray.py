# A process whose embedded Ray dies in the middle of a run, and which then runs it again. Prints what became of it.
from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil

from service.engines.ray_tune import RayEngine
from service.errors import EngineLostError
from service.spec.job import ResourcesSpec
from service.training.run import CurvePoint, Run
from tests.service.engines.contract import SILENCE_S, Recorder


def kills_once(folder: str, worker_pid: int, run: Run) -> Iterator[CurvePoint]:
    """Three points. After the first, the node of the Ray of this worker is killed, once."""
    for step in (1, 2, 3):
        yield CurvePoint(step, 0.0, float(run.seed), 0.1)
        if step == 1 and not (Path(folder) / "killed").exists():
            (Path(folder) / "killed").touch()
            victims = [child for child in psutil.Process(worker_pid).children() if child.name() == "raylet"]
            for victim in victims:
                os.kill(victim.pid, signal.SIGKILL)
            time.sleep(600)


def main(folder: str) -> None:
    """Run, lose Ray, run again."""
    engine = RayEngine(train=partial(kills_once, folder, os.getpid()))
    work = Recorder(1)
    try:
        engine.run(work, ResourcesSpec(), SILENCE_S)
    except EngineLostError as error:
        print("lost:", error, "ended:", len(work.ended), flush=True)
    engine.run(again := Recorder(1), ResourcesSpec(), SILENCE_S)
    print("ran", *(ended.state for ended in again.ended.values()), flush=True)
    engine.close()


if __name__ == "__main__":
    main(sys.argv[1])
