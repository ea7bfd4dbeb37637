from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from service.db.models import ConfirmRun, Trial
from service.errors import JobFailedError
from service.ledger.queries import stored_curve
from service.planning.objective import Objective
from service.planning.plan import JobPlan, make_plan
from service.recommend.recommendation import Finalist, best_trials, is_blind, rank, recommend, search_luck
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


def test_the_loss_decides_between_trials_of_an_equal_score(plan: JobPlan) -> None:
    rows = [trial(plan, number, 0.02, val_loss=loss) for number, loss in enumerate([0.4, 0.1, 0.3, 0.2])]
    assert [row.number for row in best_trials(rows, 3)] == [1, 3, 2]


def test_the_loss_decides_between_contenders_and_baselines_of_an_equal_score(plan: JobPlan) -> None:
    error = Objective(metric="val_accuracy", target=None, steps=10, max_seconds=60.0)
    contenders = [trial(plan, number, 0.02) for number in range(3)]
    races = []
    for number, loss in enumerate([0.4, 0.1, 0.3]):
        scores = [0.96, 0.98, 0.97] if number else [0.97, 0.97, 0.97]  # equal means
        for seed, score in enumerate(scores, start=1):
            (run,) = runs("warpadam", [loss], number, "select")
            run.seed, run.curve = seed, stored_curve([CurvePoint(10, loss, loss, 0.5, None, score)])
            races.append(run)
    ranked = rank(contenders, races, error)
    assert [finalist.trial.number for finalist in ranked] == [1, 2, 0]
    assert len({finalist.score for finalist in ranked}) == 1
    several = make_plan(plan.spec.model_copy(update={"baselines": ["adamw", "sgd"]}))
    baselines = [trial(several, 3, 0.02, "adamw"), trial(several, 4, 0.02, "sgd")]
    finalists = [ranked[0], Finalist(baselines[0], 0.02, 0.2), Finalist(baselines[1], 0.02, 0.1)]
    found = [run for f in finalists for run in runs(f.trial.arm, losses(0.5), f.trial.number)]
    assert recommend(several, finalists, found, error).baseline == "sgd"


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
    assert ranked == [
        Finalist(contenders[2], 0.5, 0.5),
        Finalist(contenders[1], 0.55, 0.55),
        Finalist(contenders[0], 0.1, 0.1),
    ]
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
    luck = search_luck(trial(plan, 0, 0.4), 20, races, LOSS)
    assert luck is not None
    assert luck.trials == 20
    assert luck.penalties == pytest.approx([0.0, 0.0, 0.3 / 0.6])


def test_without_a_race_nothing_is_known_about_luck(plan: JobPlan) -> None:
    assert search_luck(trial(plan, 0, 0.4), 20, [], LOSS) is None
    assert search_luck(trial(plan, 0, 0.4), 20, runs("warpadam", [0.5], 0, "select"), LOSS) is None


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


def test_the_best_step_is_the_median_of_the_confirmation_runs(plan: JobPlan) -> None:
    finalists = [Finalist(trial(plan, 0, 0.4), 0.4), Finalist(trial(plan, 1, 0.5, "adamw"), 0.5)]
    found = [*runs("warpadam", losses(0.5), 0), *runs("adamw", BASELINE, 1)]
    for run in found:
        early = [CurvePoint(step, 1.0, abs(step - 50) / 100, 0.1) for step in range(10, 110, 10)]
        run.curve = stored_curve(early)
    at_best = replace(LOSS, at_best=True)
    assert [arm.best_step for arm in recommend(plan, finalists, found, at_best).finalists] == [50, 50]
    assert [arm.best_step for arm in recommend(plan, finalists, found, LOSS).finalists] == [None, None]
