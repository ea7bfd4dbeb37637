# Every metric as the objective of a real job, through REST: search, verdict, findings, report, and exports that reach
# the figure again. And tables on which a metric says nothing, which must not give a word.
from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from service.api.app import create_app
from service.data.prepared_files import TARGET_ARRAYS
from service.export.replay import read_bundle, replay
from service.settings import Settings
from service.spec.metrics import METRICS
from service.spec.tasks import Task
from tests.bare_install import run_bare
from tests.conftest import SpecMaker
from tests.service.conftest import WorkerMaker

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

Answer = dict[str, Any]
RunJob = Callable[..., tuple[Answer, dict[str, str]]]


@pytest.fixture
def api(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings)) as opened:
        yield opened


@pytest.fixture
def run_job(api: TestClient, make_worker: WorkerMaker, spec: SpecMaker) -> RunJob:
    """Uploads a table, runs a small job on it, and returns its recommendation and the links of the job."""

    def run(table: bytes, dataset: Answer, **parts: Any) -> tuple[Answer, dict[str, str]]:
        uploaded = api.post("/v1/datasets", params={"filename": "table.csv"}, content=table)
        body = spec(dataset={"id": uploaded.json()["id"], "target": "y", **dataset}, **parts)
        answer = api.post("/v1/jobs", json=body)
        assert answer.status_code == 202, answer.text
        links: dict[str, str] = answer.json()["links"]
        assert make_worker().run_next()
        job = api.get(links["self"]).json()
        assert job["state"] == "succeeded", job["cause"]
        return api.get(links["recommendation"]).json(), links

    return run


def table(y: np.ndarray[Any, Any], columns: np.ndarray[Any, Any]) -> bytes:
    rows = [",".join(map(str, (*row, label))) for row, label in zip(columns.round(4).tolist(), y.tolist(), strict=True)]
    return "\n".join(["a,b,c,y", *rows]).encode()


X = np.random.default_rng(0).normal(size=(200, 3))
CLASSES = {
    "two classes": table((X @ [1, -1, 0.5] > 0.3).astype(int), X),
    "three classes": table(np.digitize(X @ [1, -1, 0.5], [-0.5, 0.5]), X),
}
PRICES = table(1000 * np.exp(X @ [0.5, 0.3, -0.5]).round(6), X)
BUDGET = {"trials_per_arm": 2, "steps": 20, "batch_size": 64}
OF_CLASSES = [name for name, metric in METRICS.items() if Task.CLASSIFICATION in metric.tasks]
OF_NUMBERS = [name for name, metric in METRICS.items() if Task.REGRESSION in metric.tasks]


def check_exports(api: TestClient, links: dict[str, str], result: Answer, metric: str, folder: Path) -> None:
    """Run the script where only the base install and scikit-learn are, and replay the zip."""
    side = "warpadam" if result["arm"] == "warpadam" else "baseline"
    expected = METRICS[metric].score_of(result["pairs"][0][side])
    script, bundle = folder / "recommended.py", folder / "job.zip"
    text = api.get(links["export"], params={"format": "python"}).text
    script.write_text(text)
    needs_sklearn = METRICS[metric].script_needs == "scikit-learn"
    code = f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')"
    assert ("and scikit-learn" in text) is needs_sklearn
    done = run_bare(code, ours=False, needed=("sklearn", "scipy") if needs_sklearn else ())
    assert (done.returncode, done.stderr) == (0, "")
    found = re.findall(rf"^test (loss|{metric}) (\S+), recorded (\S+)$", done.stdout, re.MULTILINE)
    assert [name for name, _, _ in found] == ["loss", metric]
    assert all(float(got) == pytest.approx(float(recorded), rel=1e-6, abs=1e-6) for _, got, recorded in found)
    assert float(found[1][2]) == pytest.approx(expected, abs=1e-7)
    bundle.write_bytes(api.get(links["export"], params={"format": "zip"}).content)
    replayed = list(replay(read_bundle(bundle)))
    assert [figure.what for figure in replayed][:2] == ["test loss", f"test {metric}"]
    assert all(figure.agrees for figure in replayed)
    assert replayed[1].recorded == pytest.approx(expected, abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("metric", "kind"), [*((name, "two classes") for name in OF_CLASSES), ("roc_auc", "three classes")]
)
def test_a_job_is_judged_by_a_metric_of_classes(
    api: TestClient, run_job: RunJob, tmp_path: Path, metric: str, kind: str
) -> None:
    result, links = run_job(CLASSES[kind], {}, objective={"metric": f"val_{metric}"}, budget=BUDGET)
    check_words(result, metric)
    report = api.get(links["report"]).text
    assert f"Test {METRICS[metric].label}: " in report
    assert "unexplained" not in report
    check_exports(api, links, result, metric, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("metric", "transform"),
    [*((name, "standardise") for name in OF_NUMBERS), ("mae", "log1p"), ("median_absolute_error", "quantile")],
)
def test_a_job_is_judged_by_a_metric_of_numbers_in_units_of_the_target(
    api: TestClient, run_job: RunJob, tmp_path: Path, metric: str, transform: str
) -> None:
    objective = {"metric": f"val_{metric}"}
    result, links = run_job(PRICES, {"target_transform": transform}, objective=objective, budget=BUDGET)
    check_words(result, metric)
    trivial, best = result["trivial"]["mean_test_score"], max(arm["mean_test_score"] for arm in result["finalists"])
    if metric == "r2":
        assert trivial <= 0 < best < 1
    else:
        assert 100 < trivial < 2000, "a price, not a standardised one"
        assert "in units of y: " in result["summary"]
    check_exports(api, links, result, metric, tmp_path)
    with np.load(io.BytesIO(read_bundle(tmp_path / "job.zip").files["data.npz"])) as data:
        kept = set(data.files) & set(TARGET_ARRAYS)
        if metric == "r2" and transform == "standardise":
            assert not kept, "files of earlier versions have none"
        else:
            assert kept == {transform, "target_train", "target_val", "target_test"}
            prices = np.concatenate([data[f"target_{part}"] for part in ("train", "val", "test")])
            assert sorted(prices[:, 0]) == sorted(float(line.split(",")[-1]) for line in PRICES.decode().split()[1:])


def check_words(result: Answer, metric: str) -> None:
    """Check that the metric is what the job is judged by, everywhere, and is written as people do."""
    entry = METRICS[metric]
    assert (result["metric"], result["score"]) == (f"val_{metric}", metric)
    assert result["summary"].startswith(f"Mean test {entry.label}")
    assert ("%" in result["summary"]) is (entry.unit == "percent")
    statistics, means = result["statistics"], {arm["arm"]: arm["mean_test_score"] for arm in result["finalists"]}
    assert entry.score_of(statistics["challenger_mean"]) == pytest.approx(means["warpadam"])
    assert entry.score_of(statistics["baseline_mean"]) == pytest.approx(means["adamw"])
    told = {row["metric"] for row in result["findings"]["comparisons"]}
    assert "test_loss" in told
    assert entry.compared_as not in told, "the verdict is about it"


BAD_LOG = table(X @ np.array([1.0, 2.0, 3.0]), X)


@pytest.mark.parametrize(
    ("content", "dataset", "objective", "field", "words"),
    [
        (
            BAD_LOG,
            {"target_transform": "log1p"},
            {},
            "dataset.target_transform",
            "needs targets above -1; the smallest",
        ),
        (
            CLASSES["two classes"],
            {"target_transform": "quantile"},
            {},
            "dataset.target_transform",
            "for classification",
        ),
        (PRICES, {}, {"metric": "val_roc_auc"}, "objective.metric", "must be one of val_loss, val_r2, val_mae"),
        (PRICES, {"target_transform": "log"}, {}, "dataset.target_transform", "'log1p'"),
    ],
)
def test_what_does_not_fit_the_target_is_refused_at_submission(
    api: TestClient, spec: SpecMaker, content: bytes, dataset: Answer, objective: Answer, field: str, words: str
) -> None:
    uploaded = api.post("/v1/datasets", params={"filename": "t.csv"}, content=content)
    body = spec(dataset={"id": uploaded.json()["id"], "target": "y", **dataset}, objective=objective)
    (error,) = api.post("/v1/jobs", json=body).json()["errors"]
    assert error["field"] == field
    assert words in error["message"]


def test_a_transform_in_a_family_is_refused(api: TestClient, spec: SpecMaker) -> None:
    family = {"group_by": "sex", "bins": 0}
    for dataset, objective in (({"target_transform": "quantile"}, {}), ({}, {"metric": "val_mae"})):
        body = spec(dataset={"name": "diabetes", **dataset}, objective=objective, family=family)
        errors = api.post("/v1/jobs", json=body).json()["errors"]
        assert "with a family" in errors[0]["message"]


SLOW = ("val_loss", "val_average_precision")
OUTLIER = np.append(X @ [1.0, -1.0, 0.5], 1e6)


@pytest.mark.parametrize("metric", ["val_loss", pytest.param("val_mae", marks=pytest.mark.slow)])
def test_a_target_with_one_odd_row_gets_no_word_and_the_report_says_what_to_do(
    api: TestClient, run_job: RunJob, metric: str
) -> None:
    content = table(OUTLIER, np.vstack([X, X[:1]]))
    result, links = run_job(content, {}, objective={"metric": metric}, budget=BUDGET)
    assert (result["verdict"], result["arm"]) == ("inconclusive", "adamw")
    assert result["reason"].startswith("one row, whose target is 1e+06, decide")
    (advice,) = [sentence for sentence in result["findings"]["advice"] if "odd rows" in sentence]
    assert "val_median_absolute_error" in advice
    assert "quantile" in advice
    assert "log1p" not in advice, "there are targets of -1 and less"
    assert advice in api.get(links["report"]).text


@pytest.mark.parametrize("metric", ["val_accuracy", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_noise_with_two_percent_positives_gets_no_help_and_advice(run_job: RunJob, metric: str) -> None:
    x = np.random.default_rng(1).normal(size=(600, 3))
    content = table((np.arange(600) % 50 == 0).astype(int), x)
    result, _ = run_job(content, {}, objective={"metric": metric}, budget=BUDGET)
    assert result["verdict"] != "helps", result["reason"]
    advice = [
        sentence for sentence in result["findings"]["advice"] if "most frequent class is right for 98" in sentence
    ]
    assert len(advice) == (metric != "val_average_precision")
    for name in ("val_average_precision", "val_balanced_accuracy", "training.class_weights"):
        assert all(name in sentence for sentence in advice)
