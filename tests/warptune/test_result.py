# The result of a job that a service has: what it says, and what it makes.
from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import nn

from service.client.rest import ApiError, Client
from service.errors import ConflictError, JobFailedError
from service.states import JobState
from tests.conftest import SpecMaker
from tests.service.api.conftest import claim_job, search, succeed
from tests.service.live import Live, serve
from warpadam import WarpAdam
from warptune import Result


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
    assert result.reason == "stopped before the verdict; 0 trials are kept"
    assert list(result.trials["arm"]) == []


def test_a_job_that_does_not_exist_is_an_error(live: Live) -> None:
    with pytest.raises(ApiError, match="there is no job"):
        Result.load("job-0", live.url)
