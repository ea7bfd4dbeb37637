"""Learning P pays off on an ill-conditioned matrix regression.

Plain Adam has its best step size from a grid, and the learners get the same one. Everything is deterministic; the
margins are wide.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from warpadam import WarpAdam

STEPS = 300
LRS = (0.1, 0.3, 1.0, 3.0)
BETAS = (0.9, 0.95)

Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


def _conditioned(size: int, seed: int) -> Tensor:
    """A random rotated matrix with singular values from 1 down to 1/100."""
    generator = torch.Generator().manual_seed(seed)
    left, right = (torch.linalg.qr(torch.randn(size, size, generator=generator))[0] for _ in range(2))
    mixed: Tensor = left @ torch.diag(torch.logspace(0, -2, size)) @ right
    return mixed


LEFT, RIGHT = _conditioned(12, 0), _conditioned(8, 1)


def _train(make: Make, task: int = 2) -> tuple[float, nn.Parameter, torch.optim.Optimizer]:
    """Fit ``LEFT @ weight @ RIGHT`` to the random target of a task; return the last loss and what made it."""
    target = 0.1 * torch.randn(12, 8, generator=torch.Generator().manual_seed(task))
    weight = nn.Parameter(torch.zeros(12, 8))
    optimizer = make([weight])
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, STEPS)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = (LEFT @ weight @ RIGHT - target).square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return loss.item(), weight, optimizer


def _adam(lr: float) -> Make:
    return lambda params: torch.optim.Adam(params, lr=lr, betas=BETAS)


def _warp(lr: float, **settings: Any) -> Make:
    return lambda params: WarpAdam(params, lr, BETAS, **settings)


HYPERGRADIENT: dict[str, Any] = {"placement": "sandwich", "learner": "hypergradient", "p_lr": 0.03, "meta_every": 1}
ROTATION: dict[str, Any] = {"placement": "sandwich", "learner": "rotation", "p_lr": 0.03, "meta_every": 10}


@pytest.fixture(scope="module")
def best_adam() -> tuple[float, float]:
    """The lowest loss of Adam over the grid, and its step size."""
    losses = {lr: _train(_adam(lr))[0] for lr in LRS}
    lr = min(losses, key=losses.__getitem__)
    assert LRS[0] < lr < LRS[-1], "the optimum must lie inside the grid"
    return losses[lr], lr


@pytest.mark.parametrize("p_lr", [0.0, 0.03])
@pytest.mark.parametrize("meta_every", [1, 10])
def test_rotation_beats_adam_at_the_step_size_tuned_for_adam(
    best_adam: tuple[float, float], p_lr: float, meta_every: int
) -> None:
    loss, lr = best_adam
    assert _train(_warp(lr, **{**ROTATION, "p_lr": p_lr, "meta_every": meta_every}))[0] < 0.3 * loss


def test_whitening_beats_adam_both_tuned(best_adam: tuple[float, float]) -> None:
    settings: dict[str, Any] = {"placement": "pre", "learner": "whitening", "p_lr": 0.0, "meta_every": 5}
    assert min(_train(_warp(lr, **settings))[0] for lr in LRS) < 0.3 * best_adam[0]


def test_hypergradient_beats_adam_at_the_step_size_tuned_for_adam(best_adam: tuple[float, float]) -> None:
    loss, lr = best_adam
    assert _train(_warp(lr, **HYPERGRADIENT))[0] < 0.7 * loss


def test_hypergradient_tuned_beats_adam_tuned(best_adam: tuple[float, float]) -> None:
    assert min(_train(_warp(lr, **HYPERGRADIENT))[0] for lr in LRS) < 0.5 * best_adam[0]


def test_the_learned_scale_forgives_a_step_size_that_is_too_small() -> None:
    without, with_scale = (_train(_warp(0.03, **{**ROTATION, "p_lr": p_lr}))[0] for p_lr in (0.0, 0.03))
    assert with_scale < 0.5 * without


@pytest.mark.parametrize("settings", [HYPERGRADIENT, ROTATION], ids=["hypergradient", "rotation"])
def test_a_p_learned_on_one_task_helps_on_the_next(best_adam: tuple[float, float], settings: dict[str, Any]) -> None:
    """The tasks share their conditioning, not their target; P stays frozen on the second."""
    lr = 0.3
    _, weight, teacher = _train(_warp(lr, **settings), task=2)
    assert isinstance(teacher, WarpAdam)

    def make(params: list[nn.Parameter]) -> WarpAdam:
        optimizer = WarpAdam(params, lr, BETAS, placement="sandwich", learner="frozen")
        optimizer.set_distortion(params[0], teacher.get_distortion(weight))
        return optimizer

    adam = min(_train(_adam(lr), task=3)[0] for lr in LRS)
    assert _train(make, task=3)[0] < 0.6 * adam
