from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from search_spaces import Scalar
from service.data.catalog import BUNDLED
from service.db.models import ConfirmRun, Trial
from service.errors import JobFailedError
from service.ledger.queries import stored_curve
from service.planning.objective import Objective, decided_by_outliers
from service.planning.plan import JobPlan, make_plan
from service.recommend.findings import make_findings
from service.recommend.luck import FIRST_FOUND, SearchLuck
from service.recommend.recommendation import (
    Finalist,
    best_trials,
    edge_of_range,
    find_trivial,
    rank,
    recommend,
    search_luck,
    why_blind,
)
from service.result.job_result import TrivialResult, Word
from service.spec.dataset_info import Outliers
from service.spec.job import JobSpec
from service.states import TrialState
from service.training.run import CurvePoint, TrivialScores

LOSS = Objective(metric="val_loss", target=None, steps=10, max_seconds=60.0)
ERROR = Objective(metric="val_accuracy", target=None, steps=10, max_seconds=60.0)
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
        "params": plan.arm(arm).space.some_values(),
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


def test_the_reason_tells_runs_that_failed_from_those_that_diverged(plan: JobPlan) -> None:
    warp, base = runs("warpadam", [None, None, *losses(0.5)[2:]], 0), runs("adamw", [None, *BASELINE[1:]], 1)
    warp[1].state, warp[1].cause = TrialState.FAILED, "was killed (signal 9)\nline 7"
    base[0].state, base[0].cause = TrialState.FAILED, None
    finalists = [Finalist(trial(plan, 0, 0.4), 0.4), Finalist(trial(plan, 1, 0.5, "adamw"), 0.5)]
    reason = recommend(plan, finalists, [*warp, *base], LOSS).reason
    assert reason.startswith(
        "2 of 8 pairs did not complete: adamw failed on 1 seed (no cause is known), which an extension runs again; "
        "warpadam diverged on 1 seed; warpadam failed on 1 seed (was killed (signal 9)), which an extension runs again"
    )


@pytest.mark.parametrize(
    ("parts", "more"),
    [
        ({}, True),
        ({"objective": {"metric": "steps_to_target", "target": "baseline"}}, False),
        ({"controls": ["adamw_more_steps"]}, False),
        ({"budget": {"trials_per_arm": 10_000}}, False),
    ],
    ids=["plain", "target", "control", "limit"],
)
def test_more_trials_are_only_advised_where_a_job_may_have_them(
    plan: JobPlan, parts: dict[str, Any], more: bool
) -> None:
    plan = make_plan(JobSpec.model_validate({**plan.spec.model_dump(mode="json"), **parts}))
    finalists = [Finalist(trial(plan, 0, 0.4), 0.4), Finalist(trial(plan, 1, 0.5, "adamw"), 0.5)]
    luck = SearchLuck(penalties=(0.0, 0.9), chances=(0.5, 1.0))
    seen = [*runs("warpadam", losses(0.9), 0), *runs("adamw", BASELINE, 1)]
    reason = recommend(plan, finalists, seen, LOSS, luck={"warpadam": luck, "adamw": luck}).reason
    assert ("more trials for each arm" in reason) == more
    assert "lies inside that" in reason


def test_the_best_trials_are_completed_ones_by_validation_then_number(plan: JobPlan) -> None:
    complete, pruned, failed = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAILED
    ended = [(0.5, complete), (0.1, pruned), (0.3, complete), (0.3, complete), (None, failed)]
    rows = [
        trial(plan, number, value, state=state, params={"lr": 0.1 + number})
        for number, (value, state) in enumerate(ended)
    ]
    assert [row.number for row in best_trials(rows, 2)] == [2, 3]
    assert [row.number for row in best_trials(rows, 9)] == [2, 3, 0]
    assert best_trials(rows[1:2], 1) == []


def test_the_best_trials_have_different_settings(plan: JobPlan) -> None:
    settings: list[dict[str, Scalar]] = [{"lr": 0.1}, {"lr": 0.1, "rank": 4}, {"lr": 0.1}, {"lr": 0.2}, {"lr": 0.1}]
    values = [0.4, 0.6, 0.3, 0.5, 0.3]
    rows = [trial(plan, number, value, params=settings[number]) for number, value in enumerate(values)]
    assert [row.number for row in best_trials(rows, 2)] == [2, 3]
    assert [row.number for row in best_trials(rows, 5)] == [2, 3, 1]


def test_the_loss_decides_between_trials_of_an_equal_score(plan: JobPlan) -> None:
    rows = [
        trial(plan, number, 0.02, val_loss=loss, params={"lr": loss})
        for number, loss in enumerate([0.4, 0.1, 0.3, 0.2])
    ]
    assert [row.number for row in best_trials(rows, 3)] == [1, 3, 2]
    rows[0].val_loss = None  # of a service that did not store it
    assert [row.number for row in best_trials(rows, 4)] == [1, 3, 2, 0]


def test_the_loss_decides_between_contenders_and_baselines_of_an_equal_score(plan: JobPlan) -> None:
    contenders = [trial(plan, number, 0.02) for number in range(3)]
    races = []
    for number, loss in enumerate([0.4, 0.1, 0.3]):
        scores = [0.96, 0.98, 0.97] if number else [0.97, 0.97, 0.97]  # equal means
        for seed, score in enumerate(scores, start=1):
            (run,) = runs("warpadam", [loss], number, "select")
            run.seed, run.curve = seed, stored_curve([CurvePoint(10, loss, loss, 0.5, None, score)])
            races.append(run)
    ranked = rank(contenders, races, ERROR)
    assert [finalist.trial.number for finalist in ranked] == [1, 2, 0]
    assert len({finalist.score for finalist in ranked}) == 1
    several = make_plan(plan.spec.model_copy(update={"baselines": ["adamw", "sgd"]}))
    baselines = [trial(several, 3, 0.02, "adamw"), trial(several, 4, 0.02, "sgd")]
    finalists = [ranked[0], Finalist(baselines[0], 0.02, 0.2), Finalist(baselines[1], 0.02, 0.1)]
    found = [run for f in finalists for run in runs(f.trial.arm, losses(0.5), f.trial.number)]
    assert recommend(several, finalists, found, ERROR).baseline == "sgd"


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
        *runs("adamw", [9.0], 4, "select"),
    ]
    points = plan.arm("warpadam").space.first_trials
    params = [*map(dict, points[:3]), {**points[0], "lr": 1e-4}]
    trials = [trial(plan, number, 0.4 + number * 0.11, params=params[number]) for number in range(4)]
    luck = search_luck(plan, trials[0], trials, races, LOSS)
    assert luck is not None
    assert luck.penalties == pytest.approx([0.0, 0.0, 0.3, 0.33])  # the last one did not race
    assert luck.chances == [FIRST_FOUND] * 3 + [pytest.approx(1 - (3 / 4) ** 4)]


def test_what_others_would_lose_is_read_on_test_in_the_order_of_validation(plan: JobPlan) -> None:
    def raced(number: int, on_validation: list[float | None], on_test: list[float]) -> list[ConfirmRun]:
        found = runs("warpadam", on_validation, number, "select")
        for run, loss in zip(found, on_test, strict=True):
            run.test_loss = loss
        return found

    races = [
        *raced(0, [0.5, 0.5], [0.6, 0.6]),
        *raced(1, [0.6, 0.6], [0.9, 0.9]),
        *raced(2, [0.7], [0.3]),  # worse on validation, and better on test
    ]
    trials = [trial(plan, number, 0.4, params={"lr": 10.0**-number}) for number in range(3)]
    luck = search_luck(plan, trials[0], trials, races, LOSS)
    assert luck is not None
    assert luck.penalties == pytest.approx([0.0, 0.3, -0.3])


def test_a_trial_that_diverged_in_the_race_would_not_have_won_it(plan: JobPlan) -> None:
    races = [
        *runs("warpadam", [0.5, 0.5], 0, "select"),
        *runs("warpadam", [0.4, None], 1, "select"),  # better on the one seed that it completed
        *runs("warpadam", [None], 2, "select"),  # it completed none, and was as good as the winner in the search
        *runs("warpadam", [2.5], 3, "select"),
    ]
    trials = [trial(plan, number, 0.4, params={"lr": 10.0**-number}) for number in range(4)]
    luck = search_luck(plan, trials[0], trials, races, LOSS)
    assert luck is not None
    assert luck.penalties == pytest.approx([0.0, 2.0])


def test_behind_a_winner_without_errors_the_others_are_as_far_as_their_errors(plan: JobPlan) -> None:
    races = [*runs("warpadam", [0.0], 0, "select"), *runs("warpadam", [0.03], 1, "select")]
    trials = [trial(plan, number, 0.0, params={"lr": 10.0**-number}) for number in range(2)]
    luck = search_luck(plan, trials[0], trials, races, LOSS)
    assert luck is not None
    assert luck.penalties == pytest.approx([0.0, 0.03])


def test_without_a_race_nothing_is_known_about_luck(plan: JobPlan) -> None:
    alone = trial(plan, 0, 0.4)
    assert search_luck(plan, alone, [alone], [], LOSS) is None
    won = search_luck(plan, alone, [alone], runs("warpadam", [0.5], 0, "select"), LOSS)
    assert won is not None
    assert won.penalties == [0.0]


@pytest.mark.parametrize(
    ("values", "blind"),
    [([0.3, 0.3, 0.3], True), ([0.3, 0.3 + 1e-9, None, 0.3], True), ([0.3, 0.3], False), ([0.3, 0.3, 0.31], False)],
)
def test_a_search_whose_trials_all_cost_the_same_is_blind(
    plan: JobPlan, values: list[float | None], blind: bool
) -> None:
    why = why_blind([trial(plan, number, value) for number, value in enumerate(values)], None, LOSS)
    assert why == ("all its trials cost the same on validation" if blind else None)


TRIVIAL = TrivialResult(
    predicts="the most frequent class",
    value=0.02,
    val_loss=0.098,
    val_score=0.98,
    mean_test_loss=0.1,
    mean_test_score=0.979,
)


def test_a_search_of_which_one_trial_completed_is_blind(plan: JobPlan) -> None:
    trials = [trial(plan, 0, 0.3), *(trial(plan, number, None, state=TrialState.DIVERGED) for number in (1, 2))]
    assert why_blind(trials, None, LOSS) == "only one of its 3 trials completed"
    assert why_blind(trials[:1], None, LOSS) is None  # nobody asked for more


@pytest.mark.parametrize(
    ("values", "blind"),
    [
        ([0.02, 0.03], True),
        ([0.02 * (1 - 1e-9)], True),  # equal but for rounding
        ([None, 0.05, 0.06], True),
        ([0.05, 0.01], False),
        ([None], False),
        ([], False),
    ],
)
def test_a_search_is_blind_if_no_trial_is_better_than_always_predicting_the_same(
    plan: JobPlan, values: list[float | None], blind: bool
) -> None:
    trials = [trial(plan, number, value) for number, value in enumerate(values)]
    why = "none of its trials is better on validation than always predicting the most frequent class (accuracy 98 %)"
    assert why_blind(trials, TRIVIAL, ERROR) == (why if blind else None)
    assert why_blind(trials, TRIVIAL.model_copy(update={"value": None}), ERROR) is None


def test_no_word_comes_from_a_blind_search(plan: JobPlan) -> None:
    finalists = [Finalist(trial(plan, 0, 0.4), 0.4), Finalist(trial(plan, 1, 0.5, "adamw"), 0.5)]
    found = [*runs("warpadam", losses(0.5), 0), *runs("adamw", BASELINE, 1)]
    blind = {"warpadam": "all its trials cost the same on validation"}
    result = recommend(plan, finalists, found, LOSS, blind=blind)
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


def with_trivial(found: list[ConfirmRun], test_loss: float, test_score: float) -> list[ConfirmRun]:
    """Let the runs know what always predicting the same gets; a little more on each further seed."""
    for run in found:
        scores = TrivialScores(0.7, 0.4, test_loss + run.seed / 100, test_score)
        run.curve = [] if run.test_loss is None else stored_curve([CurvePoint(10, 1.0, 1.0, 0.5, trivial=scores)])
    return found


def judged_beside_trivial(plan: JobPlan, objective: Objective, warp: float, base: float, trivial: float) -> Any:
    finalists = [Finalist(trial(plan, 0, 0.4), 0.4), Finalist(trial(plan, 1, 0.5, "adamw"), 0.5)]
    found = [*runs("warpadam", losses(warp), 0), *runs("adamw", losses(base), 1)]
    return recommend(plan, finalists, with_trivial(found, trivial, 1 - trivial / 10), objective)


def test_no_word_where_neither_finalist_is_better_than_always_predicting_the_same(plan: JobPlan) -> None:
    result = judged_beside_trivial(plan, LOSS, warp=1.5, base=2.0, trivial=1.4)
    assert (result.verdict, result.arm, result.statistics.word) == (Word.INCONCLUSIVE, "adamw", Word.INCONCLUSIVE)
    start = (
        "neither adamw nor warpadam is better on test than always predicting the frequencies of the classes (loss 1."
    )
    assert result.reason.startswith(start)
    by_score = judged_beside_trivial(plan, ERROR, warp=1.5, base=2.0, trivial=1.4)
    assert by_score.verdict is Word.INCONCLUSIVE
    assert "than always predicting the most frequent class (accuracy 86 %)" in by_score.reason


@pytest.mark.parametrize("objective", [LOSS, ERROR])
def test_the_verdict_stands_where_one_finalist_is_better_than_always_predicting_the_same(
    plan: JobPlan, objective: Objective
) -> None:
    assert judged_beside_trivial(plan, objective, warp=1.5, base=2.0, trivial=1.9).verdict is Word.HELPS


def test_times_to_a_target_are_not_compared_with_always_predicting_the_same(plan: JobPlan) -> None:
    steps = Objective(metric="steps_to_target", target=1.0, steps=10, max_seconds=60.0)
    result = judged_beside_trivial(plan, steps, warp=1.5, base=2.0, trivial=0.1)
    assert "always predicting" not in result.reason
    assert result.trivial.value is None


def test_the_trivial_predictor_is_judged_on_the_split_of_the_search_and_on_the_test_parts_that_were_used(
    plan: JobPlan,
) -> None:
    found = with_trivial(runs("warpadam", [0.5, None, 0.5], 0), 1.0, 0.25)
    for run in found[2:]:  # seed 1 has the split of the search
        run.curve = stored_curve([CurvePoint(10, 1.0, 1.0, 0.5, trivial=TrivialScores(0.9, 0.1, 2.0, 0.75))])
    assert find_trivial(plan, found, LOSS) == TrivialResult(
        predicts="the frequencies of the classes",
        value=0.7,
        val_loss=0.7,
        val_score=0.4,
        mean_test_loss=1.505,
        mean_test_score=0.5,
    )
    error = find_trivial(plan, found, ERROR)
    assert error is not None
    assert (error.predicts, error.value) == ("the most frequent class", 0.6)
    assert find_trivial(plan, runs("warpadam", [0.5] * 3, 0), LOSS) is None


def test_one_sentence_puts_the_scores_in_order(plan: JobPlan) -> None:
    finalists = [
        Finalist(trial(plan, 0, 0.4), 0.4),
        Finalist(trial(plan, 1, 0.5, "adamw"), 0.5),
        Finalist(trial(plan, 2, 0.6, "adamw_default"), 0.6),
    ]
    means = {"warpadam": 0.25, "adamw": 0.5, "adamw_default": 0.75}
    found = [run for number, (arm, mean) in enumerate(means.items()) for run in runs(arm, [mean] * 8, number)]
    found = with_trivial(found, 0.955, 0.5)
    result = recommend(plan, finalists, found, LOSS)
    assert result.summary == (
        "Mean test loss: 1 for always predicting the frequencies of the classes; 0.75 for AdamW as PyTorch ships it; "
        "0.5 for tuned adamw; 0.25 for tuned warpadam"
    )
    assert [(arm.arm, arm.mean_test_score) for arm in result.finalists] == [
        ("warpadam", 0.975),
        ("adamw", 0.95),
        ("adamw_default", 0.925),
    ]
    assert result.score == "accuracy"
    assert recommend(plan, finalists[:2], found, ERROR).summary == (
        "Mean test accuracy: 50 % for always predicting the most frequent class; 95 % for tuned adamw; "
        "97.5 % for tuned warpadam"
    )


def test_the_best_step_is_the_median_of_the_confirmation_runs(plan: JobPlan) -> None:
    finalists = [Finalist(trial(plan, 0, 0.4), 0.4), Finalist(trial(plan, 1, 0.5, "adamw"), 0.5)]
    found = [*runs("warpadam", losses(0.5), 0), *runs("adamw", BASELINE, 1)]
    for run in found:
        early = [CurvePoint(step, 1.0, abs(step - 50) / 100, 0.1) for step in range(10, 110, 10)]
        run.curve = stored_curve(early)
    at_best = replace(LOSS, at_best=True)
    assert [arm.best_step for arm in recommend(plan, finalists, found, at_best).finalists] == [50, 50]
    assert [arm.best_step for arm in recommend(plan, finalists, found, LOSS).finalists] == [None, None]


def timed(run: ConfirmRun, losses: list[float], a_point_s: float) -> ConfirmRun:
    """Give a run a learning curve with a point every ``a_point_s`` seconds; its test loss stays."""
    points = [CurvePoint(10 * i, loss, loss, i * a_point_s) for i, loss in enumerate(losses, start=1)]
    run.curve = stored_curve(points)
    return run


def in_time(plan: JobPlan, warp: list[float], a_warp_point_s: float, test_loss: float = 0.5) -> Any:
    """Judge a warpadam with this validation curve against an adamw that has 1.0 after one, 0.8 after three seconds."""
    finalists = [Finalist(trial(plan, 0, 0.4), 0.4), Finalist(trial(plan, 1, 0.5, "adamw"), 0.5)]
    fast = [timed(run, [noise + loss for loss in (1.0, 0.9, 0.8)], 1.0) for run, noise in with_noise("adamw", 1.0)]
    slow = [
        timed(run, [noise + loss for loss in warp], a_warp_point_s) for run, noise in with_noise("warpadam", test_loss)
    ]
    return recommend(plan, finalists, [*slow, *fast], LOSS)


def with_noise(arm: str, test_loss: float) -> list[tuple[ConfirmRun, float]]:
    noise = NOISE if arm == "adamw" else NOISE[::-1]
    return list(zip(runs(arm, [test_loss + item for item in noise], ARMS.index(arm)), noise, strict=True))


def test_p_that_helps_at_equal_steps_and_hurts_at_equal_time_says_so_in_the_sentence(plan: JobPlan) -> None:
    result = in_time(plan, [1.5, 1.0, 0.4], 2.0)
    assert (result.verdict, result.arm) == (Word.HELPS, "warpadam")
    assert result.at_equal_seconds.word is Word.HURTS
    assert result.at_equal_seconds.challenger_mean == pytest.approx(1.5)  # of its points only the first is in time
    assert result.at_equal_seconds.baseline_mean == pytest.approx(0.8)
    steps, time, *_ = result.reason.split("; ")
    assert steps == "with P the test loss is 50 % lower at equal steps"
    assert time == "at equal time, on validation, P hurts: 87.5 % higher"


def test_a_loss_of_more_than_twice_is_said_as_a_multiple(plan: JobPlan) -> None:
    result = in_time(plan, [8.0, 1.0, 0.4], 2.0)
    assert "at equal time, on validation, P hurts: 10 times as high" in result.reason


def test_p_that_is_as_fast_is_read_at_its_end(plan: JobPlan) -> None:
    result = in_time(plan, [1.5, 1.0, 0.4], 1.0)
    assert result.at_equal_seconds.word is Word.HELPS
    assert "at equal time, on validation, it is 50 % lower" in result.reason


def test_the_faster_run_of_each_pair_sets_the_time(plan: JobPlan) -> None:
    result = in_time(plan, [0.7, 0.6], 1.0)  # ends after two seconds, where adamw has 0.9
    assert result.at_equal_seconds.baseline_mean == pytest.approx(0.9)


def test_at_equal_time_each_run_is_read_at_its_best_point_until_then(plan: JobPlan) -> None:
    finalists = [Finalist(trial(plan, 0, 0.4), 0.4), Finalist(trial(plan, 1, 0.5, "adamw"), 0.5)]
    curve = [0.9, 0.9, 0.9, 0.4, 0.3, 0.2, 0.3, 0.4, 0.9, 0.9, 0.9]
    found = [timed(run, [noise + x for x in curve], 1.0) for arm in ARMS for run, noise in with_noise(arm, 1.0)]
    result = recommend(plan, finalists, found, replace(LOSS, at_best=True))
    assert result.at_equal_seconds is not None
    assert result.at_equal_seconds.baseline_mean == pytest.approx(0.2)


@pytest.mark.parametrize("objective", [replace(LOSS, metric="steps_to_target", target=0.9), LOSS])
def test_without_curves_or_with_a_time_as_objective_there_is_no_equal_time(plan: JobPlan, objective: Objective) -> None:
    finalists = [Finalist(trial(plan, 0, 0.4), 0.4), Finalist(trial(plan, 1, 0.5, "adamw"), 0.5)]
    found = [*runs("warpadam", losses(0.5), 0), *runs("adamw", BASELINE, 1)]
    if not objective.is_timed:
        for run in found[:3]:
            run.curve = []
    result = recommend(plan, finalists, found, objective)
    assert result.at_equal_seconds is None
    assert result.statistics is not None
    assert ("at equal time, on validation, too few pairs" in result.reason) is not objective.is_timed


@pytest.mark.parametrize("metric", ["steps_to_target", "seconds_to_target"])
@pytest.mark.parametrize(("both_missed", "doubtful"), [(8, True), (4, True), (3, False)])
def test_a_target_that_neither_arm_reaches_is_no_proof_that_both_are_as_fast(
    plan: JobPlan, metric: str, both_missed: int, doubtful: bool
) -> None:
    """Each missed run costs as much as the longest of all, so all pairs would cost the same."""
    finalists = [Finalist(trial(plan, 0, 0.4), 0.4), Finalist(trial(plan, 1, 0.5, "adamw"), 0.5)]
    found = [
        timed(run, [1.0, 0.9, 0.95 if run.seed <= both_missed else 0.5], 1.0)
        for arm in ARMS
        for run, _ in with_noise(arm, 1.0)
    ]
    result = recommend(plan, finalists, found, replace(LOSS, metric=metric, target=0.6))
    assert [len(pair.missed) == 2 for pair in result.pairs].count(True) == both_missed
    assert result.verdict is (Word.INCONCLUSIVE if doubtful else Word.NO_DIFFERENCE)
    said = f"neither arm reached the loss 0.6 on {both_missed} of 8 seeds: ask for a higher one in objective.target"
    assert result.reason.startswith(said) is doubtful


def test_validation_that_says_the_opposite_of_the_test_takes_the_word(plan: JobPlan) -> None:
    result = in_time(plan, [1.5, 1.4, 1.3], 1.0, test_loss=0.5)
    assert (result.verdict, result.arm) == (Word.INCONCLUSIVE, "adamw")
    assert result.reason.startswith(
        "validation says that P hurts (the cost is 62.5 % higher), test says the opposite (it is 50 % lower): the parts"
    )
    assert result.statistics.word is result.at_equal_seconds.word is Word.INCONCLUSIVE


@pytest.mark.parametrize(
    ("splits", "where"),
    [
        (None, "on 8 fresh seeds, each with its own split of the data"),
        (1, "on 8 fresh seeds, on this one split of the data"),
        (3, "on 8 fresh seeds over 3 splits of the data"),
    ],
)
def test_the_reason_says_on_which_splits_it_was_seen(plan: JobPlan, splits: int | None, where: str) -> None:
    confirm = plan.spec.confirm.model_copy(update={"splits": splits})
    plan = make_plan(plan.spec.model_copy(update={"confirm": confirm}))
    assert where in judge(plan, losses(0.5), BASELINE).reason


@pytest.mark.parametrize("warp", [[None, *losses(0.5)[1:]], losses(0.5)])
def test_the_figures_never_say_another_word_than_the_verdict(plan: JobPlan, warp: list[float | None]) -> None:
    finalists = [Finalist(trial(plan, 0, 0.4), 0.4), Finalist(trial(plan, 1, 0.5, "adamw"), 0.5)]
    found = [*runs("warpadam", warp, 0), *runs("adamw", BASELINE, 1)]
    for blind in ({}, {"adamw": "all its trials cost the same on validation"}):
        result = recommend(plan, finalists, found, LOSS, blind=blind)
        assert result.statistics is not None
        assert result.statistics.word is result.verdict
        assert result.statistics.more_pairs is None


NOT_DEFINED = "the ROC AUC is not defined on the test part of 1 of 8 seeds: a class has no rows there, or all"
ONE_SIDED = "the ROC AUC of one of the two runs is not a finite number on the test part of 1 of 8 seeds"
OF_A_LOOP = "the training loop yielded no finite ROC AUC on 1 of 8 seeds"


@pytest.mark.parametrize(
    ("part", "arms", "reason"),
    [
        ("test", ["warpadam", "adamw"], NOT_DEFINED),
        ("test", ["warpadam"], ONE_SIDED),
        ("test", ["adamw"], ONE_SIDED),
        ("validation", ["warpadam", "adamw"], OF_A_LOOP),
        ("validation", ["warpadam"], OF_A_LOOP),
        ("validation", ["adamw"], OF_A_LOOP),
    ],
)
def test_runs_without_a_score_are_not_said_to_have_failed(
    plan: JobPlan, part: Any, arms: list[str], reason: str
) -> None:
    objective = Objective(metric="val_roc_auc", target=None, steps=10, max_seconds=60.0, part=part)
    finalists = [Finalist(trial(plan, 0, 0.4), 0.4), Finalist(trial(plan, 1, 0.5, "adamw"), 0.5)]
    found = [*runs("warpadam", losses(0.5), 0), *runs("adamw", BASELINE, 1)]
    for run in found:
        run.test_score = None if run.seed == 3 and run.arm in arms else run.test_score
    result = recommend(plan, finalists, found, objective)
    assert (result.verdict, result.arm) == (Word.INCONCLUSIVE, "adamw")
    assert result.reason.startswith(reason)


def test_a_run_that_failed_does_not_hide_why_the_other_one_has_no_score(plan: JobPlan) -> None:
    objective = Objective(metric="val_roc_auc", target=None, steps=10, max_seconds=60.0)
    finalists = [Finalist(trial(plan, 0, 0.4), 0.4), Finalist(trial(plan, 1, 0.5, "adamw"), 0.5)]
    found = [*runs("warpadam", [None, *losses(0.5)[1:]], 0), *runs("adamw", BASELINE, 1)]
    found[8].test_score = None
    assert recommend(plan, finalists, found, objective).reason.startswith(NOT_DEFINED)


@pytest.mark.parametrize(
    ("metric", "transform", "decided"),
    [
        ("val_loss", "standardise", True),
        ("steps_to_target", "standardise", True),
        ("val_r2", "standardise", True),
        ("val_loss", "quantile", False),
        ("val_loss", "log1p", False),
        ("val_rmse", "quantile", True),  # in units of the target, the odd row is as far as ever
        ("val_mae", "standardise", False),  # its share of the distances is small
        ("val_median_absolute_error", "standardise", False),
    ],
)
def test_a_metric_that_a_few_odd_rows_decide_gives_no_word(metric: str, transform: str, decided: bool) -> None:
    odd = Outliers(value=99.0, rows=2, squares=0.8, distances=0.2)
    said = decided_by_outliers(metric, transform, odd)
    assert (said is not None) is decided
    assert not decided or "2 rows, with targets such as 99, decide" in str(said)
    assert decided_by_outliers(metric, transform, None) is None


@pytest.mark.parametrize(("low", "kinds"), [(-2.0, "quantile"), (0.0, "quantile or log1p")])
def test_a_target_with_odd_rows_takes_the_word_and_the_advice_fits_the_target(low: float, kinds: str) -> None:
    body = {"dataset": {"name": "diabetes"}, "model": {"name": "mlp"}, "search_space": {"preset": "quick"}}
    odd = Outliers(value=1e6, rows=1, squares=0.9999, distances=0.9)
    info = replace(BUNDLED["diabetes"].info, target_low=low, target_outliers=odd)
    plan = make_plan(JobSpec.model_validate(body), info)
    finalists = [Finalist(trial(plan, 0, 0.4), 0.4), Finalist(trial(plan, 1, 0.5, "adamw"), 0.5)]
    found = [*runs("warpadam", losses(0.5), 0), *runs("adamw", BASELINE, 1)]
    result = recommend(plan, finalists, found, LOSS)
    assert (result.verdict, result.arm) == (Word.INCONCLUSIVE, "adamw")
    assert result.reason.startswith("one row, whose target is 1e+06, decide")
    (advice,) = make_findings(plan, result, finalists, [], found, LOSS).advice
    assert f"set dataset.target_transform to {kinds} and judge by val_loss or val_median_absolute_error" in advice
