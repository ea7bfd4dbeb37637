"""Measure search, database and API with 10,000 trials on 1,000 slots. Nothing is trained.

Run::

    python -m benchmarks.scale [--sampler random] [--database sqlite]

It runs one job in each database, with the service's own search, ledger and API; only the training is simulated. For
each database it prints and saves:

- ``search``: trials per second, milliseconds per trial in each call, and milliseconds per ask for the first and the
  last tenth of the trials. Asks get slower when the sampler looks at all earlier trials.
- ``http_ms``: latencies of the API requests that users send.
- ``resume_s``: seconds that a new worker needs to take over the job.
- ``rebuild_s``: the same when Optuna's tables have lost the study and it is rebuilt from the ledger.

Results go to ``benchmarks/scale/results/scale.json`` unless you pass ``--output``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import optuna

from benchmarks.scale.measures import DATABASES, Bench, database, make_spec, save, server_version


def measure(kind: str, trials: int, slots: int, sampler: str, pruner: str, repeats: int) -> dict[str, Any]:
    """Run the job in one database and return all figures."""
    with database(kind) as url, tempfile.TemporaryDirectory() as artifacts:
        bench = Bench(url, artifacts, make_spec(trials, sampler, pruner))
        try:
            return {
                "database": f"{kind} {server_version(url)}",
                "search": bench.search(slots),
                "http_ms": bench.http_ms(repeats),
                "resume_s": round(bench.resume_s(), 2),
                "rebuild_s": round(bench.rebuild_s(), 2),
            }
        finally:
            bench.close()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--trials", type=int, default=10_000, help="number of trials (default: %(default)s)")
    parser.add_argument("--slots", type=int, default=1_000, help="trials that run at once (default: %(default)s)")
    parser.add_argument("--sampler", default="tpe", choices=["tpe", "random", "qmc"], help="default: %(default)s")
    parser.add_argument(
        "--pruner", default="asha", choices=["asha", "hyperband", "median", "none"], help="default: %(default)s"
    )
    parser.add_argument("--database", nargs="+", default=DATABASES, choices=DATABASES, help="default: both")
    parser.add_argument("--repeats", type=int, default=100, help="requests of each kind (default: %(default)s)")
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent / "results" / "scale.json", help="file for the results"
    )
    return parser.parse_args()


def main() -> None:
    """Measure each database, print the figures and save them."""
    chosen = _arguments()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    result: dict[str, Any] = {
        "slots": chosen.slots,
        "sampler": chosen.sampler,
        "pruner": chosen.pruner,
        "databases": {},
    }
    for kind in chosen.database:
        result["databases"][kind] = measure(
            kind, chosen.trials, chosen.slots, chosen.sampler, chosen.pruner, chosen.repeats
        )
        print(json.dumps(result["databases"][kind], indent=2), flush=True)
        save(chosen.output, ("optuna", "sqlalchemy", "psycopg", "fastapi"), result)


if __name__ == "__main__":
    main()
