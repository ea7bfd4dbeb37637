"""Inverse roots of covariances: both ways against float64, at every size, spectrum and number of matrices."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from warpadam.learners import roots
from warpadam.learners.roots import DAMPING, inverse_root, root_by_eigenvectors, root_by_products

FLOAT64 = torch.float64

BACKENDS = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]

SPECTRA: dict[str, Callable[[int], Tensor]] = {
    "flat": lambda length: torch.ones(length, dtype=FLOAT64),
    "falling to 1e-3": lambda length: torch.logspace(0, -3, length, dtype=FLOAT64),
    "falling to 1e-7": lambda length: torch.logspace(0, -7, length, dtype=FLOAT64),
    "one direction": lambda length: torch.eye(length, dtype=FLOAT64)[0],
    "half of the directions": lambda length: (torch.arange(length) < (length + 1) // 2).to(FLOAT64),
}


def _covariances(count: int, length: int, spectrum: str) -> Tensor:
    draw = torch.Generator().manual_seed(length)
    basis = torch.linalg.qr(torch.randn(count, length, length, dtype=FLOAT64, generator=draw))[0]
    covariances: Tensor = (basis * SPECTRA[spectrum](length)) @ basis.mT
    return covariances


def _expected(covariance: Tensor) -> Tensor:
    """Return the roots by singular values in float64."""
    left, values, _ = torch.linalg.svd(covariance.double())
    norm = values.pow(4).sum(-1, keepdim=True) ** 0.25
    expected: Tensor = (left * (values / norm + DAMPING).pow(-0.5).unsqueeze(-2)) @ left.mT
    return expected


def _worst(found: Tensor, expected: Tensor) -> float:
    """Return the largest error in any direction, over what the root does to that direction."""
    basis, values, _ = torch.linalg.svd(expected)
    inverse = (basis / values.sqrt().unsqueeze(-2)) @ basis.mT
    return float(torch.linalg.matrix_norm(inverse @ (found.double() - expected) @ inverse, 2).max())


def test_the_polynomials_bring_every_singular_value_near_1() -> None:
    values = torch.logspace(torch.log10(torch.tensor(DAMPING)).item() / 2, 0, 20_000, dtype=FLOAT64)
    for a, b, c in roots._QUINTICS:
        values = a * values + b * values**3 + c * values**5
    assert (values - 1).abs().max() < 0.0041


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize(("count", "length"), [(1, 1), (3, 2), (1, 7), (5, 16), (2, 48), (1, 96)])
@pytest.mark.parametrize("root", [root_by_products, root_by_eigenvectors])
def test_both_ways_give_the_same_root(root: Callable[[Tensor], Tensor], count: int, length: int, spectrum: str) -> None:
    covariance = _covariances(count, length, spectrum).float()
    found = root(covariance / covariance.diagonal(dim1=-2, dim2=-1).amax(-1)[:, None, None])
    assert _worst(found, _expected(_covariances(count, length, spectrum))) < 0.05
    torch.testing.assert_close(found, found.mT, rtol=0, atol=1e-3 * found.abs().max().item())


@pytest.mark.parametrize("dtype", [torch.float32, FLOAT64])
@pytest.mark.parametrize("size", [1e-30, 1e-12, 1.0, 1e12])
@pytest.mark.parametrize("count", [1, 40])
def test_the_size_of_a_covariance_does_not_matter(count: int, size: float, dtype: torch.dtype) -> None:
    covariance = _covariances(count, 6, "falling to 1e-3")
    tolerance = 1e-9 if dtype == FLOAT64 else 1e-2
    assert _worst(inverse_root((size * covariance).to(dtype)), _expected(covariance)) < tolerance


def test_the_faster_way_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Tensor) -> Tensor:
        raise AssertionError

    few, many = torch.eye(16).expand(2, 16, 16), torch.eye(16).expand(20, 16, 16)
    monkeypatch.setattr(roots, "root_by_products", refuse)
    for by_eigenvectors in (few, many.double(), torch.eye(100).expand(20, 100, 100)):
        inverse_root(by_eigenvectors)
    with pytest.raises(AssertionError):
        inverse_root(many)
    with pytest.raises(AssertionError):  # any other device than the CPU
        inverse_root(few.to("meta"))


def test_products_read_no_value_on_the_host() -> None:
    """On the device ``meta`` there are no values that could be read."""
    assert root_by_products(torch.empty(3, 5, 5, device="meta")).shape == (3, 5, 5)


def test_a_covariance_that_is_not_finite_or_zero_makes_no_root_of_its_neighbours_wrong() -> None:
    covariance = _covariances(4, 40, "falling to 1e-3").float()
    covariance[1] = torch.nan
    covariance[2] = 0
    found = inverse_root(covariance)
    assert not found[1].isfinite().any()
    assert _worst(found[[0, 3]], _expected(covariance[[0, 3]])) < 0.01


@pytest.fixture
def _reduced_precision() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.usefixtures("_reduced_precision")
def test_products_are_taken_in_full_precision_and_the_setting_comes_back() -> None:
    allowed = [backend.fp32_precision for backend in BACKENDS]
    assert set(allowed) == {"tf32", "bf16"}
    seen: list[str] = []
    original = torch.bmm

    def watched(left: Tensor, right: Tensor) -> Tensor:
        seen.extend(backend.fp32_precision for backend in BACKENDS)
        return original(left, right)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "bmm", watched)
        root_by_products(torch.eye(4).expand(2, 4, 4))
    assert set(seen) == {"ieee"}
    assert [backend.fp32_precision for backend in BACKENDS] == allowed
