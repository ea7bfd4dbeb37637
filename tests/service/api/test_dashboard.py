# Optuna's dashboard shows the studies of the jobs, and nobody can change them through it.
from __future__ import annotations

import optuna
import pytest
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from service.db.session import Database
from service.db.studies import study_name
from tests.service.api.conftest import Submit, assert_problem, count_rows, sqlite_only


def test_dashboard_lists_the_study_of_a_job(
    client: TestClient, submit: Submit, storage: optuna.storages.RDBStorage
) -> None:
    name = study_name(submit()["id"], "warpadam")
    study = optuna.create_study(storage=storage, study_name=name)
    trial = study.ask()
    trial.suggest_float("lr", 0.001, 0.1, log=True)
    study.tell(trial, 0.25)
    page = client.get("/dashboard")
    assert page.status_code == 200
    assert "Optuna Dashboard" in page.text
    (summary,) = client.get("/api/studies").json()["study_summaries"]
    assert summary["study_name"] == name
    detail = client.get(f"/api/studies/{summary['study_id']}").json()
    assert [trial["values"] for trial in detail["trials"]] == [[0.25]]
    assert client.get(f"/dashboard/studies/{summary['study_id']}").status_code == 200
    assert client.get(f"/csv/{summary['study_id']}").status_code == 200
    assert client.head("/dashboard").status_code == 200


@sqlite_only
def test_a_client_that_names_no_encoding_gets_the_files_too(client: TestClient) -> None:
    request = client.build_request("GET", "/static/bundle.js")
    del request.headers["Accept-Encoding"]
    assert client.send(request).status_code == 200


@pytest.mark.parametrize("number", ["0", "99", "-1", str(2**31), str(2**63), f"-{2**63 + 1}", "9" * 30, "9" * 5000])
@pytest.mark.parametrize(
    "path",
    [
        "/api/studies/{}",
        "/api/studies/{}?after=1",
        "/api/studies/{}/param_importances",
        "/api/studies/{}/plot/slice",
        "/csv/{}",
        "/csv/{}?trial_ids=1",
    ],
)
def test_a_study_that_there_cannot_be_is_not_found(client: TestClient, path: str, number: str) -> None:
    assert client.get(path.format(number)).status_code == 404


@sqlite_only
@pytest.mark.parametrize("after", ["x", "1.5", "9" * 5000, "-1"])
def test_a_trial_to_begin_after_must_be_a_number(
    client: TestClient, storage: optuna.storages.RDBStorage, after: str
) -> None:
    study = optuna.create_study(storage=storage, study_name="known")
    problem = assert_problem(client.get(f"/api/studies/{study._study_id}?after={after}"), 422, "invalid_spec")
    assert [error["field"] for error in problem["errors"]] == ["after"]
    for number in (0, 2**31 - 1):
        assert client.get(f"/api/studies/{study._study_id}", params={"after": number}).status_code == 200


CHANGES = [
    ("POST", "/api/studies"),
    ("DELETE", "/api/studies/{id}"),
    ("POST", "/api/studies/{id}/rename"),
    ("PUT", "/api/studies/{id}/note"),
    ("POST", "/api/trials/1/tell"),
    ("POST", "/api/trials/1/user-attrs"),
    ("POST", "/api/studies/{id}/1/skip"),
    ("PATCH", "/api/studies/{id}"),
    ("OPTIONS", "/api/studies"),
    ("POST", "/dashboard"),
]


@sqlite_only
def test_nothing_can_be_changed(client: TestClient, storage: optuna.storages.RDBStorage, db: Database) -> None:
    study = optuna.create_study(storage=storage, study_name="stays")
    study.ask()
    before = count_rows(db)
    body = {"study_name": "x", "directions": ["minimize"]}
    for method, path in CHANGES:
        response = client.request(method, path.format(id=study._study_id), json=body)
        assert_problem(response, 405, "read_only")
        assert response.headers["allow"] == "GET, HEAD"
    assert count_rows(db) == before


@pytest.mark.parametrize(
    "path",
    [
        "/incompatible-rdb-schema",
        "/dashboard../incompatible-rdb-schema",
        "/dashboards",
        "/api",
        "/apistudies",
        "/artifacts/1/0a",
        "/sql-profiler",
        "/favicon.icon",
    ],
)
def test_the_rest_of_the_dashboard_is_out_of_reach(shared_client: TestClient, path: str) -> None:
    for method in ("GET", "POST"):
        assert_problem(shared_client.request(method, path), 404, "not_found")


@pytest.mark.parametrize("path", ["/static/%2e%2e/_app.py", "/static/..%2f_app.py", "/static//etc/passwd"])
def test_files_beside_its_own_are_out_of_reach(shared_client: TestClient, path: str) -> None:
    response = shared_client.get(path)
    assert response.status_code in (403, 404)
    assert "import" not in response.text
    assert "root:" not in response.text


@pytest.mark.parametrize("path", ["/", "/dashboard", "/v1/jobs"])
def test_websocket_is_closed(shared_client: TestClient, path: str) -> None:
    with pytest.raises(WebSocketDisconnect), shared_client.websocket_connect(path):
        pass


@pytest.mark.parametrize("path", ["/static/../../etc/passwd", "/static/%2e%2e/x", "/api/..%5cx"])
def test_a_path_that_leads_out_of_its_folder_is_not_found(shared_client: TestClient, path: str) -> None:
    request = shared_client.build_request("GET", "/")
    request.url = request.url.copy_with(raw_path=path.encode())
    assert_problem(shared_client.send(request), 404, "not_found")
