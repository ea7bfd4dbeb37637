# The API is a light process: what it does for its users, it does without torch and scikit-learn.
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from fastapi.testclient import TestClient

from service.api.app import create_app
from service.db.session import Database
from service.settings import Settings
from tests.service.api.conftest import Submit, claim_job, sqlite_only, succeed

SCRIPT = """
import sys
from fastapi.testclient import TestClient
from service.api.app import create_app
from service.settings import Settings

done, database_url, artifacts_url = sys.argv[1:]
heavy = lambda: sorted({"torch", "sklearn", "scipy", "optuna_dashboard"} & set(sys.modules))
settings = Settings(database_url=database_url, artifacts_url=artifacts_url, allowed_hosts="testserver")
with TestClient(create_app(settings), client=("127.0.0.1", 50000)) as client:
    body = {"dataset": {"name": "wine"}, "model": {"name": "mlp"}, "search_space": {"preset": "paper"}}
    job = client.post("/v1/jobs", json=body, headers={"Idempotency-Key": "a"}).json()
    assert client.post("/v1/jobs", json={}).status_code == 422
    assert client.post("/v1/jobs?dry_run=true", json=body).status_code == 200
    assert client.post(f"/v1/jobs/{done}/extend", json={}).status_code == 422
    for path in (
        "/v1/jobs",
        "/v1/catalog",
        "/openapi.json",
        "/readyz",
        *job["links"].values(),
        f"/v1/jobs/{done}",
        f"/v1/jobs/{done}/trials",
        f"/v1/jobs/{done}/trials/0",
        f"/v1/jobs/{done}/recommendation",
        f"/v1/jobs/{done}/export?format=json",
        f"/v1/jobs/{done}/export?format=yaml",
        f"/v1/jobs/{done}/export?format=python",
        f"/v1/jobs/{done}/export?format=toml",
        f"/v1/jobs/{done}/report",
    ):
        if path != "/dashboard":
            unfinished = [job["links"][name] for name in ("recommendation", "export", "report")]
            expected = 409 if path in unfinished else 200
            assert client.get(path).status_code == expected, path
    assert client.post(job["links"]["self"] + "/cancel").status_code == 202
    assert client.delete(job["links"]["self"]).status_code == 204
    print(heavy())
    assert client.get("/dashboard").status_code == 200
    print("torch" in sys.modules)
"""


@sqlite_only
def test_api_does_without_torch(client: TestClient, submit: Submit, db: Database, settings: Settings) -> None:
    done = submit()["id"]
    succeed(claim_job(db))
    command = [sys.executable, "-c", SCRIPT, done, settings.database_url, settings.artifacts_url]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3])
    assert (result.returncode, result.stdout.split("\n")[:2]) == (0, ["[]", "False"]), result.stderr


@sqlite_only
def test_startup_hook_runs_once_when_the_application_starts(settings: Settings) -> None:
    calls: list[str] = []
    app = create_app(settings, on_startup=lambda: calls.append("started"))
    assert calls == []
    with TestClient(app) as client:
        assert client.get("/healthz").status_code == 200
    assert calls == ["started"]
