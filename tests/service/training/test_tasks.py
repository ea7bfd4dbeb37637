# Scores and trivial predictors against scikit-learn's, and no score where targets are all the same.
from __future__ import annotations

import pytest
import torch
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.metrics import accuracy_score, log_loss, mean_squared_error, r2_score

from service.spec.tasks import TASKS, Task
from service.training.tasks import loss_of, score_at_once, score_of, trivial_model

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


def test_the_trivial_classifier_is_that_of_scikit_learn() -> None:
    draw = torch.Generator().manual_seed(0)
    training, y = (torch.multinomial(torch.tensor([0.2, 0.7, 0.1]), rows, True, generator=draw) for rows in (90, 60))
    model = trivial_model(Task.CLASSIFICATION, training, 3)
    assert model is not None
    output = model(torch.zeros(60, 2))
    theirs = DummyClassifier(strategy="prior").fit(torch.zeros(90, 1), training)
    loss = log_loss(y, theirs.predict_proba(torch.zeros(60, 1)), labels=[0, 1, 2])
    assert loss_of(Task.CLASSIFICATION)(output, y).item() == pytest.approx(loss)
    error = accuracy_score(y, theirs.predict(torch.zeros(60, 1)))
    assert score_at_once(score_of(Task.CLASSIFICATION), output, y).item() == pytest.approx(error)


@pytest.mark.parametrize("task", [Task.REGRESSION, Task.AUTOENCODING])
def test_the_trivial_regressor_is_that_of_scikit_learn(task: Task) -> None:
    training, y = 5 + numbers(90, 4, seed=0), 5 + numbers(60, 4, seed=1)
    model = trivial_model(task, training, 4)
    assert model is not None
    output = model(torch.zeros(60, 2))
    predicted = DummyRegressor().fit(torch.zeros(90, 1), training).predict(torch.zeros(60, 1))
    assert loss_of(task)(output, y).item() == pytest.approx(mean_squared_error(y, predicted))
    r2 = r2_score(y, predicted, multioutput="variance_weighted")
    assert score_at_once(score_of(task), output, y).item() == pytest.approx(r2, abs=1e-6)


def test_the_trivial_predictor_of_a_text_knows_how_frequent_each_token_is() -> None:
    draw = torch.Generator().manual_seed(0)
    training, y = torch.randint(5, (40, 9), generator=draw), torch.randint(6, (7, 9), generator=draw)
    model = trivial_model(Task.LANGUAGE, training, 6)
    assert model is not None
    output = model(torch.zeros(7, 9))
    assert output.shape == (7, 6, 9)
    counts = torch.bincount(training.flatten(), minlength=6).double().clamp(min=1)  # token 5 is only in the other part
    expected = log_loss(y.flatten(), (counts / counts.sum()).expand(63, 6), labels=list(range(6)))
    assert loss_of(Task.LANGUAGE)(output, y).item() == pytest.approx(expected)
    right = (y == counts.argmax()).double().mean().item()
    assert score_at_once(score_of(Task.LANGUAGE), output, y).item() == pytest.approx(right)


def test_an_equation_has_no_trivial_predictor() -> None:
    assert [name for name, task in TASKS.items() if task.trivial is None] == [Task.PHYSICS]
    assert trivial_model(Task.PHYSICS, torch.zeros(3, 2), 1) is None


@pytest.mark.parametrize("value", [0.0, 0.37, 1e6])
def test_there_is_no_r2_where_all_targets_are_the_same(value: float) -> None:
    y = torch.full((33, 2), value)
    assert not score_at_once(score_of(Task.REGRESSION), y + numbers(33, 2, seed=0), y).isfinite()
