# A process whose Ray cluster does not answer. A job that is cancelled meanwhile ends, and no job waits for ever.
from __future__ import annotations

import threading

from service.engines import ray_tune
from service.engines.ray_tune import RayEngine
from service.errors import JobFailedError
from service.spec.job import ResourcesSpec
from tests.service.engines.contract import SILENCE_S, Recorder


def main() -> None:
    """Run a job that is halted after two seconds, and then another one."""
    engine = RayEngine("127.0.0.1:1")
    work = Recorder(1)

    def halt() -> None:
        work.is_halted = True

    threading.Timer(2.0, halt).start()
    engine.run(work, ResourcesSpec(), SILENCE_S)
    print("halted, begun:", len(work.begun), flush=True)
    ray_tune.CONNECT_S, ray_tune.CLOSE_S = 1.0, 1.0  # type: ignore[misc]
    try:
        engine.run(Recorder(1), ResourcesSpec(), SILENCE_S)
    except JobFailedError as error:
        print("failed:", error, flush=True)
    engine.close()
    print("closed", flush=True)


if __name__ == "__main__":
    main()
