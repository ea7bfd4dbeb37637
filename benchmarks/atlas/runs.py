"""Runs the scenarios as jobs of a service of its own, and keeps what each says.

Jobs stay in the folder ``build/atlas``. A run that was stopped goes on with the job where it was.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any, Final

from benchmarks.atlas.scenarios import SCENARIOS, Scenario
from service.client.private import private_service
from service.client.rest import ApiError, Client
from service.db.session import Database
from service.ledger.jobs import find_job
from service.planning.atlas import Traits
from service.planning.plan import plan_of
from service.result.job_result import JobResult, Verdict

ROOT: Final = Path(__file__).parents[2]
FOLDER: Final = ROOT / "build" / "atlas"
RESULTS: Final = Path(__file__).parent / "results.jsonl"

Found = dict[str, Any]


def run(scenarios: Sequence[Scenario] = SCENARIOS, engine: str = "optuna", results: Path = RESULTS) -> None:
    """Run the scenarios that have no result yet, and add each result to the file at once.

    Args:
        scenarios: The scenarios; the source of a carried P comes before those that it is carried to.
        engine: ``optuna``, or ``ray`` for a Ray cluster.
        results: The file, one JSON object a line.
    """
    done = stored(results)
    left = {scenario.key: scenario for scenario in scenarios if scenario.key not in done}
    print(f"{len(left)} jobs are left for {len(scenarios)} scenarios", flush=True)
    if not left:
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    with private_service(_settings()) as client:
        for scenario in left.values():
            found = _run_one(client, scenario, engine)
            with results.open("a") as file:
                file.write(json.dumps(found) + "\n")
            print(f"{scenario.name}: {found['word']}", flush=True)


def stored(results: Path = RESULTS) -> dict[str, Found]:
    """Return what is known by the keys of the scenarios."""
    lines = results.read_text().splitlines() if results.exists() else []
    return {found["key"]: found for found in map(json.loads, lines)}


def _run_one(client: Client, scenario: Scenario, engine: str) -> Found:
    spec = {**scenario.fields, "name": scenario.name, "engine": {"name": engine}}
    found: Found = {"key": scenario.key, "name": scenario.name, "engine": engine}
    if scenario.text:
        spec["dataset"] = {"id": _upload_text(client)}
    if scenario.carried_from is not None:
        source = _submit(client, {**_fields(scenario.carried_from), "name": scenario.carried_from}, engine)
        spec["warm_start"] = {"job": source}
    try:
        job = _submit(client, spec, engine)
    except ApiError as error:  # for instance because the source recommends AdamW, which has no P to carry
        return {**found, "spec": spec, "word": "refused", "reason": str(error)}
    state = client.job(job)
    found |= {"spec": spec, "traits": _traits(job)}
    if state["state"] != "succeeded":
        return {**found, "word": state["state"], "reason": state["cause"]}
    return {**found, **_told(client.recommendation(job))}


def _traits(job_id: str) -> Found:
    database = Database(f"sqlite:///{FOLDER}/ledger.db")
    with database.read() as session:
        job = find_job(session, job_id)
        assert job is not None, "it has just run"
        traits = Traits.of(plan_of(job.spec, job.dataset_info))
        assert traits is not None, "no scenario is a training loop"
        return asdict(traits)


def _fields(name: str) -> Mapping[str, Any]:
    return next(scenario.fields for scenario in SCENARIOS if scenario.name == name)


def _submit(client: Client, spec: Mapping[str, Any], engine: str) -> str:
    """Run a job to its end, unless it has run already, and return its id."""
    spec = {**spec, "engine": {"name": engine}}
    key = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()
    return client.wait(client.submit(spec, idempotency_key=key)["id"])["id"]


def _upload_text(client: Client) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "help-pages.txt"
        path.write_text("\n".join(topics[name] for name in sorted(topics)))
        return client.upload(path)[0]["id"]


def _told(result: JobResult) -> Found:
    """Return what a result says, short enough for a file with a hundred of them."""
    warpadam = next(arm for arm in result.finalists if arm.arm == result.challenger)
    return {
        "word": result.verdict,
        "reason": result.reason,
        "equal_steps": _effect(result.statistics),
        "equal_seconds": _effect(result.at_equal_seconds),
        "config": warpadam.config,
        "best_step": warpadam.best_step,
        "seconds": {arm.arm: arm.mean_seconds for arm in result.finalists},
        "transfer": None if result.warm_start is None else result.warm_start.transfer,
    }


def _effect(found: Verdict | None) -> Found | None:
    if found is None or not found.baseline_mean:
        return None
    scale = abs(found.baseline_mean)
    low, high = (end / scale for end in found.interval)
    return {
        "word": found.word,
        "effect": found.improvement / scale,
        "interval": [low, high],
        "luck": found.luck,
        "win_rate": found.win_rate,
    }


def _settings() -> dict[str, str]:
    return {
        "WARPTUNE_DATABASE_URL": f"sqlite:///{FOLDER}/ledger.db",
        "WARPTUNE_ARTIFACTS_URL": f"{FOLDER}/artifacts",
        "WARPTUNE_CODE": str(ROOT),
        "WARPTUNE_ALLOWED_MODULES": "benchmarks",
        "WARPTUNE_LOG_LEVEL": "ERROR",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }
