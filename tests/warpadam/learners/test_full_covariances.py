"""Rotation and whitening of dense blocks, and their scales, against references for the flattened blocks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from warpadam import WarpAdam
from warpadam.learners.roots import DAMPING
from warpadam.learners.scale import LOG_SCALE
from warpadam.learners.whitening import UPDATE_RMS

FLOAT64 = torch.float64
ROTATION: dict[str, Any] = {"structure": "full", "placement": "sandwich", "learner": "rotation"}
WHITENING: dict[str, Any] = {"structure": "full", "placement": "pre", "learner": "whitening"}


def _gradients(count: int, shape: tuple[int, ...] = (3, 4)) -> list[Tensor]:
    """Gradients whose elements are all mixed with each other by one random matrix."""
    generator = torch.Generator().manual_seed(11)
    size = torch.Size(shape).numel()
    mix = torch.randn(size, size, dtype=FLOAT64, generator=generator)
    return [(mix @ torch.randn(size, dtype=FLOAT64, generator=generator)).view(shape) for _ in range(count)]


def _run(grads: list[Tensor], **settings: Any) -> tuple[Tensor, dict[str, Tensor], WarpAdam]:
    param = torch.nn.Parameter(torch.zeros_like(grads[0]))
    optimizer = WarpAdam([param], 0.1, **{"eps": 1e-12, "meta_every": 3, "p_lr": 0.0, **settings})
    for grad in grads:
        param.grad = grad.clone()
        optimizer.step()
    return param.detach(), optimizer.state[param], optimizer


def _rotation_of_one_block(grads: list[Tensor], refreshes: set[int]) -> Tensor:
    """Adam in the eigenbasis of the covariance of a vector, with the raw momentum projected again at every step."""
    length = grads[0].numel()
    basis, covariance = torch.eye(length, dtype=FLOAT64), torch.zeros(length, length, dtype=FLOAT64)
    theta, mean, square = (torch.zeros(length, dtype=FLOAT64) for _ in range(3))

    def held() -> Tensor:
        return covariance + 1e-4 * torch.trace(covariance) / length * torch.eye(length, dtype=FLOAT64)

    for step, grad in enumerate((grad.reshape(-1) for grad in grads), start=1):
        if step == 1:
            covariance = 0.05 * torch.outer(grad, grad)
            basis = torch.linalg.qr(held()[:, torch.argsort(torch.diag(held()), descending=True)])[0]
            for _ in range(4):
                basis = torch.linalg.qr(held() @ basis)[0]
        mean = 0.9 * mean + 0.1 * grad
        square = 0.95 * square + 0.05 * (basis.T @ grad) ** 2
        least = square.mean() if step == 1 else torch.zeros(())
        moved = basis.T @ mean / (1 - 0.9**step) / ((square.clamp_min(least) / (1 - 0.95**step)).sqrt() + 1e-12)
        theta = theta - 0.1 * basis @ moved
        if step > 1:
            covariance = 0.95 * covariance + 0.05 * torch.outer(grad, grad)
        if step in refreshes:
            order = torch.argsort(torch.diag(basis.T @ held() @ basis), descending=True)
            basis, square = torch.linalg.qr(held() @ basis[:, order])[0], square[order]
    return theta


def _whitening_of_one_block(grads: list[Tensor], refreshes: set[int]) -> Tensor:
    length = grads[0].numel()
    factor, covariance = torch.eye(length, dtype=FLOAT64), torch.zeros(length, length, dtype=FLOAT64)
    theta, mean, square = torch.zeros(length, dtype=FLOAT64), torch.zeros(length, dtype=FLOAT64), torch.zeros(())
    for step, grad in enumerate((grad.reshape(-1) for grad in grads), start=1):
        covariance = 0.95 * covariance + 0.05 * torch.outer(grad, grad)
        if step in refreshes:
            norm = torch.linalg.eigvalsh(covariance).pow(4).sum() ** 0.25
            damped = covariance / norm + DAMPING * torch.eye(length, dtype=FLOAT64)
            left, values, right = torch.linalg.svd(damped)
            factor = left @ torch.diag(values**-0.5) @ right
        mean = 0.9 * mean + 0.1 * grad
        warped = factor @ (0.9 * mean / (1 - 0.9**step) + 0.1 * grad)
        square = 0.95 * square + 0.05 * warped.square().mean()  # a block is one row
        update = warped / ((square / (1 - 0.95**step)).sqrt() + 1e-12)
        theta = theta - 0.1 * UPDATE_RMS * update / update.square().mean().sqrt()
    return theta


@pytest.mark.parametrize("shape", [(3, 4), (12, 1), (2, 3, 1, 2)], ids=str)
def test_one_block_is_the_rule_written_out(shape: tuple[int, ...]) -> None:
    grads = _gradients(20, shape)
    rotated, whitened = (_run(grads, **kind, cov_beta=0.95)[0].reshape(-1) for kind in (ROTATION, WHITENING))
    expected = _rotation_of_one_block(grads, {1, 2, 4, 7, 3, 6, 9, 12, 15, 18})
    torch.testing.assert_close(rotated, expected, rtol=1e-7, atol=1e-8)
    expected = _whitening_of_one_block(grads, {2, 4, 7, 3, 6, 9, 12, 15, 18})
    torch.testing.assert_close(whitened, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("p_lr", [0.0, 0.05])
def test_each_block_rotates_by_itself(p_lr: float) -> None:
    grads = _gradients(15, (8,))
    whole, state, _ = _run(grads, **ROTATION, block_size=4, p_lr=p_lr)
    halves = [_run([grad[half] for grad in grads], **ROTATION, p_lr=p_lr)[0] for half in (slice(4), slice(4, 8))]
    torch.testing.assert_close(whole, torch.cat(halves), rtol=1e-9, atol=1e-11)
    assert state["blocks"].shape == (2, 4, 4)


def test_the_bases_stay_orthogonal_and_the_padding_stays_out() -> None:
    _, state, _ = _run(_gradients(40, (10,)), **ROTATION, block_size=4, meta_every=1, p_lr=0.05)
    identity = torch.eye(4, dtype=FLOAT64).expand(3, 4, 4)
    torch.testing.assert_close(state["blocks"] @ state["blocks"].mT, identity, rtol=1e-12, atol=1e-12)
    assert torch.count_nonzero(state["block_covariances"][2, 2:]) == 0
    assert torch.count_nonzero(state["block_covariances"][2, :2]) == 4


@pytest.mark.parametrize("size", [12, 10])
def test_a_whitened_update_has_its_size_whatever_the_padding(size: int) -> None:
    param = torch.nn.Parameter(torch.zeros(size, 1, dtype=FLOAT64))
    optimizer = WarpAdam([param], 1.0, **WHITENING, p_lr=0.0, block_size=4)
    for grad in _gradients(9, (size, 1)):
        before, param.grad = param.detach().clone(), grad
        optimizer.step()
        assert (param.detach() - before).square().mean().sqrt().item() == pytest.approx(UPDATE_RMS)


def test_the_scale_is_per_element_in_the_eigenbasis_or_one_for_the_tensor() -> None:
    grads = _gradients(12, (10, 1))
    assert _run(grads, **ROTATION, block_size=4, p_lr=0.05)[1][LOG_SCALE].shape == (3, 4)
    assert _run(grads, **WHITENING, block_size=4, p_lr=0.05)[1][LOG_SCALE].shape == (1,)


@pytest.mark.parametrize("kind", [ROTATION, WHITENING], ids=["rotation", "whitening"])
def test_the_scale_of_the_loss_changes_nothing(kind: dict[str, Any]) -> None:
    grads = _gradients(20)
    one, other = _run(grads, **kind, p_lr=0.05)[0], _run([1000 * grad for grad in grads], **kind, p_lr=0.05)[0]
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_covariance_that_is_not_finite_keeps_p_and_is_counted(bad: float) -> None:
    grads = _gradients(12, (10, 1))
    kept = _run(grads[:10], **WHITENING, block_size=4, meta_every=100)[1]["blocks"]
    grads[9][0] = bad
    _, state, optimizer = _run(grads, **WHITENING, block_size=4, meta_every=10)
    assert torch.equal(state["blocks"], kept)
    assert optimizer.skipped_updates == 1
