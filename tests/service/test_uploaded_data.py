# From an uploaded file to a recommendation, all through REST, with a real worker and real slot processes.
from __future__ import annotations

import gzip
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from service.api.app import create_app
from service.settings import Settings
from tests.conftest import SpecMaker
from tests.service.conftest import WorkerMaker
from tests.service.data import files, tables

pytestmark = [pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)]


@pytest.fixture
def api(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings)) as opened:
        yield opened


CUSTOMERS = [f"c{n};{n % 9:05d};{n % 28 + 1}.3.2024;{n},5 €;{n};{n % 3}" for n in range(150)]
READINGS = [[n * 0.7 % 5, ("hot", "cold")[n % 2], n * 7 % 50 > 20] for n in range(120)]
MLP = {"name": "mlp", "hidden": [8]}
PEOPLE = files.csv(120, member=[row % 2 for row in range(120)])
"""A table whose label can be learned: it follows from a column."""

CASES: dict[str, tuple[str, bytes, dict[str, Any], dict[str, Any]]] = {
    "csv": ("people.csv", PEOPLE, {"target": "label"}, MLP),
    "corrected csv": (
        "people.csv",
        "\n".join(["id;zip;joined;income;note;left", *CUSTOMERS]).encode(),
        {"target": "left", "columns": {"zip": "number", "note": "ignore", "left": "category"}},
        MLP,
    ),
    "csv of groups": (
        "patients.csv",
        files.csv(120, patient=[row // 4 for row in range(120)]),
        {"target": "label", "split": {"by": "group", "column": "patient"}},
        MLP,
    ),
    "csv of times": (
        "days.csv",
        files.csv(120, day=[f"2024-{1 + row * 7 % 120 // 28}-{1 + row * 7 % 120 % 28}" for row in range(120)]),
        {"target": "label", "exclude": ["day"], "split": {"by": "time", "column": "day"}},
        MLP,
    ),
    "csv of parts": (
        "parts.csv",
        files.csv(120, part=[("train", "train", "Train", "validation", "test")[row % 5] for row in range(120)]),
        {"target": "label", "split": {"by": "column", "column": "part"}},
        MLP,
    ),
    "tsv": ("people.tsv", PEOPLE.replace(b", ", b" ").replace(b",", b"\t"), {"target": "label"}, MLP),
    "csv of another mark": (
        "people.csv",
        PEOPLE.replace(b", ", b" ").replace(b",", b"|"),
        {"target": "label"},
        MLP,
    ),
    "gz": ("people.csv.gz", gzip.compress(PEOPLE), {"target": "label"}, MLP),
    "excel": ("readings.xlsx", tables.excel([["x", "kind", "label"], *READINGS]), {"target": "label"}, MLP),
    "feather": (
        "readings.feather",
        tables.feather(x=[row[0] for row in READINGS], label=[row[2] for row in READINGS]),
        {"target": "label"},
        MLP,
    ),
    "parquet": ("diabetes.parquet", files.parquet(), {"target": "y"}, MLP),
    "npz": ("digits.npz", files.digits_npz(), {}, {"name": "mlp", "hidden": [16]}),
    "npz autoencoded": ("d.npz", files.digits_npz(), {"task": "autoencoding"}, {"name": "autoencoder", "hidden": [16]}),
    "convnet": ("digits.npz", files.digits_npz(), {}, {"name": "convnet", "channels": [4, 8]}),
    "resnet": ("digits.zip", files.archive(files.images(200)), {}, {"name": "resnet", "width": 2}),
    "text": ("t.txt", files.text(), {}, {"name": "transformer", "width": 16, "layers": 1, "heads": 2, "context": 16}),
    "characters": (
        "t.txt",
        files.text(),
        {},
        {"name": "transformer", "tokens": "characters", "width": 16, "layers": 1, "heads": 2, "context": 16},
    ),
    "images": ("digits.zip", files.archive(files.images(200)), {}, {"name": "mlp", "hidden": [16]}),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_an_uploaded_file_comes_to_a_recommendation(
    api: TestClient, make_worker: WorkerMaker, spec: SpecMaker, tmp_path: Path, case: str
) -> None:
    name, content, chosen, model = CASES[case]
    uploaded = api.post("/v1/datasets", params={"filename": name}, content=content)
    assert uploaded.status_code == 201, uploaded.text
    body = spec(dataset={"id": uploaded.json()["id"], **chosen}, model=model)
    answer = api.post("/v1/jobs", json=body)
    assert answer.status_code == 202, answer.text
    links = answer.json()["links"]
    assert make_worker().run_next()
    job = api.get(links["self"]).json()
    assert job["state"] == "succeeded", job["cause"]
    result = api.get(links["recommendation"]).json()
    assert len(result["pairs"]) == 6
    assert all(pair["warpadam_test_loss"] is not None for pair in result["pairs"])
    (trial, *_) = api.get(links["trials"]).json()["items"]
    curve = api.get(f"{links['trials']}/{trial['number']}").json()["curve"]
    assert curve[-1]["train_loss"] < curve[0]["train_loss"]
    script = tmp_path / "recommended.py"
    script.write_text(api.get(links["export"], params={"format": "python"}).text)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    reached, recorded = (float(number) for number in re.findall(r"\d+\.\d+", done.stdout))
    assert reached == pytest.approx(recorded, rel=1e-4)


def test_copies_of_rows_with_random_labels_get_no_word(
    api: TestClient, make_worker: WorkerMaker, spec: SpecMaker
) -> None:
    rng = np.random.default_rng(0)
    rows = np.repeat(rng.normal(size=(100, 4)).round(3), 6, axis=0)[rng.permutation(600)]
    labels = {tuple(row): rng.choice(["no", "yes"]) for row in np.unique(rows, axis=0).tolist()}
    lines = [",".join([*map(str, row), labels[tuple(row)]]) for row in rows.tolist()]
    uploaded = api.post("/v1/datasets", params={"filename": "t.csv"}, content="\n".join(["a,b,c,d,y", *lines]).encode())
    body = spec(
        dataset={"id": uploaded.json()["id"], "target": "y"},
        model={"name": "mlp", "hidden": [32]},
        objective={"metric": "val_accuracy"},
        budget={"trials_per_arm": 3, "steps": 200, "batch_size": 64},
        confirm={"seeds": 6, "top_k": 1},
    )
    links = api.post("/v1/jobs", json=body).json()["links"]
    assert make_worker().run_next()
    result = api.get(links["recommendation"]).json()
    assert result["verdict"] != "helps", result["reason"]
    assert result["findings"]["advice"][0].startswith("600 of 600 rows have another row with the same features")
    assert all(arm["mean_test_score"] < 0.75 for arm in result["finalists"])  # split at random, 0.99


def imbalanced(rows: int) -> bytes:
    """Return a table in which one row in 50 is positive, and no column tells which."""
    columns = np.random.default_rng(0).normal(size=(rows, 4)).round(3)
    lines = [",".join([*map(str, row), "yes" if number % 50 == 0 else "no"]) for number, row in enumerate(columns)]
    return "\n".join(["a,b,c,d,sick", *lines]).encode()


def test_a_model_that_always_predicts_the_majority_gets_no_word(
    api: TestClient, make_worker: WorkerMaker, spec: SpecMaker
) -> None:
    uploaded = api.post("/v1/datasets", params={"filename": "sick.csv"}, content=imbalanced(600))
    body = spec(
        dataset={"id": uploaded.json()["id"], "target": "sick"},
        objective={"metric": "val_accuracy"},
        budget={"trials_per_arm": 3, "steps": 10, "batch_size": 64},
        confirm={"seeds": 6, "top_k": 1},
    )
    links = api.post("/v1/jobs", json=body).json()["links"]
    assert make_worker().run_next()
    result = api.get(links["recommendation"]).json()
    expected = (
        "neither adamw nor warpadam is better on test than always predicting the most frequent class (accuracy 98"
    )
    assert (result["verdict"], result["arm"]) == ("inconclusive", "adamw")
    assert result["reason"].startswith(expected)
    assert result["trivial"]["val_score"] == pytest.approx(118 / 120)
    assert result["trivial"]["value"] == pytest.approx(2 / 120)
    assert [
        (arm["arm"], arm["mean_test_score"] <= result["trivial"]["mean_test_score"]) for arm in result["finalists"]
    ] == [
        ("warpadam", True),
        ("adamw", True),
        ("adamw_default", True),
    ]
    report = api.get(links["report"]).text
    assert "For comparison: always predicting the most frequent class has accuracy 98" in report
    exported = api.get(links["export"]).json()
    assert exported["summary"] == result["summary"]
    script = api.get(links["export"], params={"format": "python"}).text
    assert "Mean test accuracy: 98" in script
