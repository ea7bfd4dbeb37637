# A warm start at submission: which P is found, what it fixes, what is kept with the job, and every way to be refused.
from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient
from sqlalchemy import select
from torch import nn

from service.artifacts import START_P_FILE, ArtifactStore
from service.db.models import Job, RecommendationRow
from service.db.session import Database
from service.settings import Settings
from service.training.networks import linear_layers
from tests.conftest import SpecMaker
from tests.service.api.conftest import Submit, claim_job, count_rows, put, refused, sqlite_only, succeed
from warpadam import Warp, WarpAdam, save_warp

pytestmark = sqlite_only

Learned = Callable[..., str]


@pytest.fixture
def learned(submit: Submit, db: Database, settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Learned:
    """Makes a job that recommends a P for a model, a chain of linear layers by default, and returns its id."""

    def make(sizes: tuple[int, ...] = (13, 8, 3), *, model: nn.Module | None = None, **config: Any) -> str:
        job_id = str(submit()["id"])
        succeed(claim_job(db))
        torch.manual_seed(0)
        model = model or linear_layers(sizes, "relu")
        file = tmp_path_factory.mktemp("p") / "p.safetensors"
        save_warp(file, Warp.of(WarpAdam(model.named_parameters(), **config)))
        content = file.read_bytes()
        ArtifactStore(settings.artifacts_url).put(job_id, "p-0.safetensors", content)
        digest = hashlib.sha256(content).hexdigest()
        with db.write() as session:
            row = session.get_one(RecommendationRow, job_id)
            row.data = {
                **row.data,
                "learned_p": {"file": "p-0.safetensors", "sha256": digest, "seed": 1, "test_loss": 1.0},
            }
        return job_id

    return make


def test_the_job_names_the_p_by_its_hash_and_keeps_its_own_copy(
    client: TestClient, learned: Learned, settings: Settings, spec: SpecMaker
) -> None:
    job_id = learned()
    store = ArtifactStore(settings.artifacts_url)
    content = store.get(job_id, "p-0.safetensors")
    assert content is not None
    answer = client.post("/v1/jobs", json=spec(warm_start={"job": job_id})).json()
    assert answer["spec"]["warm_start"] == {"job": job_id, "sha256": hashlib.sha256(content).hexdigest()}
    assert [arm["name"] for arm in answer["arms"]] == ["warpadam", "adamw", "shuffled_p", "adamw_default"]
    assert client.delete(f"/v1/jobs/{job_id}").status_code == 204
    assert store.get(answer["id"], START_P_FILE) == content


@pytest.mark.parametrize(
    ("config", "preset", "fixed"),
    [
        ({}, "quick", {"structure": "kronecker", "placement": "pre", "learner": "whitening", "max_dim": 512}),
        (
            {"structure": "diagonal"},
            "quick",
            {"structure": "diagonal", "placement": "sandwich", "learner": "hypergradient"},
        ),
        (
            {"structure": "low_rank", "rank": 16},
            "default",
            {"structure": "low_rank", "placement": "sandwich", "learner": "hypergradient", "rank": 8},
        ),
        (
            {"structure": "full", "placement": "pre", "learner": "hypergradient", "block_size": 32},
            "paper",
            {"structure": "full", "placement": "pre", "learner": "hypergradient", "block_size": 32},
        ),
    ],
)
def test_p_fixes_what_decides_the_shape_of_its_tensors(
    client: TestClient, learned: Learned, spec: SpecMaker, config: dict[str, Any], preset: str, fixed: dict[str, Any]
) -> None:
    body = spec(warm_start={"job": learned(**config)}, search_space={"preset": preset, "overrides": {"lr": 0.01}})
    answer = client.post("/v1/jobs", json=body)
    assert answer.status_code == 202, answer.text
    assert answer.json()["spec"]["search_space"]["overrides"] == {"lr": 0.01} | fixed


def test_a_learner_that_keeps_p_as_it_is_may_be_wished_for(
    client: TestClient, learned: Learned, spec: SpecMaker
) -> None:
    body = spec(warm_start={"job": learned(learner="rotation")}, search_space={"overrides": {"learner": "frozen"}})
    answer = client.post("/v1/jobs", json=body)
    assert answer.status_code == 202, answer.text
    assert answer.json()["spec"]["search_space"]["overrides"]["learner"] == "frozen"


OVERRIDES: list[tuple[str, Any, str]] = [
    ("structure", "diagonal", "'kronecker', as the P of"),
    ("structure", ["kronecker", "full"], "'kronecker', as the P of"),
    ("placement", "sandwich", "'pre', as the P of"),
    ("learner", "frozen", "'whitening', as the P of"),
    ("learner", ["rotation", "whitening"], "'whitening', as the P of"),
    ("max_dim", 4, "512, as the P of"),
    ("max_dim", {"low": 4, "high": 512}, "512, as the P of"),
]


@pytest.mark.parametrize(("name", "value", "expected"), OVERRIDES)
def test_an_override_that_p_cannot_follow_is_refused(
    client: TestClient, db: Database, learned: Learned, spec: SpecMaker, name: str, value: object, expected: str
) -> None:
    body = spec(warm_start={"job": learned()}, search_space={"preset": "quick", "overrides": {name: value}})
    (error,) = refused(client, db, body)
    assert error["field"] == f"search_space.overrides.{name}"
    assert expected in error["message"]
    assert "or no override" in error["message"]


MODELS: list[tuple[dict[str, Any], str]] = [
    ({"model.hidden": [9]}, "0.weight is (8, 13) in P and (9, 13) in the model; 0.bias is (8,) in P and (9,)"),
    ({"model.hidden": [8, 8]}, "2.weight is (3, 8) in P and (8, 8) in the model; 2.bias"),
    ({"model.hidden": [8, 8, 8, 8]}, "a tensor of shape (8, 8) has no P"),
    ({"dataset.name": "breast_cancer"}, "0.weight is (8, 13) in P and (8, 30) in the model"),
    (
        {"dataset.name": "breast_cancer", "family": {"group_by": "mean radius"}},
        "0.weight is (8, 13) in P and (8, 29) in the model",
    ),
]


@pytest.mark.parametrize(("changes", "expected"), MODELS)
def test_a_p_for_other_tensors_is_refused_with_their_names_and_shapes(
    client: TestClient, db: Database, learned: Learned, spec: SpecMaker, changes: dict[str, Any], expected: str
) -> None:
    body = spec(warm_start={"job": learned()})
    for path, value in changes.items():
        body = put(body, path, value)
    (error,) = refused(client, db, body)
    assert error["field"] == "warm_start.job"
    assert expected in error["message"]


def test_a_p_of_a_model_without_a_matrix_is_refused_for_one_with_matrices(
    client: TestClient, db: Database, learned: Learned, spec: SpecMaker
) -> None:
    job_id = learned(model=nn.LayerNorm(13), structure="low_rank", rank=2)
    (error,) = refused(client, db, spec(warm_start={"job": job_id}))
    assert "must name a job whose P fits the model: weight is (13,) in P" in error["message"]


def test_a_p_of_more_layers_names_what_the_model_lacks(
    client: TestClient, db: Database, learned: Learned, spec: SpecMaker
) -> None:
    (error,) = refused(client, db, spec(warm_start={"job": learned((13, 8, 3, 3))}))
    assert "4.weight is (3, 3) in P and missing in the model; 4.bias is (3,) in P and missing" in error["message"]


def test_a_job_that_has_no_p_to_give_is_refused(
    client: TestClient, db: Database, submit: Submit, learned: Learned, settings: Settings, spec: SpecMaker
) -> None:
    def expected(job: str, **more: str) -> str:
        (error,) = refused(client, db, spec(warm_start={"job": job, **more}))
        assert error["field"] == ("warm_start.sha256" if more else "warm_start.job")
        return str(error["message"])

    (error,) = refused(client, db, spec(warm_start={"job": "job-0"}))
    assert (error["field"], error["message"], error["code"]) == ("warm_start.job", "names no job", "unknown_name")
    assert error["hint"] == "GET /v1/jobs lists the jobs."
    plain = submit()["id"]
    assert expected(plain) == "must name a job that has succeeded; this one is queued"
    succeed(claim_job(db), gain=-0.25)
    assert "this one recommends adamw, which has none to keep" in expected(plain)
    good = learned()
    assert "that of the P of" in expected(good, sha256="0" * 64)
    store = ArtifactStore(settings.artifacts_url)
    store.put(good, "p-0.safetensors", b"something else")
    assert "gone or was changed" in expected(good)
    store.delete_job(good)
    assert "gone or was changed" in expected(good)


@pytest.mark.parametrize(
    ("warm_start", "field"),
    [
        ({}, "warm_start.job"),
        ({"job": "no/such job"}, "warm_start.job"),
        ({"job": "job-0", "sha256": "xyz"}, "warm_start.sha256"),
        ({"job": "job-0", "jobs": 1}, "warm_start.jobs"),
        ("job-0", "warm_start"),
    ],
)
def test_a_warm_start_of_another_form_is_refused_by_field(
    client: TestClient, db: Database, spec: SpecMaker, warm_start: object, field: str
) -> None:
    (error,) = refused(client, db, spec(warm_start=warm_start))
    assert error["field"] == field


def test_rows_that_p_was_learned_on_may_not_judge(
    client: TestClient, learned: Learned, db: Database, spec: SpecMaker
) -> None:
    source = learned()
    (error,) = refused(client, db, spec(warm_start={"job": source}, seed=1))
    assert (error["field"], error["value"]) == ("seed", 1)
    assert error["message"].startswith(f"must be 0, the seed of {source}")


def test_a_warm_start_needs_the_split_of_the_job_that_learned_p(
    client: TestClient, learned: Learned, db: Database, spec: SpecMaker
) -> None:
    source = learned()
    with db.write() as session:
        row = session.scalars(select(Job).where(Job.id == source)).one()
        row.spec = {**row.spec, "dataset": {"name": "wine", "split": {"by": "group", "column": "patient"}}}
    (error,) = refused(client, db, spec(warm_start={"job": source}))
    assert (error["field"], error["value"]) == ("dataset.split.by", "random")
    assert error["message"].startswith(f"must be 'group', the dataset.split.by of {source}")


@pytest.mark.parametrize(
    ("family", "field", "expected"),
    [
        ({"group_by": "alcohol", "bins": 5}, "family.bins", "must be 10, the family.bins of job-"),
        ({"group_by": "ash"}, "family.group_by", "must be 'alcohol', the family.group_by of job-"),
        ({"group_by": "alcohol", "learn_tasks": 7}, None, ""),
    ],
)
def test_nor_those_that_were_held_out_of_other_groups(
    client: TestClient,
    learned: Learned,
    db: Database,
    spec: SpecMaker,
    family: dict[str, Any],
    field: str | None,
    expected: str,
) -> None:
    source = learned((12, 8, 3))
    with db.write() as session:
        row = session.scalars(select(Job).where(Job.id == source)).one()
        row.spec = {**row.spec, "family": {"group_by": "alcohol"}}
    body = spec(warm_start={"job": source}, family=family)
    if field is None:
        assert client.post("/v1/jobs", json=body).status_code == 202
        return
    (error,) = refused(client, db, body)
    assert (error["field"], error["value"]) == (field, family[field.removeprefix("family.")])
    assert error["message"].startswith(expected)


def test_nor_may_subsets_of_classes_that_were_learned_on(
    client: TestClient, learned: Learned, db: Database, spec: SpecMaker
) -> None:
    source = learned((13, 8, 2))
    with db.write() as session:
        row = session.scalars(select(Job).where(Job.id == source)).one()
        row.spec = {**row.spec, "family": {"class_subsets": {"ways": 2}}}
    body = spec(warm_start={"job": source}, family={"class_subsets": {"ways": 2, "tasks": 3}})
    (error,) = refused(client, db, body)
    assert (error["field"], error["value"]) == ("family.class_subsets.tasks", 3)
    assert error["message"].startswith("must be 200, ")
    body["family"]["class_subsets"]["tasks"] = 200
    assert client.post("/v1/jobs", json=body).status_code == 202


OF_CLASSES: dict[str, Any] = {"dataset": {"name": "wine"}, "family": {"class_subsets": {"ways": 3}}}
OF_GROUPS: dict[str, Any] = {"dataset": {"name": "wine"}, "family": {"group_by": "alcohol"}}
OF_DATASETS: dict[str, Any] = {
    "dataset": {},
    "family": {"datasets": [{"name": "wine"}, {"name": "iris"}, {"name": "wine"}]},
}
PLAIN: dict[str, Any] = {"dataset": {"name": "wine"}, "family": None}


@pytest.mark.parametrize(
    ("earlier", "later", "kind", "expected"),
    [
        (OF_CLASSES, PLAIN, None, "must have class_subsets, as that of job-"),
        (OF_GROUPS, PLAIN, None, "must have group_by, as that of job-"),
        (OF_DATASETS, PLAIN, None, "must have datasets, as that of job-"),
        (PLAIN, OF_CLASSES, "class_subsets", "must be null: job-"),
        (PLAIN, OF_GROUPS, "group_by", "must be null: job-"),
        (PLAIN, OF_DATASETS, "datasets", "must be null: job-"),
        (OF_CLASSES, OF_GROUPS, "group_by", "must have class_subsets, as that of job-"),
        (OF_GROUPS, OF_DATASETS, "datasets", "must have group_by, as that of job-"),
    ],
)
def test_nor_may_rows_that_another_kind_of_job_held_out(
    client: TestClient,
    learned: Learned,
    db: Database,
    spec: SpecMaker,
    earlier: dict[str, Any],
    later: dict[str, Any],
    kind: str | None,
    expected: str,
) -> None:
    source = learned((12 if later is OF_GROUPS else 13, 8, 3))
    change_spec(db, source, **earlier)
    (error,) = refused(client, db, spec(warm_start={"job": source}, **later))
    assert (error["field"], error["value"]) == ("family", kind)
    assert error["message"].startswith(expected)


def test_two_kinds_at_once_are_refused_as_without_a_warm_start(
    client: TestClient, learned: Learned, db: Database, spec: SpecMaker
) -> None:
    source = learned()
    change_spec(db, source, **OF_CLASSES)
    both = {**OF_CLASSES["family"], **OF_GROUPS["family"]}
    (error,) = refused(client, db, spec(warm_start={"job": source}, family=both))
    assert (error["field"], error["value"]) == ("family", "class_subsets and group_by")


def test_another_kind_of_job_on_other_data_may_start_from_p(
    client: TestClient, learned: Learned, db: Database, spec: SpecMaker
) -> None:
    source = learned()
    change_spec(db, source, **{**OF_CLASSES, "dataset": {"name": "iris"}})
    answer = client.post("/v1/jobs", json=spec(warm_start={"job": source}))
    assert answer.status_code == 202, answer.text


def test_a_text_and_an_equation_are_split_alike_by_every_seed(
    client: TestClient, learned: Learned, db: Database, spec: SpecMaker
) -> None:
    source = learned((2, 32, 32, 32, 1))
    with db.write() as session:
        row = session.scalars(select(Job).where(Job.id == source)).one()
        row.spec = {**row.spec, "dataset": {"name": "poisson_2d"}, "model": {"name": "pinn", "equation": "poisson_2d"}}
    body = spec(
        dataset={"name": "poisson_2d"},
        model={"name": "pinn", "equation": "poisson_2d"},
        warm_start={"job": source},
        seed=1,
    )
    answer = client.post("/v1/jobs", json=body)
    assert answer.status_code == 202, answer.text


def change_spec(db: Database, job_id: str, **parts: Any) -> None:
    """Make it as if a job had been submitted with other parts."""
    with db.write() as session:
        row = session.scalars(select(Job).where(Job.id == job_id)).one()
        row.spec = {**row.spec, **parts}


def test_nor_those_of_a_job_that_the_earlier_one_started_from(
    client: TestClient, learned: Learned, db: Database, spec: SpecMaker
) -> None:
    first, second = learned(), learned()
    change_spec(db, second, dataset={"name": "iris"}, seed=7, warm_start={"job": first})
    (error,) = refused(client, db, spec(warm_start={"job": second}, seed=7))
    assert error["message"].startswith(f"must be 0, the seed of {first}")
    assert client.post("/v1/jobs", json=spec(warm_start={"job": second})).status_code == 202


def test_a_p_that_comes_from_a_deleted_job_is_good_for_the_data_of_the_later_one_only(
    client: TestClient, learned: Learned, db: Database, spec: SpecMaker
) -> None:
    first, second = learned(), learned()
    change_spec(db, second, dataset={"name": "iris"}, seed=7, warm_start={"job": first})
    assert client.delete(f"/v1/jobs/{first}").status_code == 204
    for seed in (0, 7):
        (error,) = refused(client, db, spec(warm_start={"job": second}, seed=seed))
        assert (error["field"], error["value"]) == ("warm_start.job", second)
        assert error["message"].endswith(f"it comes from {first}, which was deleted")
    change_spec(db, second, dataset={"name": "wine"})
    (error,) = refused(client, db, spec(warm_start={"job": second}))
    assert error["message"].startswith(f"must be 7, the seed of {second}")
    assert client.post("/v1/jobs", json=spec(warm_start={"job": second}, seed=7)).status_code == 202


def test_the_same_key_and_body_replay_and_leave_one_copy(
    client: TestClient, learned: Learned, db: Database, spec: SpecMaker, settings: Settings
) -> None:
    source = learned()
    body, headers = spec(warm_start={"job": source}), {"Idempotency-Key": "once"}
    first = client.post("/v1/jobs", json=body, headers=headers)
    assert client.delete(f"/v1/jobs/{source}").status_code == 204  # what it was made from may go
    rows = count_rows(db)
    again = client.post("/v1/jobs", json=body, headers=headers)
    assert (first.status_code, again.status_code, again.headers["Idempotent-Replayed"]) == (202, 202, "true")
    assert again.json() == first.json()
    assert count_rows(db) == rows
    assert ArtifactStore(settings.artifacts_url).get(first.json()["id"], START_P_FILE) is not None
    other = client.post("/v1/jobs", json=body | {"name": "another"}, headers=headers)
    assert other.json()["code"] == "idempotency_key_reused"
