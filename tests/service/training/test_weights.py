# The weights that a run keeps are those that it was tested with, however often it was interrupted.
from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from service.artifacts import read_artifact, write_artifact
from service.training.batches import Batches
from service.training.loop import train
from service.training.networks import build_network
from service.training.run import Run
from service.training.weights import load_weights, write_weights
from tests.service.training.test_checkpoint import cut_short
from tests.service.training.test_loop import make_run


def loaded(run: Run) -> nn.Module:
    assert run.weights_url is not None
    model = build_network(run.model, run.shape, run.sizes, run.activation)
    load_weights(model, read_artifact(run.weights_url))
    return model


@pytest.mark.parametrize("best_by", ["loss", None])
@pytest.mark.parametrize("dataset", ["wine", "diabetes", "digits", "poisson_2d"])
def test_kept_weights_have_the_test_loss_of_the_run(tmp_path: Path, dataset: str, best_by: str | None) -> None:
    run = make_run(tmp_path, dataset, "adamw", best_by=best_by, weights_url=f"file://{tmp_path}/weights.safetensors")
    (*_, end) = train(run)
    assert Batches(run).evaluate(loaded(run), "test") == (end.test_loss, end.test_score)


def test_an_interrupted_run_keeps_the_same_weights(tmp_path: Path) -> None:
    run = make_run(tmp_path, "wine", checkpoint_every_s=0.0, weights_url=f"file://{tmp_path}/whole")
    list(train(run))
    cut = replace(run, weights_url=f"file://{tmp_path}/cut", checkpoint_url=f"file://{tmp_path}/checkpoints")
    cut_short(cut, 25)
    assert not (tmp_path / "cut").exists()
    list(train(cut))
    assert (tmp_path / "cut").read_bytes() == (tmp_path / "whole").read_bytes()


def test_weights_that_two_layers_share_are_kept(tmp_path: Path) -> None:
    run = make_run(tmp_path, weights_url=f"file://{tmp_path}/weights")
    models = []
    for _ in range(2):
        first, second = nn.Linear(3, 3), nn.Linear(3, 3)
        second.weight = first.weight
        models.append(nn.Sequential(first, nn.BatchNorm1d(3), second))
    write_weights(models[0], run)
    load_weights(models[1], read_artifact(str(run.weights_url)))
    x = torch.randn(5, 3)
    assert models[0](x).equal(models[1](x))


def test_no_weights_and_no_p_are_kept_for_a_job_that_is_gone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = make_run(tmp_path, p_url=f"file://{tmp_path}/job/p", weights_url=f"file://{tmp_path}/job/weights")
    points = train(run)
    next(points)
    Path(run.data.url.removeprefix("file://")).unlink()
    list(points)
    assert not (tmp_path / "job").exists()
    messages = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert messages == ["no P: the data of the run is gone", "no weights: the data of the run is gone"]


def test_a_store_that_takes_no_weights_costs_a_warning_and_not_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_artifact(f"file://{tmp_path}/taken", b"a file where the folder should be")
    run = make_run(tmp_path, steps=2, weights_url=f"file://{tmp_path}/taken/weights")
    assert [point.step for point in train(run)] == [1, 2]
    messages = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert messages == ["the weights could not be written"]
