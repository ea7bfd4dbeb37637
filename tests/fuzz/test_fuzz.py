# Schemathesis sends requests that it makes from the document of the API, alone and in chains of them. `make fuzz`
# installs it into an environment of its own: the project does not need it, nor what it needs.
from __future__ import annotations

import json
import os
import re
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

FIRST_JOBS = 4
"""Jobs that have succeeded before the first request. The worker goes on with those that requests submit."""

CHAINS_S = 3.0
"""Seconds for chains of requests, for each example of a request alone."""

LINKS = re.compile(r"(\d+) covered / \d+ selected / (\d+) total")
"""How schemathesis says how many links between requests its chains have followed."""

LEAST_LINKS = 0.9
"""Share of the links that the chains follow at least."""

CONFIG = """
[phases.stateful]
max-steps = 60  # each chain begins with some requests that follow no link
"""

CHECKS = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance"),
    *("response_schema_conformance", "negative_data_rejection", "missing_required_header", "unsupported_method"),
    *("allow_header_conformance", "use_after_free", "ignored_auth"),
)
"""All but those that a right answer breaks: a valid request may be refused, as a schema cannot say which fields go
together; a job that exists may have no report yet; and a dry run may take longer than ten seconds."""


def fuzz(
    service: Service, folder: Path, known: dict[str, str], key: str | None, *options: str
) -> tuple[dict[str, Any], str]:
    """Run schemathesis with a key; return its report, and what it printed."""
    environment = {**os.environ, **known, "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(Path(__file__).parent)}
    header = ("--header", f"Authorization: Bearer {key}") if key else ()
    report, config = folder / "report.json", folder / "schemathesis.toml"
    config.write_text(CONFIG)
    common = ("--checks", ",".join(CHECKS), "--seed", SEED, "--request-timeout", "60", "--continue-on-failure")
    files = ("--generation-database", "none", "--report", "json", "--report-json-path", str(report))
    command = [str(BIN / "schemathesis"), "--config-file", str(config), "run", f"{service.url}/openapi.json"]
    done = subprocess.run(
        [*command, *common, *options, *header, *files, "--no-color"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]
    print(done.stdout[-1500:])
    return json.loads(report.read_text()), done.stdout


def alone(examples: int) -> tuple[str, ...]:
    """Return the options with which each request is sent so many times, alone."""
    return ("--phases", "examples,coverage,fuzzing", "--max-examples", str(examples))


@pytest.mark.fuzz
@pytest.mark.timeout(3600)
def test_no_request_gets_a_server_error_or_an_answer_that_is_not_documented(
    start: Start, spec: SpecMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert BIN.exists(), "run this test with: make fuzz"
    for rate in ("READ", "WRITE", "SIGN_IN"):
        monkeypatch.setenv(f"WARPTUNE_{rate}_RATE", "off")  # otherwise most requests are refused with 429
    service = start("--no-worker")
    keys = {}
    for scope in ("admin", "read"):
        keys[scope] = service.warptune("keys", "create", "--project", "fuzz", "--scope", scope).stdout.strip()
    small = {**spec(), "priority": 0}
    with Client(service.url, api_key=keys["admin"]) as client:
        jobs = [client.submit({**small, "priority": 5})["id"] for _ in range(FIRST_JOBS)]
        log_of_worker = tmp_path / "worker.log"
        with log_of_worker.open("wb") as log:
            command = [sys.executable, "-m", "service", "worker"]
            worker = subprocess.Popen(command, env=service.environment, stderr=log)
        try:
            wait_for(lambda: {client.job(job_id)["state"] for job_id in jobs} == {"succeeded"})
            known = {"FUZZ_URL": service.url, "FUZZ_KEY": keys["admin"], "FUZZ_SPEC": json.dumps(small)}
            few = max(1, EXAMPLES // 10)
            by_key = {keys["admin"]: EXAMPLES, keys["read"]: few, None: few}
            reports = [fuzz(service, tmp_path, known, key, *alone(count))[0] for key, count in by_key.items()]
            chains = ("--phases", "coverage,stateful", "--max-time", f"{CHAINS_S * EXAMPLES:.0f}")
            report, printed = fuzz(service, tmp_path, known, keys["admin"], *chains)
        finally:
            worker.terminate()
            worker.wait(WAIT_S)
    for each in (*reports, report):
        assert each["operations"]["tested"] == each["operations"]["total"]
        assert (each["failures"], each["errors"]) == ([], [])
    assert all(each["complete"] for each in reports)
    followed, links = map(int, LINKS.findall(printed)[-1])
    assert followed >= LEAST_LINKS * links, f"only {followed} of {links} links between requests were followed"
    cases = sum(each["test_cases"]["generated"] for each in (*reports, report))
    print(f"{cases} requests, {followed} of {links} links")
    assert cases >= LEAST_CASES, f"only {cases} cases"
    for written in (service.log.read_text(), log_of_worker.read_text()):
        assert "unhandled error" not in written, written[-3000:]
        assert "Traceback" not in written, written[-3000:]
