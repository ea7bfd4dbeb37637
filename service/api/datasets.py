"""Routes of uploaded datasets.

The body of an upload is streamed to a temporary file, checked in a thread and then stored. A refused file leaves
nothing behind.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from pathlib import PurePath
from typing import Annotated, Final

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from service.api.deps import ArtifactsDep, DatabaseDep, PageQuery, StrictQuery, Text
from service.api.problems import responses
from service.api.views import Page, View
from service.data.facts import ColumnKind, DatasetFacts, Layout
from service.data.upload import FORMATS, FileFormat, Upload, UrlSource, format_of
from service.db.models import DatasetRow
from service.errors import FieldError, InvalidSpecError
from service.ledger import datasets as ledger
from service.spec.tasks import TaskName
from service.submission.datasets import store_upload

PATH: Final = "/v1/datasets"
"""Where files are posted to. The limit on other bodies does not apply here."""

router = APIRouter(prefix=PATH, tags=["datasets"])

DatasetId = Annotated[Text, Path(description="Id of an uploaded dataset.", examples=["ds-" + "0" * 32])]


PRINTABLE: Final = r"^[^\x00-\x1f\x7f-\x9f]*$"


class UploadQuery(StrictQuery):
    """Name, URL and format of an upload."""

    filename: str = Field("", max_length=100, pattern=PRINTABLE, description="Name of the file.")
    url: str | None = Field(
        None,
        max_length=1000,
        pattern=PRINTABLE,
        description="Where the service reads the file, instead of a body: the artifact store or an allowed folder.",
    )
    format: FileFormat | None = Field(None, description="Format of the file; null lets the ending of the name decide.")


class ColumnView(View):
    """A column of a dataset."""

    name: str
    kind: ColumnKind = Field(description="Numbers are scaled, categories one-hot coded, texts hashed word by word.")
    type: str = Field(description="Its type in the file.")
    missing: int = Field(description="Rows without a value.")
    first_missing: int | None = Field(description="The first of them, counted from 1.")
    distinct: int
    levels: dict[str, int] | None = Field(description="Value -> rows, if there are few values: the class balance.")
    low: float | None
    high: float | None
    task: TaskName = Field(description="What the job would train for with this target.")


class DatasetSummary(View):
    """A dataset in a list."""

    id: str
    name: str
    format: FileFormat
    sha256: str
    size_bytes: int
    rows: int
    created_at: datetime


class UploadedDataset(DatasetSummary):
    """A dataset with its columns or shape."""

    layout: Layout
    columns: list[ColumnView] = Field(description="Columns of a table, or the labels of arrays and images.")
    shape: list[int] = Field(description="Shape of a row of arrays and images, channels first.")
    characters: int = Field(description="Distinct characters of a text.")
    task: TaskName | None = Field(description="What a job without a target trains for; null for a table.")


def _summary(row: DatasetRow) -> DatasetSummary:
    names = set(DatasetSummary.model_fields) - {"rows"}
    return DatasetSummary(**{name: getattr(row, name) for name in names}, rows=row.facts["rows"])


def _view(row: DatasetRow) -> UploadedDataset:
    facts = DatasetFacts.from_json(row.facts)
    columns = [ColumnView(**asdict(column), task=facts.suggested_task(column)) for column in facts.columns]
    task = None if facts.layout is Layout.TABLE else facts.suggested_task(facts.target(None))
    found = asdict(facts) | {"columns": columns, "task": task}
    return UploadedDataset(**_summary(row).model_dump() | found)


BODY: Final[dict[str, object]] = {
    "requestBody": {
        "required": False,
        "description": "The file itself; empty if `url` is given.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.post(
    "",
    status_code=201,
    openapi_extra=BODY,
    responses={
        200: {"model": UploadedDataset, "description": "The same file was uploaded before."},
        **responses(403, 413, 422, 503),
    },
)
async def upload_dataset(
    request: Request,
    response: Response,
    db: DatabaseDep,
    artifacts: ArtifactsDep,
    wanted: Annotated[UploadQuery, Query()],
) -> UploadedDataset:
    """Upload a file: CSV, Parquet, NPZ, plain text, or a zip with a folder of images for each class."""
    filename = wanted.filename or PurePath(wanted.url or "").name[-100:]
    fmt = wanted.format or format_of(filename)
    if fmt is None:
        endings = ", ".join(known.suffix for known in FORMATS.values())
        hint = "Rename the file, or say what it is with the parameter format."
        raise InvalidSpecError(FieldError("filename", filename, f"must be a name that ends with {endings}", hint))
    with Upload(fmt, request.app.state.max_dataset_bytes) as upload:
        async for piece in request.stream():
            if piece and wanted.url is not None:
                wrong = "must be left out if the body has a file"
                raise InvalidSpecError(FieldError("url", wanted.url, wrong, code="conflict"))
            await run_in_threadpool(upload.write, piece)
        if wanted.url is not None:
            await run_in_threadpool(_fetch, request.app.state.url_source, wanted.url, upload)
        row, is_new = await run_in_threadpool(store_upload, db, artifacts, upload, filename)
    response.status_code = 201 if is_new else 200
    response.headers["Location"] = f"{PATH}/{row.id}"
    return _view(row)


def _fetch(source: UrlSource, url: str, upload: Upload) -> None:
    for piece in source.read(url):
        upload.write(piece)


@router.get("", responses=responses(422))
def list_datasets(db: DatabaseDep, wanted: Annotated[PageQuery, Query()]) -> Page[DatasetSummary]:
    """List uploaded datasets, the newest first."""
    with db.read() as session:
        rows = ledger.page(session, wanted.limit + 1, wanted.cursor)
    return Page[DatasetSummary].of(rows, wanted.limit, _summary, lambda row: row.seq)


@router.get("/{dataset_id}", responses=responses(404, 409, 422))
def get_dataset(dataset_id: DatasetId, db: DatabaseDep) -> UploadedDataset:
    """Show what an uploaded dataset holds: rows, columns, types, missing values, class balance."""
    return _view(ledger.require(db, dataset_id))


@router.delete("/{dataset_id}", status_code=204, responses=responses(404, 409, 422))
def remove_dataset(dataset_id: DatasetId, db: DatabaseDep, artifacts: ArtifactsDep) -> None:
    """Delete an uploaded dataset. Refused while a job that has not ended uses it."""
    ledger.delete(db, dataset_id, artifacts.delete_dataset)
