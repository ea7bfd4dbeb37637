"""The basis that follows the gradient: against an independent SOAP, and what turns with the basis."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from warpadam import WarpAdam
from warpadam.learners.rotation import RotationRule, refresh, turn_basis
from warpadam.learners.scale import LOG_SCALE
from warpadam.structures import KroneckerDistortion

FLOAT64, CPU = torch.float64, torch.device("cpu")
KRONECKER = KroneckerDistortion((3, 2), row_blocks=1, column_blocks=1)


def _gradients(count: int, shape: tuple[int, ...] = (5, 4), scale: float = 1.0) -> list[Tensor]:
    """Correlated gradients: the same random mixing of rows and columns in all of them."""
    generator = torch.Generator().manual_seed(11)
    mix = [torch.randn(n, n, dtype=FLOAT64, generator=generator) for n in (shape[0], shape[-1])]
    raw = [torch.randn(shape, dtype=FLOAT64, generator=generator) for _ in range(count)]
    return [scale * (mix[0] @ g if len(shape) == 1 else mix[0] @ g @ mix[1]) for g in raw]


def _run(grads: list[Tensor], **settings: Any) -> tuple[Tensor, dict[str, Tensor], WarpAdam]:
    param = torch.nn.Parameter(torch.zeros_like(grads[0]))
    optimizer = WarpAdam(
        [param], 0.1, **{"learner": "rotation", "p_lr": 0.03, "eps": 1e-12, "meta_every": 3, **settings}
    )
    for grad in grads:
        param.grad = grad.clone()
        optimizer.step()
    return param.detach(), optimizer.state[param], optimizer


def _soap(grads: list[Tensor], refreshes: set[int], lr: float = 0.1) -> Tensor:
    """SOAP in column-eigenvector form, written from the paper: basis after some steps, Adam in between.

    It does not leave out the first step, as SOAP does, but makes it with second moments that are at least their mean.
    """
    rows, columns = grads[0].shape
    bases = [torch.eye(rows, dtype=FLOAT64), torch.eye(columns, dtype=FLOAT64)]
    covariances = [torch.zeros_like(basis) for basis in bases]
    theta, mean, square = (torch.zeros_like(grads[0]) for _ in range(3))

    def turn(*, sort: bool = True) -> None:
        nonlocal square
        for axis in (0, 1):
            ridge = 1e-4 * torch.trace(covariances[axis]) / len(covariances[axis])
            held = covariances[axis] + ridge * torch.eye(len(covariances[axis]), dtype=FLOAT64)
            sizes = torch.diag(bases[axis].T @ held @ bases[axis])
            order = torch.argsort(sizes, descending=True) if sort else torch.arange(len(sizes))
            bases[axis] = torch.linalg.qr(held @ bases[axis][:, order])[0]
            square = square[order] if axis == 0 else square[:, order]

    def follow() -> None:
        for axis, vectors in enumerate((grad, grad.T)):
            covariances[axis] = 0.95 * covariances[axis] + 0.05 * vectors @ vectors.T

    for step, grad in enumerate(grads, start=1):
        if step == 1:
            follow()
            for turned in range(5):
                turn(sort=not turned)
        mean = 0.9 * mean + 0.1 * grad
        square = 0.95 * square + 0.05 * (bases[0].T @ grad @ bases[1]) ** 2
        least = square.mean() if step == 1 else torch.zeros(())
        rotated = (bases[0].T @ mean @ bases[1]) / (1 - 0.9**step)
        moved = rotated / ((square.clamp_min(least) / (1 - 0.95**step)).sqrt() + 1e-12)
        theta = theta - lr * bases[0] @ moved @ bases[1].T
        if step > 1:
            follow()
        if step in refreshes:
            turn()
    return theta


def test_without_the_scale_it_is_soap() -> None:
    grads = _gradients(20)
    theta, _, _ = _run(grads, p_lr=0.0, betas=(0.9, 0.95), cov_beta=0.95, meta_every=3)
    torch.testing.assert_close(theta, _soap(grads, {1, 2, 4, 7, 3, 6, 9, 12, 15, 18}), rtol=1e-8, atol=1e-9)


def test_the_basis_matters() -> None:
    grads = _gradients(20)
    assert (_run(grads, p_lr=0.0)[0] - _run(grads, learner="frozen")[0]).abs().max() > 0.1


def test_the_first_step_is_made_in_the_basis_of_its_gradient() -> None:
    (grad,) = _gradients(1)
    theta, state, _ = _run([grad])
    rows, columns = state["row_factor"], state["column_factor"]
    inside, moved = rows @ grad @ columns.mT, rows @ theta @ columns.mT
    share = inside.square().diagonal().sum() / inside.square().sum()
    assert share > 0.999  # the eigenvectors of G G^T and G^T G are the singular vectors of G
    torch.testing.assert_close(moved, -0.1 * inside / inside.abs().maximum(inside.square().mean().sqrt()))


@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_rounding_does_not_decide_about_the_first_step(scale: float) -> None:
    (grad,) = _gradients(1, shape=(12, 9), scale=scale)
    single = _run([grad.float()])[0]
    double = _run([grad])[0]
    torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-4)


def test_a_carried_basis_turns_once_beside_a_new_one() -> None:
    generator = torch.Generator().manual_seed(5)
    carried, new = (torch.nn.Parameter(torch.zeros(5, 4, dtype=FLOAT64)) for _ in range(2))
    optimizer = WarpAdam([carried, new], 0.1, learner="rotation", eps=1e-12, p_lr=0.03, cov_beta=0.9)  # one stack
    (grad,) = _gradients(1)
    given, turned, sides = optimizer.get_distortion(carried), [], (("row", grad), ("column", grad.mT))
    for side, vectors in sides:
        basis = torch.linalg.qr(torch.randn(len(vectors), len(vectors), dtype=FLOAT64, generator=generator))[0]
        covariance = basis.mT @ torch.diag(torch.arange(1.0, len(vectors) + 1, dtype=FLOAT64)) @ basis
        given |= {f"{side}_factor": basis, f"{side}_covariance": covariance}
        held = 0.9 * covariance + 0.1 * vectors @ vectors.mT
        held += 1e-4 * held.trace() / len(held) * torch.eye(len(held), dtype=FLOAT64)
        order = (basis @ held @ basis.mT).diagonal().argsort(descending=True)
        turned.append(torch.linalg.qr((basis @ held)[order].mT)[0].mT)
    optimizer.set_distortion(carried, given)
    carried.grad, new.grad = grad.clone(), grad.clone()
    optimizer.step()
    for (side, _), basis in zip(sides, turned, strict=True):
        torch.testing.assert_close(optimizer.state[carried][f"{side}_factor"], basis)
    rows, columns = turned
    full_steps = rows.mT @ (rows @ grad @ columns.mT).sign() @ columns
    torch.testing.assert_close(carried.detach(), -0.1 * full_steps)
    torch.testing.assert_close(new.detach(), _run([grad])[0])
    assert torch.count_nonzero(optimizer.state[carried]["prev_update"]) == 20
    assert torch.count_nonzero(optimizer.state[new]["prev_update"]) == 0


def test_a_first_gradient_of_zero_leaves_the_basis() -> None:
    theta, state, _ = _run([torch.zeros(5, 4, dtype=FLOAT64)])
    assert torch.equal(theta, torch.zeros_like(theta))
    assert torch.equal(state["row_factor"].abs(), torch.eye(5, dtype=FLOAT64))


def test_the_factors_stay_orthogonal() -> None:
    _, state, _ = _run(_gradients(60), meta_every=1)
    for name, length in (("row_factor", 5), ("column_factor", 4)):
        identity = torch.eye(length, dtype=FLOAT64)
        torch.testing.assert_close(state[name] @ state[name].mT, identity, rtol=1e-12, atol=1e-12)


def test_turning_converges_to_the_eigenvectors_largest_first() -> None:
    generator = torch.Generator().manual_seed(0)
    true = torch.linalg.qr(torch.randn(6, 6, dtype=FLOAT64, generator=generator))[0]
    covariance = true @ torch.diag(torch.tensor([3.0, 81.0, 1.0, 27.0, 9.0, 243.0], dtype=FLOAT64)) @ true.mT
    basis = torch.eye(6, dtype=FLOAT64)
    for _ in range(60):
        basis, _ = turn_basis(basis, covariance)
    expected = torch.tensor([243.0, 81.0, 27.0, 9.0, 3.0, 1.0], dtype=FLOAT64)
    torch.testing.assert_close(basis @ covariance @ basis.mT, torch.diag(expected), rtol=1e-8, atol=1e-6)


def test_turning_is_orthogonal_in_single_precision_whatever_the_spectrum() -> None:
    generator = torch.Generator().manual_seed(0)
    bases = torch.linalg.qr(torch.randn(2, 96, 96, generator=generator))[0]
    spectrum = torch.stack((torch.logspace(0, -12, 96), torch.zeros(96)))
    covariances = bases.mT @ (spectrum[..., None] * bases)
    turned, order = turn_basis(torch.eye(96).expand(2, -1, -1), covariances)
    torch.testing.assert_close(turned @ turned.mT, torch.eye(96).expand(2, -1, -1), rtol=0, atol=3e-6)
    for one, covariance, index in zip(turned, covariances, order, strict=True):
        alone, same = turn_basis(torch.eye(96), covariance)
        assert torch.equal(same, index)
        torch.testing.assert_close(alone, one, rtol=0, atol=1e-5)


def test_turning_reports_where_each_vector_came_from() -> None:
    basis, order = turn_basis(torch.eye(3, dtype=FLOAT64), torch.diag(torch.tensor([1.0, 4.0, 2.0], dtype=FLOAT64)))
    assert order.tolist() == [1, 2, 0]
    torch.testing.assert_close(basis.abs(), torch.eye(3, dtype=FLOAT64)[order])


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e-12])
def test_turning_keeps_the_basis_where_the_gradient_says_nothing(scale: float) -> None:
    generator = torch.Generator().manual_seed(1)
    basis = torch.linalg.qr(torch.randn(4, 4, generator=generator))[0]
    seen = scale * basis[:1].mT @ basis[:1]
    turned, order = turn_basis(basis, seen)
    torch.testing.assert_close((turned @ basis.index_select(0, order).mT).abs(), torch.eye(4), rtol=1e-2, atol=1e-2)


def test_a_refresh_carries_along_what_is_indexed_by_the_basis() -> None:
    state = RotationRule().init_state(KRONECKER, FLOAT64, CPU, learns=True)
    state["exp_avg_sq"] = torch.arange(6.0, dtype=FLOAT64).view(3, 2)
    state["row_covariance"] = torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=FLOAT64))
    state["column_covariance"] = torch.diag(torch.tensor([5.0, 4.0], dtype=FLOAT64))
    state[LOG_SCALE] = torch.arange(5.0, dtype=FLOAT64)
    refresh(KRONECKER, state)
    assert state["exp_avg_sq"].tolist() == [[4, 5], [2, 3], [0, 1]]
    assert state[LOG_SCALE].tolist() == [2, 1, 0, 3, 4]


def test_the_scale_of_the_loss_changes_nothing() -> None:
    one, state, _ = _run(_gradients(20), p_lr=0.05)
    other, scaled_state, _ = _run(_gradients(20, scale=1000.0), p_lr=0.05)
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(state[LOG_SCALE], scaled_state[LOG_SCALE], rtol=1e-6, atol=1e-8)


def test_the_scale_learns_every_step_whatever_the_refresh() -> None:
    grads = _gradients(12)
    for count in range(2, 12):
        _, before, _ = _run(grads[:count], p_lr=0.05, meta_every=100)
        _, after, _ = _run(grads[: count + 1], p_lr=0.05, meta_every=100)
        assert not torch.equal(before[LOG_SCALE], after[LOG_SCALE])


def test_constant_gradients_lengthen_the_steps() -> None:
    _, state, _ = _run(_gradients(1) * 15, p_lr=0.1)
    assert state[LOG_SCALE].max() > 0.5


def test_there_is_no_scale_without_a_meta_step_size() -> None:
    _, state, _ = _run(_gradients(4), p_lr=0.0)
    assert not {LOG_SCALE, "prev_update"} & set(state)


def test_switching_the_meta_step_size_off_forgets_the_last_update() -> None:
    param, optimizer = torch.nn.Parameter(torch.zeros(5, 4)), None
    optimizer = WarpAdam([param], learner="rotation", p_lr=0.1)
    for p_lr in (0.1, 0.0, 0.1):
        optimizer.param_groups[0]["p_lr"] = p_lr
        param.grad = torch.ones(5, 4)
        optimizer.step()
    assert torch.count_nonzero(optimizer.state[param][LOG_SCALE]) == 0


@pytest.mark.parametrize(
    ("shape", "factors", "scales"),
    [
        ((6,), set(), 6),
        ((), set(), 1),
        ((65, 4), {"column_factor", "column_covariance"}, 69),
        ((4, 65), {"row_factor", "row_covariance"}, 69),
        ((4, 5), {"row_factor", "row_covariance", "column_factor", "column_covariance"}, 10),  # columns: two blocks
        ((5, 5), {"row_factor", "row_covariance", "column_factor", "column_covariance"}, 12),  # two blocks of 3
        ((3, 1, 2, 2), {"row_factor", "row_covariance", "column_factor", "column_covariance"}, 7),
    ],
)
def test_an_axis_that_is_not_mixed_keeps_its_coordinates_and_has_a_scale(
    shape: tuple[int, ...], factors: set[str], scales: int
) -> None:
    param = torch.nn.Parameter(torch.ones(shape))
    optimizer = WarpAdam([param], learner="rotation", max_dim=4)
    for _ in range(3):
        param.grad = torch.ones(shape)
        optimizer.step()
    assert set(optimizer.get_distortion(param)) == factors | {LOG_SCALE}
    assert optimizer.state[param][LOG_SCALE].numel() == scales


def test_non_finite_gradients_do_not_reach_the_scale() -> None:
    grads = _gradients(4)
    grads[3][0, 0] = float("nan")
    _, state, optimizer = _run(grads)
    assert state[LOG_SCALE].isfinite().all()
    assert optimizer.skipped_updates == 1
