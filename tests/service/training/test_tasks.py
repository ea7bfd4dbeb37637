# Scores against scikit-learn's, whole and in pieces, and none where targets are all the same.
from __future__ import annotations

import pytest
import torch
from sklearn.metrics import accuracy_score, r2_score

from service.spec.tasks import Task
from service.training.tasks import score_at_once, score_of

PIECES = [1, 7, 40, 100]


def numbers(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("rows", PIECES)
def test_accuracy_is_that_of_scikit_learn(rows: int) -> None:
    output, y = numbers(100, 3, seed=0), torch.arange(100) % 3
    score = score_of(Task.CLASSIFICATION)
    pieces = zip(torch.split(output, rows), torch.split(y, rows), strict=True)
    found = score.from_sums(torch.stack([score.sums(*piece) for piece in pieces]).sum(0))
    assert found.item() == pytest.approx(accuracy_score(y, output.argmax(1)))


def test_accuracy_of_a_text_counts_every_token() -> None:
    output, y = numbers(5, 7, 9, seed=0), torch.randint(7, (5, 9), generator=torch.Generator().manual_seed(1))
    expected = accuracy_score(y.flatten(), output.argmax(1).flatten())
    assert score_at_once(score_of(Task.LANGUAGE), output, y).item() == pytest.approx(expected)


@pytest.mark.parametrize("rows", PIECES)
@pytest.mark.parametrize("shift", [0.0, 30.0])
def test_r2_is_that_of_scikit_learn_weighted_by_variance(rows: int, shift: float) -> None:
    y = shift + numbers(100, 4, seed=1) * torch.tensor([1.0, 2.0, 0.1, 3.0])
    output = y + numbers(100, 4, seed=2)
    score = score_of(Task.REGRESSION)
    pieces = zip(torch.split(output, rows), torch.split(y, rows), strict=True)
    found = score.from_sums(torch.stack([score.sums(*piece) for piece in pieces]).sum(0))
    assert found.item() == pytest.approx(
        r2_score(y.double(), output.double(), multioutput="variance_weighted"), rel=1e-9
    )


@pytest.mark.parametrize("value", [0.0, 0.37, 1e6])
def test_there_is_no_r2_where_all_targets_are_the_same(value: float) -> None:
    y = torch.full((33, 2), value)
    assert not score_at_once(score_of(Task.REGRESSION), y + numbers(33, 2, seed=0), y).isfinite()
