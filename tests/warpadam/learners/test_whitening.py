"""The P that whitens: against an independent float64 reference, its size, its schedule, and bad numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from warpadam import Learner, Placement, Strategy, Structure, WarpAdam
from warpadam.learners.roots import DAMPING
from warpadam.learners.scale import LOG_SCALE, MAX_LOG_SCALE
from warpadam.learners.whitening import UPDATE_RMS

FLOAT64 = torch.float64
WHITENING = Strategy(Structure.KRONECKER, Placement.PRE, Learner.WHITENING)


def _gradients(count: int, scale: float = 1.0, dtype: torch.dtype = FLOAT64) -> list[Tensor]:
    """Correlated gradients, 5 x 4: the same random mixing of rows and columns in all of them."""
    generator = torch.Generator().manual_seed(11)
    mix = [torch.randn(n, n, dtype=FLOAT64, generator=generator) for n in (5, 4)]
    raw = [torch.randn(5, 4, dtype=FLOAT64, generator=generator) for _ in range(count)]
    return [(scale * mix[0] @ grad @ mix[1]).to(dtype) for grad in raw]


def _run(grads: list[Tensor], **settings: Any) -> tuple[Tensor, dict[str, Tensor], WarpAdam]:
    param = torch.nn.Parameter(torch.zeros_like(grads[0]))
    optimizer = WarpAdam(
        [param], 0.1, **WHITENING._asdict(), **{"p_lr": 0.0, "meta_every": 5, "eps": 1e-12, **settings}
    )
    for grad in grads:
        param.grad = grad.clone()
        optimizer.step()
    return param.detach(), optimizer.state[param], optimizer


def _power(matrix: Tensor, power: float) -> Tensor:
    """A matrix power by the general eigensolver, another routine than the one under test."""
    values, vectors = torch.linalg.eig(matrix)
    powered: Tensor = (vectors @ torch.diag(values**power) @ torch.linalg.inv(vectors)).real
    return powered


def _inverse_root(covariance: Tensor) -> Tensor:
    norm = torch.linalg.svdvals(covariance).pow(4).sum() ** 0.25
    return _power(covariance / norm + DAMPING * torch.eye(len(covariance), dtype=FLOAT64), -0.5)


def _reference(grads: list[Tensor], refreshes: set[int]) -> Tensor:
    """The rule written out in float64: covariances, damped inverse roots, nesterov, second moment of rows, size."""
    rows, columns = grads[0].shape
    left, right = torch.zeros(rows, rows, dtype=FLOAT64), torch.zeros(columns, columns, dtype=FLOAT64)
    row, column = torch.eye(rows, dtype=FLOAT64), torch.eye(columns, dtype=FLOAT64)
    theta, mean = torch.zeros_like(grads[0]), torch.zeros_like(grads[0])
    square = torch.zeros(rows, 1, dtype=FLOAT64)
    for step, grad in enumerate(grads, start=1):
        left, right = 0.95 * left + 0.05 * grad @ grad.T, 0.95 * right + 0.05 * grad.T @ grad
        if step in refreshes:
            row, column = _inverse_root(left), _inverse_root(right)
        mean = 0.9 * mean + 0.1 * grad
        warped = row @ (0.9 * mean / (1 - 0.9**step) + 0.1 * grad) @ column
        square = 0.95 * square + 0.05 * warped.square().mean(1, keepdim=True)
        update = warped / ((square / (1 - 0.95**step)).sqrt() + 1e-12)
        theta = theta - 0.1 * UPDATE_RMS * update / update.square().mean().sqrt()
    return theta


@pytest.mark.parametrize(("meta_every", "refreshes"), [(5, {2, 4, 7, 5, 10, 15, 20}), (100, {2, 4, 7})])
def test_it_is_the_rule_written_out(meta_every: int, refreshes: set[int]) -> None:
    grads = _gradients(20)
    theta, _, _ = _run(grads, meta_every=meta_every)
    torch.testing.assert_close(theta, _reference(grads, refreshes), rtol=1e-7, atol=1e-8)


def test_in_float32_it_stays_near_the_rule_in_float64() -> None:
    theta, _, _ = _run(_gradients(20, dtype=torch.float32))
    expected = _reference(_gradients(20), {2, 4, 7, 5, 10, 15, 20})
    assert (theta - expected).norm() < 1e-2 * expected.norm()


def test_p_changes_at_the_refreshes_only() -> None:
    grads = _gradients(22)
    history = [_run(grads[:count], meta_every=10)[1]["row_factor"] for count in range(1, 23)]
    assert torch.equal(history[0], torch.eye(5, dtype=FLOAT64))
    changed = [step for step in range(2, 23) if not torch.equal(history[step - 2], history[step - 1])]
    assert changed == [2, 4, 7, 10, 20]


def test_p_is_symmetric_and_positive() -> None:
    _, state, _ = _run(_gradients(30, dtype=torch.float32))
    for name in ("row_factor", "column_factor"):
        torch.testing.assert_close(state[name], state[name].mT, rtol=1e-4, atol=1e-4)
        values = torch.linalg.eigvalsh(state[name].double())
        assert values.min() > 0.9
        assert values.max() <= DAMPING**-0.5 * 1.01


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_every_update_of_a_matrix_has_the_same_size(scale: float) -> None:
    param = torch.nn.Parameter(torch.zeros(5, 4, dtype=FLOAT64))
    optimizer = WarpAdam([param], 1.0, **WHITENING._asdict(), p_lr=0.0)
    for grad in _gradients(12, scale):
        before, param.grad = param.detach().clone(), grad
        optimizer.step()
        assert (param.detach() - before).square().mean().sqrt().item() == pytest.approx(UPDATE_RMS)


@pytest.mark.parametrize("structure", ["kronecker", "full"])
def test_matrices_of_every_width_are_updated_in_one_size(structure: str) -> None:
    """Also where both axes are over max_dim: with updates of another size the loss jumps at that width."""
    shapes = [(8, 8), (9, 9), (8, 9), (20, 11), (200, 9), (9, 200), (200, 300), (3, 40, 2)]
    params = [nn.Parameter(torch.zeros(shape, dtype=FLOAT64)) for shape in shapes]
    optimizer = WarpAdam(params, 1.0, structure=structure, learner="whitening", max_dim=8, block_size=16, p_lr=0.0)
    for seed in range(6):
        before = [param.detach().clone() for param in params]
        for param in params:
            generator = torch.Generator().manual_seed(seed)
            param.grad = torch.randn(param.shape, dtype=FLOAT64, generator=generator)
        optimizer.step()
        for param, start in zip(params, before, strict=True):
            assert (param.detach() - start).square().mean().sqrt().item() == pytest.approx(UPDATE_RMS)


def test_the_scale_of_the_loss_changes_nothing() -> None:
    one, other = _run(_gradients(20), p_lr=0.05)[0], _run(_gradients(20, 1000.0), p_lr=0.05)[0]
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("shape", [(6,), (), (0, 9)])
def test_where_there_is_nothing_to_mix_it_is_adam(shape: tuple[int, ...]) -> None:
    ours, theirs = (torch.nn.Parameter(torch.zeros(shape, dtype=FLOAT64)) for _ in range(2))
    warp = WarpAdam([ours], 0.1, (0.9, 0.95), **WHITENING._asdict(), max_dim=8, p_lr=0.1)
    adam = torch.optim.Adam([theirs], 0.1, (0.9, 0.95))
    for seed in range(8):
        ours.grad = torch.randn(shape, dtype=FLOAT64, generator=torch.Generator().manual_seed(seed))
        theirs.grad = ours.grad.clone()
        warp.step()
        adam.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(5, 129), (129, 5)])
def test_an_axis_that_is_too_long_is_left_alone(shape: tuple[int, int]) -> None:
    param = torch.nn.Parameter(torch.zeros(shape))
    optimizer = WarpAdam([param], 0.1, **WHITENING._asdict(), max_dim=8, p_lr=0.0)
    for seed in range(4):
        param.grad = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        optimizer.step()
    side = "row" if shape[0] < shape[1] else "column"
    assert set(optimizer.get_distortion(param)) == {f"{side}_factor", f"{side}_covariance"}


@pytest.mark.parametrize("p_lr", [0.0, 0.05])
def test_zero_gradients_move_nothing_and_leave_p_alone(p_lr: float) -> None:
    theta, state, optimizer = _run([torch.zeros(5, 4)] * 12, p_lr=p_lr)
    assert torch.count_nonzero(theta) == 0
    assert torch.equal(state["row_factor"], torch.eye(5))
    assert optimizer.skipped_updates == 0


def test_gradients_of_rank_one_are_no_trouble() -> None:
    grads = [torch.ones(5, 4) * (seed + 1) for seed in range(12)]
    theta, state, _ = _run(grads)
    assert theta.isfinite().all()
    assert state["row_factor"].isfinite().all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_covariance_that_is_not_finite_keeps_p_is_counted_and_starts_again(bad: float) -> None:
    grads = _gradients(12, dtype=torch.float32)
    kept = _run(grads[:10])[1]["row_factor"]
    grads[10][0, 0] = bad
    _, state, optimizer = _run(grads[:11] + grads[:4])  # to the refresh after 15 steps
    assert torch.equal(state["row_factor"], kept)
    assert optimizer.skipped_updates == 1
    _, state, optimizer = _run(grads[:11] + grads[:9])  # to the next one
    assert not torch.equal(state["row_factor"], kept)
    assert state["row_factor"].isfinite().all()
    assert optimizer.skipped_updates == 1


def test_a_learned_scale_is_one_number_within_its_trust_range() -> None:
    _, state, _ = _run(_gradients(1) * 60, p_lr=0.3)
    assert state[LOG_SCALE].shape == (1,)
    assert state[LOG_SCALE].item() == MAX_LOG_SCALE
    assert LOG_SCALE not in _run(_gradients(4))[1]


def test_the_scale_learns_from_the_update_and_the_next_gradient() -> None:
    grads = _gradients(1)
    _, state, _ = _run([grads[0], grads[0]], p_lr=0.01)
    assert state[LOG_SCALE].item() == pytest.approx(0.01)
    _, state, _ = _run([grads[0], -grads[0]], p_lr=0.01)
    assert state[LOG_SCALE].item() == pytest.approx(-0.01)


def test_a_p_that_was_given_is_continued_from() -> None:
    _, _, teacher = _run(_gradients(12), p_lr=0.05)
    (source,) = teacher.param_groups[0]["params"]
    given = teacher.get_distortion(source)
    param = torch.nn.Parameter(torch.zeros(5, 4, dtype=FLOAT64))
    optimizer = WarpAdam([param], 0.1, **WHITENING._asdict())
    optimizer.set_distortion(param, given)
    param.grad = _gradients(1)[0]
    optimizer.step()
    assert torch.equal(optimizer.get_distortion(param)["row_factor"], given["row_factor"])


@pytest.mark.parametrize("seed", range(3))
def test_an_embedding_with_tokens_that_no_batch_had_stays_finite(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    table = nn.Parameter(torch.randn(256, 16, generator=generator))
    optimizer = WarpAdam([table], lr=0.03, learner="whitening", meta_every=1)
    for _ in range(10):
        table.grad = torch.zeros_like(table)
        table.grad[torch.randint(40, (32,), generator=generator)] = torch.randn(32, 16, generator=generator)
        optimizer.step()
        assert table.isfinite().all()


@pytest.mark.parametrize("eps", [0.0, 1e-16, 1e-12, 1e-8])
def test_no_gradient_is_too_small_for_the_size_of_the_update(eps: float) -> None:
    param, generator = nn.Parameter(torch.zeros(8, 8)), torch.Generator().manual_seed(0)
    optimizer = WarpAdam([param], lr=1.0, learner="whitening", eps=eps)
    for step in range(1200):  # down to 1e-26
        before = param.detach().clone()
        param.grad = torch.randn(8, 8, generator=generator) * 0.95**step
        optimizer.step()
        assert (param - before).abs().max() <= UPDATE_RMS * 8
