# Runs on a family: what is learned before, what is measured where, and that one that was killed ends as it would have.
from __future__ import annotations

import hashlib
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from search_spaces import get_preset
from service.data.families import prepare_family
from service.data.prepare import write_one_task
from service.data.prepared import PreparedData
from service.data.prepared_files import load_family
from service.data.sources import Arrays, bundled_source
from service.optimizers import OPTIMIZERS
from service.spec.data import FamilySpec
from service.spec.tasks import Task
from service.training import family_loop
from service.training.family_loop import train_family
from service.training.networks import linear_layers
from service.training.run import CurvePoint, DivergedError, FamilyTraining, Run, Training
from tests.service.data.prepared import read
from warpadam import MetaTrainer


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A prepared family of wines, two classes each: one task of every part."""
    source = bundled_source("wine")
    assert isinstance(source, Arrays)
    family, _ = prepare_family(source, FamilySpec.model_validate({"class_subsets": {"ways": 2}}), 0)
    folder = tmp_path_factory.mktemp("family")
    return f"file://{folder}/data.npz", family.pack(folder, folder / "data.npz")


def a_run(data: tuple[str, str], arm: str = "warpadam", **fields: Any) -> Run:
    preset = get_preset({"warpadam": "quick", "random_p": "adamw"}.get(arm, arm))
    config = OPTIMIZERS[arm].config(preset.first_trials[0])
    given: dict[str, Any] = {
        "arm": arm,
        "config": config,
        "sizes": (13, 8, 2),
        "activation": "relu",
        "task": Task.CLASSIFICATION,
        "data": PreparedData(*data),
        "steps": 8,
        "batch_size": 16,
        "seed": 3,
        "family": FamilyTraining(4 if arm == "warpadam" else 0, 5),
    }
    return Run(**given | fields)


def without_seconds(points: list[CurvePoint]) -> list[CurvePoint]:
    return [point._replace(seconds=0.0, learning_seconds=0.0) for point in points]


@pytest.mark.parametrize("arm", [name for name in OPTIMIZERS if name != "soap"])
def test_every_optimizer_trains_on_a_family_and_lowers_its_loss(data: tuple[str, str], arm: str) -> None:
    points = list(train_family(a_run(data, arm, steps=40)))
    assert [point.step for point in points] == list(range(1, 41))
    assert points[-1].val_loss < points[0].val_loss
    assert (points[-1].learning_seconds > 0) == (arm == "warpadam")
    assert points[-1].test_loss is None


def test_a_test_run_trains_on_other_tasks_and_its_last_loss_is_the_test_loss(data: tuple[str, str]) -> None:
    trial, test = (list(train_family(a_run(data, "adamw", test=test))) for test in (False, True))
    assert [point.val_loss for point in trial] != [point.val_loss for point in test]
    assert test[-1].test_loss == test[-1].val_loss
    assert [point.test_loss for point in test[:-1]] == [None] * 7


@pytest.mark.parametrize("task", [Task.CLASSIFICATION, Task.AUTOENCODING])
def test_a_test_run_knows_what_always_predicting_the_same_gets_on_the_tasks_that_judge(
    data: tuple[str, str], task: Task
) -> None:
    sizes = (13, 8, 2 if task is Task.CLASSIFICATION else 13)
    *earlier, last = train_family(a_run(data, "adamw", test=True, task=task, sizes=sizes))
    assert {point.trivial for point in earlier} == {None}
    assert last.trivial is not None
    for part, loss, score in (("meta_validation", *last.trivial[:2]), ("meta_test", *last.trivial[2:])):
        losses, scores = [], []
        for arrays in load_family(*data).tasks(part):
            if task is Task.CLASSIFICATION:
                shares = np.bincount(arrays.y_train, minlength=2) / len(arrays.y_train)
                losses.append(-np.log(shares)[arrays.y_held_out].mean())
                scores.append((arrays.y_held_out == shares.argmax()).mean())
            else:
                errors = np.square(arrays.x_held_out - arrays.x_train.mean(0))
                losses.append(errors.mean())
                scores.append(1 - errors.mean() / arrays.x_held_out.var(0).mean())
        assert loss == pytest.approx(np.mean(losses), rel=1e-5)
        assert score == pytest.approx(np.mean(scores), rel=1e-4)


def test_the_same_seed_gives_the_same_run_and_another_gives_another(data: tuple[str, str]) -> None:
    first, again, other = (list(train_family(a_run(data, seed=seed))) for seed in (3, 3, 4))
    assert without_seconds(first) == without_seconds(again)
    assert without_seconds(first) != without_seconds(other)


@pytest.mark.parametrize(
    "training", [Training(label_smoothing=0.3), Training(class_weights="balanced"), Training(warmup_steps=4)]
)
def test_the_training_of_a_job_reaches_a_family(data: tuple[str, str], training: Training) -> None:
    plain, changed = (list(train_family(a_run(data, "adamw", training=chosen))) for chosen in (Training(), training))
    assert [point.train_loss for point in plain] != [point.train_loss for point in changed]


def test_the_loss_of_the_rows_that_are_held_out_is_the_plain_one(data: tuple[str, str]) -> None:
    still = {**a_run(data, "adamw").config, "lr": 0.0}
    smooth = Training(label_smoothing=0.3, class_weights="balanced")
    runs = [a_run(data, "adamw", config=still, training=chosen) for chosen in (Training(), smooth)]
    plain, changed = (list(train_family(run)) for run in runs)
    assert [point.val_loss for point in plain] == [point.val_loss for point in changed]
    assert plain[0].train_loss != changed[0].train_loss


def test_p_changes_the_run_and_the_tasks_that_it_is_learned_on_change_p(data: tuple[str, str]) -> None:
    curves = [
        [point.val_loss for point in train_family(a_run(data, family=FamilyTraining(tasks, 5)))] for tasks in (0, 4, 8)
    ]
    assert curves[0] != curves[1] != curves[2]


def test_networks_do_not_feel_each_other() -> None:
    run = a_run(("", ""), "adamw")
    torch.manual_seed(0)
    models = [linear_layers(run.sizes, run.activation) for _ in range(2)]
    before = [[param.detach().clone() for param in model.parameters()] for model in models]
    optimizer = family_loop._optimizer_for_all(run, models)
    models[0](torch.randn(4, 13)).square().sum().backward()
    optimizer.step()
    moved = [
        [not torch.equal(old, new) for old, new in zip(olds, model.parameters(), strict=True)]
        for olds, model in zip(before, models, strict=True)
    ]
    assert moved == [[True] * 4, [False] * 4]


def test_a_run_that_is_killed_while_it_learns_p_ends_as_it_would_have(
    data: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = list(train_family(a_run(data)))
    run = a_run(data, checkpoint_url=f"file://{tmp_path}/checkpoints", checkpoint_every_s=1e-9)
    train = MetaTrainer.train
    visits: list[int] = []

    def killed(trainer: Any, rounds: int) -> Any:
        visits.append(rounds)
        if len(visits) == 3:
            raise KeyboardInterrupt
        return train(trainer, rounds)

    with monkeypatch.context() as patch:
        patch.setattr(MetaTrainer, "train", killed)
        with pytest.raises(KeyboardInterrupt):
            list(train_family(run))
    assert len(list((tmp_path / "checkpoints").iterdir())) > 0

    def counted(trainer: Any, rounds: int) -> Any:
        visits.append(rounds)
        return train(trainer, rounds)

    with monkeypatch.context() as patch:
        patch.setattr(MetaTrainer, "train", counted)
        resumed = list(train_family(run))
    assert visits == [1, 1, 1, 1, 1, 0]  # two tasks, the killed one, the two that were left
    assert without_seconds(resumed) == without_seconds(whole)
    killed_later = list(islice(train_family(run), 2))
    assert without_seconds(killed_later) == without_seconds(whole)[:2]


def test_a_loss_that_is_not_finite_ends_the_run_with_its_cause(data: tuple[str, str]) -> None:
    run = a_run(data, "sgd", steps=60)
    with pytest.raises(DivergedError, match=r"the mean (training|held-out) loss is"):
        list(train_family(replace(run, config={**run.config, "lr": 1e30})))


def test_a_p_that_no_task_can_teach_is_a_divergence(data: tuple[str, str]) -> None:
    run = a_run(data)
    with pytest.raises(DivergedError, match=r"P (was learned on no task|could not be learned)"):
        list(train_family(replace(run, config={**run.config, "lr": 1e30})))


def file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_family_run_leaves_the_p_that_it_learned_and_a_run_from_it_ends_alike(
    data: tuple[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "p.safetensors"
    run = a_run(data, p_url=f"file://{file}")
    learned = list(train_family(run))
    warm = replace(run, p_url=None, from_p_url=f"file://{file}", from_p_sha256=file_hash(file))
    used = list(train_family(replace(warm, family=FamilyTraining(0, 5))))
    assert without_seconds(used) == without_seconds(learned)
    assert used[-1].learning_seconds == 0
    further = list(train_family(warm))  # learns on from there
    assert without_seconds(further) != without_seconds(learned)
    shuffled = list(train_family(replace(warm, family=FamilyTraining(0, 5), shuffle_seed=0)))
    assert without_seconds(shuffled) != without_seconds(learned)


def test_a_p_that_is_not_the_one_that_was_meant_ends_the_run(data: tuple[str, str], tmp_path: Path) -> None:
    file = tmp_path / "p.safetensors"
    list(train_family(a_run(data, p_url=f"file://{file}")))
    with pytest.raises(ValueError, match="the file of P has changed"):
        list(train_family(a_run(data, from_p_url=f"file://{file}", from_p_sha256="0" * 64)))


def test_one_task_of_a_family_is_the_first_that_judges(data: tuple[str, str], tmp_path: Path) -> None:
    first = load_family(*data).tasks("meta_test")[0]
    file = write_one_task(PreparedData(*data), tmp_path)
    split = read(PreparedData(f"file://{file.path}", file.sha256))
    assert (split.x_train == first.x_train).all()
    assert (split.x_test == first.x_held_out).all()
    assert (split.y_val == split.y_test).all()
