# Names are unique, kept in order, and an unknown one is answered with those there are.
from __future__ import annotations

from dataclasses import replace

import pytest

from service.errors import OtherVersionError
from service.optimizers import OPTIMIZERS
from service.registry import Registry, UnknownNameError, import_object
from service.spec.dataset_info import DatasetInfo
from service.spec.metrics import METRICS
from service.spec.models import MODELS
from service.spec.tasks import TASKS, Task


def test_entries_are_found_by_name_in_the_order_of_their_registration() -> None:
    metrics = Registry("metric", METRICS.values())
    metrics.register(replace(METRICS["r2"], name="a"))
    assert list(metrics) == [*METRICS, "a"]
    assert metrics["a"].name == "a"
    assert metrics.get("b") is None


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="metric 'r2' is registered already"):
        Registry("metric", METRICS.values()).register(METRICS["r2"])


def test_an_unknown_name_is_an_error_with_the_names_and_the_one_that_was_meant() -> None:
    with pytest.raises(UnknownNameError, match=r"model: must be one of mlp, .*got 'resnets'.*Did you mean 'resnet'"):
        MODELS["resnets"]


def test_every_torch_half_is_there() -> None:
    halves = [entry.build for entry in OPTIMIZERS.values()] + [model.build for model in MODELS.values() if model.build]
    halves += [half for task in TASKS.values() for half in (task.loss, task.example) if half]
    assert all(callable(import_object(half)) for half in halves)
    assert all(hasattr(import_object(metric.score), "compute") for metric in METRICS.values())


@pytest.mark.parametrize("name", ["clasification", "", "Regression"])
def test_stored_facts_with_an_unknown_task_are_refused_with_the_names_of_the_tasks(name: str) -> None:
    with pytest.raises(OtherVersionError, match=r"task: .*must be one of classification, regression, .*physics"):
        DatasetInfo.from_json({"rows": 10, "features": 2, "outputs": 1, "task": name})


def test_every_task_has_an_entry_and_a_metric_of_its_own() -> None:
    assert list(TASKS) == list(Task)
    for task in TASKS.values():
        assert not task.metric or task.name in METRICS[task.metric].tasks
