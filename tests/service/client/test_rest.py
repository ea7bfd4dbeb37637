# The client speaks to a real service, and whatever goes wrong is one kind of error with a text for a person.
from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, get_type_hints

import httpx2
import pytest
from pydantic import BaseModel

from service.api import datasets, views
from service.client import answers, calls
from service.client.answers import Job
from service.client.rest import ApiError, Client
from service.errors import FieldError
from service.states import JobState
from service.submission import estimate
from tests.conftest import SpecMaker
from tests.service.api.conftest import claim_job, search, succeed
from tests.service.live import Live

NOBODY = "http://127.0.0.1:1"


@pytest.fixture
def client(live: Live) -> Iterator[Client]:
    with Client(live.url) as opened:
        yield opened


@pytest.fixture
def job(live: Live, client: Client, spec: SpecMaker) -> Iterator[Job]:
    """A queued job, the only one that is not ended."""
    submitted = client.submit(spec())
    yield submitted
    if client.job(submitted["id"])["state"] == "queued":
        client.cancel(submitted["id"])


def test_job_is_submitted_shown_and_cancelled(client: Client, job: Job) -> None:
    assert client.job(job["id"]) == job
    assert client.cancel(job["id"])["state"] == "cancelled"


@pytest.mark.slow
def test_a_dry_run_may_take_longer_than_other_answers(
    live: Live, spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.client.calls.TIMEOUT_S", 0.5)  # loading torch alone takes longer
    with Client(live.url) as client:
        assert client.estimate(spec())["trials"] == 5  # two of each arm, and one of the untuned AdamW


def test_key_makes_it_safe_to_send_again(client: Client, spec: SpecMaker) -> None:
    first = client.submit(spec(), idempotency_key="again")
    assert client.submit(spec(), idempotency_key="again") == first
    client.cancel(first["id"])


def test_results_are_read(live: Live, client: Client, job: Job) -> None:
    succeed(claim_job(live.db))
    assert client.recommendation(job["id"]).verdict == "helps"
    assert client.export(job["id"], "python").startswith(b'"""Recommended optimizer of')


def test_an_export_may_take_as_long_as_packing_a_large_dataset_does(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def request(method: str, path: str, **options: Any) -> httpx2.Response:
        asked.append(options)
        return httpx2.Response(200, content=b"zip", headers={"X-Request-Id": "1"})

    with Client(NOBODY) as client:
        monkeypatch.setattr(client._http, "request", request)
        assert client.export("job-0", "zip") == b"zip"
    assert asked == [{"params": {"format": "zip"}, "timeout": None}]


def test_watch_yields_until_the_job_has_ended(live: Live, client: Client, job: Job) -> None:
    states: list[str] = []
    for shown in client.watch(job["id"]):
        if states[-1:] == [shown["state"]]:
            continue  # something else happened
        states.append(shown["state"])
        match shown["state"]:
            case "queued":
                log = claim_job(live.db)
            case "running":
                search(log)
                log.verify()
            case "verifying":
                log.end(JobState.FAILED, "enough")
    assert states == ["queued", "running", "verifying", "failed"]


def test_refusal_carries_the_problem(client: Client, spec: SpecMaker) -> None:
    with pytest.raises(ApiError, match=r"budget.step: is not a known field \(got 3\)") as caught:
        client.submit(spec(budget={"step": 3}))
    assert caught.value.status == 422
    hint = "Did you mean 'steps'? The names are trials_per_arm, steps, batch_size, max_seconds."
    assert caught.value.errors == (FieldError("budget.step", 3, "is not a known field", hint, "unknown_field"),)


def test_body_over_the_limit_is_refused_over_a_socket_too(client: Client, spec: SpecMaker) -> None:
    with pytest.raises(ApiError, match="more than 1048576 bytes") as caught:
        client.submit(spec(name="x" * 4_000_000))
    assert caught.value.status == 413


@pytest.mark.parametrize(
    "job_id", ["", ".", "..", "job-0", "../../healthz", "a/b", "?x", "#x", "%2e", "ö", " ", "x" * 200, "\n"]
)
def test_unknown_job_is_an_error_whatever_its_name(client: Client, job_id: str) -> None:
    for call in (
        client.job,
        client.cancel,
        client.retry,
        client.recommendation,
        lambda name: client.export(name, "json"),
    ):
        with pytest.raises(ApiError) as caught:
            call(job_id)
        assert caught.value.status in (404, 422)


def test_service_tells_whether_it_is_up(client: Client) -> None:
    assert client.is_up()
    with Client(NOBODY) as nobody:
        assert not nobody.is_up()


@pytest.mark.parametrize(
    "url", [NOBODY, "127.0.0.1:8000", "ftp://127.0.0.1", "http://127.0.0.1:x", "http://127.0.0.1:99999", ""]
)
def test_service_that_cannot_be_reached_is_an_error(url: str) -> None:
    with pytest.raises(ApiError, match="cannot reach") as caught, Client(url) as nobody:
        nobody.job("job-0")
    assert (caught.value.status, caught.value.errors) == (0, ())


@pytest.mark.parametrize("password", ["w7Qz-x", "w7@Qz-x"])
def test_a_password_is_not_shown(password: str) -> None:
    with pytest.raises(ApiError, match=r"cannot reach http://me:\*\*\*@127.0.0.1:1: ") as caught:
        Client(f"http://me:{password}@127.0.0.1:1").job("job-0")
    assert "Qz-x" not in str(caught.value)


def test_an_id_of_bytes_that_are_no_text_is_not_found(client: Client) -> None:
    with pytest.raises(ApiError, match="there is no job") as caught:
        client.job("\udcff")
    assert caught.value.status == 404


@pytest.fixture
def stranger(request: pytest.FixtureRequest) -> Iterator[str]:
    """URL of a server that is not ours: answers everything with a status and a text."""
    status, text = request.param

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            if self.headers["Accept"] == "text/event-stream":
                self.send_header("Content-Type", "text/event-stream")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        do_POST = do_GET  # noqa: N815 - the name is http.server's

        def log_message(self, *message: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("stranger", "message"),
    [
        ((200, "<html>"), "is not this service"),
        ((200, "[1]"), "is not this service"),
        ((200, ""), "is not this service"),
        ((502, "<html>bad gateway"), "502 Bad Gateway"),
        ((500, '{"error": 1}'), "500 Internal Server Error"),
        ((404, "[]"), "404 Not Found"),
        ((302, ""), "302 Found"),
        ((422, '{"detail": ["body"], "errors": "none"}'), "422 Unprocessable Entity"),
        ((422, '{"detail": "no", "errors": [1, {}, {"field": 2, "expected": "a list", "hint": 3}]}'), "no"),
    ],
    indirect=["stranger"],
)
def test_what_is_no_answer_of_ours_is_an_error(stranger: str, message: str) -> None:
    with Client(f"{stranger}/") as client, pytest.raises(ApiError, match=message):
        client.job("job-0")


ASKED: dict[str, Callable[[Client], object]] = {
    "submit": lambda client: client.submit({}),
    "estimate": lambda client: client.estimate({}),
    "job": lambda client: client.job("job-0"),
    "jobs": lambda client: list(client.jobs()),
    "dataset": lambda client: client.dataset("ds-0"),
    "upload": lambda client: client.upload("http://tune.invalid/rows.csv"),
    "compare": lambda client: client.compare(["job-0", "job-1"]),
    "export": lambda client: client.export("job-0", "zip"),
    "report": lambda client: client.report("job-0"),
    "wait": lambda client: client.wait("job-0"),
    "follow": lambda client: list(client.follow("job-0")),
}


@pytest.mark.parametrize("stranger", [(200, "{}"), (200, "<html>sign in</html>")], indirect=True, ids=["JSON", "page"])
@pytest.mark.parametrize("asked", [name for name in ASKED if name != "follow"])
def test_an_answer_without_what_it_must_have_is_not_of_the_service(stranger: str, asked: str) -> None:
    with Client(stranger, retry_s=0) as client, pytest.raises(ApiError, match="is not this service"):
        ASKED[asked](client)


@pytest.mark.parametrize(
    "stranger",
    [(200, f"data: {text}\n\n") for text in ("{", "[1]", "3", '{"at": 1}', '{"id": "x"}')],
    indirect=True,
    ids=str,
)
def test_an_event_that_cannot_be_read_is_not_of_the_service(stranger: str) -> None:
    with Client(stranger, retry_s=0) as client, pytest.raises(ApiError, match="is not this service"):
        ASKED["follow"](client)


@pytest.mark.parametrize(
    "stranger",
    [(422, '{"detail": "no", "errors": [7, {}, {"field": "a", "value": 1, "expected": "a list", "hint": "Do."}]}')],
    indirect=True,
)
def test_fields_of_a_problem_of_another_version_are_read_as_far_as_they_go(stranger: str) -> None:
    with Client(stranger) as client, pytest.raises(ApiError, match="no") as caught:
        client.job("job-0")
    assert caught.value.errors == (FieldError("", None, "is wrong"), FieldError("a", 1, "is wrong", "Do."))


class Flaky:
    """Replaces the connection of a client: answers with each of ``answers`` in turn, or raises it."""

    def __init__(self, client: Client, *answers: httpx2.Response | Exception) -> None:
        self.answers = deque(answers)
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.sent: list[bytes] = []
        client._http.request = self.request  # type: ignore[method-assign, assignment]

    def request(self, method: str, path: str, **options: Any) -> httpx2.Response:
        self.asked.append((method, options))
        if "content" in options:
            self.sent.append(options["content"].read())
        answer = self.answers.popleft()
        if isinstance(answer, Exception):
            raise answer
        return answer


GONE = httpx2.ConnectError("refused")
LOST = httpx2.ReadError("reset")
BUSY = httpx2.Response(503, json={"detail": "busy"})


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setattr("service.client.calls.WAITS_S", (0.001, 0.002))
    with Client(NOBODY) as opened:
        yield opened


def test_a_submission_is_sent_again_with_the_same_key(patient: Client) -> None:
    flaky = Flaky(patient, GONE, BUSY, LOST, httpx2.Response(202, json={"id": "job-1"}))
    assert patient.submit({})["id"] == "job-1"
    keys = {options["headers"]["Idempotency-Key"] for _, options in flaky.asked}
    assert len(flaky.asked) == 4
    assert len(keys) == 1


def test_two_submissions_have_two_keys(patient: Client) -> None:
    flaky = Flaky(patient, *[httpx2.Response(202, json={"id": "job-1"}) for _ in range(2)])
    patient.submit({})
    patient.submit({})
    assert len({options["headers"]["Idempotency-Key"] for _, options in flaky.asked}) == 2


def test_an_upload_is_sent_again_from_its_beginning(patient: Client, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"a,b")
    flaky = Flaky(patient, BUSY, httpx2.Response(201, json={"id": "ds-1"}))
    dataset, is_new = patient.upload(tmp_path / "x.csv")
    assert (dataset["id"], is_new) == ("ds-1", True)
    assert flaky.sent == [b"a,b", b"a,b"]


def test_a_deletion_whose_answer_was_lost_is_not_sent_again(patient: Client) -> None:
    flaky = Flaky(patient, GONE, LOST)
    with pytest.raises(ApiError, match=r"cannot reach .*: reset"):
        patient.delete("job-1")
    assert len(flaky.asked) == 2


@pytest.mark.parametrize("problem", [httpx2.Response(422, json={"detail": "no"}), httpx2.ReadTimeout("slow")])
def test_what_would_fail_again_is_sent_once(patient: Client, problem: httpx2.Response | Exception) -> None:
    flaky = Flaky(patient, problem)
    with pytest.raises(ApiError):
        patient.job("job-1")
    assert len(flaky.asked) == 1


def test_a_client_without_patience_sends_once() -> None:
    with Client(NOBODY, retry_s=0) as client:
        flaky = Flaky(client, BUSY)
        with pytest.raises(ApiError, match="busy"):
            client.job("job-1")
    assert len(flaky.asked) == 1


@pytest.mark.parametrize("status", [429, 503])
def test_a_client_waits_as_long_as_the_service_asks(
    patient: Client, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("service.client.rest.time.sleep", slept.append)
    busy = httpx2.Response(status, json={"detail": "later"}, headers={"Retry-After": "12"})
    Flaky(patient, busy, busy, httpx2.Response(202, json={"id": "job-1"}))
    assert patient.submit({})["id"] == "job-1"
    assert slept == [12.0, 12.0]


def test_a_client_does_not_wait_longer_than_a_minute(patient: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.client.rest.time.sleep", lambda _: pytest.fail("it waits"))
    flaky = Flaky(patient, httpx2.Response(429, json={"detail": "later"}, headers={"Retry-After": "61"}))
    with pytest.raises(ApiError, match="later") as caught:
        patient.submit({})
    assert (len(flaky.asked), caught.value.retry_after_s) == (1, 61.0)


def test_a_date_to_retry_after_is_not_waited_for(patient: Client) -> None:
    date = {"Retry-After": "Wed, 21 Oct 2099 07:28:00 GMT"}
    Flaky(patient, httpx2.Response(503, json={"detail": "x"}, headers=date), httpx2.Response(200, json={"id": "job-1"}))
    assert patient.job("job-1")["id"] == "job-1"


def test_trials_are_read_page_by_page(live: Live, client: Client, job: Job) -> None:
    search(claim_job(live.db))
    found = list(client.trials(job["id"]))
    assert [trial["number"] for trial in found] == list(range(len(found)))
    assert {trial["arm"] for trial in found} >= {"warpadam", "adamw"}


@pytest.mark.parametrize(
    ("typed", "view"),
    [
        (answers.BestTrial, views.BestTrial),
        (answers.Arm, views.ArmView),
        (answers.Confirm, views.ConfirmView),
        (answers.JobSummary, views.JobSummary),
        (answers.Job, views.JobView),
        (answers.Trial, views.TrialView),
        (answers.TrialDetail, views.TrialDetail),
        (answers.Event, views.EventView),
        (answers.DatasetSummary, datasets.DatasetSummary),
        (answers.Dataset, datasets.UploadedDataset),
    ],
)
def test_the_types_of_the_answers_have_the_fields_that_the_api_sends(typed: type, view: type[BaseModel]) -> None:
    assert set(get_type_hints(typed)) == set(view.model_fields)


@pytest.mark.parametrize(
    ("typed", "made"), [(answers.Estimate, estimate.JobEstimate), (answers.ArmEstimate, estimate.ArmEstimate)]
)
def test_the_types_of_an_estimate_have_its_fields(typed: type, made: type) -> None:
    assert set(get_type_hints(typed)) == set(get_type_hints(made))


def test_a_cancelled_job_is_retried(client: Client, job: Job) -> None:
    assert client.cancel(job["id"])["state"] == "cancelled"
    assert [client.retry(job["id"])["state"] for _ in range(2)] == ["queued", "queued"]


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"budget": {"max_seconds": float("inf")}}, "budget.max_seconds"),
        ({"search_space": {"overrides": {"lr": [0.1, float("nan")]}}}, "search_space.overrides.lr[1]"),
    ],
)
def test_a_number_that_json_does_not_have_is_named(spec: dict[str, object], field: str) -> None:
    for ask in (calls.estimate, lambda spec: calls.submit(spec, None)):
        with pytest.raises(ApiError) as caught:
            ask(spec)
        assert [(error.field, error.message) for error in caught.value.errors] == [(field, "must be a finite number")]
