# What a job ends with: a recommendation and its exports, or a clear word on why there is none (yet).
from __future__ import annotations

import inspect
import io
import json
import re
from dataclasses import asdict
from typing import Any

import pytest
import yaml
from fastapi.testclient import TestClient
from rich.console import Console

from service.api import results as results_module
from service.artifacts import DATA_FILE, ArtifactStore
from service.cli.display import show_recommendation
from service.db.models import ConfirmRun
from service.db.session import Database
from service.export import files as export_module
from service.export.files import ExportFormat
from service.export.source import COMMENTS
from service.ledger import jobs
from service.ledger.queries import stored_curve
from service.result.job_result import JobResult
from service.settings import Settings
from service.spec.job import TrainingSpec
from service.states import JobState, TrialState
from service.training.run import CurvePoint, Training
from service.training.step import TrainingStep, compiled, lr_factor, training_loss
from service.version import VERSION
from tests.service.api.conftest import Submit, assert_problem, claim_job, search, sqlite_only, succeed
from warpadam import WarpAdamConfig


@pytest.fixture
def done(client: TestClient, submit: Submit, db: Database) -> dict[str, Any]:
    """A job in which warpadam wins."""
    job = submit(name='"quoted" $name {}')
    succeed(claim_job(db))
    return job


def test_recommendation_says_what_to_use_and_why(client: TestClient, done: dict[str, Any]) -> None:
    answer = client.get(done["links"]["recommendation"]).json()
    assert (answer["job_id"], answer["verdict"], answer["arm"], answer["trial"]) == (done["id"], "helps", "warpadam", 0)
    assert (answer["baseline"], answer["statistics"]["pairs"], len(answer["pairs"])) == ("adamw", 6, 6)
    assert answer["statistics"]["improvement"] == 0.25
    assert answer["statistics"]["interval"] == [0.25, 0.25]
    assert answer["config"] == client.get(f"{done['links']['trials']}/0").json()["config"]
    assert [(f["arm"], f["trial"], f["runs"], f["planned"]) for f in answer["finalists"]] == [
        ("warpadam", 0, 6, 6),
        ("adamw", 2, 6, 6),
        ("adamw_default", 4, 6, 6),
    ]
    assert answer["reason"] == (
        "with P the test loss is 23.6 % lower at equal steps; at equal time, on validation, it is 23.6 % lower; seen "
        "on 6 fresh seeds, each with its own split of the data; chance alone does not explain that"
    )


@sqlite_only
@pytest.mark.parametrize("gain", [0.25, -0.25])
def test_the_same_sentence_is_told_everywhere(client: TestClient, submit: Submit, db: Database, gain: float) -> None:
    links = submit()["links"]
    succeed(claim_job(db), gain=gain)
    answer = client.get(links["recommendation"]).json()
    terminal = Console(file=io.StringIO(), width=80)
    show_recommendation(terminal, JobResult.from_json(answer))
    assert isinstance(terminal.file, io.StringIO)
    forms = ("json", "yaml", "toml", "python")
    texts = [client.get(links["export"], params={"format": form}).text for form in forms]
    texts += [client.get(links["report"]).text, terminal.file.getvalue().replace("│", "")]
    for text in texts:
        assert answer["reason"] in " ".join(text.split())


@sqlite_only
def test_baseline_is_recommended_where_p_does_not_help(client: TestClient, submit: Submit, db: Database) -> None:
    job = submit()
    succeed(claim_job(db), gain=-0.25)
    answer = client.get(job["links"]["recommendation"]).json()
    assert (answer["verdict"], answer["arm"], answer["trial"]) == ("hurts", "adamw", 2)
    exported = client.get(job["links"]["export"]).json()
    assert exported["optimizer"] == "torch.optim.AdamW"
    assert exported["config"] == answer["config"]
    script = client.get(job["links"]["export"], params={"format": "python"}).text
    assert "torch.optim.AdamW(model.parameters(), " in script


def results(job: dict[str, Any]) -> list[str]:
    """Return every address at which the result of a job is."""
    links = job["links"]
    return [links["recommendation"], links["report"], *(f"{links['export']}?format={form}" for form in ExportFormat)]


@pytest.mark.parametrize("state", ["queued", "running", "verifying"])
@sqlite_only
def test_job_that_has_not_ended_is_a_conflict(client: TestClient, submit: Submit, db: Database, state: str) -> None:
    job = submit()
    if state != "queued":
        log = claim_job(db)
        if state == "verifying":
            search(log)
            log.verify()
    for path in results(job):
        problem = assert_problem(client.get(path), 409, "conflict")
        assert problem["detail"] == f"job {job['id']} is {state}: its recommendation comes when it has succeeded"


@pytest.mark.parametrize(
    ("state", "because"), [("failed", "it failed: adamw completed no trial"), ("cancelled", "it was cancelled")]
)
@sqlite_only
def test_job_that_ended_without_one_is_not_found(
    client: TestClient, submit: Submit, db: Database, state: str, because: str
) -> None:
    job = submit()
    if state == "failed":
        claim_job(db).end(JobState.FAILED, "adamw completed no trial")
    else:
        jobs.cancel(db, job["id"])
    for path in results(job):
        problem = assert_problem(client.get(path), 404, "not_found")
        assert problem["detail"] == f"job {job['id']} has no recommendation, {because}"


@pytest.mark.parametrize(
    ("form", "suffix", "content_type"),
    [
        ("json", "json", "application/json"),
        ("yaml", "yaml", "application/yaml"),
        ("toml", "toml", "application/toml"),
        ("python", "py", "text/x-python"),
    ],
)
@sqlite_only
def test_export_is_a_file(client: TestClient, done: dict[str, Any], form: str, suffix: str, content_type: str) -> None:
    response = client.get(done["links"]["export"], params={"format": form})
    assert response.status_code == 200
    assert response.headers["content-type"].partition(";")[0] == content_type
    disposition = f'attachment; filename="recommended-{done["id"]}.{suffix}"'
    assert response.headers["content-disposition"] == disposition


def test_data_exports_hold_the_config_and_where_it_comes_from(client: TestClient, done: dict[str, Any]) -> None:
    exported = json.loads(client.get(done["links"]["export"]).text)
    recommendation = client.get(done["links"]["recommendation"]).json()
    assert exported == yaml.safe_load(client.get(done["links"]["export"], params={"format": "yaml"}).text)
    assert (exported["job"], exported["name"], exported["spec"]) == (done["id"], done["name"], done["spec"])
    assert (exported["optimizer"], exported["warptune"]) == ("warpadam.WarpAdam", VERSION)
    for field in ("verdict", "reason", "config", "trial", "statistics"):
        assert exported[field] == recommendation[field]


@sqlite_only
@pytest.mark.parametrize("model", [{"name": "mlp", "hidden": [8, 4]}, {"name": "autoencoder"}], ids=["mlp", "auto"])
def test_script_compiles_and_holds_the_config(
    client: TestClient, submit: Submit, db: Database, model: dict[str, Any]
) -> None:
    job = submit(model=model, dataset={"name": "digits"}, name='"""\\')
    succeed(claim_job(db))
    script = client.get(job["links"]["export"], params={"format": "python"}).text
    names: dict[str, Any] = {"__name__": "recommended"}
    exec(compile(script, "recommended.py", "exec"), names)
    assert names["CONFIG"] == client.get(job["links"]["recommendation"]).json()["config"]
    assert WarpAdamConfig.from_dict(names["CONFIG"]).to_dict() == names["CONFIG"]
    assert callable(names["make_optimizer"])


TRAININGS: list[dict[str, Any]] = [
    {"schedule": schedule, "warmup_steps": warmup} for schedule in ("constant", "linear", "cosine") for warmup in (0, 4)
]
TRAININGS += [
    {"max_grad_norm": 0.5, "label_smoothing": 0.1, "class_weights": "balanced", "last_batch": "keep"},
    {"precision": "bfloat16", "compile": True},
    {"precision": "float16"},
    {"precision": "float16", "max_grad_norm": 1.5},
]


@sqlite_only
@pytest.mark.parametrize("training", TRAININGS, ids=str)
def test_script_has_the_schedule_of_the_job_and_compiles_with_every_option(
    client: TestClient, submit: Submit, db: Database, training: dict[str, Any]
) -> None:
    job = submit(training=training, resources={"gpus_per_trial": 1})
    succeed(claim_job(db))
    script = client.get(job["links"]["export"], params={"format": "python"}).text
    names: dict[str, Any] = {"__name__": "recommended"}
    exec(compile(script, "recommended.py", "exec"), names)
    chosen = Training(**TrainingSpec(**training).model_dump())
    assert vars(names["TRAINING"]) == asdict(chosen)
    factors = [names["lr_factor"](names["TRAINING"], names["STEPS"], step) for step in range(10)]
    assert factors == [lr_factor(chosen, 10, step) for step in range(10)]
    for used in (TrainingStep, lr_factor, training_loss, compiled):
        assert COMMENTS.sub("", inspect.getsource(used)).rstrip() in script


@sqlite_only
def test_data_that_is_too_large_for_a_script_is_not_read(
    client: TestClient, submit: Submit, db: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit()
    succeed(claim_job(db))
    ArtifactStore(settings.artifacts_url).put(job["id"], DATA_FILE, b"x" * 100)
    with_data = client.get(job["links"]["export"], params={"format": "python"}).text
    monkeypatch.setattr(export_module, "MAX_UNPACKED_BYTES", 99)
    without = client.get(job["links"]["export"], params={"format": "python"}).text
    assert 'DATA = ""\n' in without
    assert 'DATA = ""\n' not in with_data


@sqlite_only
def test_export_that_is_put_together_on_disk_is_the_same(
    client: TestClient, done: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    in_memory = client.get(done["links"]["export"])
    monkeypatch.setattr(results_module, "MAX_IN_MEMORY_BYTES", 100)
    monkeypatch.setattr(results_module, "PIECE_BYTES", 7)
    on_disk = client.get(done["links"]["export"])
    assert on_disk.content == in_memory.content
    assert on_disk.headers["content-length"] == str(len(in_memory.content))


@sqlite_only
@pytest.mark.parametrize("baseline", ["muon", "soap", "sgd"])
def test_script_of_any_baseline_makes_its_optimizer(
    client: TestClient, submit: Submit, db: Database, baseline: str
) -> None:
    job = submit(baselines=[baseline], arms="per_structure")
    log = claim_job(db)
    succeed(log, gain=-0.25)
    exported = client.get(job["links"]["export"]).json()
    names = {"muon": "torch.optim.Muon", "soap": "pytorch_optimizer.SOAP", "sgd": "torch.optim.SGD"}
    assert exported["optimizer"] == names[baseline]
    script = client.get(job["links"]["export"], params={"format": "python"}).text
    made: dict[str, Any] = {"__name__": "recommended"}
    exec(compile(script, "recommended.py", "exec"), made)
    assert "service" not in script
    optimizer = made["make_optimizer"](made["make_model"]())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 4


@sqlite_only
def test_what_an_export_needs_and_is_not_there_is_not_found(client: TestClient, submit: Submit, db: Database) -> None:
    job = submit()
    succeed(claim_job(db), gain=-0.25)
    gone = "is no longer in the artifact store"
    for form, missing in (("safetensors", "adamw, which has no learned P"), ("zip", gone)):
        problem = assert_problem(client.get(job["links"]["export"], params={"format": form}), 404, "not_found")
        assert missing in problem["detail"]


@sqlite_only
def test_report_is_one_page_that_escapes_what_the_user_wrote(client: TestClient, submit: Submit, db: Database) -> None:
    job = submit(name="<script>alert(1)</script>")
    succeed(claim_job(db))
    response = client.get(job["links"]["report"])
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert "<script>alert" not in response.text
    assert '<p class="crumb">&lt;script&gt;alert(1)&lt;/script&gt;' in response.text
    assert not re.search(r"(src|href)=(?!\"#)|<script|url\(", response.text), "it must work offline"
    assert client.get(job["links"]["report"]).text == response.text


@sqlite_only
@pytest.mark.parametrize(
    ("gain", "answer", "advised"),
    [(0.25, "Yes, WarpAdam is better than AdamW here", "WarpAdam"), (-0.25, "No, WarpAdam is worse", "AdamW")],
)
def test_report_begins_with_the_answer_then_the_evidence_then_the_next_step(
    client: TestClient, submit: Submit, db: Database, gain: float, answer: str, advised: str
) -> None:
    job = submit()
    succeed(claim_job(db), gain=gain)
    page = client.get(job["links"]["report"]).text.partition("<main>")[2]
    order = [answer, f"Use <strong>{advised}</strong>", "Why", 'class="forest"', "Next step", f"Use {advised} with"]
    places = [page.index(words) for words in order]
    assert places == sorted(places)
    assert re.search(rf"{client.get(job['links']['recommendation']).json()['arm']} \(recommended\)", page)
    first = page[: page.index("<section>")]
    for word in ("seed", "trial", "arm", "paired", "sign-flip", "Holm", "bootstrap", "finalist"):
        assert not re.search(rf"\b{word}s?\b", first), f"{word!r} is a word that a newcomer does not know"


@sqlite_only
def test_report_draws_the_runs_of_the_finalists_and_not_of_those_before_them(
    client: TestClient, submit: Submit, db: Database
) -> None:
    job = submit()
    log = claim_job(db)
    succeed(log)
    page = client.get(job["links"]["report"]).text
    with db.write() as session:  # as an extension leaves them whose trials found another best one
        curve = stored_curve([CurvePoint(10, 777.0, 777.0, 0.1)])
        session.add(
            ConfirmRun(
                job_id=job["id"],
                phase="confirm",
                arm="warpadam",
                trial_number=999,
                seed=100,
                state=TrialState.COMPLETE,
                curve=curve,
            )
        )
    assert client.get(job["links"]["report"]).text == page


@pytest.mark.parametrize(
    ("query", "field", "expected"),
    [
        ("format=xml", "format", "'json', 'yaml', 'toml', 'python', 'safetensors' or 'zip'"),
        ("format=", "format", "'json', 'yaml', 'toml', 'python', 'safetensors' or 'zip'"),
        ("format=JSON", "format", "'json', 'yaml', 'toml', 'python', 'safetensors' or 'zip'"),
        ("fromat=yaml", "fromat", "Did you mean 'format'?"),
    ],
)
def test_unknown_format_is_refused(shared_client: TestClient, query: str, field: str, expected: str) -> None:
    problem = assert_problem(shared_client.get(f"/v1/jobs/job-0/export?{query}"), 422, "invalid_spec")
    assert [error["field"] for error in problem["errors"]] == [field]
    assert expected in problem["detail"]


@sqlite_only
def test_a_family_that_recommends_a_baseline_has_no_script_and_no_p(
    client: TestClient, submit: Submit, db: Database
) -> None:
    job = submit(family={"class_subsets": {"ways": 2}})
    succeed(claim_job(db), gain=-0.25)
    for fmt in ("python", "zip"):
        problem = assert_problem(client.get(job["links"]["export"], params={"format": fmt}), 409, "conflict")
        assert "this one recommends adamw" in problem["detail"]
    assert_problem(client.get(job["links"]["export"], params={"format": "safetensors"}), 404, "not_found")
    assert client.get(job["links"]["export"], params={"format": "yaml"}).status_code == 200
