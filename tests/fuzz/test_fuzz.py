# Schemathesis sends requests that it makes from the document of the API, alone and in chains of them. `make fuzz`
# installs it into an environment of its own: the project does not need it, nor what it needs.
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from service.client.rest import Client
from tests.conftest import SpecMaker
from tests.service.cli.test_serve import WAIT_S, Service, Start, start, wait_for

__all__ = ["start"]  # the fixture

BIN = Path(__file__).parents[2] / ".venv-fuzz" / "bin"

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "40"))
SEED = os.environ.get("FUZZ_SEED", "1")

LEAST_CASES = 3000

CHECKS = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance"),
    *("response_schema_conformance", "negative_data_rejection", "missing_required_header", "unsupported_method"),
    *("allow_header_conformance", "use_after_free", "ignored_auth"),
)
"""All but those that a right answer breaks: a valid request may be refused, as a schema cannot say which fields go
together; a job that exists may have no report yet; and a dry run may take longer than ten seconds."""


def fuzz(service: Service, folder: Path, known: dict[str, str], key: str | None, examples: int) -> dict[str, Any]:
    """Run schemathesis with a key; return its report."""
    environment = {**os.environ, **known, "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(Path(__file__).parent)}
    header = ("--header", f"Authorization: Bearer {key}") if key else ()
    report = folder / f"report-{'key' if key else 'none'}.json"
    options = ("--max-examples", str(examples), "--seed", SEED, "--request-timeout", "60", "--continue-on-failure")
    files = ("--generation-database", "none", "--report", "json", "--report-json-path", str(report))
    command = [str(BIN / "schemathesis"), "run", f"{service.url}/openapi.json", "--checks", ",".join(CHECKS)]
    done = subprocess.run(
        [*command, *header, *options, *files, "--no-color"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]
    found: dict[str, Any] = json.loads(report.read_text())
    print(done.stdout[-1500:])
    return found


@pytest.mark.fuzz
@pytest.mark.timeout(3600)
def test_no_request_gets_a_server_error_or_an_answer_that_is_not_documented(
    start: Start, spec: SpecMaker, tmp_path: Path
) -> None:
    assert BIN.exists(), "run this test with: make fuzz"
    service = start("--no-worker")
    keys = {}
    for scope in ("admin", "read"):
        keys[scope] = service.warptune("keys", "create", "--project", "fuzz", "--scope", scope).stdout.strip()
    (tmp_path / "table.csv").write_text("x,y\n" + "".join(f"{i},{i % 3}\n" for i in range(60)))
    with Client(service.url, api_key=keys["admin"]) as client:
        dataset, _ = client.upload(tmp_path / "table.csv")
        job_id = client.submit(spec())["id"]
        worker = subprocess.Popen([sys.executable, "-m", "service", "worker"], env=service.environment)
        try:
            wait_for(lambda: client.job(job_id)["state"] == "succeeded")
        finally:
            worker.terminate()  # the jobs that schemathesis submits stay in the queue
            worker.wait(WAIT_S)
    known = {"FUZZ_JOB": job_id, "FUZZ_DATASET": dataset["id"], "FUZZ_SPEC": json.dumps(spec())}
    reports = [fuzz(service, tmp_path, known, keys["admin"], EXAMPLES)]
    reports += [fuzz(service, tmp_path, known, key, max(1, EXAMPLES // 10)) for key in (keys["read"], None)]
    for report in reports:
        assert report["complete"]
        assert report["operations"]["tested"] == report["operations"]["total"]
        assert (report["failures"], report["errors"]) == ([], [])
    cases = sum(report["test_cases"]["generated"] for report in reports)
    assert cases >= LEAST_CASES, f"only {cases} cases"
    log = service.log.read_text()
    assert "unhandled error" not in log, log[-3000:]
    assert "Traceback" not in log, log[-3000:]
