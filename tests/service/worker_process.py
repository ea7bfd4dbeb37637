# A worker as a process of its own, for the tests that pause and kill one: the real one, with slots that train as the
# named function of faults.py does. At its end it says whether it has loaded torch.
from __future__ import annotations

import logging
import signal
import sys

from service.db.session import Database
from service.db.studies import Studies
from service.engines.base import Engine
from service.engines.local import LocalEngine
from service.engines.ray_tune import RayEngine
from service.settings import Settings
from service.worker import Worker
from tests.service import faults


def main() -> None:
    """Take jobs until SIGTERM."""
    logging.basicConfig(level=logging.INFO)
    settings = Settings()
    db, studies = Database(settings.database_url), Studies(settings.database_url)
    train = getattr(faults, sys.argv[1])
    engines: dict[str, Engine] = {"optuna": LocalEngine(train), "ray": RayEngine(settings.ray_address, train)}
    worker = Worker(settings, db, studies.open(), engines)
    signal.signal(signal.SIGTERM, lambda *_: worker.stop())
    worker.run_forever()
    for engine in engines.values():
        engine.close()
    print("torch" if "torch" in sys.modules else "no torch")


if __name__ == "__main__":
    main()
