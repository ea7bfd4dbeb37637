"""Runs whole jobs on the tables through a service of its own: equal arms, or the default spec.

With equal arms, P is frozen to the identity, so that both arms are AdamW over the same ranges: every `helps` or `hurts`
is wrong. What a job said is added to ``live.jsonl`` at once; jobs that are in it already are not run again.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final, Literal

import pandas as pd

from benchmarks.search.tables import TABLES, Part, Table
from service.client.private import private_service
from service.client.rest import Client

SAID: Final = Path(__file__).parent / "live.jsonl"

Kind = Literal["equal", "default"]

OVERRIDES: Final[dict[Kind, dict[str, str]]] = {
    "equal": {"learner": "frozen", "structure": "diagonal", "placement": "pre"},
    "default": {},
}


def run(part: Part, kind: Kind, jobs: int, steps: int) -> None:
    """Run jobs on the tables in turn, each round with another seed, until ``jobs`` of this kind are stored."""
    done = {(job["table"], job["seed"]) for job in stored(part, kind, steps)}
    with tempfile.TemporaryDirectory(prefix="warptune-live-") as folder, private_service(_settings(folder)) as client:
        datasets = dict[str, str]()
        for number in range(jobs):
            seed, index = divmod(number, len(TABLES[part]))
            name, load = list(TABLES[part].items())[index]
            if (name, seed) in done:
                continue
            if name not in datasets:
                datasets[name] = client.upload(_csv(load(), Path(folder) / f"{name}.csv"))[0]["id"]
            said = _run_one(client, datasets[name], kind, seed, steps)
            line = {"part": part, "kind": kind, "steps": steps, "table": name, "seed": seed, **said}
            with SAID.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(f"{name} {seed}: {said['word']} ({said['seconds']} s)", flush=True)


def stored(part: Part, kind: Kind, steps: int) -> list[dict[str, Any]]:
    """Return what the jobs of a kind said."""
    lines = SAID.read_text().splitlines() if SAID.exists() else []
    jobs = [json.loads(line) for line in lines]
    return [job for job in jobs if (job["part"], job["kind"], job["steps"]) == (part, kind, steps)]


def summary(jobs: list[dict[str, Any]]) -> str:
    """Return how often each word was said."""
    counts = Counter(str(job["word"]) for job in jobs)
    tables = len({job["table"] for job in jobs})
    return f"{len(jobs)} jobs on {tables} tables: " + ", ".join(f"{word} {n}" for word, n in counts.most_common())


def _run_one(client: Client, dataset: str, kind: Kind, seed: int, steps: int) -> dict[str, Any]:
    spec = {
        "dataset": {"id": dataset, "target": "target"},
        "model": {"name": "mlp", "hidden": [64, 64]},
        "search_space": {"overrides": OVERRIDES[kind]},
        "budget": {"steps": steps},
        "seed": seed,
    }
    began = time.monotonic()
    job = client.submit(spec)["id"]
    last = list(client.watch(job))[-1]
    if last["state"] != "succeeded":
        return {"word": last["state"], "reason": last["cause"], "seconds": round(time.monotonic() - began)}
    result = client.recommendation(job).to_json()
    return {
        "word": result["verdict"],
        "reason": result["reason"],
        "statistics": result["statistics"],
        "seconds": round(time.monotonic() - began),
    }


def _csv(table: Table, path: Path) -> Path:
    frame = pd.DataFrame(table.x, columns=[f"x{column}" for column in range(table.x.shape[1])])
    frame["target"] = [f"class {label}" for label in table.y] if table.classes else table.y
    frame.to_csv(path, index=False)
    return path


def _settings(folder: str) -> dict[str, str]:
    return {
        "WARPTUNE_DATABASE_URL": f"sqlite:///{folder}/ledger.db",
        "WARPTUNE_ARTIFACTS_URL": f"{folder}/artifacts",
        "WARPTUNE_LOG_LEVEL": "ERROR",
    }
