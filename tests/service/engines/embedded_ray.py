# A process with an embedded Ray, for the tests of what it listens on and what it leaves behind.
from __future__ import annotations

import sys
import time

from service.engines.ray_tune import RayEngine
from service.spec.job import ResourcesSpec
from tests.service.engines.contract import SILENCE_S, Recorder, report_pid


def main() -> None:
    """Run something with Ray, say so, and wait for the end."""
    engine, work = RayEngine(train=report_pid), Recorder(1)
    engine.run(work, ResourcesSpec(), SILENCE_S)
    print(f"ran {len(work.ended)}", flush=True)
    sys.stdin.read()
    engine.close()
    print("closed", flush=True)
    time.sleep(600)


if __name__ == "__main__":
    main()
