# Uploads over HTTP: what is found in a good file, and that a bad one is refused by name and leaves nothing behind.
from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from fastapi.testclient import TestClient

from service.api.app import create_app
from service.db.session import Database
from service.settings import Settings
from tests.conftest import SpecMaker
from tests.service.api.conftest import assert_problem, count_rows, pages, sqlite_only
from tests.service.data import files

LIMIT = 4 << 20
"""Largest upload of these tests."""


@pytest.fixture
def uploads(settings: Settings, db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """The API with a small limit, and its temporary files in a folder that can be looked at."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    small = settings.model_copy(update={"max_dataset_bytes": LIMIT})
    with TestClient(create_app(small), raise_server_exceptions=False) as opened:
        yield opened


def upload(client: TestClient, name: str, content: bytes, **query: str) -> Any:
    return client.post("/v1/datasets", params={"filename": name, **query}, content=content)


def left_on_disk(tmp_path: Path) -> list[str]:
    folders = [tmp_path / "artifacts", tmp_path / "tmp"]
    return [str(path) for folder in folders for path in folder.rglob("*") if path.is_file()]


def test_a_table_is_described(uploads: TestClient) -> None:
    answer = upload(uploads, "people.csv", files.csv())
    assert answer.status_code == 201, answer.text
    dataset = answer.json()
    assert answer.headers["location"] == f"/v1/datasets/{dataset['id']}"
    assert uploads.get(answer.headers["location"]).json() == dataset
    assert (dataset["name"], dataset["format"], dataset["layout"]) == ("people.csv", "csv", "table")
    assert (dataset["rows"], dataset["size_bytes"]) == (40, len(files.csv()))
    age, city, note, label = dataset["columns"]
    assert (age["kind"], age["missing"], age["first_missing"], age["low"], age["high"]) == ("number", 6, 4, 20, 59)
    assert (city["kind"], city["missing"], sorted(city["levels"])) == ("category", 4, ["Köln", "Oslo", "Rome"])
    assert (note["kind"], note["distinct"], note["features"]) == ("text", 40, 64)
    assert (label["levels"], label["task"]) == ({"no": 20, "yes": 20}, "classification")


AGES = ["n/k" if row == 7 else 20 + row % 50 for row in range(200)]
CUSTOMERS = "\n".join(
    ["customer_id,zip,age,left", *(f"C{row:04d},{1000 + row % 20:05d},{age},{row % 2}" for row, age in enumerate(AGES))]
).encode()


@sqlite_only
def test_an_upload_says_what_each_column_is_taken_for(uploads: TestClient) -> None:
    answer = upload(uploads, "a.csv", CUSTOMERS)
    assert answer.status_code == 201, answer.text
    columns = {column["name"]: column for column in answer.json()["columns"]}
    shown = {name: (column["kind"], column["role"], column["features"]) for name, column in columns.items()}
    assert shown == {
        "customer_id": ("id", "left out", 0),
        "zip": ("category", "feature", 20),
        "age": ("number", "feature", 2),
        "left": ("number", "feature", 1),
    }
    assert columns["customer_id"]["reason"] == "nearly every row has another value"
    odd = "not numbers, so read as missing: 1 of 200 cells, the first is 'n/k' in row 8"
    assert columns["age"]["warnings"] == [odd]
    assert answer.json()["reading"]["delimiter"] == ","


@sqlite_only
def test_a_table_that_is_read_in_another_way_is_another_dataset(uploads: TestClient) -> None:
    content = "\n".join(["x;y", *(f"{row},500;{row % 2}" for row in range(1, 40))]).encode()
    found = upload(uploads, "a.csv", content).json()
    said = upload(uploads, "a.csv", content, decimal=".", thousands=",", na_values="3,500", delimiter=";").json()
    assert found["id"] != said["id"]
    assert [dataset["columns"][0]["high"] for dataset in (found, said)] == [39.5, 39_500.0]
    assert [dataset["columns"][0]["missing"] for dataset in (found, said)] == [0, 1]


@sqlite_only
@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"encoding": "utf-9"}, "encoding"),
        ({"encoding": "base64"}, "encoding"),
        ({"encoding": "punycode"}, "encoding"),
        ({"encoding": "idna"}, "encoding"),
        ({"decimal": ",", "delimiter": ","}, "decimal"),
        ({"delimiter": "ab"}, "delimiter"),
        ({"delimiter": '"'}, "delimiter"),
        ({"decimal": "x"}, "decimal"),
        ({"format": "parquet", "delimiter": ";"}, "delimiter"),
        ({"format": "npz", "decimal": ","}, "decimal"),
    ],
)
def test_a_senseless_way_of_reading_is_refused(uploads: TestClient, query: dict[str, str], field: str) -> None:
    document = assert_problem(upload(uploads, "a.csv", CUSTOMERS, **query), 422, "invalid_spec")
    assert [error["field"] for error in document["errors"]] == [field]


def test_a_job_says_what_it_does_with_each_column_and_can_be_corrected(uploads: TestClient, spec: SpecMaker) -> None:
    dataset_id = upload(uploads, "a.csv", CUSTOMERS).json()["id"]
    columns = {"zip": "number", "customer_id": "category", "age": "ignore"}
    wanted = {"id": dataset_id, "target": "left", "columns": columns}
    plans = [
        uploads.post("/v1/jobs", params={"dry_run": True}, json=spec(dataset=given)).json()
        for given in ({"id": dataset_id, "target": "left"}, wanted)
    ]
    roles = [{column["name"]: (column["role"], column["features"]) for column in plan["columns"]} for plan in plans]
    assert roles == [
        {"customer_id": ("left out", 0), "zip": ("feature", 20), "age": ("feature", 2), "left": ("target", 0)},
        {"customer_id": ("feature", 64), "zip": ("feature", 1), "age": ("left out", 0), "left": ("target", 0)},
    ]
    assert plans[0]["task"] == "classification: 2 distinct whole numbers in 200 rows"
    assert uploads.post("/v1/jobs", json=spec(dataset=wanted)).status_code == 202


@sqlite_only
@pytest.mark.parametrize(
    ("columns", "field", "expected"),
    [
        ({"zpi": "category"}, "dataset.columns.zpi", "Did you mean 'zip'?"),
        ({"customer_id": "number"}, "dataset.columns.customer_id", "the first is 'C0000' in row 1"),
        ({"zip": "integer"}, "dataset.columns.zip", "'category'"),
        ({"left": "ignore"}, "dataset.columns.left", "must be a feature: this column is the target"),
    ],
)
def test_a_column_that_cannot_be_what_a_job_says_is_refused(
    uploads: TestClient, spec: SpecMaker, columns: dict[str, str], field: str, expected: str
) -> None:
    dataset_id = upload(uploads, "a.csv", CUSTOMERS).json()["id"]
    answer = uploads.post("/v1/jobs", json=spec(dataset={"id": dataset_id, "target": "left", "columns": columns}))
    (error,) = assert_problem(answer, 422, "invalid_spec")["errors"]
    assert error["field"] == field
    assert expected in f"{error['message']} {error['hint']}"


@pytest.mark.parametrize(
    ("name", "content", "layout", "rows", "shape", "task"),
    [
        ("diabetes.parquet", files.parquet(), "table", 442, [], None),
        ("digits.npz", files.digits_npz(), "arrays", 1797, [1, 8, 8], "classification"),
        ("flat.npz", files.npz(x=np.ones((12, 5))), "arrays", 12, [5], "autoencoding"),
        ("colour.npz", files.npz(x=np.ones((12, 6, 5, 3))), "arrays", 12, [3, 6, 5], "autoencoding"),
        ("digits.zip", files.archive(files.images()), "arrays", 60, [1, 8, 8], "classification"),
        ("topics.txt", files.text(), "text", 60_000, [], "language"),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value else "",
)
@sqlite_only
def test_every_kind_of_file_is_taken_and_deleted(
    uploads: TestClient, tmp_path: Path, name: str, content: bytes, layout: str, rows: int, shape: list[int], task: str
) -> None:
    answer = upload(uploads, name, content)
    assert answer.status_code == 201, answer.text
    dataset = answer.json()
    assert (dataset["layout"], dataset["rows"], dataset["shape"], dataset["task"]) == (layout, rows, shape, task)
    assert left_on_disk(tmp_path)
    assert uploads.delete(f"/v1/datasets/{dataset['id']}").status_code == 204
    assert left_on_disk(tmp_path) == []
    assert_problem(uploads.get(f"/v1/datasets/{dataset['id']}"), 404, "not_found")


TIMES = {
    "s": [253_402_300_799, *range(19)],  # the last second of the year 9999
    "us": [253_402_300_799_000_000, *range(19)],
    "ns": [1_700_000_000_123_456_789, *range(19)],
}


@sqlite_only
@pytest.mark.parametrize("unit", TIMES)
def test_times_far_away_and_of_nanoseconds_are_taken_as_seconds(uploads: TestClient, unit: str) -> None:
    buffer = io.BytesIO()
    table = pa.table({"x": range(20), "end": pa.array(TIMES[unit], pa.timestamp(unit))})
    pyarrow.parquet.write_table(table, buffer)
    answer = upload(uploads, "a.parquet", buffer.getvalue())
    assert answer.status_code == 201, answer.text
    per_second = {"s": 1, "us": 1e6, "ns": 1e9}[unit]
    assert answer.json()["columns"][1]["high"] == pytest.approx(TIMES[unit][0] / per_second)


@sqlite_only
def test_a_date_that_means_for_ever_is_taken(uploads: TestClient) -> None:
    rows = [f"{row},{'9999-12-31' if row % 2 else '1970-01-02'}" for row in range(20)]
    answer = upload(uploads, "a.csv", "\n".join(["x,end", *rows]).encode())
    assert answer.status_code == 201, answer.text
    assert [answer.json()["columns"][1][end] for end in ("low", "high")] == [86_400.0, 253_402_214_400.0]


def test_the_same_file_twice_is_one_dataset(uploads: TestClient) -> None:
    first, again = upload(uploads, "a.csv", files.csv()), upload(uploads, "b.csv", files.csv())
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    other = upload(uploads, "c.csv", files.csv(41))
    assert other.status_code == 201
    listed = [item["id"] for page in pages(uploads, "/v1/datasets", 1) for item in page]
    assert listed == [other.json()["id"], first.json()["id"]]


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


GOOD_X = np.arange(60.0).reshape(20, 3)
LABELS = np.arange(20) % 2


def with_nan() -> bytes:
    x = GOOD_X.copy()
    x[6, 2] = np.nan
    return files.npz(x=x, y=LABELS)


ONE_FOLDER = files.archive({f"a/{index}.png": files.png(np.ones((4, 4))) for index in range(12)})
TWO_SIZES = files.archive(files.images() | {"z/z/z.png": files.png(np.ones((4, 5)))})

BAD = {
    "truncated Parquet": ("a.parquet", truncated(files.parquet()), "the file cannot be read as Parquet"),
    "Parquet of lists": ("a.parquet", files.parquet(y=[[1, 2]] * 442), "column 'y' has the type list"),
    "infinite number": ("a.parquet", files.parquet(y=[1.0] * 441 + [np.inf]), "column 'y' is infinite in row 442"),
    "ragged rows": ("a.csv", files.csv() + b"\n1,2\n", "Row #42: Expected 4 columns, got 2"),
    "text in a wrong encoding": ("a.txt", b"abc\n" * 500 + b"\xff", "row 501 is not UTF-8: it has the byte 0xff"),
    "character cut in half": ("a.txt", b"abc\n" * 500 + "é".encode()[:1], "row 501 is not UTF-8"),
    "short text": ("a.txt", b"abc", "the text has 3 bytes"),
    "header only": ("a.csv", b"a,b\n", "the table has 0 rows"),
    "one name twice": ("a.csv", b"a,a\n" + b"1,2\n" * 20, "column 2 has the name 'a'"),
    "control character": ("a.csv", b"a,\x1b[31mb\n" + b"1,2\n" * 20, "with a control character in it"),
    "no name": ("a.csv", b"a,\n" + b"1,2\n" * 20, "column 2 has no name"),
    "NaN in features": ("a.npz", with_nan(), "x is nan in row 7, column 3"),
    "one class only": ("a.npz", files.npz(x=GOOD_X, y=np.ones(20)), "y has one class only, 1.0"),
    "pickled objects": ("a.npz", files.npz(x=np.array([{}] * 20)), "x holds pickled Python objects"),
    "other arrays": ("a.npz", files.npz(images=GOOD_X), "it holds images; expected the array x"),
    "too few labels": ("a.npz", files.npz(x=GOOD_X, y=LABELS[:3]), "y has the shape (3,); expected one value for each"),
    "no archive": ("a.npz", b"x" * 100, "cannot be read as a zip file"),
    "truncated archive": ("a.zip", truncated(files.archive(files.images())), "cannot be read as a zip file"),
    "truncated array": ("a.npz", files.archive({"x.npy": truncated(files.npz(x=GOOD_X))}), "x cannot be read"),
    "zip bomb": ("a.zip", files.archive({"a/x.png": bytes(LIMIT + 1)}), f"{LIMIT + 1} bytes unpacked"),
    "NPZ bomb": ("a.npz", files.archive({"x.npy": bytes(LIMIT + 1)}), f"{LIMIT + 1} bytes unpacked"),
    "name that leads out": ("a.zip", files.archive(files.images() | {"../../etc/x.png": b""}), "'../../etc/x.png'"),
    "no image": ("a.zip", files.archive(files.images() | {"d/0/zz.png": b"GIF"}), "zz.png' cannot be read as an image"),
    "one folder only": ("a.zip", ONE_FOLDER, "one class"),
    "images of two sizes": ("a.zip", TWO_SIZES, "5 x 4"),
    "image in no folder": ("a.zip", files.archive(files.images() | {"x.png": b""}), "'x.png' is not in a folder"),
    "empty file": ("a.csv", b"", "0 bytes"),
}  # fmt: skip


@sqlite_only
@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_refused_by_name_and_leaves_nothing(
    uploads: TestClient, db: Database, tmp_path: Path, case: str
) -> None:
    name, content, expected = BAD[case]
    before = count_rows(db)
    document = assert_problem(upload(uploads, name, content), 422, "invalid_file")
    assert expected in document["detail"]
    assert count_rows(db) == before
    assert left_on_disk(tmp_path) == []


@sqlite_only
@pytest.mark.parametrize("announced", [True, False], ids=["content-length", "chunked"])
def test_a_file_over_the_limit_is_refused(uploads: TestClient, db: Database, tmp_path: Path, announced: bool) -> None:
    body = b"a" * (LIMIT + 1)
    content: Any = body if announced else (body[i : i + 65_536] for i in range(0, len(body), 65_536))
    document = assert_problem(upload(uploads, "a.txt", content), 413, "file_too_large")
    assert str(LIMIT) in document["detail"]
    assert left_on_disk(tmp_path) == []
    assert upload(uploads, "a.txt", b"a" * LIMIT).status_code == 201


@pytest.mark.parametrize(("query", "field"), [({"filename": "a.xls"}, "filename"), ({}, "filename")])
@sqlite_only
def test_an_upload_says_what_it_is(uploads: TestClient, query: dict[str, str], field: str) -> None:
    document = assert_problem(uploads.post("/v1/datasets", params=query, content=b"x"), 422, "invalid_spec")
    assert [error["field"] for error in document["errors"]] == [field]
    assert ".parquet" in document["detail"]


TARGETS = {
    "unknown": ({"target": "lable"}, "dataset.target", "Did you mean 'label'"),
    "constant": ({"target": "same"}, "dataset.target", "it is the same in every row"),
    "with gaps": ({"target": "age"}, "dataset.target", "9 rows have none, the first is row 4, not counting the header"),
    "of a rare class": ({"target": "rare"}, "dataset.target", "at least 5 rows of every class; '1' has 1"),
    "a text to regress": ({"target": "label", "task": "regression"}, "dataset.target", "a column of numbers"),
    "numbers as classes": ({"target": "id", "task": "classification"}, "dataset.target", "at most 50 classes, not 60"),
    "none for a class": ({"task": "classification"}, "dataset.task", "need a target: set dataset.target"),
    "a language": ({"task": "language"}, "dataset.task", "autoencoding"),
    "bundled too": ({"name": "wine"}, "dataset.id", "cannot be used together with dataset.name"),
}


@sqlite_only
@pytest.mark.parametrize("case", TARGETS)
def test_a_target_that_cannot_be_learned_is_refused(
    uploads: TestClient, db: Database, spec: SpecMaker, case: str
) -> None:
    lines = files.csv(60).decode().splitlines()
    more = [f"{line},1,{int(index == 3)},{index}" for index, line in enumerate(lines[1:])]
    content = "\n".join([f"{lines[0]},same,rare,id", *more])
    dataset_id = upload(uploads, "t.csv", content.encode()).json()["id"]
    given, field, expected = TARGETS[case]
    before = count_rows(db)
    answer = uploads.post("/v1/jobs", json=spec(dataset={"id": dataset_id, **given}))
    (error,) = [e for e in assert_problem(answer, 422, "invalid_spec")["errors"] if e["field"] == field]
    assert expected in f"{error['message']} {error['hint']}"
    assert count_rows(db) == before


def test_a_dataset_stays_while_a_job_uses_it(uploads: TestClient, spec: SpecMaker) -> None:
    dataset_id = upload(uploads, "people.csv", files.csv()).json()["id"]
    job = uploads.post("/v1/jobs", json=spec(dataset={"id": dataset_id, "target": "label"}))
    assert job.status_code == 202, job.text
    assert job.json()["dataset"] == dataset_id
    document = assert_problem(uploads.delete(f"/v1/datasets/{dataset_id}"), 409, "conflict")
    assert job.json()["id"] in document["detail"]
    uploads.post(f"/v1/jobs/{job.json()['id']}/cancel")
    assert uploads.delete(f"/v1/datasets/{dataset_id}").status_code == 204
    answer = uploads.post("/v1/jobs", json=spec(dataset={"id": dataset_id, "target": "label"}))
    assert_problem(answer, 422, "invalid_spec")


@pytest.mark.parametrize("dataset_id", ["ds-\x00", "", "../x", "ds-\ud800"])
def test_an_id_that_no_database_can_look_for_is_refused(uploads: TestClient, spec: SpecMaker, dataset_id: str) -> None:
    body = json.dumps(spec(dataset={"id": dataset_id}))
    answer = uploads.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    (error,) = assert_problem(answer, 422, "invalid_spec")["errors"]
    assert error["field"] == "dataset.id"
