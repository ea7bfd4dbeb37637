# The catalogue lists what a job may name, and its facts are those of the real data and the real modules.
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from sklearn import datasets as sklearn_datasets

from service.data.catalog import BUNDLED
from service.spec.models import AutoencoderSpec, MlpSpec
from service.spec.tasks import Task
from service.training.networks import ACTIVATIONS, linear_layers
from tests.conftest import SpecMaker


@pytest.fixture(scope="module")
def catalog(shared_client: TestClient) -> dict[str, Any]:
    """The catalogue."""
    answer: dict[str, Any] = shared_client.get("/v1/catalog").json()
    return answer


def test_every_name_of_the_catalogue_can_be_used(
    shared_client: TestClient, catalog: dict[str, Any], spec: SpecMaker
) -> None:
    assert set(catalog) == {"datasets", "models", "presets", "baselines", "optimizers", "metrics", "learners"}
    for dataset in catalog["datasets"]:
        physics = dataset["task"] == "physics"
        own = {"model": {"name": "pinn", "equation": dataset["name"]}} if physics else {}
        assert shared_client.post("/v1/jobs", json=spec(dataset={"name": dataset["name"]}, **own)).status_code == 202
        model = {"name": "autoencoder"}
        body = spec(dataset={"name": dataset["name"]}, model=model)
        assert shared_client.post("/v1/jobs", json=body).status_code == (202 if dataset["images"] else 422)
    for preset in catalog["presets"]:
        assert shared_client.post("/v1/jobs", json=spec(search_space={"preset": preset})).status_code == 202
    for baseline in catalog["baselines"]:
        assert shared_client.post("/v1/jobs", json=spec(baselines=[baseline])).status_code == 202


def test_presets_and_baselines_are_described(catalog: dict[str, Any]) -> None:
    assert set(catalog["presets"]) == {"default", "quick", "wide", "paper"}
    assert set(catalog["baselines"]) == {"adamw", "muon", "soap", "sgd"}
    for name, space in (catalog["presets"] | catalog["baselines"]).items():
        assert space["name"] == name
        assert {"lr", "weight_decay"} <= {parameter["name"] for parameter in space["parameters"]}
        assert space["first_trials"]


def test_metrics_optimizers_and_learners_are_those_of_specs(
    shared_client: TestClient, catalog: dict[str, Any], spec: SpecMaker
) -> None:
    for metric in catalog["metrics"]:
        dataset = "diabetes" if "regression" in metric["tasks"] else "wine"
        body = spec(dataset={"name": dataset}, objective={"metric": metric["name"]})
        if metric["tasks"] != ["physics"]:
            assert shared_client.post("/v1/jobs", json=body).status_code == 202
    named = {found["name"] for found in catalog["optimizers"] if found["baseline"]}
    assert named == set(catalog["baselines"])
    for learner, strategies in catalog["learners"].items():
        for strategy in strategies:
            structure, placement = strategy.split("/")
            chosen = {"structure": structure, "placement": placement, "learner": learner}
            body = spec(search_space={"preset": "wide", "overrides": chosen})
            if learner != "frozen":  # P would stay as it is
                assert shared_client.post("/v1/jobs", json=body).status_code == 202, chosen


def test_every_value_of_a_preset_is_a_legal_override(
    shared_client: TestClient, catalog: dict[str, Any], spec: SpecMaker
) -> None:
    for preset, space in catalog["presets"].items():
        overrides = {
            parameter["name"]: parameter.get("values")
            or {"low": parameter["low"], "high": parameter["high"], "log": parameter["log"]}
            for parameter in space["parameters"]
            if parameter["name"] != "rank"  # up to 16, and the small model has 8 rows
        }
        body = spec(search_space={"preset": preset, "overrides": overrides})
        assert shared_client.post("/v1/jobs", json=body).status_code == 202


def test_models_are_described_by_their_schemas(catalog: dict[str, Any]) -> None:
    assert catalog["models"]["mlp"]["properties"]["hidden"]["default"] == [64, 64]
    assert catalog["models"]["autoencoder"]["properties"]["code"]["default"] == 30
    for schema in catalog["models"].values():
        activation = schema.get("properties", {}).get("activation", {})
        chosen = activation if "enum" in activation else schema.get("$defs", {}).get("Activation")
        if chosen is not None:
            assert set(chosen["enum"]) <= set(ACTIVATIONS)
    assert set(catalog["models"]["mlp"]["$defs"]["Activation"]["enum"]) == set(ACTIVATIONS)
    assert catalog["models"]["entrypoint"]["required"] == ["entrypoint"]


MEASURED = [name for name, dataset in BUNDLED.items() if dataset.info.task != Task.PHYSICS]


@pytest.mark.parametrize("name", MEASURED)
def test_facts_are_those_of_the_data(catalog: dict[str, Any], name: str) -> None:
    (shown,) = [dataset for dataset in catalog["datasets"] if dataset["name"] == name]
    bunch = getattr(sklearn_datasets, f"load_{name}")()
    assert (shown["rows"], shown["features"]) == bunch.data.shape
    assert (shown["task"] == "classification") == np.issubdtype(bunch.target.dtype, np.integer)
    assert shown["outputs"] == (len(np.unique(bunch.target)) if shown["task"] == "classification" else 1)
    assert shown["images"] == hasattr(bunch, "images")


@pytest.mark.parametrize("name", MEASURED)
@pytest.mark.parametrize(
    "model",
    [MlpSpec(), MlpSpec(hidden=[3]), MlpSpec(hidden=[5, 4, 3], activation="gelu"), AutoencoderSpec(hidden=[7], code=2)],
    ids=lambda model: f"{model.name}-{len(model.hidden)}",
)
def test_tensor_shapes_are_those_of_the_module(name: str, model: MlpSpec | AutoencoderSpec) -> None:
    dataset = BUNDLED[name].info
    module = linear_layers(model.layer_sizes(dataset), model.activation)
    assert model.tensor_shapes(dataset) == [tuple(parameter.shape) for parameter in module.parameters()]
    task = model.task(dataset)
    outputs = dataset.features if task == Task.AUTOENCODING else dataset.outputs
    assert model.tensor_shapes(dataset)[-1] == (outputs,)
