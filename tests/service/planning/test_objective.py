# Costs of learning curves: every metric, and that a miss ranks below every hit and is never dropped.
from __future__ import annotations

from dataclasses import replace

import pytest

from service.db.models import Trial
from service.planning.objective import Objective, make_objective, time_to
from service.recommend.fidelity import UNPRUNED, measure
from service.spec.job import ObjectiveSpec
from service.states import TrialState
from service.training.run import CurvePoint

CURVE = [
    CurvePoint(10, 1.0, 0.9, 0.5, None, 0.6),
    CurvePoint(20, 0.8, 0.5, 1.0, None, 0.7),
    CurvePoint(30, 0.6, 0.55, 1.5, None, 0.9),
]


def objective(metric: str, target: float | None = None) -> Objective:
    return Objective(metric=metric, target=target, steps=30, max_seconds=60.0)


@pytest.mark.parametrize(
    ("metric", "target", "cost"),
    [
        ("val_loss", None, 0.55),
        ("val_accuracy", None, 0.1),
        ("val_r2", None, 0.1),
        ("val_roc_auc", None, 0.1),
        ("val_mae", None, 0.9),
        ("val_log_loss", None, 0.9),
        ("steps_to_target", 0.5, 20.0),
        ("seconds_to_target", 0.5, 1.0),
        ("steps_to_target", 0.95, 10.0),
        ("steps_to_target", 0.4, 30.15),
        ("seconds_to_target", 0.4, 60.15),
        ("steps_to_target", None, 0.55),  # the baseline that sets the target is judged by its loss
    ],
)
def test_cost_of_a_curve(metric: str, target: float | None, cost: float) -> None:
    assert objective(metric, target).cost(CURVE) == pytest.approx(cost)


def test_a_curve_without_points_has_no_cost() -> None:
    assert objective("val_loss").cost([]) is None


def test_a_near_miss_ranks_above_a_far_one_and_below_every_hit() -> None:
    slow_hit = [CurvePoint(30, 0.1, 0.4, 59.0)]
    near, far = [CurvePoint(30, 0.1, 0.41, 0.1)], [CurvePoint(30, 0.1, 2.0, 0.1)]
    costs = [objective("seconds_to_target", 0.4).cost(curve) for curve in (slow_hit, near, far)]
    assert costs == sorted(costs, key=lambda cost: cost or 0.0)
    assert len(set(costs)) == 3
    assert objective("seconds_to_target", 0.4).reached(near) is None


def test_time_is_the_first_point_at_the_target() -> None:
    assert time_to(CURVE, 0.55, "steps_to_target") == 20.0
    assert time_to(CURVE, None, "steps_to_target") is None


def test_the_baselines_loss_is_the_target_where_the_spec_asks_for_it() -> None:
    spec = ObjectiveSpec(metric="steps_to_target", target="baseline")
    assert make_objective(spec, 30, 60.0, 0.3).target == 0.3
    assert make_objective(spec, 30, 60.0, None).target is None
    assert make_objective(ObjectiveSpec(metric="steps_to_target", target=0.2), 30, 60.0, 0.3).target == 0.2


def rows(count: int, state: TrialState = TrialState.COMPLETE) -> list[Trial]:
    return [Trial(id=i, number=i, state=state, value=float(i)) for i in range(count)]


def curves(losses: list[float]) -> dict[int, list[CurvePoint]]:
    return {i: [CurvePoint(5, 0.0, loss, 0.1), CurvePoint(10, 0.0, float(i), 0.2)] for i, loss in enumerate(losses)}


@pytest.mark.parametrize(
    ("early", "tau", "trusted"),
    [
        ([0, 1, 2, 3, 4, 5, 6, 7], 1.0, True),
        ([7, 6, 5, 4, 3, 2, 1, 0], -1.0, False),
        ([1, 0, 3, 2, 5, 4, 7, 6], 20 / 28, True),
        ([1.0] * 8, None, False),
    ],
)
def test_rank_correlation_of_the_first_rung(early: list[float], tau: float | None, trusted: bool) -> None:
    found = measure("warpadam", rows(UNPRUNED), curves(early), objective("val_loss"), 5)
    assert found is not None
    assert (found.tau, found.trusted) == (pytest.approx(tau) if tau is not None else None, trusted)
    assert (found.trials, found.rung_step) == (8, 5)


def test_fidelity_waits_for_the_first_eight_and_needs_completed_ones() -> None:
    eight = rows(UNPRUNED)
    assert measure("a", eight[:7], {}, objective("val_loss"), 5) is None
    eight[3].state = TrialState.RUNNING
    assert measure("a", eight, {}, objective("val_loss"), 5) is None
    failed = measure("a", rows(UNPRUNED, TrialState.FAILED), {}, objective("val_loss"), 5)
    assert failed is not None
    assert (failed.trials, failed.tau, failed.trusted) == (0, None, False)


def test_at_best_the_cost_is_the_lowest_mean_of_neighbours_and_a_pruner_sees_the_best_so_far() -> None:
    curve = [
        CurvePoint(step, 0.1, loss, step / 10) for step, loss in enumerate([9.0, 1.0, 2.0, 3.0, 4.0, 9.0], start=1)
    ]
    last, best = objective("val_loss"), replace(objective("val_loss"), at_best=True)
    assert last.cost(curve) == last.signal(curve) == 9.0
    assert best.cost(curve) == pytest.approx((9.0 + 1.0 + 2.0 + 3.0) / 4)
    assert best.best_point(curve).step == 2
    assert best.signal(curve[:3]) == pytest.approx(4.0)
    signals = [best.signal(curve[:count]) for count in range(2, 7)]
    assert signals[-1] == best.cost(curve)
