# Files that are damaged, hostile or merely unusual: each is a dataset that a job can train on, or is refused by name.
from __future__ import annotations

import io
import struct
import zipfile
import zlib
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from fastapi.testclient import TestClient

from service.data.facts import EXACT
from tests.conftest import SpecMaker
from tests.service.api.conftest import assert_problem
from tests.service.data import files
from tests.service.data.tables import feather

ROWS = 40
LABELS = ["a", "b"] * (ROWS // 2)


def upload(client: TestClient, name: str, content: bytes) -> Any:
    return client.post("/v1/datasets", params={"filename": name}, content=content)


def table(values: Any) -> bytes:
    return files.table(t=values, label=LABELS)


def csv(header: str, values: list[Any]) -> bytes:
    return "\n".join([header, *(f"{value},{label}" for value, label in zip(values, LABELS, strict=True))]).encode()


def of_type(kind: Any, first: int = 1) -> Any:
    """A column of ``ROWS`` values that are counts of the type's own unit."""
    counts = pa.array(range(first, first + ROWS), pa.int64())
    return counts.cast(pa.int32()).view(kind) if kind.bit_width == 32 else counts.view(kind)


TIMES = {
    "nanoseconds": (of_type(pa.timestamp("ns")), "date", 1e-9),
    "far milliseconds": (of_type(pa.timestamp("ms"), 2**52), "date", 2**52 / 1e3),
    "with a zone": (of_type(pa.timestamp("us", "Europe/Oslo")), "date", 1e-6),
    "dates": (of_type(pa.date32()), "date", 86_400.0),
    "far dates": (of_type(pa.date32(), 2**31 - 100), "date", (2**31 - 100) * 86_400.0),
    "times of day": (of_type(pa.time32("s")), "number", 1.0),
    "fine times of day": (of_type(pa.time64("us")), "number", 1e-6),
    "durations": (of_type(pa.duration("ms")), "number", 1e-3),
}


@pytest.mark.parametrize("case", TIMES)
def test_times_of_every_kind_are_numbers_of_seconds(shared_client: TestClient, case: str) -> None:
    values, kind, low = TIMES[case]
    answer = upload(shared_client, "a.parquet", table(values))
    assert answer.status_code in (200, 201), answer.text
    column = answer.json()["columns"][0]
    assert (column["kind"], column["distinct"], column["low"]) == (kind, ROWS, pytest.approx(low))


@pytest.mark.parametrize(
    ("values", "kind"),
    [("12:{:02d}:00", "number"), ("2020-01-01 12:00:00.{:06d}", "date"), ("99{:02d}-01-01", "date")],
)
def test_times_of_a_csv_are_numbers_of_seconds(shared_client: TestClient, values: str, kind: str) -> None:
    content = csv("t,label", [values.format(10 + row) for row in range(ROWS)])
    answer = upload(shared_client, "a.csv", content)
    assert answer.status_code == 201, answer.text
    column = answer.json()["columns"][0]
    assert (column["kind"], column["distinct"]) == (kind, ROWS)


def test_whole_numbers_that_floats_cannot_tell_apart_are_one(shared_client: TestClient, spec: SpecMaker) -> None:
    dataset = upload(shared_client, "a.csv", csv("id,label", [2**60 + row for row in range(ROWS)])).json()
    assert dataset["columns"][0]["distinct"] == 1
    wanted = {"id": dataset["id"], "target": "id"}
    (error,) = assert_problem(shared_client.post("/v1/jobs", json=spec(dataset=wanted)), 422, "invalid_spec")["errors"]
    assert (error["field"], error["message"]) == (
        "dataset.target",
        "must have at least two values; it is the same in every row",
    )
    exact = upload(shared_client, "b.csv", csv("id,label", [EXACT - row for row in range(ROWS)])).json()
    assert exact["columns"][0]["distinct"] == ROWS


@pytest.mark.parametrize("dtype", [np.uint64, np.int64])
def test_labels_that_floats_cannot_tell_apart_are_one(shared_client: TestClient, dtype: Any) -> None:
    y = np.arange(20).astype(dtype) + dtype(2**62)
    document = assert_problem(upload(shared_client, "a.npz", files.npz(x=np.ones((20, 3)), y=y)), 422, "invalid_file")
    assert "y has one class only" in document["detail"]


@pytest.mark.parametrize(
    ("tokens", "context", "right"), [("characters", 50, "must be at most 49"), ("bytes", 250, "must be at most 199")]
)
def test_a_window_that_the_text_is_too_short_for_is_refused(
    shared_client: TestClient, spec: SpecMaker, tokens: str, context: int, right: str
) -> None:
    dataset = upload(shared_client, "a.txt", "\N{GRINNING FACE}".encode() * 250).json()
    model = {"name": "transformer", "tokens": tokens, "context": context}
    body = spec(dataset={"id": dataset["id"]}, model=model)
    (error,) = assert_problem(shared_client.post("/v1/jobs", json=body), 422, "invalid_spec")["errors"]
    assert (error["field"], error["value"]) == ("model.context", context)
    assert error["message"].startswith(right)


def not_utf8() -> Any:
    offsets = pa.array(range(0, 2 * ROWS + 1, 2), pa.int32()).buffers()[1]
    return pa.StringArray.from_buffers(ROWS, offsets, pa.py_buffer(b"a\xff" * ROWS))


def npy_with(header: str) -> bytes:
    content = f"{header}\n".encode()
    return files.archive({"x.npy": b"\x93NUMPY\x01\x00" + struct.pack("<H", len(content)) + content + bytes(480)})


def archive_with(name: str, method: int = zipfile.ZIP_STORED) -> bytes:
    """An image archive with one more file, whose name zipfile would not write by itself."""
    buffer = io.BytesIO(files.archive(files.images()))
    with zipfile.ZipFile(buffer, "a") as zipped:
        entry = zipfile.ZipInfo("x")
        entry.filename, entry.compress_type = name, method
        zipped.writestr(entry, files.png(np.ones((8, 8))))
    return buffer.getvalue()


def damaged_stream() -> bytes:
    content = bytearray(files.archive({"x.npy": np.random.default_rng(0).bytes(5000)}))
    content[40:60] = b"\xff" * 20
    return bytes(content)


def shortened_archive() -> bytes:
    """An archive without its first bytes, whose directory then points in front of it."""
    return files.npz(x=np.ones((20, 3)), y=np.arange(20) % 2)[7:]


def huge_image() -> bytes:
    content = bytearray(files.png(np.ones((8, 8))))
    content[16:24] = struct.pack(">II", 100_000, 100_000)
    content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
    return bytes(content)


def with_image(content: bytes) -> bytes:
    return files.archive(files.images() | {"digits/9/z.png": content})


def two_arrays_of_one_name() -> bytes:
    buffer = io.BytesIO(files.npz(x=np.ones((20, 3))))
    with zipfile.ZipFile(buffer) as zipped:
        array = zipped.read("x.npy")
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(buffer, "a") as zipped:
        zipped.writestr("x.npy", array)
    return buffer.getvalue()


HUGE = np.array([1e300, -1e300] * 10)
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n%%Page: 1 1\n"

BAD = {
    "long name": ("a.csv", b"x" * 201 + b",y\n" + b"1,2\n" * 20, "column 1 has a name of 201 characters"),
    "number over 32 bits": ("a.csv", csv("x,label", [1e308] * ROWS), "column 'x' is 1e+308 in row 1; expected a"),
    "infinite in a CSV": ("a.csv", csv("x,label", [*range(39), "inf"]), "upload the file again with na_values=inf"),
    "intervals of months": (
        "a.feather",
        feather(t=pa.array([(1, day, 0) for day in range(ROWS)], pa.month_day_nano_interval()), label=LABELS),
        "column 't' has the type month_day_nano_interval; convert it to numbers, texts, times or booleans",
    ),
    "text of no UTF-8": ("a.parquet", table(not_utf8()), "Invalid UTF8"),
    "target over 32 bits": ("a.npz", files.npz(x=np.ones((20, 3)), y=HUGE), "y is 1e+300 in row 1; expected a finite"),
    "header of a wrong type": (
        "a.npz",
        npy_with("{'descr': '<f8', 'fortran_order': False, 'shape': (True, 3)}"),
        "the array x cannot be read",
    ),
    "header of brackets": ("a.npz", npy_with("(" * 3000), "the array x cannot be read"),
    "one array twice": ("a.npz", two_arrays_of_one_name(), "two files with the name 'x.npy'"),
    "damaged stream": ("a.npz", damaged_stream(), "cannot be read as a zip file"),
    "beginning cut off": ("a.npz", shortened_archive(), "'x.npy' is at -7, before the archive begins"),
    "bzip2": ("a.zip", archive_with("a/x.png", zipfile.ZIP_BZIP2), "compressed by the method 12"),
    "file without a name": ("a.zip", archive_with(""), "has the name ''"),
    "file with a dot for a name": ("a.zip", archive_with("."), "has the name '.'"),
    "image bomb": ("a.zip", with_image(huge_image()), "'digits/9/z.png' cannot be read as an image"),
    "PostScript": ("a.zip", with_image(POSTSCRIPT), "'digits/9/z.png' cannot be read as an image; expected PNG"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_refused_by_name(shared_client: TestClient, case: str) -> None:
    name, content, expected = BAD[case]
    assert expected in assert_problem(upload(shared_client, name, content), 422, "invalid_file")["detail"]
