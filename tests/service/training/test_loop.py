from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from service.planning.plan import make_plan
from service.spec.job import JobSpec
from service.training.best import best_index
from service.training.loop import POINTS, _State, train
from service.training.networks import linear_layers
from service.training.run import CurvePoint, DivergedError, Run, Training
from tests.service.data.prepared import read, write_file

MODELS: dict[str, dict[str, Any]] = {
    "digits": {"name": "autoencoder", "hidden": [16], "code": 8},
    "wine": {"name": "mlp", "hidden": [8]},
    "breast_cancer": {"name": "mlp", "hidden": [8], "activation": "gelu"},
    "diabetes": {"name": "mlp", "hidden": [8], "activation": "silu"},
    "poisson_2d": {"name": "pinn", "equation": "poisson_2d", "hidden": [32, 32, 32]},
    "burgers": {"name": "pinn", "equation": "burgers", "hidden": [16]},
}


def make_run(tmp_path: Path, dataset: str = "wine", arm: str = "warpadam", **changes: Any) -> Run:
    data = write_file(dataset, 0, tmp_path / f"{dataset}.npz")
    spec = JobSpec.model_validate(
        {"dataset": {"name": dataset}, "model": MODELS[dataset], "budget": {"steps": 60, "batch_size": 32}}
    )
    plan = make_plan(spec)
    lr = 0.05 if arm == "warpadam" else 0.02
    values = {**plan.arm(arm).space.first_trials[0], "lr": lr, "weight_decay": 0.01}
    run = plan.run(arm, values, data, seed=5, test=True)
    return replace(run, **changes)


def without_seconds(points: list[CurvePoint]) -> list[CurvePoint]:
    return [point._replace(seconds=0.0) for point in points]


@pytest.mark.parametrize("arm", ["warpadam", "adamw"])
@pytest.mark.parametrize("dataset", MODELS)
def test_a_run_learns_and_ends_with_the_test_loss(tmp_path: Path, dataset: str, arm: str) -> None:
    points = list(train(make_run(tmp_path, dataset, arm)))
    assert [point.step for point in points] == [math.ceil(1.5 * number) for number in range(1, 41)]
    assert len(points) == POINTS
    assert points[-1].train_loss < 0.8 * points[0].train_loss
    assert points[-1].test_loss is not None
    assert all(point.test_loss is None for point in points[:-1])
    assert all(later.seconds > earlier.seconds for earlier, later in pairwise(points))


def test_the_same_run_gives_the_same_points(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    first = without_seconds(list(train(run)))
    torch.rand(3)  # whatever the process did before must not matter
    assert without_seconds(list(train(run))) == first


def test_the_seed_changes_weights_and_order_and_both_arms_share_them(tmp_path: Path) -> None:
    frozen = {"lr": 0.0, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0}
    runs = {
        (arm, seed): next(train(make_run(tmp_path, arm=arm, config=frozen, seed=seed)))
        for arm in ("warpadam", "adamw")
        for seed in (1, 2)
    }
    assert runs["warpadam", 1].val_loss == runs["adamw", 1].val_loss  # nothing moves: the same initial weights
    assert runs["warpadam", 1].train_loss == runs["adamw", 1].train_loss  # and the same batches
    assert runs["adamw", 1].val_loss != runs["adamw", 2].val_loss


@pytest.mark.parametrize("arm", ["warpadam", "adamw"])
def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path, arm: str) -> None:
    run = make_run(tmp_path, arm=arm)
    broken = replace(run, config={**run.config, "lr": 1e30})
    with pytest.raises(DivergedError, match=r"the (training|validation) loss is .* after \d+ of 60 steps"):
        list(train(broken))


@pytest.mark.parametrize(("steps", "points"), [(1, 1), (7, 7), (40, 40), (41, 40), (100, 40)])
def test_a_run_has_at_most_forty_points_and_the_last_is_its_end(tmp_path: Path, steps: int, points: int) -> None:
    reached = [point.step for point in train(make_run(tmp_path, steps=steps))]
    assert len(reached) == points
    assert reached == sorted(set(reached))
    assert reached[-1] == steps


def test_a_batch_is_capped_at_the_training_rows(tmp_path: Path) -> None:
    whole, larger = (without_seconds(list(train(make_run(tmp_path, batch_size=n)))) for n in (106, 10_000))
    assert whole == larger


@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu", "silu"])
def test_the_model_has_an_activation_between_its_layers_and_none_at_its_end(activation: str) -> None:
    model = linear_layers([4, 3, 2], activation)
    assert [type(layer).__name__.lower() for layer in model] == ["linear", activation, "linear"]


def overfitting(tmp_path: Path, **changes: Any) -> Run:
    """Return a run whose validation loss is lowest early: a wide network on few rows."""
    return make_run(tmp_path, "wine", "adamw", **{"steps": 120, "sizes": (13, 256, 256, 3), "model": None} | changes)


def test_the_weights_of_the_best_point_are_tested_instead_of_the_last_ones(tmp_path: Path) -> None:
    best, last = (list(train(overfitting(tmp_path, best_by=by))) for by in ("loss", None))
    losses = [point.val_loss for point in best]
    assert losses == [point.val_loss for point in last]
    chosen = best_index([(loss, loss) for loss in losses])
    assert chosen < len(losses) // 2
    stopped = list(train(overfitting(tmp_path)))[: chosen + 1]  # the same run, whose weights at that point we test
    run = overfitting(tmp_path)
    torch.manual_seed(run.seed)
    state = _State(run)
    while state.step < stopped[-1].step:
        state.train_step()
    expected, _ = state._data.evaluate(state.model, "test")
    assert best[-1].test_loss == expected
    assert last[-1].test_loss != expected


def test_the_best_point_can_be_chosen_by_the_score(tmp_path: Path) -> None:
    wide = {"steps": 120, "sizes": (30, 256, 256, 2), "model": None, "seed": 3}
    run = make_run(tmp_path, "breast_cancer", "adamw", best_by="score", **wide)
    by_score = list(train(run))
    errors = [(1.0 - (point.val_score or 0.0), point.val_loss) for point in by_score]
    by_loss = list(train(replace(run, best_by="loss")))
    assert best_index(errors) != best_index([(point.val_loss, point.val_loss) for point in by_loss])
    assert by_score[-1].test_loss != by_loss[-1].test_loss


def test_a_tested_run_knows_what_always_predicting_the_same_gets_on_its_split(tmp_path: Path) -> None:
    run = make_run(tmp_path, "wine")
    *earlier, last = train(run)
    split = read(run.data)
    counts = np.bincount(split.y_train)
    logs, most = np.log(counts / counts.sum()), counts.argmax()
    expected = [number for y in (split.y_val, split.y_test) for number in (-logs[y].mean(), (y == most).mean())]
    assert last.trivial is not None
    assert list(last.trivial) == pytest.approx(expected)
    assert all(point.trivial is None for point in earlier)
    assert list(train(replace(run, test=False)))[-1].trivial is None
    assert list(train(make_run(tmp_path, "poisson_2d")))[-1].trivial is None


def test_the_trivial_predictor_of_numbers_explains_nothing(tmp_path: Path) -> None:
    for dataset in ("diabetes", "digits"):
        trivial = list(train(make_run(tmp_path, dataset)))[-1].trivial
        assert trivial is not None
        assert trivial.val_loss == pytest.approx(1.0, abs=0.35)  # of targets that are standardised, or pixels
        assert trivial.val_score == pytest.approx(0.0, abs=0.05)
        assert trivial.test_score == pytest.approx(0.0, abs=0.05)


def test_a_run_stops_when_it_has_not_become_better_for_as_long_as_its_patience(tmp_path: Path) -> None:
    whole = list(train(overfitting(tmp_path, best_by="loss")))
    run = overfitting(tmp_path, best_by="loss", training=Training(patience=30))
    short = list(train(run))
    assert len(short) < len(whole)
    best = short[best_index([(point.val_loss, point.val_loss) for point in short])]
    assert short[-1].step - best.step >= 30
    assert short[-2].step - best.step < 30
    assert short[-1].test_loss == whole[-1].test_loss


def test_a_run_that_continues_from_a_checkpoint_tests_the_same_weights(tmp_path: Path) -> None:
    run = overfitting(tmp_path, best_by="loss", checkpoint_url=str(tmp_path / "checkpoints"), checkpoint_every_s=1e-9)
    whole = without_seconds(list(train(replace(run, checkpoint_url=None))))
    points = train(run)
    for _ in range(len(whole) // 2):  # past the best point
        next(points)
    points.close()  # type: ignore[attr-defined]
    assert without_seconds(list(train(run))) == whole
