"""When the factors learn, from which gradients, and the pitfalls of learning them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from warpadam import Placement, Structure, WarpAdam
from warpadam.adam import Moments
from warpadam.learners.normalised import META_BETAS
from warpadam.placements import PlacedDistortion, meta_gradient
from warpadam.structures import make_distortion

FLOAT64 = torch.float64


def _gradients(count: int, shape: tuple[int, ...] = (4, 3), scale: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [scale * torch.randn(shape, dtype=FLOAT64, generator=generator) for _ in range(count)]


def _run(grads: list[Tensor], **settings: Any) -> tuple[Tensor, WarpAdam, list[dict[str, Tensor]]]:
    """Feed the gradients; return the parameter, the optimizer and P after each step."""
    param = torch.nn.Parameter(torch.zeros_like(grads[0]))
    defaults: dict[str, Any] = {"placement": "sandwich", "learner": "hypergradient", "p_lr": 0.01, "meta_every": 1}
    defaults |= {"rank": 2, "eps": 1e-12}
    optimizer = WarpAdam([param], 0.1, **{**defaults, **settings})
    history = []
    for grad in grads:
        param.grad = grad.clone()
        optimizer.step()
        history.append(optimizer.get_distortion(param))
    return param.detach(), optimizer, history


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("placement", Placement)
@pytest.mark.parametrize("structure", Structure)
def test_the_first_update_follows_the_closed_form_meta_gradient(structure: str, placement: str) -> None:
    grads = _gradients(3)
    param, optimizer, history = _run(grads[:2], structure=structure, placement=placement)
    state = optimizer.state[optimizer.param_groups[0]["params"][0]]
    distortion = make_distortion(structure, tuple(param.shape), rank=2, block_size=256, max_dim=1024)
    exp_avg, exp_avg_sq = (distortion.to_layout(state[name]) for name in ("exp_avg", "exp_avg_sq"))
    moments = Moments(exp_avg, exp_avg_sq, 2, 0.9, 0.95, 1e-12)
    layouts = [distortion.to_layout(grad) for grad in grads]
    expected = meta_gradient(PlacedDistortion(placement, distortion, history[-1]), moments, layouts[1], layouts[2])
    _, optimizer, _ = _run(grads, structure=structure, placement=placement)
    state = optimizer.state[optimizer.param_groups[0]["params"][0]]
    for name, gradient in expected.items():
        torch.testing.assert_close(state[f"{name}_exp_avg"], (1 - META_BETAS[0]) * gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("meta_every", "changes"), [(1, [3, 4, 5, 6, 7, 8]), (2, [3, 5, 7]), (3, [4, 7])])
def test_p_changes_only_after_steps_that_are_judged(meta_every: int, changes: list[int]) -> None:
    _, _, history = _run(_gradients(8), meta_every=meta_every)
    changed = [step for step in range(2, 9) if not _same(history[step - 2], history[step - 1])]
    assert changed == changes


def test_the_gradient_is_kept_at_the_steps_that_are_judged() -> None:
    grads = _gradients(7)
    for count, kept in ((2, 0), (3, 3), (4, 3), (5, 3), (6, 6), (7, 6)):
        _, optimizer, _ = _run(grads[:count], meta_every=3)
        (state,) = optimizer.state.values()
        assert state["prev_step"] == kept
        if kept:
            assert torch.equal(state["prev_grad"], grads[kept - 1])


@pytest.mark.parametrize("structure", Structure)
def test_without_a_meta_step_size_p_stays_the_identity(structure: str) -> None:
    _, _, history = _run(_gradients(6), structure=structure, p_lr=0.0)
    assert _same(history[0], history[-1])


@pytest.mark.parametrize("placement", Placement)
@pytest.mark.parametrize("structure", Structure)
def test_the_scale_of_the_loss_does_not_change_p(structure: str, placement: str) -> None:
    one = _run(_gradients(12), structure=structure, placement=placement)[2][-1]
    other = _run(_gradients(12, scale=1000.0), structure=structure, placement=placement)[2][-1]
    for name, factor in one.items():
        torch.testing.assert_close(factor, other[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e300])
def test_a_non_finite_meta_gradient_is_skipped_and_counted(bad: float) -> None:
    grads = _gradients(4)
    grads[3][1, 1] = bad
    _, optimizer, history = _run(grads)
    assert optimizer.skipped_updates == 1
    assert _same(history[2], history[3])


def test_a_clean_run_skips_nothing() -> None:
    assert _run(_gradients(4))[1].skipped_updates == 0


def test_low_rank_leaves_its_zero_factor() -> None:
    _, _, history = _run(_gradients(8), structure="low_rank")
    assert torch.count_nonzero(history[1]["left"]) == 0
    assert torch.count_nonzero(history[-1]["left"]) == 8
    assert not torch.equal(history[-1]["right"], history[0]["right"])


def test_kronecker_factors_stay_balanced() -> None:
    _, _, history = _run(_gradients(40), structure="kronecker", p_lr=0.1)
    row, column = history[-1]["row_factor"], history[-1]["column_factor"]
    assert not torch.equal(row, history[0]["row_factor"])
    torch.testing.assert_close(row.norm() / 4**0.5, column.norm() / 3**0.5)


@pytest.mark.parametrize("structure", Structure)
def test_full_decay_keeps_p_at_the_identity(structure: str) -> None:
    param, _, _ = _run(_gradients(8), structure=structure, p_decay=1.0)
    plain, _, _ = _run(_gradients(8), structure=structure, learner="frozen")
    torch.testing.assert_close(param, plain, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("placement", Placement)
def test_an_input_that_revives_does_not_blow_p_up(placement: str) -> None:
    grads = _gradients(12)
    for grad in grads[:8]:
        grad[2] = 0.0
    _, _, history = _run(grads, placement=placement, eps=1e-8)
    largest = max(factor.abs().max().item() for factor in history[-1].values())
    assert largest < 1 + 0.011 * 12


def test_a_diagonal_before_the_moments_hardly_matters() -> None:
    """The negative control: learning moves d, and the trajectory stays Adam's but for the pulse while d moves."""
    learned, _, history = _run(_gradients(50), structure="diagonal", placement="pre")
    plain, _, _ = _run(_gradients(50), structure="diagonal", placement="pre", learner="frozen")
    assert (history[-1]["diagonal"] - 1).abs().max() > 0.05
    assert (learned - plain).norm() < 0.05 * plain.norm()
