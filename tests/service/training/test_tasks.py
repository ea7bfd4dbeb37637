# Scores, target transforms and trivial predictors against scikit-learn's, and no score where there is none.
from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn import metrics
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.preprocessing import QuantileTransformer

from service.data.sources import Target
from service.spec.metrics import METRICS, metric_of
from service.spec.tasks import TASKS, Task
from service.training.tasks import INVERSES, MAX_FLOAT32, in_units, loss_of, score_at_once, score_of, trivial_model


def numbers(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def in_pieces(metric: str, output: torch.Tensor, y: torch.Tensor, rows: int) -> float:
    score = score_of("", metric)
    return score.compute(
        [score.collect(*piece) for piece in zip(torch.split(output, rows), torch.split(y, rows), strict=True)]
    )


def ranked(metric: Callable[..., float]) -> Callable[[Any, Any], float]:
    """A metric of the second class of two, or its mean over each class against the rest; NaN without a class."""

    def compute(y: Any, output: Any) -> float:
        probability = softmax(output, axis=1)
        if len(np.unique(y)) < probability.shape[1]:
            return math.nan
        if probability.shape[1] == 2:
            return metric(y, probability[:, 1])
        return metric(np.eye(probability.shape[1])[y], probability, average="macro")

    return compute


OF_CLASSES: dict[str, Callable[[Any, Any], float]] = {
    "accuracy": lambda y, output: metrics.accuracy_score(y, output.argmax(1)),
    "balanced_accuracy": lambda y, output: metrics.balanced_accuracy_score(y, output.argmax(1)),
    "f1": lambda y, output: metrics.f1_score(y, output.argmax(1), average="macro"),
    "roc_auc": ranked(metrics.roc_auc_score),
    "average_precision": ranked(metrics.average_precision_score),
    "log_loss": lambda y, output: metrics.log_loss(y, softmax(output, axis=1), labels=list(range(output.shape[1]))),
}
OF_NUMBERS: dict[str, Callable[..., float]] = {
    "r2": lambda y, output: metrics.r2_score(y, output, multioutput="variance_weighted"),
    "mae": metrics.mean_absolute_error,
    "rmse": metrics.root_mean_squared_error,
    "median_absolute_error": metrics.median_absolute_error,
}


def test_every_metric_is_held_against_scikit_learn_but_that_of_equations() -> None:
    assert {*OF_CLASSES, *OF_NUMBERS, "closeness"} == set(METRICS)


@pytest.mark.parametrize("metric", OF_CLASSES)
@settings(max_examples=30, deadline=None)
@given(st.data())
def test_a_score_of_classes_is_that_of_scikit_learn(metric: str, data: st.DataObject) -> None:
    """With ties, a class without rows, and classes that are never predicted."""
    rows, classes = data.draw(st.integers(1, 40)), data.draw(st.integers(2, 5))
    present = data.draw(st.integers(1, classes))
    y = torch.tensor(data.draw(st.lists(st.integers(0, present - 1), min_size=rows, max_size=rows)))
    logit = st.one_of(st.sampled_from([-1.0, 0.0, 2.0]), st.floats(-30, 30, width=32))
    output = torch.tensor(data.draw(st.lists(logit, min_size=rows * classes, max_size=rows * classes)))
    output = output.reshape(rows, classes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of classes that are predicted and not there
        expected = OF_CLASSES[metric](y.numpy(), output.double().numpy())
    found = in_pieces(metric, output, y, data.draw(st.integers(1, rows)))
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("metric", ["roc_auc", "average_precision"])
@pytest.mark.parametrize("classes", [2, 3])
def test_a_ranking_is_not_defined_where_a_class_has_no_rows(metric: str, classes: int) -> None:
    for missing in range(classes):
        y = torch.tensor([label for label in range(classes) if label != missing] * 4)
        assert math.isnan(in_pieces(metric, numbers(len(y), classes, seed=0), y, 3))
    assert in_pieces(metric, torch.eye(classes), torch.arange(classes), 3) == 1


def test_the_average_over_each_class_against_the_rest_is_that_of_scikit_learn_by_name() -> None:
    output, y = numbers(90, 4, seed=0), torch.arange(90) % 4
    expected = metrics.roc_auc_score(y, output.double().softmax(1), multi_class="ovr", average="macro")
    assert in_pieces("roc_auc", output, y, 17) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("metric", OF_NUMBERS)
@settings(max_examples=30, deadline=None)
@given(st.data())
def test_a_score_of_numbers_is_that_of_scikit_learn(metric: str, data: st.DataObject) -> None:
    """With ties and several columns, of other scales, far from 0."""
    rows, columns = data.draw(st.integers(3, 40)), data.draw(st.integers(1, 4))
    number = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(-100, 100, width=32))
    drawn = data.draw(st.lists(number, min_size=2 * rows * columns, max_size=2 * rows * columns))
    scale = torch.tensor([1.0, 2.0, 0.5, 1000.0][:columns])
    output, y = 30 + torch.tensor(drawn).reshape(2, rows, columns) * scale
    y[:2] = torch.tensor([[0.0], [1.0]]) * scale  # r2 needs a variance
    found = in_pieces(metric, output, y, data.draw(st.integers(1, rows)))
    expected = OF_NUMBERS[metric](y.double().numpy(), output.double().numpy())
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(("mean", "spread"), [(1e5, 0.5), (1e6, 0.5), (1.7e9, 3600.0), (-1e12, 0.5), (0.0, 1e-20)])
def test_r2_of_targets_with_a_small_spread_is_that_of_scikit_learn(mean: float, spread: float) -> None:
    y = mean + spread * numbers(500, 2, seed=0).double()
    output = y + 0.1 * spread * numbers(500, 2, seed=1).double()
    expected = metrics.r2_score(y, output, multioutput="variance_weighted")
    assert in_pieces("r2", output, y, 64) == pytest.approx(expected, rel=1e-4)


def test_accuracy_of_a_text_counts_every_token() -> None:
    output, y = numbers(5, 7, 9, seed=0), torch.randint(7, (5, 9), generator=torch.Generator().manual_seed(1))
    expected = metrics.accuracy_score(y.flatten(), output.argmax(1).flatten())
    assert score_at_once(score_of(Task.LANGUAGE), output, y) == pytest.approx(expected)


@pytest.mark.parametrize("metric", ["accuracy", "r2"])
def test_a_score_of_many_outputs_keeps_sums_of_a_piece_only(metric: str) -> None:
    """Language models and autoencoders have many numbers for each row."""
    output = numbers(64, 5, 100, seed=0) if metric == "accuracy" else numbers(640, 50, seed=0)
    y = output.argmax(1) if metric == "accuracy" else output
    assert score_of("", metric).collect(output, y).numel() <= 53


@pytest.mark.parametrize("value", [0.0, 0.37, 1e6, 3e38])
def test_there_is_no_r2_where_all_targets_are_the_same(value: float) -> None:
    y = torch.full((33, 2), value)
    for rows in (5, 33):
        assert math.isnan(in_pieces("r2", y + numbers(33, 2, seed=0), y, rows))


@pytest.mark.parametrize("name", METRICS)
def test_the_cost_of_a_score_is_its_distance_to_the_best_one(name: str) -> None:
    entry = metric_of(f"val_{name}")
    assert entry is METRICS[name]
    assert entry.cost(entry.best) == 0
    for score in (0.25, 0.75):
        assert entry.cost(score) > 0
        assert entry.score_of(entry.cost(score)) == score
    assert (entry.cost(0.75) < entry.cost(0.25)) is entry.higher_is_better


# --- target transforms

TARGETS = np.random.default_rng(0).lognormal(3.0, 1.0, 300)


def fitted(transform: str, values: np.ndarray[Any, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    y, arrays = Target(Task.REGRESSION, values).encode(np.arange(200), transform)
    assert y.dtype == np.float32
    return torch.from_numpy(y), {name: torch.from_numpy(array) for name, array in arrays.items()}


@pytest.mark.parametrize("transform", INVERSES)
def test_a_target_that_is_transformed_and_brought_back_is_what_it_was(transform: str) -> None:
    y, arrays = fitted(transform, TARGETS)
    assert list(arrays) == [transform]
    assert y[:200].mean().item() == pytest.approx(0, abs=0.02)
    assert y[:200].std().item() == pytest.approx(1, abs=0.2)
    seen = np.clip(TARGETS, TARGETS[:200].min(), TARGETS[:200].max()) == TARGETS  # quantiles know no more
    assert in_units(y, arrays)[seen, 0].numpy() == pytest.approx(TARGETS[seen], rel=1e-4)


def test_quantiles_are_undone_as_scikit_learn_does() -> None:
    _, arrays = fitted("quantile", TARGETS)
    output = torch.cat([numbers(500, 1, seed=0), torch.tensor([[-9.0], [9.0], [-5.2], [5.2], [0.0]])])
    theirs = QuantileTransformer(n_quantiles=200, output_distribution="normal", subsample=None)
    expected = theirs.fit(TARGETS[:200, None]).inverse_transform(output.double().numpy())
    assert in_units(output, arrays).numpy() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("transform", INVERSES)
@pytest.mark.parametrize("output", [1e6, -1e6, 3e38, math.nan])
def test_the_error_of_a_wild_output_is_finite(transform: str, output: float) -> None:
    """Otherwise it would count as not defined, and the run be judged by its loss."""
    _, arrays = fitted(transform, TARGETS)
    units = in_units(torch.tensor([[output]]), arrays)
    assert units.abs().max() <= MAX_FLOAT32 * 1e3 or math.isnan(output)
    if not math.isnan(output):
        assert all(math.isfinite(in_pieces(name, units, torch.zeros(1, 1), 1)) for name in ("mae", "rmse"))


def test_outputs_without_a_transform_stay_as_they_are() -> None:
    output = numbers(3, 2, seed=0)
    assert in_units(output, {"x_train": output}) is output


# --- trivial predictors


def test_the_trivial_classifier_is_that_of_scikit_learn() -> None:
    draw = torch.Generator().manual_seed(0)
    training, y = (torch.multinomial(torch.tensor([0.2, 0.7, 0.1]), rows, True, generator=draw) for rows in (90, 60))
    model = trivial_model(Task.CLASSIFICATION, training, 3)
    assert model is not None
    output = model(torch.zeros(60, 2))
    theirs = DummyClassifier(strategy="prior").fit(torch.zeros(90, 1), training)
    loss = metrics.log_loss(y, theirs.predict_proba(torch.zeros(60, 1)), labels=[0, 1, 2])
    assert loss_of(Task.CLASSIFICATION)(output, y).item() == pytest.approx(loss)
    error = metrics.accuracy_score(y, theirs.predict(torch.zeros(60, 1)))
    assert score_at_once(score_of(Task.CLASSIFICATION), output, y) == pytest.approx(error)
    assert score_at_once(score_of("", "roc_auc"), output, y) == 0.5
    assert score_at_once(score_of("", "balanced_accuracy"), output, y) == pytest.approx(1 / 3)


@pytest.mark.parametrize("task", [Task.REGRESSION, Task.AUTOENCODING])
def test_the_trivial_regressor_is_that_of_scikit_learn(task: Task) -> None:
    training, y = 5 + numbers(90, 4, seed=0), 5 + numbers(60, 4, seed=1)
    model = trivial_model(task, training, 4)
    assert model is not None
    output = model(torch.zeros(60, 2))
    predicted = DummyRegressor().fit(torch.zeros(90, 1), training).predict(torch.zeros(60, 1))
    assert loss_of(task)(output, y).item() == pytest.approx(metrics.mean_squared_error(y, predicted))
    r2 = metrics.r2_score(y, predicted, multioutput="variance_weighted")
    assert score_at_once(score_of(task), output, y) == pytest.approx(r2, abs=1e-6)


@pytest.mark.parametrize("metric", ["mae", "median_absolute_error"])
def test_the_trivial_regressor_of_absolute_errors_predicts_the_median(metric: str) -> None:
    training = torch.from_numpy(TARGETS[:90, None])
    model = trivial_model(Task.REGRESSION, training, 1, metric)
    assert model is not None
    theirs = DummyRegressor(strategy="median").fit(torch.zeros(90, 1), training)
    assert model(torch.zeros(2, 3))[:, 0].tolist() == theirs.predict(torch.zeros(2, 1)).tolist()


def test_the_trivial_predictor_of_a_text_knows_how_frequent_each_token_is() -> None:
    draw = torch.Generator().manual_seed(0)
    training, y = torch.randint(5, (40, 9), generator=draw), torch.randint(6, (7, 9), generator=draw)
    model = trivial_model(Task.LANGUAGE, training, 6)
    assert model is not None
    output = model(torch.zeros(7, 9))
    assert output.shape == (7, 6, 9)
    counts = torch.bincount(training.flatten(), minlength=6).double().clamp(min=1)  # token 5 is only in the other part
    expected = metrics.log_loss(y.flatten(), (counts / counts.sum()).expand(63, 6), labels=list(range(6)))
    assert loss_of(Task.LANGUAGE)(output, y).item() == pytest.approx(expected)
    right = (y == counts.argmax()).double().mean().item()
    assert score_at_once(score_of(Task.LANGUAGE), output, y) == pytest.approx(right)


def test_an_equation_has_no_trivial_predictor() -> None:
    assert [name for name, task in TASKS.items() if task.trivial is None] == [Task.PHYSICS, Task.LOOP]
    assert trivial_model(Task.PHYSICS, torch.zeros(3, 2), 1) is None
