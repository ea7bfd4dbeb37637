# The result of a job that a service has: what it says, and what it makes.
from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import nn

from service.client.answers import Job
from service.client.rest import ApiError, Client
from service.errors import ConflictError, JobFailedError
from service.ledger.runs import RunLog, claim
from service.states import JobState
from tests.conftest import SpecMaker
from tests.service.api.conftest import claim_job, search, succeed
from tests.service.live import Live, serve
from warpadam import WarpAdam
from warptune import Result
from warptune.connection import Connection
from warptune.progress import Clock


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with serve(tmp_path_factory.mktemp("live")) as running:
        yield running


@pytest.fixture
def job_id(live: Live, spec: SpecMaker) -> str:
    with Client(live.url) as client:
        return client.submit(spec())["id"]


def test_a_job_on_which_p_helps_recommends_warpadam(live: Live, job_id: str, folder: Path) -> None:
    succeed(claim_job(live.db), gain=0.25)
    result = Result.load(job_id, live.url)
    assert result.verdict == "helps"
    assert repr(result).startswith(
        f"Result of {job_id}: Yes, P helps (helps)\n  {result.reason}\n  Use warpadam.WarpAdam: "
    )
    optimizer = result.make_optimizer(nn.Linear(3, 2))
    assert isinstance(optimizer, WarpAdam)
    assert result.config is not None
    assert optimizer.param_groups[0]["lr"] == result.config["lr"]
    assert set(result.trials["arm"]) >= {"warpadam", "adamw"}
    assert json.loads(result.export(folder / "best.json").read_text())["config"] == result.config
    assert result.report(folder / "report.html").stat().st_size > 10_000


def test_a_table_of_trials_is_a_list_without_pandas(live: Live, job_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    succeed(claim_job(live.db))
    monkeypatch.setattr("warptune.result.find_spec", lambda name: None)
    trials = Result.load(job_id, live.url).trials
    assert [trial["number"] for trial in trials] == list(range(len(trials)))
    assert {"arm", "state", "value", "params_lr"} <= trials[0].keys()


def test_a_job_that_has_not_ended_has_no_result(live: Live, job_id: str) -> None:
    with pytest.raises(ConflictError, match=f"the job {job_id} has not ended: it is queued"):
        Result.load(job_id, live.url)
    claim_job(live.db).end(JobState.FAILED, "the disk is full")


def test_a_job_that_failed_says_why(live: Live, job_id: str) -> None:
    claim_job(live.db).end(JobState.FAILED, "the disk is full")
    with pytest.raises(JobFailedError, match=f"the job {job_id} failed: the disk is full"):
        Result.load(job_id, live.url)


def test_a_job_that_was_stopped_keeps_its_trials(live: Live, job_id: str) -> None:
    log = claim_job(live.db)
    search(log)
    log.end(JobState.CANCELLED, None)
    result = Result.load(job_id, live.url)
    assert (result.verdict, result.config, result.optimizer) == (None, None, None)
    assert "trials are kept, the best is trial" in result.reason
    assert len(result.trials) > 0


def test_a_job_stopped_before_its_first_trial_has_an_empty_table(live: Live, job_id: str) -> None:
    with Client(live.url) as client:
        client.cancel(job_id)
    result = Result.load(job_id, live.url)
    how = f"To go on: Result.load('{job_id}', '{live.url}').resume()"
    assert result.reason == f"stopped before the verdict; 0 trials are kept. {how}"
    assert list(result.trials["arm"]) == []


def test_a_job_that_was_stopped_goes_on_to_its_result(
    live: Live, job_id: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with Client(live.url) as client:
        client.cancel(job_id)
    stopped = Result.load(job_id, live.url)
    worker = threading.Thread(target=lambda: succeed(claim_when_queued(live), gain=0.25))
    worker.start()
    result = stopped.resume()
    worker.join()
    assert (result.job_id, result.verdict, stopped.verdict) == (job_id, "helps", None)
    assert "Yes, P helps (helps)" in capsys.readouterr().out
    with pytest.raises(ConflictError, match=f"the job {job_id} has its result; only a job that was stopped can go on"):
        result.resume()


def claim_when_queued(live: Live) -> RunLog:
    while (log := claim(live.db, "a thread", 60)) is None:
        time.sleep(0.02)
    return log


def test_an_interrupt_of_a_job_that_goes_on_stops_it_again(
    live: Live, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(clock: Clock, job: Job) -> str:
        raise KeyboardInterrupt

    with Client(live.url) as client:
        client.cancel(job_id)
    monkeypatch.setattr(Clock, "line", interrupt)
    result = Result.load(job_id, live.url).resume(quiet=True)
    assert (result.verdict, result.job["state"]) == (None, "cancelled")


def test_a_training_loop_whose_code_is_gone_does_not_promise_to_go_on(live: Live, job_id: str) -> None:
    with Client(live.url) as client:
        client.cancel(job_id)
        job = client.job(job_id)
    job["spec"]["model"] = {"name": "loop", "entrypoint": "train_0123456789ab:train"}
    with Client(live.url) as client:
        result = Result.read(client, job, Connection.to(live.url))
    gone = "the code of its training loop was deleted when tune ended"
    assert f"The job cannot go on: {gone}" in result.reason
    with pytest.raises(ConflictError, match=f"the job {job_id} cannot go on: {gone}"):
        result.resume()


def test_a_job_that_does_not_exist_is_an_error(live: Live) -> None:
    with pytest.raises(ApiError, match="there is no job"):
        Result.load("job-0", live.url)
