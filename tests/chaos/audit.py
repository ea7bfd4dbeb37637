"""What a job came to, and whether anything is lost, doubled or left behind."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from optuna.storages import BaseStorage
from safetensors import safe_open
from sqlalchemy import text
from sqlalchemy.orm import Session

from service.artifacts import DATA_FILE
from service.db.models import (
    Arm,
    ConfirmRun,
    Event,
    IdempotencyKey,
    Job,
    Notification,
    RecommendationRow,
    Trial,
    TrialPoint,
)
from service.db.session import Database
from service.db.studies import Studies, study_name
from service.settings import Settings
from service.states import ArmState, JobState, TrialState
from service.temporary import sweep
from tests.chaos.service import Service

TWO_LEASES_S: Final = 2 * Settings.model_fields["lease_s"].default
"""Time after which every trial that was interrupted has ended, with the lease that a service has by default."""

GONE_S: Final = 30.0
"""Longest wait until the processes of a service have ended."""


class Outcome(NamedTuple):
    """What a job came to: its rows but for times, attempts and processes, and the hashes of its files."""

    rows: dict[str, Any]
    files: dict[str, str]


def outcome(service: Service, job_id: str) -> Outcome:
    """Return what a job came to."""
    with closing(Database(service.database_url)) as db, db.read() as session:
        trials = session.query(Trial).filter_by(job_id=job_id).order_by(Trial.number).all()
        runs = session.query(ConfirmRun).filter_by(job_id=job_id).order_by(ConfirmRun.id).all()
        points = session.query(TrialPoint, Trial).join(Trial, Trial.id == TrialPoint.trial_id).filter_by(job_id=job_id)
        curves = sorted((t.number, p.step, p.train_loss, p.val_loss, p.val_score) for p, t in points)
        result = session.get_one(RecommendationRow, job_id).data
    rows = {
        "trials": [(t.number, t.arm, t.params, t.state, t.value, t.last_step) for t in trials],
        "curves": curves,
        "runs": [(r.phase, r.arm, r.trial_number, r.seed, r.state, r.val_loss, r.test_loss) for r in runs],
        **{name: result[name] for name in ("verdict", "arm", "config", "trial", "pairs")},
        "test loss from the learned P": (result["learned_p"] or {}).get("test_loss"),
    }
    folder = service.folder / "artifacts/jobs" / job_id
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return Outcome(rows, {str(path.relative_to(folder)): hashlib.sha256(_content(path)).hexdigest() for path in files})


def _content(path: Path) -> bytes:
    """Return the bytes of a file; of safetensors in one order, because the library writes its metadata in any."""
    if path.suffix != ".safetensors":
        return path.read_bytes()
    with safe_open(path, framework="numpy") as file:
        tensors = {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118 - safetensors files cannot be iterated
        return repr((sorted((file.metadata() or {}).items()), sorted(tensors.items()))).encode()


def audit(service: Service, *job_ids: str) -> None:
    """Check all jobs of a service that has ended: the ledger, that Optuna and the files agree, that nothing is left."""
    with closing(Studies(service.database_url)) as studies:
        told = _told(studies.open())
    with closing(Database(service.database_url)) as db, db.read() as session:
        for job_id in job_ids:
            _check_ledger(session, job_id)
            _check_files(session, service.folder / "artifacts/jobs" / job_id, job_id)
            trials = session.query(Trial).filter_by(job_id=job_id).order_by(Trial.number).all()
            names = {study_name(job_id, trial.arm) for trial in trials}
            of_job = sorted(trial for name in names for trial in told.pop(name))
            assert of_job == [(trial.number, "COMPLETE", trial.value) for trial in trials]
        assert told == {}
        assert {job.id for job in session.query(Job)} == set(job_ids)
        assert sorted(key.job_id for key in session.query(IdempotencyKey)) == sorted(job_ids)
        assert session.query(Notification).count() == 0
        if db.engine.dialect.name == "sqlite":  # PostgreSQL checks foreign keys itself, Optuna's too
            assert session.execute(text("PRAGMA foreign_key_check")).all() == []
            assert session.scalar(text("PRAGMA integrity_check")) == "ok"
    left = [path for path in (service.folder / "artifacts").rglob("*") if path.is_file()]
    assert [path for path in left if path.suffix in (".part", ".ckpt") or path.name.startswith(".ready")] == []
    places = {path.relative_to(service.folder / "artifacts").parts[:2] for path in left}
    assert places == {("jobs", job_id) for job_id in job_ids}
    deadline = time.monotonic() + GONE_S
    while service.left_behind():
        assert time.monotonic() < deadline, service.left_behind()
        time.sleep(0.1)
    sweep(service.folder / "tmp")
    assert list((service.folder / "tmp").iterdir()) == []


def _told(storage: BaseStorage) -> dict[str, list[tuple[int, str, float | None]]]:
    """Return for each study what Optuna knows of its trials: the number in the job, the state and the value."""
    return {
        study.study_name: [
            (trial.user_attrs["trial"], trial.state.name, trial.value)
            for trial in storage.get_all_trials(study._study_id)
        ]
        for study in storage.get_all_studies()
    }


def _check_ledger(session: Session, job_id: str) -> None:
    """Check that the job has succeeded, and that every trial of it has ended once."""
    job = session.query(Job).filter_by(id=job_id).one()
    assert (job.state, job.cause, job.lease_worker) == (JobState.SUCCEEDED, None, None)
    trials = session.query(Trial).filter_by(job_id=job_id).order_by(Trial.number).all()
    arms = session.query(Arm).filter_by(job_id=job_id).all()
    events = Counter((event.kind, event.data.get("trial")) for event in session.query(Event).filter_by(job_id=job_id))
    assert [trial.number for trial in trials] == list(range(len(trials)))
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    assert {run.state for run in session.query(ConfirmRun).filter_by(job_id=job_id)} == {TrialState.COMPLETE}
    assert {arm.state for arm in arms if arm.name in {trial.arm for trial in trials}} == {ArmState.COMPLETE}
    assert {events["trial_finished", trial.number] for trial in trials} == {1}
    assert (events["submitted", None], events["succeeded", None]) == (1, 1)


def _check_files(session: Session, folder: Path, job_id: str) -> None:
    """Check that the files of a job have the hashes that the ledger has."""
    result = session.get_one(RecommendationRow, job_id).data
    named = {DATA_FILE: session.query(Job).filter_by(id=job_id).one().data_sha256}
    named |= {kept["file"]: kept["sha256"] for kept in (result["weights"], result["learned_p"]) if kept}
    assert {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in named} == named


def seconds_to_the_end(service: Service, job_id: str, happened_at: float) -> float | None:
    """Return how long after something had happened the last trial ended that it interrupted; None if there was none."""
    at = datetime.fromtimestamp(happened_at, UTC)
    with closing(Database(service.database_url)) as db, db.read() as session:
        trials = [trial for trial in session.query(Trial).filter_by(job_id=job_id) if trial.created_at <= at]
        ends = [trial.finished_at for trial in trials if trial.finished_at and trial.finished_at > at]
    return max((end - at).total_seconds() for end in ends) if ends else None
