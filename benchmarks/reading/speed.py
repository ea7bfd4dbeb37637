"""Times how long a CSV file of 200 MB takes from upload to dataset, beside ``pyarrow.csv`` on the same file.

    python -m benchmarks.reading.speed

Each is read in a process of its own, in turn; the median counts.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.csv

from service.data.facts import Reading
from service.data.read_csv import read_csv

ROWS: Final = 1_250_000
REPEATS: Final = 5


def main() -> None:
    """Write the file and time both, or read it once with the reader that is named."""
    if len(sys.argv) > 1:
        _read(sys.argv[1], Path(sys.argv[2]))
        return
    with tempfile.TemporaryDirectory(prefix="warptune-speed-") as folder:
        file = Path(folder) / "table.csv"
        pyarrow.csv.write_csv(_table(), file)
        print(f"{file.stat().st_size / 1e6:.0f} MB, {ROWS:,} rows")
        found: dict[str, list[tuple[float, float]]] = {"pyarrow.csv": [], "warptune": []}
        for _ in range(REPEATS):
            for reader, figures in found.items():
                command = [sys.executable, "-m", "benchmarks.reading.speed", reader, str(file)]
                seconds, megabytes = subprocess.check_output(command, text=True).split()
                figures.append((float(seconds), float(megabytes)))
    medians = {reader: statistics.median(seconds for seconds, _ in figures) for reader, figures in found.items()}
    for reader, figures in found.items():
        ratio = medians[reader] / medians["pyarrow.csv"]
        memory = max(megabytes for _, megabytes in figures)
        print(f"{reader:12} {medians[reader]:5.2f} s ({ratio:.2f} x), at most {memory:.0f} MB of memory")


def _read(reader: str, file: Path) -> None:
    began = time.perf_counter()
    if reader == "warptune":
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:
            read_csv(file, Path(folder), 1 << 40, Reading())
    else:
        pyarrow.csv.read_csv(file)
    print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)


def _table() -> pa.Table:
    rng = np.random.default_rng(0)
    numbers = {f"x{column}": rng.normal(size=ROWS).round(6) for column in range(12)}
    counts = {f"k{column}": rng.integers(0, 1000, ROWS) for column in range(4)}
    days = np.datetime_as_string(np.datetime64("2020-01-01") + rng.integers(0, 1000, ROWS))
    zips = np.char.zfill(rng.integers(0, 99_999, ROWS).astype("U5"), 5)
    words = {"city": rng.choice(["Rome", "Oslo", "Bonn"], ROWS), "label": rng.choice(["yes", "no"], ROWS)}
    return pa.table({**numbers, **counts, "day": days, "zip": zips, **words})


if __name__ == "__main__":
    main()
