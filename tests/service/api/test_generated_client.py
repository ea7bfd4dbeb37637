# A program that openapi-python-client generates from the document of the API runs a job. `make client-check` installs
# the generator into an environment of its own, because it needs an older typer than the command line.
from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import httpx2
import pytest

from tests.conftest import SpecMaker
from tests.service.cli.test_serve import Start, start

__all__ = ["start"]  # the fixture

BIN = Path(__file__).parents[3] / ".venv-generator" / "bin"

PROGRAM = """
import json, sys, time
from generated.api.jobs import get_job, list_jobs, submit_job
from generated.api.results import get_recommendation
from generated.api.trials import list_trials
from generated.client import Client
from generated.models import JobSpec, JobState, Problem, Word

url, spec = sys.argv[1], json.loads(sys.argv[2])
with Client(base_url=url) as client:
    wrong = submit_job.sync(client=client, body=JobSpec.from_dict({**spec, "seed": -1}))
    assert isinstance(wrong, Problem) and wrong.errors[0].field == "seed", wrong
    job = submit_job.sync(client=client, body=JobSpec.from_dict(spec), idempotency_key="mine")
    while job.state not in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED):
        time.sleep(0.2)
        job = get_job.sync(job.id, client=client)
    found = get_recommendation.sync(job.id, client=client)
    assert isinstance(found.verdict, Word), found
    listed = list_jobs.sync(client=client, state=JobState.SUCCEEDED, tag=["made"])
    trials = list_trials.sync(job.id, client=client)
    print(json.dumps([job.id, found.job_id, [item.id for item in listed.items], len(trials.items)]))
"""


@pytest.mark.generator
@pytest.mark.timeout(300)
def test_a_generated_client_runs_a_job(start: Start, spec: SpecMaker, tmp_path: Path) -> None:
    assert BIN.exists(), "run this test with: make client-check"
    service = start()
    (tmp_path / "openapi.json").write_bytes(httpx2.get(f"{service.url}/openapi.json").content)
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(tmp_path)}

    def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    files = ("--path", "openapi.json", "--output-path", "generated")
    made = run(BIN / "openapi-python-client", "generate", *files, "--meta", "none", "--fail-on-warning")
    assert made.returncode == 0, made.stdout + made.stderr
    done = run(BIN / "python", "-c", PROGRAM, service.url, json.dumps(spec(tags=["made"])))
    assert done.returncode == 0, done.stderr
    job, result, listed, trials = json.loads(done.stdout)
    assert (result, listed, trials) == (job, [job], 5)
