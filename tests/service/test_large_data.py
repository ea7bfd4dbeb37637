# Data of two gigabytes, from the upload to training, through REST: the memory of each process is watched from outside.
# Only anonymous memory counts, which the kernel cannot give back; pages of a mapped file it can.
from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.service.cli.test_serve import Service

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="anonymous memory is read from /proc")

FEATURES = 256
ROWS = 2_000_000
"""Of float32: 2.05 GB."""

LIMIT_BYTES = 1 << 30
STEPS = 300
WAIT_S = 600.0


def write_npz(path: Path) -> None:
    """Write random rows and the classes that a random direction gives them, a piece at a time."""
    rng = np.random.default_rng(0)
    direction = rng.standard_normal(FEATURES, dtype=np.float32)
    labels = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        with archive.open("x.npy", "w", force_zip64=True) as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": (ROWS, FEATURES)}
            np.lib.format.write_array_header_1_0(file, header)
            for _ in range(100):
                rows = rng.standard_normal((ROWS // 100, FEATURES), dtype=np.float32)
                labels.append(rows @ direction > 0)
                file.write(rows.tobytes())
        with archive.open("y.npy", "w") as file:
            np.lib.format.write_array(file, np.concatenate(labels).astype(np.int64), allow_pickle=False)


class Memory:
    """Anonymous memory of a service's processes: the peak of each since the last look."""

    def __init__(self, root: psutil.Process) -> None:
        self._root, self._peaks = root, defaultdict[str, int](int)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    @contextmanager
    def watching(self) -> Iterator[Memory]:
        self._thread.start()
        yield self
        self._stop.set()
        self._thread.join()

    def peaks(self) -> dict[str, int]:
        found, self._peaks = self._peaks, defaultdict(int)
        return dict(found)

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            for process in [self._root, *self._root.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
                    name = self._name(process)
                    self._peaks[name] = max(self._peaks[name], anonymous_bytes(process.pid))

    def _name(self, process: psutil.Process) -> str:
        if process.pid == self._root.pid:
            return "api"
        command = process.cmdline()
        return "worker" if "worker" in command else ("slot" if "--multiprocessing-fork" in command else "other")


def anonymous_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return sum(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("RssAnon"))


def test_what_is_counted_is_memory_of_its_own_and_not_a_mapped_file(tmp_path: Path) -> None:
    size = 256 << 20
    with (tmp_path / "file").open("wb") as file:
        file.truncate(size)
    before = anonymous_bytes(os.getpid())
    mapped = np.memmap(tmp_path / "file", np.uint8, "c")
    assert not mapped.any()
    read = anonymous_bytes(os.getpid())
    own = np.ones(size, np.uint8)
    assert read - before < size / 4
    assert anonymous_bytes(os.getpid()) - read > 0.9 * len(own)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    running = Service(tmp_path)
    yield running
    running.client.__exit__()
    children = running.descendants()
    running.process.kill()
    running.process.wait()
    psutil.wait_procs(children, timeout=20)
    shutil.rmtree(tmp_path)  # gigabytes, which pytest would keep for three sessions


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_npz_of_two_gigabytes_is_uploaded_prepared_and_trained_on_within_one(
    service: Service, tmp_path: Path
) -> None:
    file = tmp_path / "large.npz"
    write_npz(file)
    assert file.stat().st_size > 2e9
    with Memory(psutil.Process(service.process.pid)).watching() as memory:
        dataset, _ = service.client.upload(file)
        file.unlink()
        upload = memory.peaks()["api"]
        job = service.client.submit(
            {
                "dataset": {"id": dataset["id"]},
                "model": {"name": "mlp", "hidden": [16]},
                "search_space": {"preset": "quick"},
                "search": {"pruner": "none"},
                "budget": {"trials_per_arm": 1, "steps": STEPS, "batch_size": 256},
            }
        )
        curve = first_curve(service, job["id"])
        peaks = memory.peaks()
        service.client.cancel(job["id"])
    print(f"anonymous memory, peak: upload {upload >> 20} MiB, { ({k: v >> 20 for k, v in peaks.items()}) } MiB")
    assert dataset["rows"] == ROWS
    assert curve[-1]["step"] == STEPS
    assert curve[-1]["val_loss"] < 0.9 * curve[0]["val_loss"]
    assert peaks.keys() >= {"api", "worker", "slot"}
    assert max(upload, *peaks.values()) < LIMIT_BYTES


def first_curve(service: Service, job_id: str) -> list[dict[str, float]]:
    """Wait until the first trial is complete; return its points."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        job = service.client.job(job_id)
        assert job["state"] in ("queued", "running"), job["cause"]
        trial = next(service.client.trials(job_id), None)
        if trial and trial["state"] == "complete":
            return service.client.trial(job_id, 0)["curve"]
        time.sleep(0.2)
    raise AssertionError("the first trial never ended")


CSV_BYTES = 200_000_000
CSV_LIMIT_BYTES = 500_000_000
READ = """
import sys
from pathlib import Path
from service.data.facts import Reading
from service.data.reader import Readers
from service.data.upload import FileFormat
from service.settings import Settings
source, kept, limit = sys.argv[1:]
readers = Readers(Settings(reader_memory_bytes=int(limit)))
facts = readers.read(FileFormat.CSV, Path(source), Path(kept), 1 << 31, Reading(), stop=lambda: False)
print(facts.rows, len(facts.columns))
"""


def write_csv(path: Path) -> int:
    """Write numbers, codes with leading zeros and words; return the number of rows."""
    rng, rows = np.random.default_rng(0), 0
    words = np.array(["Oslo", "Rome", "Bonn", "Kiel"])
    with path.open("w") as file:
        file.write(",".join([*(f"x{column}" for column in range(20)), "zip", "city"]) + "\n")
        while file.tell() < CSV_BYTES:
            numbers = rng.normal(size=(10_000, 20)).round(4).astype(str)
            codes = np.char.zfill(rng.integers(0, 99_999, (10_000, 1)).astype(str), 5)
            cells = np.hstack([numbers, codes, words[rng.integers(0, 4, (10_000, 1))]])
            file.write("\n".join(map(",".join, cells.tolist())) + "\n")
            rows += len(cells)
    return rows


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("cores", [1, 2, 64])
def test_a_csv_of_200_megabytes_is_read_within_500_on_any_number_of_cores(tmp_path: Path, cores: int) -> None:
    rows = write_csv(tmp_path / "large.csv")
    (tmp_path / "kept").mkdir()
    command = [sys.executable, "-c", READ, str(tmp_path / "large.csv"), str(tmp_path / "kept"), str(CSV_LIMIT_BYTES)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(cores)}  # pyarrow starts as many threads
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    shutil.rmtree(tmp_path)
    assert done.returncode == 0, done.stderr
    assert tuple(map(int, done.stdout.split())) == (rows, 22)
