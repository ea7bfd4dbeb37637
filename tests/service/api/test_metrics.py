# What a Prometheus server gets to see.
from __future__ import annotations

import re
import time
from pathlib import Path

from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from service.api.metrics import Metrics
from service.db.session import Database
from service.ledger import keys
from service.ledger.keys import Scope
from service.settings import Settings
from tests.service.api.conftest import Submit, assert_problem, claim_job, sqlite_only, succeed

ROOT = Path(__file__).parents[3]

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(client: TestClient, **headers: str) -> Samples:
    answer = client.get("/metrics", headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((name, frozenset(labels.items())))


def test_jobs_and_trials_are_shown_as_the_ledger_has_them(client: TestClient, db: Database, submit: Submit) -> None:
    before = scrape(client)
    assert value(before, "warptune_jobs", state="queued") == 0
    assert value(before, "warptune_queue_age_seconds") == 0
    submit()
    succeed(claim_job(db))
    submit()
    log = claim_job(db)
    log.start_arm("warpadam")
    log.add_trial("warpadam", {}, running=True)
    submit()
    found = scrape(client)
    states = {state: value(found, "warptune_jobs", state=state) for state in ("queued", "running", "succeeded")}
    assert states == {"queued": 1, "running": 1, "succeeded": 1}
    assert value(found, "warptune_trials", state="running") == 1
    assert value(found, "warptune_trials_ended_total", state="complete") == 5
    assert value(found, "warptune_jobs_ended_total", state="succeeded") == 1
    assert value(found, "warptune_confirm_runs_ended_total", state="complete") == 18
    assert value(found, "warptune_lease_losses_total") == 0
    assert value(found, "warptune_jobs_without_worker") == 0
    assert (value(found, "warptune_queue_age_seconds") or 0) > 0
    assert value(found, "warptune_trial_seconds_count", arm="warpadam") == 2
    assert value(found, "warptune_trial_seconds_bucket", arm="warpadam", le="0.1") == 2
    assert value(found, "warptune_trial_seconds_bucket", arm="warpadam", le="0.03") == 0
    assert value(found, "warptune_trial_seconds_bucket", arm="warpadam", le="+Inf") == 2
    for disk in ("temporary_files", "artifacts"):
        assert (value(found, "warptune_disk_free_bytes", disk=disk) or 0) > 0


def test_a_job_without_a_worker_is_shown(client: TestClient, db: Database, submit: Submit) -> None:
    submit()
    claim_job(db, lease_s=0.05)
    time.sleep(0.1)
    assert value(scrape(client), "warptune_jobs_without_worker") == 1


@sqlite_only
def test_requests_are_counted_by_route_and_not_by_path(client: TestClient, submit: Submit) -> None:
    for _ in range(2):
        client.get(f"/v1/jobs/{submit()['id']}")
    client.get("/v1/jobs/job-unknown")
    client.request("BREW", "/nothing/here")
    found = scrape(client)
    job = {"method": "GET", "route": "/v1/jobs/{job_id}"}
    assert value(found, "warptune_http_requests_total", **job, status="200") == 2
    assert value(found, "warptune_http_requests_total", **job, status="404") == 1
    assert value(found, "warptune_http_requests_total", method="POST", route="/v1/jobs", status="202") == 2
    assert value(found, "warptune_http_requests_total", method="other", route="other", status="404") == 1
    assert value(found, "warptune_http_request_seconds_count", **job) == 3
    assert "unknown" not in client.get("/metrics").text


@sqlite_only
def test_the_bytes_of_artifacts_appear_once_they_are_known(client: TestClient) -> None:
    client.app.state.artifacts.put("job-1", "a.bin", b"x" * 5000)  # type: ignore[attr-defined]
    deadline = time.monotonic() + 30.0
    while (found := value(scrape(client), "warptune_artifacts_bytes")) is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert found >= 5000


@sqlite_only
def test_versions_are_labels(client: TestClient) -> None:
    (labels,) = [dict(labels) for name, labels in scrape(client) if name == "warptune_build_info"]
    assert {"warptune", "python", "torch"} <= set(labels)


@sqlite_only
def test_only_an_admin_sees_them(client: TestClient, db: Database) -> None:
    scrape(client)  # without keys, this machine may
    admin, _ = keys.create(db, "operators", Scope.ADMIN)
    submitter, _ = keys.create(db, "vision", Scope.SUBMIT)
    assert_problem(client.get("/metrics"), 401, "unauthorized")
    assert_problem(client.get("/metrics", headers={"Authorization": f"Bearer {submitter}"}), 403, "insufficient_scope")
    scrape(client, Authorization=f"Bearer {admin}")


@sqlite_only
def test_every_metric_is_explained_in_the_documentation(client: TestClient) -> None:
    client.app.state.metrics._counter_of("GET", "/", "200").inc()  # type: ignore[attr-defined]
    text, documented = client.get("/metrics").text, (ROOT / "docs/monitoring.md").read_text()
    names = set(re.findall(r"^# TYPE (warptune_\w+) ", text, re.MULTILINE)) | {"warptune_artifacts_bytes"}
    shown = set(re.findall(r"^\| `(warptune_\w+)", documented, re.MULTILINE))
    assert names == shown


def test_metrics_of_two_services_are_apart(client: TestClient, settings: Settings, db: Database) -> None:
    other = Metrics(settings, db, client.app.state.artifacts)  # type: ignore[attr-defined]
    client.get("/healthz")
    assert b'route="/healthz"' not in other.text()
