"""Routes of uploaded datasets.

The body of an upload is streamed to a temporary file, read in a child process and then stored. A refused file leaves
nothing behind.
"""

from __future__ import annotations

import asyncio
import codecs
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import datetime
from functools import partial
from pathlib import PurePath
from typing import Annotated, Final, Literal

from annotated_types import Len
from anyio import CancelScope, to_thread
from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import Field, JsonValue
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from service.api.deps import (
    NEEDS_ROOM,
    ArtifactsDep,
    DatabaseDep,
    PageQuery,
    SettingsDep,
    StrictQuery,
    Text,
    UrlSourceDep,
)
from service.api.problems import responses
from service.api.views import Page, View
from service.data.facts import Column, ColumnRole, ColumnUse, DatasetFacts, Layout, Reading, column_uses
from service.data.upload import FORMATS, FileFormat, Upload, UrlSource, format_of
from service.db.models import DatasetRow
from service.errors import FieldError, InvalidSpecError, UnavailableError, conflict
from service.ledger import datasets as ledger
from service.settings import LOCAL_PROJECT
from service.spec.base import ID, PRINTABLE
from service.spec.data import DatasetSpec
from service.spec.tasks import TaskName
from service.submission.datasets import store_upload

PATH: Final = "/v1/datasets"
"""Where files are posted to. The limit on other bodies does not apply here."""

MODELS: Final[Mapping[str, dict[str, JsonValue]]] = {
    "language": {"name": "transformer"},
    "autoencoding": {"name": "autoencoder", "hidden": [64], "code": 8},
    "images": {"name": "convnet"},
    "rows": {"name": "mlp", "hidden": [64, 64]},
}
"""Models to begin with, by what a row is."""

OTHER_SHEETS: Final = (".xls", ".xlsm", ".xlsb", ".ods", ".numbers")
"""Endings of spreadsheets that are not read."""

router = APIRouter(prefix=PATH, tags=["datasets"])

DatasetId = Annotated[Text, Path(description="Id of an uploaded dataset.", examples=["ds-" + "0" * 32])]


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
    encoding: str | None = Field(
        None, max_length=40, pattern=ID, description="Encoding of a CSV file, such as utf-8 or cp1252."
    )
    delimiter: str | None = Field(None, max_length=3, description="What separates its cells: one character, or tab.")
    header: Literal["first", "none"] | None = Field(
        None, description="Whether the first row of a CSV or Excel file has the names of the columns, or is data: none."
    )
    decimal: Literal[".", ","] | None = Field(None, description="Decimal mark of the numbers in a table.")
    thousands: Literal[".", ",", " ", "'"] | None = Field(None, description="What separates their thousands.")
    na_values: Annotated[list[Annotated[str, Field(max_length=100, pattern=PRINTABLE)]], Len(0, 100)] | None = Field(
        None, description="Cells of a table without a value, besides empty ones; null takes usual ones such as NA."
    )

    image_size: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Pixels of both sides that images are scaled to, if their sizes differ.",
    )

    @property
    def reading(self) -> Reading:
        """How to read a table.

        Raises:
            InvalidSpecError: The encoding is unknown, or the delimiter cannot separate cells.
        """
        delimiter = "\t" if self.delimiter == "tab" else self.delimiter
        if delimiter is not None and (len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\r\n\0'):
            wrong = "must be tab, or one ASCII character that is neither a quote nor the end of a line"
            raise InvalidSpecError(FieldError("delimiter", self.delimiter, wrong))
        if self.decimal and self.decimal in (delimiter, self.thousands):
            raise InvalidSpecError(conflict("decimal", self.decimal, "must differ from delimiter and thousands"))
        try:
            encoding = codecs.lookup(self.encoding).name if self.encoding else None
            b"a\xff\xfe".decode(encoding or "utf-8", "replace")
        except (LookupError, UnicodeError) as error:  # base64 is no encoding of texts, and idna none of files
            hint = "Common ones are utf-8, cp1252 and utf-16."
            raise InvalidSpecError(FieldError("encoding", self.encoding, "must be a known encoding", hint)) from error
        na_values = None if self.na_values is None else tuple(self.na_values)
        return Reading(
            image_size=self.image_size,
            encoding=encoding,
            delimiter=delimiter,
            header=self.header,
            decimal=self.decimal,
            thousands=self.thousands,
            na_values=na_values,
        )


class ColumnView(View):
    """A column of a dataset, and what a job does with it unless its spec says otherwise."""

    name: str
    kind: str = Field(
        description="number, category, boolean, date or text: what features are made of it. id, index or constant: why "
        "it is left out."
    )
    role: ColumnRole
    reason: str | None = Field(description="Why it is left out.")
    features: int = Field(description="Features that it becomes.")
    read_as: str | None = Field(description="How its numbers or dates are written, such as dd.mm.yyyy.")
    warnings: list[str] = Field(description="What you may want to correct with dataset.columns in the spec of a job.")
    type: str = Field(description="Its type in the file.")
    missing: int = Field(description="Rows without a value.")
    first_missing: int | None = Field(description="The first of them, counted from 1.")
    distinct: int
    levels: dict[str, int] | None = Field(description="Value -> rows, if there are few values: the class balance.")
    low: float | None
    high: float | None
    task: TaskName = Field(description="What the job would train for with this target.")
    task_reason: str


class DatasetSummary(View):
    """A dataset in a list."""

    id: str
    owner: str = Field(LOCAL_PROJECT, description="The project that it belongs to.")
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
    reading: Reading = Field(description="How the file of a table was read.")
    warnings: list[str] = Field(description="What you may want to correct in the file.")
    model: dict[str, JsonValue] = Field(description="A model to begin with: `model` in the spec of a job.")


def _summary(row: DatasetRow) -> DatasetSummary:
    names = set(DatasetSummary.model_fields) - {"rows"}
    return DatasetSummary(**{name: getattr(row, name) for name in names}, rows=row.facts["rows"])


def _view(row: DatasetRow) -> UploadedDataset:
    facts = DatasetFacts.from_json(row.facts)
    uses = zip(facts.columns, column_uses(facts, DatasetSpec()), strict=True)
    columns = [_column_view(facts, column, use) for column, use in uses]
    task = None if facts.layout is Layout.TABLE else facts.suggested_task(facts.target(None)).task
    found = asdict(facts) | {"columns": columns, "task": task, "model": _model(facts)}
    return UploadedDataset(**_summary(row).model_dump() | found)


def _model(facts: DatasetFacts) -> dict[str, JsonValue]:
    if facts.layout is Layout.TEXT:
        return MODELS["language"]
    if facts.layout is Layout.ARRAYS and not facts.columns:
        return MODELS["autoencoding"]
    return MODELS["images"] if len(facts.shape) == 3 else MODELS["rows"]


def _column_view(facts: DatasetFacts, column: Column, use: ColumnUse) -> ColumnView:
    suggested = facts.suggested_task(column)
    return ColumnView(**asdict(column) | asdict(use), task=suggested.task, task_reason=suggested.reason)


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
    dependencies=NEEDS_ROOM,
    openapi_extra=BODY,
    responses={
        200: {"model": UploadedDataset, "description": "The same file was uploaded before."},
        **responses(403, 413, 422, 503, 507),
    },
)
async def upload_dataset(
    request: Request,
    response: Response,
    db: DatabaseDep,
    artifacts: ArtifactsDep,
    source: UrlSourceDep,
    settings: SettingsDep,
    wanted: Annotated[UploadQuery, Query()],
) -> UploadedDataset:
    """Upload a file: CSV, Excel, Parquet, Feather, NPZ, plain text, or a zip with a folder of images for each class.

    The answer says what each column of a table is taken for. The same file read in another way is another dataset.
    """
    filename = wanted.filename or PurePath(wanted.url or "").name[-100:]
    fmt = wanted.format or format_of(filename)
    if fmt is None:
        endings = ", ".join(suffix for known in FORMATS.values() for suffix in known.suffixes)
        what_else = "say what it is with the parameter format" if wanted.url else "rename it"
        hint = f"Save its data as .csv or .xlsx. If it is one of these formats under another name, {what_else}."
        if filename.lower().endswith(OTHER_SHEETS):
            hint = "Save it as .xlsx or .csv."
        raise InvalidSpecError(FieldError("filename", filename, f"must end with {endings}", hint))
    async with _temporary(Upload(fmt, settings.max_dataset_bytes, wanted.reading)) as upload:
        async for piece in request.stream():
            if piece and wanted.url is not None:
                wrong = "must be left out if the body has a file"
                raise InvalidSpecError(FieldError("url", wanted.url, wrong, code="conflict"))
            await run_in_threadpool(upload.write, piece)
        if wanted.url is not None:
            await run_in_threadpool(_fetch, source, wanted.url, upload)
        gone = threading.Event()
        watching = asyncio.create_task(_set_when_gone(request, gone))
        read = partial(request.app.state.readers.read, stop=gone.is_set)
        try:
            row, is_new = await to_thread.run_sync(
                store_upload,
                db,
                artifacts,
                upload,
                filename,
                read,
                settings.max_project_bytes,
                limiter=request.app.state.reading,
            )
        except UnavailableError:
            if gone.is_set():
                raise ClientDisconnect from None
            raise
        finally:
            watching.cancel()
    response.status_code = 201 if is_new else 200
    response.headers["Location"] = f"{PATH}/{row.id}"
    return _view(row)


@asynccontextmanager
async def _temporary(upload: Upload) -> AsyncIterator[Upload]:
    """Enter an upload, and leave it in a thread: a file may unpack to gigabytes, and to delete them takes a while."""
    upload.__enter__()
    try:
        yield upload
    finally:
        with CancelScope(shield=True):  # also if the request is given up
            await to_thread.run_sync(upload.__exit__, None, None, None)


async def _set_when_gone(request: Request, gone: threading.Event) -> None:
    """Set ``gone`` when the client closes its connection. The whole body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    gone.set()


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
    """Show what an uploaded dataset holds: rows, columns, what each is taken for, missing values, class balance."""
    return _view(ledger.require(db, dataset_id))


@router.delete("/{dataset_id}", status_code=204, responses=responses(404, 409, 422))
def remove_dataset(dataset_id: DatasetId, db: DatabaseDep, artifacts: ArtifactsDep) -> None:
    """Delete an uploaded dataset. Refused while a job that has not ended uses it."""
    ledger.delete(db, dataset_id, artifacts.taken_dataset)
