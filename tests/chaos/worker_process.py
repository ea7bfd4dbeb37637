# The real worker as a process of its own. At one moment of its first job it kills what CHAOS names: itself, its slots,
# slots that start, or the API. A file in FAULTS_DIR makes sure that this happens once.
from __future__ import annotations

import logging
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from service.db.session import Database
from service.db.studies import Studies
from service.engines.base import default_train
from service.engines.local import LocalEngine
from service.ledger.runs import RunLog
from service.running import job_run
from service.running.arm_search import ArmSearch
from service.running.arm_study import ArmStudy
from service.settings import Settings
from service.temporary import own_folder
from service.training.run import CurvePoint, Run
from service.worker import Worker

MOMENTS = {
    "at the start of a trial": (ArmSearch, "started"),
    "in the middle of a trial": (ArmSearch, "progress"),
    "before the end of a trial is stored": (RunLog, "finish_trial"),
    "before Optuna is told of it": (ArmStudy, "tell"),
    "at the verdict": (job_run, "make_result"),
    "before the result is stored": (RunLog, "succeed"),
}
"""The function before whose call something is killed."""

MOMENTS_OF_REQUESTS = {
    "when it gives a paused job back": (RunLog, "release"),
    "when it takes a resumed job": (RunLog, "recover_trials"),
    "when it ends the search of a stopped job": (RunLog, "finish_arm"),
}
"""The same, for jobs that are paused, resumed or stopped."""

API_PID, HAPPENED, DYING = "api.pid", "happened", "dying"
"""Files in FAULTS_DIR: the API's process id; that it has happened; that the next slot dies while it starts."""


class Fragile:
    """Trains. A slot that gets it dies while it starts if there is a file that says so, which it deletes."""

    def __init__(self, folder: Path, owner: int) -> None:
        self._folder, self._owner = folder, owner

    def __call__(self, run: Run) -> Iterator[CurvePoint]:
        return default_train(run)

    def __reduce__(self) -> tuple[object, ...]:
        return _unpickled, (self._folder, self._owner)


def _unpickled(folder: Path, owner: int) -> Fragile:
    if os.getpid() != owner:
        try:
            (folder / DYING).unlink()
        except FileNotFoundError:
            return Fragile(folder, owner)
        os.kill(os.getpid(), signal.SIGKILL)
    return Fragile(folder, owner)


class Chaos:
    """Kills ``victim`` before the ``nth`` call of the function of a moment."""

    def __init__(self, folder: Path, victim: str, moment: str, nth: int, engine: LocalEngine) -> None:
        self._folder, self._victim, self._nth, self._engine = folder, victim, nth, engine
        self._calls = Counter[str]()
        owner, name = {**MOMENTS, **MOMENTS_OF_REQUESTS}[moment]
        original = getattr(owner, name)

        def wrapped(*args: Any, **options: Any) -> Any:
            self._called(moment)
            return original(*args, **options)

        setattr(owner, name, wrapped)

    def _called(self, moment: str) -> None:
        self._calls[moment] += 1
        if self._calls[moment] != self._nth:
            return
        try:
            (self._folder / HAPPENED).touch(exist_ok=False)
        except FileExistsError:
            return
        match self._victim:
            case "worker":
                os.kill(os.getpid(), signal.SIGKILL)
            case "api":
                os.kill(int((self._folder / API_PID).read_text()), signal.SIGKILL)
            case "slot":
                self._kill_slots()
            case "slot while it starts":
                (self._folder / DYING).touch()
                self._kill_slots()

    def _kill_slots(self) -> None:
        for pid in self._engine.slot_pids:
            os.kill(pid, signal.SIGKILL)


def main() -> None:
    """Take jobs until SIGTERM."""
    logging.basicConfig(level=logging.INFO)
    settings, folder = Settings(), Path(os.environ["FAULTS_DIR"])
    with own_folder():
        db, studies = Database(settings.database_url), Studies(settings.database_url)
        engine = LocalEngine(Fragile(folder, os.getpid()))
        if plan := os.environ.get("CHAOS"):
            victim, moment, nth = plan.split("/")
            Chaos(folder, victim, moment, int(nth), engine)
        worker = Worker(settings, db, studies.open(), {"optuna": engine})
        signal.signal(signal.SIGTERM, lambda *_: worker.stop())
        worker.run_forever()
        engine.close()
        studies.close()
        db.close()


if __name__ == "__main__":
    main()
