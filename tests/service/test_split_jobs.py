# Jobs on tables whose rows belong together, all through REST, with a real worker: the split decides what a score says.
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from service.api.app import create_app
from service.settings import Settings
from tests.conftest import SpecMaker
from tests.service.conftest import WorkerMaker
from tests.service.data import files

pytestmark = [pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)]

PATIENTS, VISITS = 60, 10


@pytest.fixture
def api(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings)) as opened:
        yield opened


def patients() -> bytes:
    """Return a table of visits: measurements that tell the patients apart, and a diagnosis that no measurement tells.

    Who was trained on is recognised; a new patient can only be guessed. The visits of a patient follow each other, and
    the column ``part`` divides the patients as ``year`` does.
    """
    rng = np.random.default_rng(0)
    who = np.repeat(np.arange(PATIENTS), VISITS)
    measured = (rng.normal(size=(PATIENTS, 10))[who] + 0.05 * rng.normal(size=(len(who), 10))).round(3)
    sick = rng.permutation(np.arange(PATIENTS) % 2)[who]
    year = 2000 + who // 6
    part = np.array(["training"] * 6 + ["dev"] * 2 + ["holdout"] * 2)[who // 6]
    lines = [
        ",".join([*map(str, row), f"p{number}", str(when), name, "yes" if ill else "no"])
        for row, number, when, name, ill in zip(measured, who, year, part, sick, strict=True)
    ]
    return "\n".join(["a,b,c,d,e,f,g,h,i,j,patient,year,part,sick", *lines]).encode()


def copies() -> bytes:
    """Return 40 rows with random labels, six times each."""
    rng = np.random.default_rng(1)
    rows, labels = rng.normal(size=(40, 5)).round(3), rng.permutation(np.arange(40) % 2)
    lines = [",".join([*map(str, row), f"k{label}"]) for row, label in zip(rows, labels, strict=True)]
    return "\n".join(["a,b,c,d,e,y", *lines * 6]).encode()


def job(api: TestClient, make_worker: WorkerMaker, body: dict[str, Any]) -> dict[str, Any]:
    answer = api.post("/v1/jobs", json=body)
    assert answer.status_code == 202, answer.text
    links = answer.json()["links"]
    assert make_worker().run_next()
    ended = api.get(links["self"]).json()
    assert ended["state"] == "succeeded", ended["cause"]
    result: dict[str, Any] = api.get(links["recommendation"]).json()
    return result


def upload(api: TestClient, content: bytes) -> str:
    dataset: str = api.post("/v1/datasets", params={"filename": "rows.csv"}, content=content).json()["id"]
    return dataset


LEARNS = {
    "model": {"name": "mlp", "hidden": [64]},
    "budget": {"trials_per_arm": 3, "steps": 120, "batch_size": 64},
    "confirm": {"seeds": 6, "top_k": 1},
}


@pytest.mark.parametrize(
    ("split", "leaks", "note"),
    [
        pytest.param({"by": "random"}, True, None, marks=pytest.mark.slow),
        (
            {"by": "group", "column": "patient"},
            False,
            "training has 360 rows of 36 groups, validation has 120 rows of 12 groups, test has 120 rows of 12 groups",
        ),
        pytest.param(
            {"by": "time", "column": "year"},
            False,
            "the rows are split by time: training has 360 rows, validation has 120 rows, test has 120 rows",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"by": "column", "column": "part"},
            False,
            "training has 360 rows, validation has 120 rows, test has 120 rows",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["random", "group", "time", "column"],
)
def test_patients_are_recognised_only_where_their_visits_are_in_two_parts(
    api: TestClient,
    make_worker: WorkerMaker,
    spec: SpecMaker,
    split: dict[str, str],
    leaks: bool,
    note: str | None,
) -> None:
    hidden = [name for name in ("patient", "year", "part") if name != split.get("column") or split["by"] == "time"]
    dataset = {"id": upload(api, patients()), "target": "sick", "exclude": hidden, "split": split}
    result = job(api, make_worker, spec(dataset=dataset, **LEARNS))
    scores = [arm["mean_test_score"] for arm in result["finalists"] if arm["arm"] != "adamw_default"]
    assert (min(scores) > 0.9) if leaks else (max(scores) < 0.75), scores
    assert ("neither" in result["reason"]) is not leaks
    advice = result["findings"]["advice"]
    assert note is None or any(note in sentence for sentence in advice), advice


@pytest.mark.parametrize("metric", ["val_loss", pytest.param("val_accuracy", marks=pytest.mark.slow)])
def test_copies_with_random_labels_get_no_word(
    api: TestClient, make_worker: WorkerMaker, spec: SpecMaker, metric: str
) -> None:
    dataset = {"id": upload(api, copies()), "target": "y"}
    result = job(api, make_worker, spec(dataset=dataset, **LEARNS | {"objective": {"metric": metric}}))
    assert result["verdict"] != "helps"
    assert (
        "240 of 240 rows have another row with the same features; such rows are kept in one part"
        in result["findings"]["advice"]
    )


def test_a_split_that_cannot_be_is_refused_and_not_queued(api: TestClient, spec: SpecMaker) -> None:
    dataset = {"id": upload(api, patients()), "target": "sick", "split": {"by": "column", "column": "patient"}}
    for path in ("/v1/jobs", "/v1/jobs?dry_run=true"):
        answer = api.post(path, json=spec(dataset=dataset))
        assert answer.status_code == 422
        (error,) = answer.json()["errors"]
        assert (error["field"], error["value"], error["code"]) == ("dataset.split.column", "patient", "conflict")
        assert error["message"] == "must hold train, val or test in every row, not 60 different values"
    assert api.get("/v1/jobs").json()["items"] == []


@pytest.mark.parametrize(("name", "content"), [("rows.npz", None), ("text.txt", b"a text of many words. " * 400)])
def test_only_a_table_has_columns_to_split_by(
    api: TestClient, spec: SpecMaker, name: str, content: bytes | None
) -> None:
    uploaded = api.post("/v1/datasets", params={"filename": name}, content=content or files.digits_npz()).json()["id"]
    answer = api.post("/v1/jobs", json=spec(dataset={"id": uploaded, "split": {"by": "time", "column": "day"}}))
    (error,) = answer.json()["errors"]
    assert (error["field"], error["value"]) == ("dataset.split.by", "time")
    assert error["message"] == "must be random: this dataset is not a table"


def sites() -> bytes:
    """Return a table of six sites that have rows of one of three classes each, so that many splits lack a class."""
    rng = np.random.default_rng(0)
    lines = [f"{a:.3f},{b:.3f},s{row // 20},c{row // 20 % 3}" for row, (a, b) in enumerate(rng.normal(size=(120, 2)))]
    return "\n".join(["a,b,site,y", *lines]).encode()


def test_splits_that_lack_a_class_are_drawn_again(api: TestClient, make_worker: WorkerMaker, spec: SpecMaker) -> None:
    dataset = {"id": upload(api, sites()), "target": "y", "split": {"by": "group", "column": "site"}}
    result = job(api, make_worker, spec(dataset=dataset, confirm={"seeds": 6, "top_k": 1}))
    assert len(result["pairs"]) == 6


def test_a_split_of_the_confirmation_that_cannot_be_drawn_fails_the_job_before_its_search(
    api: TestClient, make_worker: WorkerMaker, spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.data.splits.TRIES", 1)  # seed 0 then has a split, and seed 3 has none
    dataset = {"id": upload(api, sites()), "target": "y", "split": {"by": "group", "column": "site"}}
    links = api.post("/v1/jobs", json=spec(dataset=dataset, confirm={"seeds": 6, "top_k": 1})).json()["links"]
    assert make_worker().run_next()
    ended = api.get(links["self"]).json()
    assert ended["state"] == "failed"
    assert "leaves no training row of the class" in ended["cause"]
    assert api.get(links["trials"]).json()["items"] == []


def one_site_a_class() -> bytes:
    return "\n".join(["a,site,y", *(f"{row},s{row // 20},c{row // 20}" for row in range(60))]).encode()


def newest_are_new() -> bytes:
    return "\n".join(["a,day,y", *(f"{row % 7},{row},{'new' if row > 89 else 'old'}" for row in range(100))]).encode()


@pytest.mark.parametrize(
    ("content", "split", "wrong"),
    [
        (one_site_a_class(), {"by": "group", "column": "site"}, "in 100 draws leaves no training row of the class 'c"),
        (newest_are_new(), {"by": "time", "column": "day"}, "leaves no training row of the class 'new'"),
    ],
    ids=["group", "time"],
)
def test_a_split_that_no_seed_can_draw_is_refused_and_not_queued(
    api: TestClient, spec: SpecMaker, content: bytes, split: dict[str, str], wrong: str
) -> None:
    dataset = {"id": upload(api, content), "target": "y", "split": split}
    for path in ("/v1/jobs", "/v1/jobs?dry_run=true"):
        answer = api.post(path, json=spec(dataset=dataset))
        assert answer.status_code == 422, answer.text
        (error,) = answer.json()["errors"]
        assert (error["field"], error["value"], error["code"]) == ("dataset.split.by", split["by"], "conflict")
        assert error["message"].startswith(wrong)
    assert api.get("/v1/jobs").json()["items"] == []
