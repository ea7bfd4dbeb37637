"""Check WarpAdam on a CUDA device: tests, time and memory of a step, and a small GPT trained against other optimizers.

Run::

    python -m benchmarks.gpu [FOLDER]

It needs torch, numpy, safetensors and pytest, takes at most nine minutes, and downloads nothing. Results go to
``benchmarks/gpu/results/<device>.json`` unless you name another folder; they are saved after each part. With
``WARPTUNE_FAKE=1`` it runs at toy size on the CPU, into ``fake.json``.

The exit status is 1 if a test failed or did not run.
"""

from __future__ import annotations

import json
import platform
import re
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import device_tests
from benchmarks.gpu.jobs import Figures, run_jobs
from benchmarks.gpu.optimizers import STEPPED
from benchmarks.gpu.sizes import FAKE, SIZES
from benchmarks.gpu.tables import outcomes_table, steps_table, training_table
from benchmarks.gpu.tuning import best_runs, first_jobs, further_jobs

FAKE_NOTE = "THIS IS A FAKE RUN at toy size on the CPU. It shows that the check works. Its figures mean nothing."

MOST_FURTHER_LRS = 2
"""Most learning rates to try beyond the first ones."""


def main() -> int:
    """Run the three parts, print their tables and save the results."""
    if not FAKE and not torch.cuda.is_available():
        sys.exit("There is no CUDA device here. WARPTUNE_FAKE=1 runs the check at toy size on the CPU.")
    device = "fake" if FAKE else torch.cuda.get_device_name()
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "results"
    target = folder / f"{re.sub('[^a-z0-9]+', '-', device.lower())}.json"
    result: dict[str, Any] = {**_circumstances(device), **({"note": FAKE_NOTE} if FAKE else {})}
    print(FAKE_NOTE if FAKE else f"WarpAdam on {device}, torch {torch.__version__}", flush=True)
    limits = dict(zip(("tests", "steps", "training"), SIZES.seconds, strict=True))

    result["tests"] = run_jobs("benchmarks.gpu.device_tests", device_tests.JOBS, limits["tests"])
    _show_and_save(outcomes_table(result["tests"]), result, target)

    result["steps"] = run_jobs("benchmarks.gpu.step_time", list(STEPPED), limits["steps"])
    _show_and_save(steps_table(result["steps"]), result, target)

    result["training"] = train(limits["training"])
    best = best_runs(result["training"])
    result["best"] = {name: run if isinstance(run, str) else asdict(run) for name, run in best.items()}
    _show_and_save(training_table(best), result, target)

    print(f"\nSaved as {target}" + (f"\n{FAKE_NOTE}" if FAKE else ""))
    return 0 if tests_passed(result["tests"]) else 1


def train(seconds: float) -> dict[str, Figures]:
    """Train with every optimizer at its lrs. While there is time, go on where the highest or lowest one is best."""
    ends = time.monotonic() + seconds
    runs = run_jobs("benchmarks.gpu.training", first_jobs(), seconds)
    for _ in range(MOST_FURTHER_LRS):
        left = ends - time.monotonic()
        if left > 0 and (jobs := further_jobs(runs)):
            runs |= run_jobs("benchmarks.gpu.training", jobs, left)
    return runs


def tests_passed(files: dict[str, Figures]) -> bool:
    """Tell whether every file ran, something passed in it, and nothing failed."""
    return all("error" not in found and found["passed"] and not found["failed"] for found in files.values())


def _circumstances(device: str) -> dict[str, Any]:
    return {
        "fake": FAKE,
        "device": device,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "sizes": asdict(SIZES),
    }


def _show_and_save(text: str, result: dict[str, Any], target: Path) -> None:
    print(f"\n{text}", flush=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
