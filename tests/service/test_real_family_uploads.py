# Families of uploaded data from the file to the break-even, through REST: the API, a real worker, real slot processes.
from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from sklearn.datasets import load_diabetes, load_digits

from service.api.app import create_app
from service.db.session import Database
from service.settings import Settings
from tests.conftest import SpecMaker
from tests.service.conftest import WorkerMaker
from tests.service.data import files

pytestmark = [pytest.mark.parametrize("database_url", ["sqlite"], indirect=True), pytest.mark.timeout(600)]

FAMILY = {"learn_tasks": 3, "learn_steps": 10, "evaluate_tasks": 2}
BUDGET = {"trials_per_arm": 1, "steps": 10, "batch_size": 16}


@pytest.fixture
def client(settings: Settings, db: Database) -> Iterator[TestClient]:
    with TestClient(create_app(settings)) as opened:
        yield opened


def upload(client: TestClient, name: str, content: bytes) -> str:
    answer = client.post("/v1/datasets", params={"filename": name}, content=content)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def run_job(client: TestClient, make_worker: WorkerMaker, body: dict[str, Any]) -> dict[str, Any]:
    answer = client.post("/v1/jobs", json=body)
    assert answer.status_code == 202, answer.text
    links = answer.json()["links"]
    assert make_worker().run_next()
    job = client.get(links["self"]).json()
    assert job["state"] == "succeeded", job["cause"]
    found: dict[str, Any] = client.get(links["recommendation"]).json()
    return found


def patients(clinics: int = 8) -> bytes:
    """The diabetes table as CSV, with the clinic of each patient, a text, in a column, and gaps in two others."""
    bunch = load_diabetes()
    lines = [",".join([*bunch.feature_names, "clinic", "progression"])]
    for row, (values, target) in enumerate(zip(bunch.data, bunch.target, strict=True)):
        cells = [f"{value:.6f}" for value in values]
        cells[3] = "" if row % 9 == 4 else cells[3]
        clinic = "" if row % 50 == 7 else f"clinic {int(values[2] * 100 + row) % clinics}"
        lines.append(",".join([*cells, clinic, f"{target:g}"]))
    return "\n".join(lines).encode()


@pytest.mark.slow
def test_a_table_grouped_by_a_column_of_texts_comes_to_a_break_even(
    client: TestClient, make_worker: WorkerMaker, spec: SpecMaker
) -> None:
    dataset_id = upload(client, "patients.csv", patients())
    body = spec(
        dataset={"id": dataset_id, "target": "progression", "task": "regression"},
        model={"name": "mlp", "hidden": [16]},
        family={"group_by": "clinic", **FAMILY},
        budget=BUDGET,
    )
    found = run_job(client, make_worker, body)
    family = found["findings"]["family"]
    assert {part: len(names) for part, names in family["tasks"].items()} == {
        "meta_train": 6,
        "meta_validation": 1,
        "meta_test": 1,
    }
    assert all(name.startswith("clinic = clinic ") for names in family["tasks"].values() for name in names)
    assert family["left_out"] == ["no clinic (9 rows)"]
    assert family["break_even"]["learning_steps"] == 30
    assert family["break_even"]["seeds"] == 6
    assert "repaid" in family["break_even"]["summary"]
    assert len(found["pairs"]) == 6


@pytest.mark.slow
def test_classes_of_uploaded_images_are_a_family(client: TestClient, make_worker: WorkerMaker, spec: SpecMaker) -> None:
    dataset_id = upload(client, "digits.npz", files.digits_npz())
    body = spec(
        dataset={"id": dataset_id},
        model={"name": "mlp", "hidden": [16]},
        family={"class_subsets": {"ways": 3, "tasks": 10}, **FAMILY},
        budget=BUDGET,
    )
    found = run_job(client, make_worker, body)
    assert found["findings"]["family"]["made_by"] == "10 of the 120 subsets of 3 of 10 classes"


def some_digits(rows: slice) -> bytes:
    bunch = load_digits()
    return files.npz(x=bunch.images[rows].astype(np.uint8), y=bunch.target[rows])


@pytest.mark.slow
def test_datasets_are_tasks_and_none_of_them_can_be_deleted_before_the_end(
    client: TestClient, make_worker: WorkerMaker, spec: SpecMaker
) -> None:
    ids = [upload(client, f"{n}.npz", some_digits(slice(n * 300, n * 300 + 300))) for n in range(4)]
    body = spec(
        model={"name": "mlp", "hidden": [16]},
        family={"datasets": [{"id": dataset_id} for dataset_id in ids], **FAMILY},
        budget=BUDGET,
    )
    del body["dataset"]
    queued = client.post("/v1/jobs", json=body)
    assert queued.status_code == 202, queued.text
    assert queued.json()["dataset"] == "family of 4 datasets"
    for dataset_id in ids:
        answer = client.delete(f"/v1/datasets/{dataset_id}")
        assert answer.status_code == 409
        assert queued.json()["id"] in answer.json()["detail"]
    assert make_worker().run_next()
    found = client.get(queued.json()["links"]["recommendation"]).json()
    tasks = found["findings"]["family"]["tasks"]
    assert sorted(name for names in tasks.values() for name in names) == sorted(ids)
    assert [len(tasks[part]) for part in ("meta_train", "meta_validation", "meta_test")] == [2, 1, 1]
    assert [client.delete(f"/v1/datasets/{dataset_id}").status_code for dataset_id in ids] == [204] * 4


def table(**changes: Any) -> bytes:
    """A small Parquet table; a change of None takes a column away."""
    rows = np.arange(60)
    columns = {"a": rows % 7, "b": rows * 0.5, "city": np.array(["Rome", "Oslo"])[rows % 2], "y": rows % 3} | changes
    import pyarrow as pa
    import pyarrow.parquet

    buffer = io.BytesIO()
    kept = {name: values for name, values in columns.items() if values is not None}
    pyarrow.parquet.write_table(pa.table(kept), buffer)
    return buffer.getvalue()


ROWS = np.arange(60)
ALIKE = {"target": "y"}
DIFFERENT: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "task": ({}, {"target": "y", "task": "regression"}, "a classification, not a regression"),
    "column missing": ({"b": None}, ALIKE, "the same columns; this one has no column b"),
    "column more": ({"c": ROWS * 2.0}, ALIKE, "the same columns; this one has an extra column c"),
    "gaps": ({"a": [None, *(ROWS[1:] % 7)]}, ALIKE, "column a makes 1 features, not 2"),
    "values": ({"city": np.array(["Rome", "Bonn"])[ROWS % 2]}, ALIKE, "column city has the values ['Oslo', 'Rome']"),
    "classes": ({"y": ROWS % 4}, ALIKE, "3 classes, not 4"),
}


@pytest.mark.parametrize("case", DIFFERENT)
def test_a_dataset_that_is_unlike_the_first_is_named_with_what_differs(
    client: TestClient, spec: SpecMaker, case: str
) -> None:
    change, choice, expected = DIFFERENT[case]
    alike = [upload(client, f"{n}.parquet", table(b=ROWS * (n + 1.0))) for n in range(2)]
    other = upload(client, "other.parquet", table(**{"a": ROWS % 5, **change}))
    chosen = [*({"id": dataset_id, **ALIKE} for dataset_id in alike), {"id": other, **choice}]
    body = spec(family={"datasets": chosen}) | {"dataset": {}}
    (error,) = client.post("/v1/jobs", json=body).json()["errors"]
    assert (error["field"], error["value"]) == ("family.datasets[2]", other)
    assert expected in error["message"]
    assert alike[0] in error["message"]


BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "two": ({"datasets": [{"name": "wine"}, {"name": "digits"}]}, "family.datasets", "at least 3 items"),
    "beside a dataset": ({"datasets": [{"name": "wine"}] * 3}, "dataset", "family.datasets has one for each task"),
    "unknown name": (
        {"datasets": [{"name": "vine"}, {"name": "wine"}, {"name": "wine"}]},
        "family.datasets[0].name",
        "wine",
    ),
    "unknown id": (
        {"datasets": [{"id": "ds-0"}, {"name": "wine"}, {"name": "wine"}]},
        "family.datasets[0].id",
        "GET /v1/datasets",
    ),
    "nothing": ({"datasets": [{}, {"name": "wine"}, {"name": "wine"}]}, "family.datasets[0].name", "required"),
    "twice": ({"datasets": [{"name": "wine"}] * 3}, "family.datasets[1]", "is a dataset that the family has already"),
    "unlike": (
        {"datasets": [{"name": "wine"}, {"name": "breast_cancer"}, {"name": "diabetes"}]},
        "family.datasets[2]",
        "a classification, not a regression",
    ),
    "misspelt": ({"dataset": []}, "family.dataset", "datasets"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_list_of_datasets_is_refused_by_field(client: TestClient, spec: SpecMaker, case: str) -> None:
    family, field, expected = BAD[case]
    body = spec(family=family)
    if case != "beside a dataset":
        del body["dataset"]
    answer = client.post("/v1/jobs", json=body)
    assert answer.status_code == 422, answer.text
    by_field = {error["field"]: f"{error['message']}. {error['hint']}" for error in answer.json()["errors"]}
    assert expected in by_field.get(field, ""), by_field


GROUPS: dict[str, tuple[str, str]] = {
    "no such column": ("cty", "city"),
    "the target": ("y", "one of a, b, city"),
    "two values": ("city", "must have 3 values with 10 rows each; 2 of this column's values do"),
    "few rows": ("a", "must have 3 values with 10 rows each; 0 of this column's values do"),
}


@pytest.mark.parametrize("case", GROUPS)
def test_a_column_that_cannot_make_groups_is_refused(client: TestClient, spec: SpecMaker, case: str) -> None:
    column, expected = GROUPS[case]
    dataset = {"id": upload(client, "t.parquet", table()), "target": "y"}
    (error,) = client.post("/v1/jobs", json=spec(dataset=dataset, family={"group_by": column})).json()["errors"]
    assert (error["field"], error["value"]) == ("family.group_by", column)
    assert expected in error["message"]


def test_arrays_and_texts_have_no_column_to_group_by(client: TestClient, spec: SpecMaker) -> None:
    dataset = {"id": upload(client, "d.npz", files.digits_npz())}
    (error,) = client.post("/v1/jobs", json=spec(dataset=dataset, family={"group_by": "y"})).json()["errors"]
    assert error["message"] == "must be null: this dataset has no columns"
