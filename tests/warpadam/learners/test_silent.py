"""Coordinates whose variance and covariances are lost in rounding."""

from __future__ import annotations

import torch

from warpadam.learners.silent import silent_coordinates


def test_those_without_a_gradient_are_found_for_each_matrix() -> None:
    first = torch.tensor([[4.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 2.0]])
    found = silent_coordinates(torch.stack((first, torch.eye(3))))
    assert found is not None
    assert found.tolist() == [[False, True, False], [False, False, False]]
    assert silent_coordinates(torch.eye(3)) is None


def test_a_small_variance_counts_only_without_a_covariance_that_can_be_seen() -> None:
    covariance = torch.diag(torch.tensor([1.0, 1e-9, 1e-9]))
    covariance[0, 1] = covariance[1, 0] = 1e-5
    covariance[0, 2] = covariance[2, 0] = 1e-9
    found = silent_coordinates(covariance)
    assert found is not None
    assert found.tolist() == [False, False, True]
    assert silent_coordinates(covariance.double()) is None


def test_it_reads_no_value_on_the_host() -> None:
    """On the device ``meta`` there are no values that could be read."""
    found = silent_coordinates(torch.empty(2, 3, 3, device="meta"))
    assert found is not None
    assert found.shape == (2, 3)
