# A job that goes on after an update of the service or its libraries: its verdict compares runs of one version.
from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from service.db.models import Event, RecommendationRow
from service.db.session import Database
from service.engines import local
from service.engines.base import default_train
from service.errors import OutdatedWorkerError
from service.ledger import jobs, runs
from service.planning.plan import JobPlan
from service.recommend.recommendation import Finalist, recommend
from service.result.job_result import Recommendation
from service.running import decisions
from service.settings import Settings
from service.spec.job import ExtendSpec, JobSpec
from service.states import JobState, TrialState
from service.submission.extend import extended
from service.training.run import CurvePoint, Run
from service.version import versions
from tests.service.conftest import Submit, WorkerMaker, get_job, get_trials

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

OLD = versions() | {"code": "0" * 12, "torch": "2.0.0"}


def result_of(db: Database, job_id: str) -> dict[str, Any]:
    with db.read() as session:
        return session.get_one(RecommendationRow, job_id).data


def extend(db: Database, job_id: str, more: ExtendSpec, settings: Settings) -> None:
    with db.write() as session:
        job = jobs.require_job_for("extend", session, job_id)
        jobs.queue_again(session, job, extended(JobSpec.from_json(job.spec), more, settings), more)


@pytest.mark.timeout(300)
def test_an_extended_job_is_judged_again_by_runs_of_the_new_version_alone(
    db: Database, submit: Submit, make_worker: WorkerMaker, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = submit()
    with monkeypatch.context() as before:
        before.setattr(runs, "versions", lambda: OLD)
        assert make_worker().run_next()
    first = result_of(db, job_id)
    assert first["made_with"] == OLD
    assert not [sentence for sentence in first["findings"]["advice"] if "versions" in sentence or "torch" in sentence]
    extend(db, job_id, ExtendSpec(seeds=2), settings)
    assert make_worker().run_next()
    job, result = get_job(db, job_id), result_of(db, job_id)
    assert (job.state, job.cause, job.looks) == (JobState.SUCCEEDED, None, 2)
    assert result["made_with"] == versions()
    assert len(result["pairs"]) == len(first["pairs"]) + 2
    assert result["pairs"][: len(first["pairs"])] == first["pairs"]  # as only the numbers of versions were changed
    (mixed,) = [sentence for sentence in result["findings"]["advice"] if "the search" in sentence]
    count = len(get_trials(db, job_id))
    assert mixed.startswith(f"{count} of the {count} trials of the search were made with other code of warptune (")
    assert f"torch 2.0.0 instead of {versions()['torch']}" in mixed
    with db.read() as session:
        dropped = [event.data["phase"] for event in session.query(Event).filter_by(kind="runs_dropped")]
    assert set(dropped) >= {"select", "confirm"}


def fails_where_p_is_kept(run: Run) -> Iterator[CurvePoint]:
    if run.p_url is not None:
        raise MemoryError("it does not fit any more")
    yield from default_train(run)


@pytest.mark.timeout(300)
def test_the_p_of_another_version_is_not_exported_if_its_run_fails_now(
    db: Database, submit: Submit, make_worker: WorkerMaker, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def warpadam(plan: JobPlan, finalists: Sequence[Finalist], *others: Any) -> Recommendation:
        trial = next(finalist.trial for finalist in finalists if finalist.trial.arm == "warpadam")
        return recommend(plan, finalists, *others).model_copy(update={"arm": "warpadam", "trial": trial.number})

    monkeypatch.setattr(decisions, "recommend", warpadam)
    job_id = submit()
    with monkeypatch.context() as before:
        before.setattr(runs, "versions", lambda: OLD)
        assert make_worker().run_next()
    assert result_of(db, job_id)["learned_p"]
    extend(db, job_id, ExtendSpec(seeds=2), settings)
    assert make_worker(fails_where_p_is_kept).run_next()
    result = result_of(db, job_id)
    assert get_job(db, job_id).state == JobState.SUCCEEDED
    assert (result["learned_p"], result["weights"]) == (None, None)


@pytest.mark.timeout(300)
def test_a_worker_whose_code_was_updated_on_the_disk_gives_its_job_back_and_ends(
    db: Database, submit: Submit, make_worker: WorkerMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = submit()
    with monkeypatch.context() as before:
        before.setattr(runs, "versions", lambda: OLD)
        before.setattr(local, "versions", lambda: OLD)
        outdated = make_worker(default_train)
        with pytest.raises(OutdatedWorkerError, match=r"torch [\d.+a-z]* instead of 2\.0\.0"):
            outdated.run_forever()
    job = get_job(db, job_id)
    assert (job.state, job.lease_worker) == (JobState.QUEUED, None)
    assert {trial.state for trial in get_trials(db, job_id)} <= {TrialState.QUEUED}
    assert make_worker().run_next()
    assert result_of(db, job_id)["made_with"] == versions()
    assert not [sentence for sentence in result_of(db, job_id)["findings"]["advice"] if "instead of" in sentence]
