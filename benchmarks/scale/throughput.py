"""Measure how many requests per second the API answers, beside a FastAPI route that does nothing.

Run::

    python -m benchmarks.scale.throughput [--database sqlite] [--jobs 200] [--trials 10000]

The service and the bare route each run in a server process of their own, with uvicorn and the log that they have by
default. Twenty clients keep a connection each and ask for the same address as fast as it is answered. The addresses
take turns of a second, so that other work on the machine slows all of them; a figure is the median over the rounds.
``of_bare`` is the share of the bare route's requests per second in the same round. ``client`` is the share of one core
that the clients used; if it is near 1, the clients were the limit. In ``writes`` a thread also stores an event of a job
ten times a second, as running jobs do.

Results go to ``benchmarks/scale/results/throughput.json`` unless you pass ``--output``.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx2
import optuna
from fastapi import FastAPI

from benchmarks.scale.measures import DATABASES, Bench, api, database, make_spec, save, wait_until_ready
from service.db.session import Database
from service.ledger import jobs, keys

CLIENTS: Final = 20
SECONDS: Final = 1.0
ROUNDS: Final = 15
WRITES_PER_S: Final = 10

bare = FastAPI()


@bare.get("/healthz")
async def answer() -> dict[str, str]:
    """Answer at once."""
    return {"status": "ok"}


@contextmanager
def bare_route() -> Iterator[str]:
    """Serve the bare route in a process of its own; yield its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "benchmarks.scale.throughput:bare"]
    process = subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}") as client:
            wait_until_ready(client, process)
        yield f"http://127.0.0.1:{port}/healthz"
    finally:
        process.terminate()
        process.wait()


async def _ask(host: str, port: int, request: bytes, until: float, taken: list[float]) -> None:
    """Ask again and again over one connection. The client is this small so that it is not what is measured."""
    reader, writer = await asyncio.open_connection(host, port)
    while time.perf_counter() < until:
        began = time.perf_counter()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
        await reader.readexactly(int(length.split(b":")[1]))
        taken.append(time.perf_counter() - began)
    writer.close()


async def _load(url: str, key: str | None) -> dict[str, float]:
    """Ask for an address with all clients, and return requests per second, latencies and how busy the clients were."""
    parts = httpx2.URL(url)
    headers = f"Host: {parts.host}:{parts.port}\r\n" + (f"Authorization: Bearer {key}\r\n" if key else "")
    request = f"GET {parts.raw_path.decode()} HTTP/1.1\r\n{headers}\r\n".encode()
    taken: list[float] = []
    began, used = time.perf_counter(), _used_s()
    until = began + SECONDS
    await asyncio.gather(*(_ask(parts.host, parts.port or 80, request, until, taken) for _ in range(CLIENTS)))
    seconds = time.perf_counter() - began
    cuts = statistics.quantiles(taken, n=100)
    return {
        "per_s": len(taken) / seconds,
        "p50_ms": 1000 * cuts[49],
        "p99_ms": 1000 * cuts[98],
        "client": (_used_s() - used) / seconds,
    }


def _used_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def measure(addresses: Mapping[str, str], key: str | None) -> dict[str, dict[str, float]]:
    """Load the addresses in turns and return the medians; the first one is the bare route."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in addresses}
    for _ in range(ROUNDS):
        bare_per_s = None
        for name, url in addresses.items():
            row = asyncio.run(_load(url, key))
            bare_per_s = bare_per_s or row["per_s"]
            found[name].append({**row, "of_bare": row["per_s"] / bare_per_s})
    return {
        name: {figure: round(statistics.median(row[figure] for row in rows), 2) for figure in rows[0]}
        for name, rows in found.items()
    }


@contextmanager
def writes(url: str, job_id: str) -> Iterator[None]:
    """Store events of a job meanwhile."""
    ended, db = threading.Event(), Database(url)

    def write() -> None:
        while not ended.wait(1 / WRITES_PER_S):
            with db.write() as session:
                jobs.record_event(session, job_id, "benchmark")

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        db.close()


def run(url: str, folder: str, count: int, trials: int) -> dict[str, Any]:
    """Measure a database with many jobs, one of which has many trials: open, while jobs run, and with keys."""
    spec = make_spec(trials, "random", "asha")
    bench = Bench(url, folder, spec)
    bench.fill(trials)
    db = Database(url)
    for _ in range(count - 1):
        with db.write() as session:
            jobs.add(session, spec, ["warpadam", "adamw"])
    found: dict[str, Any] = {}
    settings = {"WARPTUNE_LOG_LEVEL": "INFO", "WARPTUNE_READ_RATE": "1000000/second"}
    with bare_route() as bare_url, api(url, stderr=subprocess.DEVNULL, **settings) as client:
        job = f"{client.base_url}/v1/jobs/{bench.job_id}"
        addresses = {"bare": bare_url, "jobs": f"{client.base_url}/v1/jobs", "job": job, "trials": f"{job}/trials"}
        found["open"] = measure(addresses, None)
        with writes(url, bench.job_id):
            found["writes"] = measure(addresses, None)
        key, _ = keys.create(db, "benchmark", keys.Scope.ADMIN)
        found["keys"] = measure(addresses, key)
    db.close()
    bench.close()
    return found


def main() -> None:
    """Measure, print the figures and save them."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale.throughput",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--database", nargs="+", default=DATABASES, choices=DATABASES, help="default: both")
    parser.add_argument("--jobs", type=int, default=200, help="default: %(default)s")
    parser.add_argument("--trials", type=int, default=10_000, help="trials of one job (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "throughput.json")
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found: dict[str, Any] = {}
    for kind in args.database:
        with database(kind) as url, tempfile.TemporaryDirectory() as folder:
            found[kind] = run(url, folder, args.jobs, args.trials)
        for case, rows in found[kind].items():
            for name, row in rows.items():
                print(kind, case, name, row, flush=True)
    save(args.output, ["fastapi", "uvicorn", "sqlalchemy"], {"jobs": args.jobs, "trials": args.trials, **found})


if __name__ == "__main__":
    main()
