# The options of a training: the lr of every step, what is clipped, what is smoothed and weighted, and in which type.
from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional
from torch.optim.optimizer import register_optimizer_step_pre_hook

from service.spec.job import TrainingSpec
from service.training.loop import train
from service.training.networks import build_network
from service.training.run import Run, Training
from service.training.step import TrainingStep, lr_factor, training_loss
from tests.service.training.test_loop import make_run, without_seconds


def gradients(run: Run) -> list[float]:
    """Return the norm of the whole gradient as the optimizer sees it, step by step."""
    norms: list[float] = []

    def note(optimizer: torch.optim.Optimizer, *_: object) -> None:
        grads = [param.grad for group in optimizer.param_groups for param in group["params"]]
        norms.append(torch.nn.utils.get_total_norm([grad for grad in grads if grad is not None]).item())

    hook = register_optimizer_step_pre_hook(note)
    try:
        list(train(run))
    finally:
        hook.remove()
    return norms


def test_a_run_has_every_option_of_a_spec_with_the_same_default() -> None:
    assert asdict(Training()) == TrainingSpec().model_dump()


@pytest.mark.parametrize(
    ("training", "factors"),
    [
        (Training(schedule="linear"), [1.0, 0.75, 0.5, 0.25]),
        (Training(schedule="constant"), [1.0, 1.0, 1.0, 1.0]),
        (Training(schedule="cosine"), [1.0, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125)]),
        (Training(schedule="linear", warmup_steps=2), [0.0, 0.5, 1.0, 0.5]),
        (Training(schedule="constant", warmup_steps=3), [0.0, 1 / 3, 2 / 3, 1.0]),
        (Training(schedule="cosine", warmup_steps=2), [0.0, 0.5, 1.0, 0.5]),
    ],
)
def test_the_schedule_sets_the_lr_of_every_step(tmp_path: Path, training: Training, factors: list[float]) -> None:
    seen: list[float] = []
    hook = register_optimizer_step_pre_hook(lambda optimizer, *_: seen.append(optimizer.param_groups[0]["lr"]))
    try:
        run = make_run(tmp_path, training=training, steps=4)
        list(train(run))
    finally:
        hook.remove()
    assert seen == pytest.approx([run.config["lr"] * factor for factor in factors])


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_schedule_would_be_at_zero_in_the_step_after_the_last(schedule: Any) -> None:
    assert lr_factor(Training(schedule=schedule, warmup_steps=3), 10, 10) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("arm", ["warpadam", "adamw"])
def test_gradients_are_clipped_before_the_optimizer_sees_them(tmp_path: Path, arm: str) -> None:
    free = gradients(make_run(tmp_path, arm=arm, steps=20))
    limit = sorted(free)[10]
    clipped = gradients(make_run(tmp_path, arm=arm, steps=20, training=Training(max_grad_norm=limit)))
    assert clipped[0] == pytest.approx(min(free[0], limit), rel=1e-4)
    assert max(clipped) <= limit * 1.0001
    assert max(free) > limit * 1.1


def test_class_weights_are_those_of_scikit_learn_and_smoothing_is_torchs() -> None:
    y = torch.tensor([0] * 6 + [1] * 3 + [2])
    output = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    weights = torch.tensor(compute_class_weight("balanced", classes=np.arange(3), y=y.numpy()), dtype=torch.float32)
    training = Training(class_weights="balanced", label_smoothing=0.2)
    expected = functional.cross_entropy(output, y, weight=weights, label_smoothing=0.2)
    assert training_loss(functional.cross_entropy, training, y, 3, "cpu")(output, y) == pytest.approx(expected.item())
    plain = training_loss(functional.cross_entropy, Training(), y, 3, "cpu")(output, y)
    assert plain == functional.cross_entropy(output, y)


FROZEN: dict[str, Any] = {"lr": 0.0, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0}


@pytest.mark.parametrize(
    "training", [Training(label_smoothing=0.3), Training(class_weights="balanced"), Training(precision="bfloat16")]
)
def test_the_losses_of_validation_and_test_are_the_plain_ones(tmp_path: Path, training: Training) -> None:
    runs = [
        make_run(tmp_path, arm="adamw", config=FROZEN, steps=3, training=chosen) for chosen in (Training(), training)
    ]
    plain, changed = ([point._asdict() for point in without_seconds(list(train(run)))] for run in runs)
    assert [point.pop("train_loss") for point in plain] != [point.pop("train_loss") for point in changed]
    assert plain == changed  # nothing moves, so they are of the same weights


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("arm", ["warpadam", "adamw"])
def test_a_lower_precision_ends_near_float32(tmp_path: Path, arm: str, precision: Any) -> None:
    losses = [
        list(train(make_run(tmp_path, arm=arm, training=Training(precision=chosen))))[-1].val_loss
        for chosen in ("float32", precision)
    ]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], abs=0.05)


def test_a_step_whose_gradient_overflows_float16_is_left_out_and_the_run_goes_on() -> None:
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    step = TrainingStep(model, optimizer, functional.mse_loss, Training(precision="float16"), 8, "cpu")
    x, y = torch.ones(4, 2), torch.full((4, 1), 20.0)
    before = model.weight.detach().clone()
    losses = [step(x, y).item()]
    assert torch.equal(model.weight, before)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 * 7 / 8)
    losses += [step(x, y).item() for _ in range(7)]
    assert losses[-1] < losses[0]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning")
@pytest.mark.parametrize("arm", ["warpadam", "adamw"])
def test_a_compiled_model_trains_alike(tmp_path: Path, arm: str) -> None:
    training = [Training(last_batch="keep", compile=compile_it) for compile_it in (False, True)]
    eager, compiled = (list(train(make_run(tmp_path, arm=arm, training=chosen))) for chosen in training)
    for one, other in zip(eager, compiled, strict=True):
        assert other.val_loss == pytest.approx(one.val_loss, rel=1e-3)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore")  # torch's own, while it compiles
@pytest.mark.parametrize("width", [4, 16])
def test_a_compiled_resnet_trains_alike_however_narrow(width: int) -> None:
    spec = {"name": "resnet", "width": width, "blocks": 1, "activation": "relu"}
    x = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
    y = torch.arange(32) % 10
    losses = []
    for compile_it in (False, True):
        torch.manual_seed(0)
        model = build_network(spec, (1, 8, 8), (64, 10), "relu")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        step = TrainingStep(model, optimizer, functional.cross_entropy, Training(compile=compile_it), 20, "cpu")
        losses.append([step(x, y).item() for _ in range(20)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)
    assert losses[1][-1] < 0.7 * losses[1][0]
