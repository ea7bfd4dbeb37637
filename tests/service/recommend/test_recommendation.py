from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from service.db.models import ConfirmRun, Trial
from service.errors import JobFailedError
from service.ledger.queries import stored_curve
from service.planning.objective import Objective
from service.planning.plan import JobPlan, make_plan
from service.recommend.luck import FIRST_FOUND
from service.recommend.recommendation import (
    Finalist,
    best_trials,
    edge_of_range,
    is_blind,
    rank,
    recommend,
    search_luck,
)
from service.result.job_result import Word
from service.spec.job import JobSpec
from service.states import TrialState
from service.training.run import CurvePoint

LOSS = Objective(metric="val_loss", target=None, steps=10, max_seconds=60.0)
ARMS = ("warpadam", "adamw")
NOISE = [0.01, -0.02, 0.015, -0.01, 0.02, -0.015, 0.005, -0.005]


@pytest.fixture
def plan() -> JobPlan:
    body = {"dataset": {"name": "wine"}, "model": {"name": "mlp"}, "search_space": {"preset": "quick"}}
    return make_plan(JobSpec.model_validate(body))


def trial(plan: JobPlan, number: int, value: float | None, arm: str = "warpadam", **changes: Any) -> Trial:
    fields: dict[str, Any] = {
        "number": number,
        "arm": arm,
        "value": value,
        "state": TrialState.COMPLETE,
        "params": dict(plan.arm(arm).space.first_trials[0]),
    }
    return Trial(**fields | changes)


def runs(arm: str, losses: list[float | None], number: int, phase: str = "confirm") -> list[ConfirmRun]:
    return [
        ConfirmRun(
            phase=phase,
            arm=arm,
            trial_number=number,
            seed=seed,
            state=TrialState.DIVERGED if loss is None else TrialState.COMPLETE,
            test_loss=loss if phase == "confirm" else None,
            val_loss=loss,
            seconds=0.5,
            curve=[] if loss is None else stored_curve([CurvePoint(10, loss, loss, 0.5, None, 1.0 - loss / 10)]),
            test_score=None if loss is None else 1.0 - loss / 10,
        )
        for seed, loss in enumerate(losses, start=1)
    ]


def judge(plan: JobPlan, warp: list[float | None], base: list[float | None]) -> Any:
    finalists = [Finalist(trial(plan, 0, 0.4), 0.4), Finalist(trial(plan, 1, 0.5, "adamw"), 0.5)]
    return recommend(plan, finalists, [*runs("warpadam", warp, 0), *runs("adamw", base, 1)], LOSS)


def losses(mean: float) -> list[float | None]:
    return [mean + noise for noise in NOISE]


BASELINE: list[float | None] = [1.0] * 8


def test_warpadam_is_recommended_only_if_it_helps(plan: JobPlan) -> None:
    result = judge(plan, losses(0.5), BASELINE)
    assert (result.verdict, result.arm, result.trial) == (Word.HELPS, "warpadam", 0)
    assert result.config == plan.arm("warpadam").config(plan.arm("warpadam").space.first_trials[0])
    assert [(f.arm, f.runs, f.planned) for f in result.finalists] == [("warpadam", 8, 8), ("adamw", 8, 8)]


@pytest.mark.parametrize(
    ("warp", "word"),
    [
        (losses(1.5), Word.HURTS),
        (losses(0.995), Word.NO_DIFFERENCE),
        ([1.5, 0.5, 1.4, 0.6, 1.5, 0.4, 1.6, 0.5], Word.INCONCLUSIVE),
    ],
)
def test_otherwise_the_baseline_is_recommended_and_the_reason_says_so(
    plan: JobPlan, warp: list[float | None], word: Word
) -> None:
    plan = make_plan(
        plan.spec.model_copy(update={"confirm": plan.spec.confirm.model_copy(update={"min_effect": 0.02})})
    )
    result = judge(plan, warp, BASELINE)
    assert (result.verdict, result.arm, result.trial) == (word, "adamw", 1)
    assert result.reason.endswith("the recommendation is adamw")


def test_a_run_that_diverged_keeps_warpadam_from_helping(plan: JobPlan) -> None:
    result = judge(plan, [None, *losses(0.5)[1:]], BASELINE)
    assert (result.verdict, result.arm) == (Word.INCONCLUSIVE, "adamw")
    assert "1 of 8 pairs did not complete" in result.reason
    assert result.statistics.pairs == 7
    assert result.finalists[0].runs == 7


def test_too_few_whole_pairs_are_no_comparison(plan: JobPlan) -> None:
    result = judge(plan, [None, None, None, *losses(0.5)[3:]], BASELINE)
    assert (result.verdict, result.statistics) == (Word.INCONCLUSIVE, None)
    assert "only 5 of 8 pairs completed" in result.reason


def test_the_best_trials_are_completed_ones_by_validation_then_number(plan: JobPlan) -> None:
    rows = [
        trial(plan, 0, 0.5),
        trial(plan, 1, 0.1, state=TrialState.PRUNED),
        trial(plan, 2, 0.3),
        trial(plan, 3, 0.3),
        trial(plan, 4, None, state=TrialState.FAILED),
    ]
    assert [row.number for row in best_trials(rows, 2)] == [2, 3]
    assert [row.number for row in best_trials(rows, 9)] == [2, 3, 0]
    assert best_trials(rows[1:2], 1) == []


def test_selection_takes_the_lowest_mean_and_whoever_did_not_finish_comes_last(plan: JobPlan) -> None:
    contenders = [trial(plan, 0, 0.1), trial(plan, 1, 0.2), trial(plan, 2, 0.3)]
    diverged = runs("warpadam", [0.1, 0.1], 0, "select")
    diverged[1].state = TrialState.DIVERGED  # with a finite loss from the point before
    all_runs = [
        *diverged,
        *runs("warpadam", [0.5, 0.6], 1, "select"),
        *runs("warpadam", [0.5, 0.5], 2, "select"),
    ]
    ranked = rank(contenders, all_runs, LOSS)
    assert ranked == [Finalist(contenders[2], 0.5), Finalist(contenders[1], 0.55), Finalist(contenders[0], 0.1)]
    diverged[0].state = TrialState.FAILED
    with pytest.raises(JobFailedError, match="none of its best trials completed a selection run"):
        rank(contenders[:1], all_runs, LOSS)


def test_the_baseline_that_is_compared_is_the_best_by_the_score_it_was_picked_for(plan: JobPlan) -> None:
    finalists = [Finalist(trial(plan, 0, 0.4), 0.9), Finalist(trial(plan, 1, 0.5, "adamw"), 0.5)]
    result = recommend(plan, finalists, [*runs("warpadam", losses(0.5), 0), *runs("adamw", BASELINE, 1)], LOSS)
    assert result.baseline == "adamw"


def test_the_luck_of_a_search_is_how_far_the_others_of_its_race_are_behind_on_the_same_seeds(plan: JobPlan) -> None:
    races = [
        *runs("warpadam", [0.5, 0.7, 0.6], 0, "select"),
        *runs("warpadam", [0.8, 1.0], 1, "select"),
        *runs("warpadam", [0.4], 2, "select"),  # better on the only seed it ran on, so not behind
        *runs("adamw", [9.0], 3, "select"),
    ]
    points = plan.arm("warpadam").space.first_trials
    params = [*map(dict, points[:3]), {**points[0], "lr": 1e-4}]
    trials = [trial(plan, number, 0.4 + number / 10, params=params[number]) for number in range(4)]
    luck = search_luck(plan, trials[0], trials, races, LOSS)
    assert luck is not None
    assert luck.penalties == pytest.approx([0.0, 0.0, 0.3 / 0.6, 0.3 / 0.4])  # the last one did not race
    assert luck.chances == [FIRST_FOUND] * 3 + [pytest.approx(1 - (3 / 4) ** 4)]


def test_without_a_race_nothing_is_known_about_luck(plan: JobPlan) -> None:
    alone = trial(plan, 0, 0.4)
    assert search_luck(plan, alone, [alone], [], LOSS) is None
    assert search_luck(plan, alone, [alone], runs("warpadam", [0.5], 0, "select"), LOSS) is None


@pytest.mark.parametrize(
    ("values", "blind"),
    [([0.3, 0.3, 0.3], True), ([0.3, 0.3 + 1e-9, None, 0.3], True), ([0.3, 0.3], False), ([0.3, 0.3, 0.31], False)],
)
def test_a_search_whose_trials_all_cost_the_same_is_blind(
    plan: JobPlan, values: list[float | None], blind: bool
) -> None:
    assert is_blind([trial(plan, number, value) for number, value in enumerate(values)]) is blind


def test_no_word_comes_from_a_blind_search(plan: JobPlan) -> None:
    finalists = [Finalist(trial(plan, 0, 0.4), 0.4), Finalist(trial(plan, 1, 0.5, "adamw"), 0.5)]
    found = [*runs("warpadam", losses(0.5), 0), *runs("adamw", BASELINE, 1)]
    result = recommend(plan, finalists, found, LOSS, blind_arms=["warpadam"])
    assert (result.verdict, result.arm) == (Word.INCONCLUSIVE, "adamw")
    assert result.reason.startswith("the search of warpadam was blind: all its trials cost the same")


@pytest.mark.parametrize(
    ("warpadam_loss", "at_edge", "word"),
    [
        (0.5, "adamw", Word.INCONCLUSIVE),  # adamw is worse and could be better beyond its range
        (0.5, "warpadam", Word.HELPS),  # the better one could only be better still
        (0.5, None, Word.HELPS),
        (2.0, "warpadam", Word.INCONCLUSIVE),
        (2.0, "adamw", Word.HURTS),
    ],
)
def test_an_arm_at_the_edge_of_its_range_is_not_called_the_worse_one(
    plan: JobPlan, warpadam_loss: float, at_edge: str | None, word: Word
) -> None:
    params = {arm: dict(plan.arm(arm).space.first_trials[0]) for arm in ("warpadam", "adamw")}
    if at_edge is not None:
        params[at_edge]["lr"] = 0.29
    trials = [trial(plan, 0, 0.4), trial(plan, 1, 0.5, "adamw")]
    for one in trials:
        one.params = params[one.arm]
    finalists = [Finalist(one, 0.4) for one in trials]
    found = [*runs("warpadam", losses(warpadam_loss), 0), *runs("adamw", BASELINE, 1)]
    edges = {one.arm: edge_of_range(plan, one) for one in trials}
    result = recommend(plan, finalists, found, LOSS, edges=edges)
    assert result.verdict is word
    if word is Word.INCONCLUSIVE:
        said = f"the best lr of {at_edge}, 0.29, is at the upper end of its range"
        assert result.reason.startswith(f"{said}; beyond it {at_edge} could be better")


def test_the_best_step_is_the_median_of_the_confirmation_runs(plan: JobPlan) -> None:
    finalists = [Finalist(trial(plan, 0, 0.4), 0.4), Finalist(trial(plan, 1, 0.5, "adamw"), 0.5)]
    found = [*runs("warpadam", losses(0.5), 0), *runs("adamw", BASELINE, 1)]
    for run in found:
        early = [CurvePoint(step, 1.0, abs(step - 50) / 100, 0.1) for step in range(10, 110, 10)]
        run.curve = stored_curve(early)
    at_best = replace(LOSS, at_best=True)
    assert [arm.best_step for arm in recommend(plan, finalists, found, at_best).finalists] == [50, 50]
    assert [arm.best_step for arm in recommend(plan, finalists, found, LOSS).finalists] == [None, None]
