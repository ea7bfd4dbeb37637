"""Stores uploaded datasets, and finds out what a plan must know about the data and the model of a job.

Facts about uploaded datasets are in the ledger; user code is run in a child process and described by it.
"""

from __future__ import annotations

from dataclasses import replace

from service.artifacts import ArtifactStore, local_folder
from service.data.catalog import BUNDLED
from service.data.facts import ColumnUse, DatasetFacts, Layout, column_uses, dataset_info
from service.data.upload import ReadFile, Upload
from service.db.models import DatasetRow
from service.db.session import Database
from service.errors import FieldError, InvalidFileError, InvalidSpecError, JobFailedError, UnavailableError
from service.ledger import datasets as ledger
from service.ledger import usage
from service.planning.family import FamilyDataset, check_groups, common_info
from service.spec.data import DatasetSpec
from service.spec.dataset_info import DatasetInfo
from service.spec.job import JobSpec
from service.spec.tasks import Task
from service.submission import Context


def store_upload(
    db: Database, artifacts: ArtifactStore, upload: Upload, name: str, read: ReadFile, max_project_bytes: int | None
) -> tuple[DatasetRow, bool]:
    """Store an upload that has arrived as a whole; return its row, and whether it is new.

    The same content in the same format is stored once for each project, so that the answer does not tell whether
    another project has it. If files of the stored one are missing, they are restored. An empty ``name`` is replaced by
    one made of the dataset's id.

    Raises:
        InvalidFileError: The file cannot be used.
        QuotaExceededError: The project would store more than ``max_project_bytes``.
        UnavailableError: The client has gone.
    """
    dataset_id = upload.dataset_id(db.owner)

    def has_files(row: DatasetRow) -> bool:
        found = artifacts.dataset_bytes(row.id)
        is_old = row.stored_bytes == row.size_bytes  # stored by a version that did not note what it keeps
        return found == row.stored_bytes or (is_old and found > 0)

    earlier = ledger.find(db, dataset_id)
    if earlier is not None and has_files(earlier):
        return earlier, False
    limit_bytes = max_project_bytes if earlier is None else None  # what is restored was counted when it came
    with db.read() as session:  # before the file is read, which may take long, and again when its size is known
        usage.require_quota(session, db.owner, limit_bytes)
    facts, folder = upload.unpack(read)
    stored_bytes = sum(file.stat().st_size for file in folder.iterdir())
    with db.read() as session:
        usage.require_quota(session, db.owner, limit_bytes, stored_bytes)
    row = DatasetRow(
        id=dataset_id,
        name=name or f"{dataset_id}.{upload.format}",
        format=upload.format,
        sha256=upload.sha256,
        size_bytes=upload.size_bytes,
        stored_bytes=stored_bytes,
        facts=facts.to_json(),
    )
    with artifacts.staged_dataset(dataset_id, folder) as put_files:
        return ledger.add(db, row, put_files, has_files)


def find_info(context: Context, spec: JobSpec) -> DatasetInfo | None:
    """Return the facts about the uploaded data and the user code of a job; None if it has neither.

    Raises:
        InvalidSpecError: There is no such dataset, it has no such target, those of a family do not fit together, or
            the user code fails.
        ForbiddenError: The operator has not allowed the user code.
        UnavailableError: Too many others are trying user code.
        OtherVersionError: Another version stored the facts about the dataset.
    """
    return context.user_code.info_for(spec, _uploaded_info(context, spec))


def find_columns(context: Context, spec: JobSpec) -> tuple[ColumnUse, ...]:
    """Return what a job does with the columns of its uploaded table; nothing for other data and for a family of tables.

    Raises:
        InvalidSpecError: As :func:`find_info`.
    """
    if spec.dataset.id is None:
        return ()
    return column_uses(_facts(context, spec.dataset, spec.dataset.id), spec.dataset)


def warnings_about_rows(context: Context, spec: JobSpec, task: str) -> tuple[str, ...]:
    """Return what may be wrong with the rows of an uploaded dataset, such as a column that holds the answer.

    Empty for bundled and user-made data, texts and families. If the job would fail because of extreme numbers or of the
    split of its search, the only line says so; another one says if the rows could not be looked at.
    """
    chosen = spec.dataset
    if chosen.id is None or spec.family is not None or task == Task.LANGUAGE:
        return ()
    try:
        return context.readers.look_at_rows(spec, task, local_folder(context.artifacts.dataset_url(chosen.id)))
    except JobFailedError as error:
        return (f"the job would fail: {error}",)
    except InvalidFileError:
        why = "that takes too much time or memory"
    except UnavailableError:
        why = "too many others are being looked at"
    except OSError:
        why = "its files cannot be read now"
    return (f"the rows were not checked, as {why}; the job may run in spite of that",)


def _uploaded_info(context: Context, spec: JobSpec) -> DatasetInfo | None:
    chosen = spec.datasets
    if all(given.id is None or given.name is not None for given in chosen.values()):
        return None
    found = [
        _described(context, field, given, spec.seed)
        for field, given in chosen.items()
        if given.id is not None or given.name in BUNDLED
    ]
    if len(found) < len(chosen):
        return None  # make_plan says what is wrong with the others
    if "dataset" not in chosen:
        return common_info(found)
    if spec.family is not None and spec.family.group_by is not None:
        check_groups(found[0], spec.family.group_by, spec.family.bins)
    return found[0].info


def _described(context: Context, field: str, given: DatasetSpec, seed: int) -> FamilyDataset:
    """Return a bundled or an uploaded dataset; ``field`` is the one of the spec that chooses it, ``seed`` splits it."""
    if given.id is None:
        return FamilyDataset(label=given.label, info=BUNDLED[given.label].info)
    try:
        facts = _facts(context, given, given.id)
        info = dataset_info(facts, given)
        if given.split.by != "random" and info.task == Task.CLASSIFICATION:
            with local_folder(context.artifacts.dataset_url(given.id)) as folder:
                context.readers.check_split(facts, given, folder, seed)
    except InvalidSpecError as error:
        moved = (replace(wrong, field=wrong.field.replace("dataset", field, 1)) for wrong in error.errors)
        raise InvalidSpecError(*moved) from error
    return FamilyDataset(label=given.id, info=info, columns={column.name: column for column in facts.columns})


def _facts(context: Context, given: DatasetSpec, dataset_id: str) -> DatasetFacts:
    """Return the facts about an uploaded dataset, with its columns taken for what the spec says."""
    row = ledger.find(context.db, dataset_id)
    if row is None:
        hint = "GET /v1/datasets lists the uploaded datasets."
        raise InvalidSpecError(FieldError("dataset.id", given.id, "names no uploaded dataset", hint, "unknown_name"))
    facts = DatasetFacts.from_json(row.facts)
    if not given.columns or facts.layout is not Layout.TABLE:
        return facts
    with local_folder(context.artifacts.dataset_url(dataset_id)) as folder:
        return context.readers.retype(facts, given.columns, folder)
