"""Compares the database of a service with its files: what is missing, what has changed, what belongs to nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import NamedTuple

from sqlalchemy import select

from service.artifacts import DATA_FILE, PREPROCESSING_FILE, TASK_FILE, ArtifactStore
from service.backup.tables import snapshot, studies_in
from service.db.models import DatasetRow, Job, RecommendationRow
from service.db.session import Database, require_current_tables
from service.db.studies import require_current_studies
from service.errors import OtherVersionError
from service.result.job_result import JobResult
from service.settings import Settings

SETTLED_S = 3_600.0
"""Age from which a file without a row is left over. A younger one may be of an upload that has no row yet."""


class Found(NamedTuple):
    """What was compared.

    Attributes:
        jobs: Number of jobs.
        datasets: Number of datasets.
        files: Number of files.
        wrong: A line for each thing that is not as it should be.
    """

    jobs: int
    datasets: int
    files: int
    wrong: list[str]


def compare(settings: Settings) -> Found:
    """Compare database and files of a service, which may go on meanwhile.

    Raises:
        DatabaseVersionError: The database has the tables of another version.
    """
    store = ArtifactStore(settings.artifacts_url)
    with closing(Database(settings.database_url)) as database:
        require_current_tables(database)
        require_current_studies(database)
        with snapshot(database) as connection:
            jobs = {row.id: row.data_sha256 for row in connection.execute(select(Job.id, Job.data_sha256))}
            datasets = set(connection.scalars(select(DatasetRow.id)))
            results = connection.execute(select(RecommendationRow.job_id, RecommendationRow.data)).all()
            studies = studies_in(connection)
        files = store.files()
        owners = {name.split("/")[1] for name in files}
        wrong = [(dataset, f"dataset {dataset} has no file") for dataset in sorted(datasets - owners)]
        for job_id, digest in jobs.items():
            if digest is not None:
                wrong += _wrong_file(store, job_id, (DATA_FILE, TASK_FILE), digest)
        for job_id, data in results:
            wrong += _wrong_results(store, job_id, data)
        with database.read() as session:  # what was deleted meanwhile is not missing, what was added not left over
            now = set(session.scalars(select(Job.id))) | set(session.scalars(select(DatasetRow.id)))
        lines = [line for owner, line in wrong if owner in now]
        lines += _left_over(store, files, now | jobs.keys() | datasets)
        lines += [f"the Optuna study {name} belongs to no job" for name in studies if name.split("/")[0] not in now]
    return Found(len(jobs), len(datasets), len(files), lines)


def _wrong_results(store: ArtifactStore, job_id: str, data: dict[str, object]) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with the files that a result names."""
    try:
        result = JobResult.from_json(data)
    except OtherVersionError:  # it is shown as it is, and its files are not known
        return
    if result.learned_p is not None:
        yield from _wrong_file(store, job_id, (result.learned_p.file,), result.learned_p.sha256)
    if result.weights is not None:
        yield from _wrong_file(store, job_id, (result.weights.file,), result.weights.sha256)
        if result.weights.preprocessing_sha256 is not None:
            yield from _wrong_file(store, job_id, (PREPROCESSING_FILE,), result.weights.preprocessing_sha256)


def _wrong_file(store: ArtifactStore, job_id: str, names: tuple[str, ...], digest: str) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with a file of a job, which may have one of several names."""
    sums = {name: store.sha256(job_id, name) for name in names}
    if set(sums.values()) == {None}:
        yield job_id, f"job {job_id} has no file {names[0]}"
    elif digest not in sums.values():
        yield job_id, f"job {job_id}: {names[0]} is not the file that was stored"


def _left_over(store: ArtifactStore, files: list[str], owners: set[str]) -> Iterator[str]:
    """Yield the folders of files that belong to no job and no dataset."""
    folders: dict[str, str] = {}
    for name in files:
        kind, owner, _ = name.split("/", 2)
        if owner not in owners:
            folders.setdefault(f"{kind}/{owner}", name)
    for folder, name in sorted(folders.items()):
        if store.age_s(name) > SETTLED_S:
            yield f"{folder} belongs to no {folder.split('/')[0].removesuffix('s')}"
