# Who may send which request: every route, with every kind of key. And what a project sees of another one: nothing.
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from fastapi.routing import iter_route_contexts
from fastapi.testclient import TestClient
from sqlalchemy import select, update

from service.api import events
from service.api.access import cookie_name
from service.api.app import create_app
from service.api.dashboard import PREFIXES
from service.db.models import ApiKey, Base, BrowserSession, utc_now
from service.db.session import Database, create_schema
from service.ledger import keys
from service.ledger.keys import Scope
from service.logs import TextFormatter
from service.settings import Settings
from tests.conftest import SpecMaker
from tests.service.api.conftest import MISSING, assert_problem, claim_job, pages, put, sqlite_only, succeed
from tests.service.data import files

OPEN: Final = "open"

NEEDED: Final[Mapping[tuple[str, str], str]] = {
    ("GET", "/healthz"): OPEN,
    ("GET", "/readyz"): OPEN,
    ("GET", "/favicon.ico"): OPEN,
    ("GET", "/openapi.json"): OPEN,
    ("GET", "/docs"): OPEN,
    ("GET", "/redoc"): OPEN,
    ("GET", "/docs/oauth2-redirect"): OPEN,
    ("GET", "/static-offline-docs/swagger-ui.css"): OPEN,
    ("GET", "/assets/page.css"): OPEN,
    ("GET", "/sign-in"): OPEN,
    ("POST", "/sign-in"): OPEN,
    ("POST", "/sign-out"): OPEN,
    ("GET", "/"): Scope.READ,
    ("GET", "/compare"): Scope.READ,
    ("GET", "/new"): Scope.READ,
    ("GET", "/jobs/{job_id}"): Scope.READ,
    ("GET", "/v1/catalog"): Scope.READ,
    ("GET", "/v1/models"): Scope.READ,
    ("GET", "/v1/jobs"): Scope.READ,
    ("GET", "/v1/jobs/compare"): Scope.READ,
    ("GET", "/v1/jobs/{job_id}"): Scope.READ,
    ("GET", "/v1/jobs/{job_id}/events"): Scope.READ,
    ("GET", "/v1/jobs/{job_id}/trials"): Scope.READ,
    ("GET", "/v1/jobs/{job_id}/trials/{number}"): Scope.READ,
    ("GET", "/v1/jobs/{job_id}/recommendation"): Scope.READ,
    ("GET", "/v1/jobs/{job_id}/export"): Scope.READ,
    ("GET", "/v1/jobs/{job_id}/report"): Scope.READ,
    ("GET", "/v1/datasets"): Scope.READ,
    ("GET", "/v1/datasets/{dataset_id}"): Scope.READ,
    ("POST", "/v1/jobs"): Scope.SUBMIT,
    ("POST", "/v1/jobs/{job_id}/cancel"): Scope.SUBMIT,
    ("POST", "/v1/jobs/{job_id}/retry"): Scope.SUBMIT,
    ("POST", "/v1/jobs/{job_id}/stop"): Scope.SUBMIT,
    ("POST", "/v1/jobs/{job_id}/pause"): Scope.SUBMIT,
    ("POST", "/v1/jobs/{job_id}/resume"): Scope.SUBMIT,
    ("POST", "/v1/jobs/{job_id}/extend"): Scope.SUBMIT,
    ("DELETE", "/v1/jobs/{job_id}"): Scope.SUBMIT,
    ("POST", "/v1/datasets"): Scope.SUBMIT,
    ("DELETE", "/v1/datasets/{dataset_id}"): Scope.SUBMIT,
    ("GET", "/metrics"): Scope.ADMIN,
    ("GET", "/v1/audit"): Scope.ADMIN,
    ("GET", "/dashboard"): Scope.ADMIN,
    ("GET", "/dashboard/studies/1"): Scope.ADMIN,
    ("GET", "/api/studies"): Scope.ADMIN,
    ("GET", "/static/bundle.js"): Scope.ADMIN,
    ("GET", "/csv/1"): Scope.ADMIN,
    ("POST", "/api/studies"): Scope.ADMIN,
    ("GET", "/nothing"): Scope.READ,
    ("POST", "/nothing"): Scope.SUBMIT,
    ("DELETE", "/healthz/"): Scope.SUBMIT,
}
"""What each route needs. A route that is new must be added here; those of the dashboard and of nothing are examples."""

OWN: Final = "vision"
INVALID: Final = ("none", "wrong", "malformed", "expired", "revoked")
SAME: Final = {"X-Request-ID": "the-same"}
BODIES: Final[Mapping[str, Any]] = {"/v1/jobs": {}, "/v1/jobs/{job_id}/extend": {}}


@dataclass(frozen=True)
class Projects:
    """A service with two projects: ``vision``, with a job and a dataset, and ``other``, which has nothing."""

    client: TestClient
    db: Database
    keys: Mapping[str, str]
    job_id: str
    dataset_id: str

    def send(self, sender: str, method: str, path: str, **options: Any) -> Any:
        """Send a request with the key of this name."""
        headers = {name: value.encode("latin-1") for name, value in options.pop("headers", {}).items()}
        if self.keys[sender]:
            headers["Authorization"] = f"Bearer {self.keys[sender]}".encode("latin-1")
        return self.client.request(method, path, headers=headers, follow_redirects=False, **options)


def make_key(db: Database, project: str, scope: Scope) -> str:
    return keys.create(db, project, scope)[0]


def change(db: Database, key: str, **values: Any) -> None:
    with db.write() as session:
        session.execute(update(ApiKey).where(ApiKey.id == key.split("_")[1]).values(**values))


@pytest.fixture
def projects(settings: Settings, db: Database, spec: SpecMaker) -> Iterator[Projects]:
    made = {
        "none": "",
        "wrong": make_key(db, OWN, Scope.ADMIN)[:-4] + "0000",
        "malformed": "wt_\xe9",
        "expired": make_key(db, OWN, Scope.ADMIN),
        "revoked": make_key(db, OWN, Scope.ADMIN),
        "read": make_key(db, OWN, Scope.READ),
        "submit": make_key(db, OWN, Scope.SUBMIT),
        "admin": make_key(db, "operators", Scope.ADMIN),
        "other": make_key(db, "other", Scope.SUBMIT),
    }
    change(db, made["expired"], expires_at=utc_now() - timedelta(seconds=1))
    keys.revoke(db, made["revoked"].split("_")[1])
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        found = Projects(client, db, made, "", "")
        job = found.send("submit", "POST", "/v1/jobs", json=spec(name="theirs"))
        assert job.status_code == 202, job.text
        succeed(claim_job(db))
        uploaded = found.send("submit", "POST", "/v1/datasets", params={"filename": "a.csv"}, content=files.csv())
        assert uploaded.status_code == 201, uploaded.text
        yield Projects(client, db, made, job.json()["id"], uploaded.json()["id"])


def routes(settings: Settings) -> set[tuple[str, str]]:
    """Return method and path of every route of the application; of a folder of files, only its path."""
    return {
        (method, context.path or "")
        for context in iter_route_contexts(create_app(settings).routes)
        for method in (context.methods or {"GET"}) - {"HEAD"}
    }


@sqlite_only
def test_every_route_is_in_the_table(settings: Settings) -> None:
    known = {(method, path.rpartition("/")[0] if "." in path else path) for method, path in NEEDED} | set(NEEDED)
    missing = routes(settings) - known
    assert not missing, f"say in NEEDED which scope these need: {sorted(missing)}"
    for prefix in PREFIXES:
        assert any(path.startswith(prefix) and needed == Scope.ADMIN for (_, path), needed in NEEDED.items())


@sqlite_only
@pytest.mark.parametrize(("method", "path"), NEEDED, ids=lambda part: part)
def test_a_route_is_open_to_those_with_its_scope_only(projects: Projects, method: str, path: str) -> None:
    needed = NEEDED[method, path]
    own = path.format(job_id=projects.job_id, dataset_id=projects.dataset_id, number=0)

    def ask(sender: str) -> Any:
        return projects.send(sender, method, own, json=BODIES.get(path))

    if needed == OPEN:
        for sender in projects.keys:
            assert "www-authenticate" not in ask(sender).headers, sender
        return
    for sender in INVALID:
        answer = ask(sender)
        assert_problem(answer, 401, "unauthorized")
        assert answer.headers["www-authenticate"] == 'Bearer realm="warptune"'
    for sender in ("read", "submit", "other", "admin"):  # the last may delete what the others ask for
        answer, has = ask(sender), Scope.SUBMIT if sender == "other" else Scope(sender)
        if not has.includes(Scope(needed)):
            document = assert_problem(answer, 403, "insufficient_scope")
            assert f"scope {needed}" in document["detail"]
            assert f'scope="{needed}"' in answer.headers["www-authenticate"]
            continue
        assert answer.status_code not in (401, 403, 500), (sender, answer.text)
        if "{job_id}" in path or "{dataset_id}" in path:
            was_deleted = method == "DELETE" and sender == "admin"
            assert (answer.status_code == 404) == (sender == "other" or was_deleted), (sender, answer.text)


@sqlite_only
def test_the_id_of_another_project_is_as_unknown_as_one_that_nobody_has(projects: Projects, spec: SpecMaker) -> None:
    theirs, nobodys = projects.job_id, "job-0000000000000000"
    for path in ("/v1/jobs/{}", "/v1/jobs/{}/events", "/jobs/{}", "/v1/jobs/compare?ids={},job-1"):
        answers = [projects.send("other", "GET", path.format(job), headers=SAME) for job in (theirs, nobodys)]
        assert {answer.status_code for answer in answers} == {404}
        assert answers[0].text.replace(theirs, nobodys) == answers[1].text
    streams = [
        projects.send("other", "GET", f"/v1/jobs/{job}/events", headers={"Accept": "text/event-stream"})
        for job in (theirs, nobodys)
    ]
    assert {answer.status_code for answer in streams} == {404}
    dataset, no_dataset = projects.dataset_id, "ds-" + "0" * 32
    for ours, none, path in (
        (dataset, no_dataset, "dataset.id"),
        (theirs, nobodys, "search.from_job"),
        (theirs, nobodys, "warm_start.job"),
    ):
        body = put(spec(), "dataset.name", MISSING) if path == "dataset.id" else spec()
        bodies = [put(body, path, chosen) for chosen in (ours, none)]
        answers = [projects.send("other", "POST", "/v1/jobs", json=sent, headers=SAME) for sent in bodies]
        assert [answer.status_code for answer in answers] == [422, 422]
        assert answers[0].text.replace(ours, none) == answers[1].text


@sqlite_only
def test_lists_show_what_is_ones_own_and_an_admin_everything(projects: Projects, spec: SpecMaker) -> None:
    for sender in ("other", "admin"):
        assert projects.send(sender, "POST", "/v1/jobs", json=spec(name=f"of-{sender}")).status_code == 202

    def names(sender: str) -> list[str]:
        return [job["name"] for job in projects.send(sender, "GET", "/v1/jobs").json()["items"]]

    assert names("read") == ["theirs"]
    assert names("other") == ["of-other"]
    assert names("admin") == ["of-admin", "of-other", "theirs"]
    owners = [job["owner"] for job in projects.send("admin", "GET", "/v1/jobs").json()["items"]]
    assert owners == ["operators", "other", OWN]
    assert projects.send("other", "GET", "/v1/jobs", params={"name": "theirs"}).json()["items"] == []
    assert projects.send("other", "GET", "/v1/datasets").json()["items"] == []
    assert len(projects.send("admin", "GET", "/v1/datasets").json()["items"]) == 1
    home = projects.send("other", "GET", "/").text
    assert "of-other" in home
    assert not [word for word in ("theirs", projects.job_id, projects.dataset_id, "a.csv") if word in home]


@sqlite_only
def test_the_same_file_of_two_projects_is_two_datasets(projects: Projects) -> None:
    mine = projects.send("other", "POST", "/v1/datasets", params={"filename": "b.csv"}, content=files.csv())
    again = projects.send("other", "POST", "/v1/datasets", params={"filename": "b.csv"}, content=files.csv())
    assert (mine.status_code, again.status_code) == (201, 200)
    assert mine.json()["id"] != projects.dataset_id
    assert mine.json()["name"] == "b.csv"
    assert projects.send("other", "DELETE", f"/v1/datasets/{mine.json()['id']}").status_code == 204
    assert projects.send("read", "GET", f"/v1/datasets/{projects.dataset_id}").status_code == 200


@sqlite_only
def test_a_dataset_that_a_job_of_an_admin_uses_is_not_deleted(projects: Projects, spec: SpecMaker) -> None:
    body = put(spec(), "dataset", {"id": projects.dataset_id, "target": "label"})
    job = projects.send("admin", "POST", "/v1/jobs", json=body)
    assert job.status_code == 202, job.text
    refused = projects.send("submit", "DELETE", f"/v1/datasets/{projects.dataset_id}")
    assert_problem(refused, 409, "conflict")
    assert job.json()["id"] not in refused.text
    assert projects.send("admin", "POST", f"/v1/jobs/{job.json()['id']}/cancel").status_code == 202
    assert projects.send("submit", "DELETE", f"/v1/datasets/{projects.dataset_id}").status_code == 204


@sqlite_only
def test_nobody_writes_lines_of_their_own_into_the_log(projects: Projects, caplog: pytest.LogCaptureFixture) -> None:
    caplog.handler.setFormatter(TextFormatter("%(message)s"))
    with caplog.at_level("INFO", "service.api.access"):
        projects.send("wrong", "GET", "/x%0A2026-01-01 forged")
    (line,) = caplog.text.splitlines()
    assert line.startswith(r"refused path=/x\n2026-01-01 forged")
    assert projects.keys["wrong"].split("_", 2)[2] not in line


@sqlite_only
def test_an_idempotency_key_means_something_else_in_each_project(projects: Projects, spec: SpecMaker) -> None:
    header = {"Idempotency-Key": "first"}
    answers = {
        sender: projects.send(sender, "POST", "/v1/jobs", json=spec(name=sender), headers=header)
        for sender in ("submit", "other", "admin")
    }
    assert [answer.status_code for answer in answers.values()] == [202, 202, 202]
    assert len({answer.json()["id"] for answer in answers.values()}) == 3
    for sender, answer in answers.items():
        again = projects.send(sender, "POST", "/v1/jobs", json=spec(name=sender), headers=header)
        assert (again.json(), again.headers["idempotent-replayed"]) == (answer.json(), "true")


@sqlite_only
def test_the_files_of_other_projects_cannot_be_read_by_url(projects: Projects, settings: Settings) -> None:
    url = f"file://{settings.artifacts_url}/datasets/{projects.dataset_id}/data.parquet"
    answer = projects.send("submit", "POST", "/v1/datasets", params={"url": url})
    assert_problem(answer, 403, "forbidden")
    assert "WARPTUNE_DATASET_URL_PREFIXES" in answer.text
    assert projects.send("admin", "POST", "/v1/datasets", params={"url": url}).status_code in (201, 422)


@sqlite_only
def test_a_service_without_keys_is_open_to_its_own_machine_only(settings: Settings, db: Database) -> None:
    def status(client: tuple[str, int] = ("127.0.0.1", 1), host: str = "127.0.0.1", **headers: str) -> int:
        app = create_app(settings.model_copy(update={"host": host}))
        with TestClient(app, client=client) as opened:
            return opened.get("/v1/jobs", headers=headers).status_code

    assert status() == 200
    assert status(Authorization="Bearer of another service") == 200
    assert status(host="::1", client=("::1", 1)) == 200
    for elsewhere in ("192.168.0.7", "2001:db8::1", "unknown", ""):
        assert status(client=(elsewhere, 1)) == 401
    assert status(host="0.0.0.0") == 401
    for name in ("X-Forwarded-For", "X-Real-IP"):  # from a proxy that is not listed as a trusted one
        for sender, expected in (("203.0.113.9", 401), ("127.0.0.1, 203.0.113.9", 401), ("::1", 200)):
            passed_on: Any = {name: sender}
            assert status(**passed_on) == expected
    assert status(Forwarded="for=203.0.113.9") == 401
    key, row = keys.create(db, OWN, Scope.READ)
    assert status() == 401
    assert status(Authorization=f"Bearer {key}") == 200
    assert status(Authorization=f"bearer  {key} ") == 200
    assert status(Authorization=f"Basic {key}") == 401
    assert status(Authorization=f"Bearer {key}", host="0.0.0.0", client=("192.168.0.7", 1)) == 200
    keys.revoke(db, row.id)
    assert status() == 401, "a service whose last key was revoked must not be open again"


@sqlite_only
def test_a_body_is_not_read_before_its_sender_is_known(projects: Projects) -> None:
    answer = projects.send("none", "POST", "/v1/jobs", content=b"x" * 2_000_000)
    assert_problem(answer, 401, "unauthorized")
    assert_problem(projects.send("submit", "POST", "/v1/jobs", content=b"x" * 2_000_000), 413, "body_too_large")


@sqlite_only
def test_a_stream_ends_now_and_then_and_its_client_needs_a_valid_key_again(
    projects: Projects, spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "LONGEST_S", 0.0)
    job = projects.send("submit", "POST", "/v1/jobs", json=spec()).json()["id"]
    stream = projects.send("read", "GET", f"/v1/jobs/{job}/events", headers={"Accept": "text/event-stream"})
    assert stream.status_code == 200
    keys.revoke(projects.db, projects.keys["read"].split("_")[1])
    assert projects.send("read", "GET", f"/v1/jobs/{job}/events").status_code == 401


@sqlite_only
def test_the_last_use_of_a_key_is_noted_once_an_hour(projects: Projects) -> None:
    def used() -> Any:
        with projects.db.read() as session:
            return session.scalar(select(ApiKey.last_used_at).where(ApiKey.id == projects.keys["read"].split("_")[1]))

    assert used() is None
    projects.send("read", "GET", "/v1/jobs")
    first = used()
    projects.send("read", "GET", "/v1/jobs")
    assert first is not None
    assert used() == first
    change(projects.db, projects.keys["read"], last_used_at=first - timedelta(hours=2))
    projects.send("read", "GET", "/v1/jobs")
    assert used() > first - timedelta(hours=1)


@sqlite_only
def test_the_database_holds_no_secret(projects: Projects) -> None:
    token = sign_in(projects, "read").cookies[cookie_name(projects.db)]
    with projects.db.read() as session:
        stored = "".join(
            str(row) for table in Base.metadata.sorted_tables for row in session.execute(select(table)).all()
        )
    secrets = [key.split("_", 2)[2] for key in projects.keys.values() if keys.KEY.fullmatch(key)]
    assert len(secrets) == 7
    assert not [secret for secret in [token, *secrets] if secret in stored]


# --- browsers


def sign_in(projects: Projects, sender: str, where: str = "/", **headers: str) -> Any:
    projects.client.cookies.clear()
    form = {"key": projects.keys.get(sender, sender), "next": where}
    return projects.client.post("/sign-in", data=form, headers=headers, follow_redirects=False)


@sqlite_only
def test_a_browser_is_led_to_the_sign_in_and_back(projects: Projects) -> None:
    where = f"/jobs/{projects.job_id}?a=b&c=%2F"
    html = {"Accept": "text/html,*/*;q=0.8"}
    led = projects.client.get(where, headers=html, follow_redirects=False)
    assert (led.status_code, led.headers["location"].partition("?")[0]) == (303, "/sign-in")
    form = projects.client.get(led.headers["location"]).text
    assert 'type="password"' in form
    assert f'value="{where.replace("&", "&amp;")}"' in form
    answer = sign_in(projects, "read", where)
    assert (answer.status_code, answer.headers["location"]) == (303, where)
    assert projects.client.get(where, headers=html).status_code == 200
    assert_problem(projects.client.post("/v1/jobs", json={}), 403, "insufficient_scope")
    refused = projects.client.get("/dashboard", headers=html)
    assert refused.status_code == 403
    assert "<h1>" in refused.text
    assert "needs the scope admin" in refused.text
    assert OWN in projects.client.get("/sign-in").text
    assert projects.client.post("/sign-out", follow_redirects=False).headers["location"] == "/sign-in"
    assert projects.client.get(where, headers=html, follow_redirects=False).status_code == 303


@sqlite_only
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(projects: Projects, scheme: str) -> None:
    projects.client.base_url = f"{scheme}://testserver"
    (cookie,) = sign_in(projects, "read").headers.get_list("set-cookie")
    parts = {part.strip().lower() for part in cookie.split(";")[1:]}
    assert {"httponly", "samesite=lax", "path=/", "max-age=43200"} <= parts
    assert ("secure" in parts) == (scheme == "https")
    assert not [part for part in parts if part.startswith("domain")]


@sqlite_only
@pytest.mark.parametrize("sender", [*INVALID, "\x00", "é", "wt_00000000_" + "0" * 43])
def test_a_bad_key_signs_nobody_in(projects: Projects, sender: str) -> None:
    answer = sign_in(projects, sender)
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers
    assert 'role="alert"' in answer.text
    assert projects.keys.get(sender, sender) not in answer.text or not projects.keys.get(sender, sender).strip("\x00")


@sqlite_only
@pytest.mark.parametrize(
    "where",
    [
        "https://evil.example",
        "//evil.example",
        "/\\evil.example",
        "javascript:alert(1)",
        "",
        "evil",
        "/\n/evil.example",
    ],
)
def test_the_sign_in_leads_to_no_other_site(projects: Projects, where: str) -> None:
    assert sign_in(projects, "read", where).headers["location"] == "/"


@sqlite_only
def test_keys_cannot_be_tried_at_the_page_of_the_sign_in(projects: Projects) -> None:
    right, wrong = (projects.send(sender, "GET", "/sign-in") for sender in ("read", "wrong"))
    assert (right.status_code, right.text) == (wrong.status_code, wrong.text)


@sqlite_only
def test_a_browser_is_signed_in_at_two_services_on_one_host(projects: Projects, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    settings = Settings(
        database_url=f"sqlite:///{folder}/warptune.db", artifacts_url=str(folder / "a"), allowed_hosts="testserver"
    )
    create_schema(settings.database_url)
    with (
        closing(Database(settings.database_url)) as db,
        TestClient(create_app(settings), base_url="http://testserver:8001") as other,
    ):
        key = make_key(db, "there", Scope.READ)
        sign_in(projects, "read")
        assert other.post("/sign-in", data={"key": key}, follow_redirects=False).status_code == 303
        projects.client.cookies.update(other.cookies)  # a browser has one set of cookies for all ports
        other.cookies.update(projects.client.cookies)
        assert [client.get("/v1/jobs").status_code for client in (projects.client, other)] == [200, 200]
        other.post("/sign-out")
        assert [client.get("/v1/jobs").status_code for client in (projects.client, other)] == [200, 401]


@sqlite_only
def test_a_stranger_with_another_cookie_of_a_signed_in_browser_is_not_let_in(projects: Projects) -> None:
    name = cookie_name(projects.db)
    token = sign_in(projects, "admin").cookies[name]
    projects.client.cookies.clear()
    theme, session = ("Cookie", "theme=dark"), ("Cookie", f"{name}={token}")
    for cookies in ([theme, session], [session, theme]):  # two headers, as a proxy may make them of one
        assert projects.client.get("/v1/audit", headers=cookies).status_code == 200
        assert projects.client.get("/v1/audit", headers=[theme]).status_code == 401


ENDS: Final[Mapping[str, Callable[[Projects], object]]] = {
    "its key is revoked": lambda found: keys.revoke(found.db, found.keys["read"].split("_")[1]),
    "its key expires": lambda found: change(found.db, found.keys["read"], expires_at=utc_now()),
    "its time is over": lambda found: _expire_sessions(found.db),
    "the browser signs out": lambda found: found.client.post("/sign-out"),
    "the browser signs in again": lambda found: found.client.post("/sign-in", data={"key": found.keys["read"]}),
}


def _expire_sessions(db: Database) -> None:
    with db.write() as session:
        session.execute(update(BrowserSession).values(expires_at=utc_now() - timedelta(seconds=1)))


@sqlite_only
@pytest.mark.parametrize("end", ENDS)
def test_a_session_ends_when(projects: Projects, end: str) -> None:
    token = sign_in(projects, "read").cookies[cookie_name(projects.db)]
    assert projects.client.get("/v1/jobs").status_code == 200
    ENDS[end](projects)
    projects.client.cookies.clear()
    assert projects.client.get("/v1/jobs", headers={"Cookie": f"{cookie_name(projects.db)}={token}"}).status_code == 401


@sqlite_only
@pytest.mark.parametrize("origin", ["http://evil.example", "http://testserver:8001", "https://testserver:8443", "null"])
def test_a_page_of_another_site_cannot_use_the_cookie(projects: Projects, origin: str) -> None:
    sign_in(projects, "submit")
    for path in ("/v1/jobs", f"/v1/jobs/{projects.job_id}/cancel", "/sign-out"):
        assert_problem(projects.client.post(path, json={}, headers={"Origin": origin}), 403, "forbidden")
    assert sign_in(projects, "submit", Origin=origin).status_code == 403
    assert sign_in(projects, "submit", Origin="http://testserver").status_code == 303
    assert_problem(
        projects.client.post("/v1/jobs", json={}, headers={"Origin": "http://testserver"}), 422, "invalid_spec"
    )


@sqlite_only
def test_the_page_of_an_open_service_says_how_to_close_it(client: TestClient) -> None:
    assert "warptune keys create" in client.get("/sign-in").text


@sqlite_only
@pytest.mark.parametrize(
    "path", ["/", "/sign-in", "/v1/jobs", "/nothing", "/healthz", "/docs", "/dashboard", "/assets/page.css"]
)
def test_every_answer_has_the_headers_that_protect_browsers(projects: Projects, path: str) -> None:
    for sender in ("none", "admin"):
        headers = projects.send(sender, "GET", path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "same-origin"
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy
        has_own = path == "/dashboard" and sender == "admin"  # that of the package, which says nothing about frames
        assert ("frame-ancestors 'none'" in policy) != has_own
        assert ("unsafe" in policy) == (has_own or path == "/docs")
        assert headers["cache-control"] == ("no-cache" if path == "/assets/page.css" else "no-store")


@sqlite_only
def test_pages_of_a_list_stay_within_a_project(projects: Projects, spec: SpecMaker) -> None:
    for sender in ("other", "submit", "other", "submit"):
        assert projects.send(sender, "POST", "/v1/jobs", json=spec(name=sender)).status_code == 202
    projects.client.headers["Authorization"] = f"Bearer {projects.keys['other']}"
    found = pages(projects.client, "/v1/jobs", 1)
    assert [[job["name"] for job in page] for page in found] == [["other"], ["other"]]
