# Which rows a run sees, and that a whole part, evaluated piece by piece, has the figures of the part at once.
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from service.spec.tasks import Task
from service.training import batches as batches_module
from service.training.batches import Batches
from service.training.networks import build_network
from service.training.run import Run, Training
from service.training.step import TrainingStep
from service.training.tasks import loss_of
from tests.service.data.prepared import Split, read
from tests.service.training.test_loop import MODELS, make_run
from tests.service.user_code import models


def split_of_run(run: Run) -> Split:
    return read(run.data)


def epoch(batches: Batches, count: int) -> torch.Tensor:
    return torch.cat([batches.next_batch()[0] for _ in range(count)])


@pytest.mark.parametrize(("last_batch", "sizes"), [("drop", [32, 32, 32]), ("keep", [32, 32, 32, 10])])
def test_the_rows_that_fill_no_batch_are_left_out_or_make_a_smaller_one(
    tmp_path: Path, last_batch: str, sizes: list[int]
) -> None:
    run = make_run(tmp_path, training=Training(last_batch=last_batch))  # type: ignore[arg-type]
    batches = Batches(run)
    for _ in range(3):
        rows = [batches.next_batch()[0] for _ in sizes]
        assert [len(x) for x in rows] == sizes
        assert len(torch.unique(torch.cat(rows), dim=0)) == sum(sizes)


def test_an_epoch_that_keeps_its_last_batch_has_every_row_once(tmp_path: Path) -> None:
    run = make_run(tmp_path, training=Training(last_batch="keep"))
    seen = np.sort(epoch(Batches(run), 4).numpy(), axis=0)
    assert np.array_equal(seen, np.sort(split_of_run(run).x_train, axis=0))


def test_on_the_cpu_the_rows_stay_in_the_mapped_file(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    mapped = split_of_run(run).x_train
    assert Batches(run)._x["train"].data_ptr() == mapped.ctypes.data


def test_a_split_that_is_large_for_a_device_goes_there_batch_by_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, device="meta")  # a device that every machine has
    assert Batches(run)._x["train"].device.type == "meta"
    monkeypatch.setattr(batches_module, "DEVICE_BYTES", 1000)
    batches = Batches(run)
    assert batches._x["train"].device.type == "cpu"
    assert [(array.device.type, len(array)) for array in batches.next_batch()] == [("meta", 32)] * 2


def plain_score(task: str, output: torch.Tensor, y: torch.Tensor) -> float:
    if task == Task.CLASSIFICATION:
        return float((output.argmax(1) == y).double().mean())
    if task == Task.PHYSICS:
        return float(1 - (output - y)[:, 1].norm() / y[:, 1].norm())
    return float(1 - (output - y).square().sum() / (y - y.mean(0)).square().sum())


@pytest.mark.parametrize("dataset", MODELS)
@pytest.mark.parametrize("rows", [7, 1024])
def test_a_part_piece_by_piece_has_the_loss_and_the_score_of_the_part_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: str, rows: int
) -> None:
    run: Run = make_run(tmp_path, dataset)
    torch.manual_seed(0)
    model = build_network(run.model, run.shape, run.sizes, run.activation)
    monkeypatch.setattr(batches_module, "EVALUATED_ROWS", rows)
    split = split_of_run(run)
    for part in ("val", "test"):
        x = torch.from_numpy(getattr(split, f"x_{part}"))
        y = x if dataset == "digits" else torch.from_numpy(getattr(split, f"y_{part}"))
        model.eval()
        with torch.no_grad():
            output = model(x)
            loss, score = loss_of(run.task)(output, y).item(), plain_score(run.task, output, y)
        assert Batches(run).evaluate(model, part) == pytest.approx((loss, score), rel=1e-5, abs=1e-6)


def test_a_model_is_evaluated_with_its_hooks(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    model, split = models.hooked((13,), 3, run.task), split_of_run(run)
    with torch.no_grad():
        expected = loss_of(run.task)(model(torch.from_numpy(split.x_val)), torch.from_numpy(split.y_val)).item()
    assert Batches(run).evaluate(model, "val")[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("make", [models.partly_frozen, models.keeps_front_frozen])
def test_a_part_in_evaluation_mode_stays_in_it_from_the_first_step_on(
    tmp_path: Path, make: Callable[..., torch.nn.Module]
) -> None:
    run = make_run(tmp_path)
    model = make((13,), 3, run.task)
    batches, optimizer = Batches(run), torch.optim.SGD(model.parameters(), lr=0.1)
    step = TrainingStep(model, optimizer, loss_of(run.task), run.training, 2, "cpu")
    frozen = {name for name, _ in model.named_modules() if name.startswith("front")}
    for _ in range(2):
        step(*batches.next_batch())
        assert {name for name, module in model.named_modules() if not module.training} == frozen
        assert not model.state_dict()["front.1.num_batches_tracked"]
        batches.evaluate(model, "val")


def test_evaluating_leaves_a_model_in_training_with_its_running_means(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(13), torch.nn.Linear(13, 3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    Batches(run).evaluate(model, "val")
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_part_whose_targets_are_all_the_same_has_a_loss_and_no_score(tmp_path: Path) -> None:
    run = make_run(tmp_path, "diabetes")
    batches = Batches(run)
    batches._y["test"] = torch.full_like(batches._y["test"], 0.3)
    model = build_network(run.model, run.shape, run.sizes, run.activation)
    loss, score = batches.evaluate(model, "test")
    assert loss > 0
    assert score is None
    assert batches.evaluate(model, "val")[1] is not None
