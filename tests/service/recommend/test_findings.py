# What is said of a job besides its verdict. The figures of a break-even are written out, to be worked out by hand.
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces import get_preset
from search_spaces.to_optuna import suggest
from service.data.prepared import PreparedData
from service.db.models import ConfirmRun, Trial
from service.ledger.queries import stored_curve
from service.planning.arms import ArmPlan, warpadam_arms
from service.planning.objective import Objective
from service.planning.plan import JobPlan, make_plan
from service.recommend.findings import (
    JUDGED,
    OUT_OF_TIME,
    Searched,
    _pruning,
    find_break_even,
    find_transfer,
    importances,
    make_findings,
)
from service.recommend.recommendation import Finalist, recommend
from service.recommend.wording import NOUNS
from service.result.job_result import BreakEven, Comparison, Word
from service.spec.job import JobSpec
from service.spec.metrics import METRICS, metric_of
from service.states import TrialState
from service.training.run import CurvePoint
from tests.conftest import SpecMaker
from tests.service.recommend.test_recommendation import runs, trial


@pytest.mark.parametrize("metric", [*NOUNS, *(entry.field for entry in METRICS.values())])
def test_another_arm_is_compared_under_the_name_of_what_was_measured(metric: str) -> None:
    body = {"dataset": {"name": "wine"}, "model": {"name": "mlp"}, "baselines": ["adamw", "sgd"]}
    plan = make_plan(JobSpec.model_validate(body))
    arms = ("warpadam", "adamw", "sgd")
    finalists = [Finalist(trial(plan, number, 0.4 + number / 10, arm), 0.4) for number, arm in enumerate(arms)]
    found = [run for number, arm in enumerate(arms) for run in runs(arm, [0.5 + number / 10] * 8, number)]
    target = 0.9 if metric.endswith("target") else None
    objective = Objective(metric=metric, target=target, steps=10, max_seconds=60.0)
    findings = make_findings(plan, recommend(plan, finalists, found, objective), finalists, [], found, objective)
    (against,) = (row for row in findings.comparisons if row.arm == "sgd")
    score = metric_of(metric)
    assert against.metric == (score.compared_as if score else {"val_loss": "test_loss"}.get(metric, metric))
    assert against.metric.startswith("1 - ") is (score is not None and score.higher_is_better)


METRICS_OF_THE_TEST = st.sampled_from(["val_loss", "val_accuracy", "steps_to_target"])
LOSSES = st.lists(st.tuples(st.floats(0.1, 2.0), st.floats(0.1, 2.0)), min_size=6, max_size=9)


@settings(max_examples=25, deadline=None)
@given(METRICS_OF_THE_TEST, LOSSES)
def test_the_comparison_of_the_verdict_is_told_once_and_its_figures_have_its_word(
    metric: str, pairs: list[tuple[float, float]]
) -> None:
    plan = make_plan(JobSpec.model_validate({"dataset": {"name": "wine"}, "model": {"name": "mlp"}}))
    finalists = [Finalist(trial(plan, 0, 0.4), 0.4), Finalist(trial(plan, 1, 0.5, "adamw"), 0.5)]
    found = [*runs("adamw", [base for base, _ in pairs], 1), *runs("warpadam", [other for _, other in pairs], 0)]
    target = 0.9 if metric == "steps_to_target" else None
    objective = Objective(metric=metric, target=target, steps=10, max_seconds=60.0)
    result = recommend(plan, finalists, found, objective)
    findings = make_findings(plan, result, finalists, [], found, objective)
    told = [(row.arm, row.against, row.metric) for row in findings.comparisons]
    assert len(told) == len(set(told)) >= 4
    assert ("warpadam", "adamw", JUDGED[metric]) not in told
    assert result.statistics is not None
    assert result.statistics.word is result.verdict
    assert (result.arm == "warpadam") is (result.verdict is Word.HELPS)


@pytest.mark.parametrize(("patience", "said"), [(None, True), (50, False)])
def test_patience_is_not_advised_to_those_who_have_it(spec: SpecMaker, patience: int | None, said: bool) -> None:
    body = spec(training={"patience": patience}, budget={"trials_per_arm": 2, "steps": 100, "batch_size": 32})
    plan = make_plan(JobSpec.model_validate(body))
    finalists = [Finalist(trial(plan, 0, 0.4), 0.4), Finalist(trial(plan, 1, 0.5, "adamw"), 0.5)]
    found = [*runs("warpadam", [0.5] * 6, 0), *runs("adamw", [0.6] * 6, 1)]
    objective = Objective(metric="val_loss", target=None, steps=100, max_seconds=60.0, at_best=True)
    result = recommend(plan, finalists, found, objective)
    advice = make_findings(plan, result, finalists, [], found, objective).advice
    assert "adamw is best on validation near step 10 of 100 and then gets worse" in advice
    assert any("training.patience" in sentence for sentence in advice) is said


@pytest.fixture
def arm() -> ArmPlan:
    (arm,) = warpadam_arms(get_preset("wide"), per_structure=False)
    return arm


def searched(arm: ArmPlan, values: list[float]) -> list[Trial]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    return [
        Trial(
            number=number,
            arm=arm.name,
            state=TrialState.COMPLETE,
            params=suggest(study.ask(), arm.space),
            value=value,
            seconds=1.0,
        )
        for number, value in enumerate(values)
    ]


def test_a_parameter_that_few_trials_have_is_not_said_to_matter(arm: ArmPlan) -> None:
    rows = searched(arm, [float(number) for number in range(12)])
    assert 0 < sum("rank" in row.params for row in rows) < 12
    found = importances(arm, rows)
    assert found.keys() == set.intersection(*(set(row.params) for row in rows))
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert sum(found.values()) == pytest.approx(1.0)


@pytest.mark.parametrize("values", [[0.0] * 12, [1.0, 2.0, 3.0], []], ids=["all equal", "three trials", "none"])
def test_trials_that_tell_nothing_apart_have_no_importances(arm: ArmPlan, values: list[float]) -> None:
    assert importances(arm, searched(arm, values)) == {}


def test_what_decides_the_cost_matters_most(arm: ArmPlan) -> None:
    rows = searched(arm, [0.0] * 60)
    for row in rows:
        row.value = float(row.params["lr"])
    assert next(iter(importances(arm, rows))) == "lr"


WARM = {"job": "job-1", "sha256": "a" * 64}


def against_control(against: str, improvement: float, p_holm: float) -> list[Comparison]:
    comparison = Comparison(
        arm="warpadam",
        against=against,
        metric="val_loss",
        pairs=8,
        missed=0,
        mean=1.0,
        against_mean=1.0 + improvement,
        improvement=improvement,
        relative_improvement=improvement / (1.0 + improvement),
        interval=(improvement, improvement),
        p_holm=p_holm,
        win_rate=1.0,
    )
    return [comparison]


CASES: list[tuple[str, float, float, bool | None, str]] = [
    ("shuffled_p", 1.0, 0.05, True, "transfer: from the P of job-1 the cost on the fresh seeds is 50.0% lower"),
    (
        "shuffled_p",
        1.0,
        0.0501,
        False,
        "no transfer shown: from the P of job-1 the cost on the fresh seeds is 50.0% lower",
    ),
    (
        "shuffled_p",
        -0.5,
        0.01,
        False,
        "no transfer shown: from the P of job-1 the cost on the fresh seeds is 100.0% higher",
    ),
    ("adamw", 1.0, 0.01, None, "transfer is unknown: too few seeds completed"),
]


@pytest.mark.parametrize(("against", "improvement", "p_holm", "transfer", "reason"), CASES)
def test_transfer_is_claimed_only_if_p_beats_the_same_p_shuffled(
    spec: SpecMaker, against: str, improvement: float, p_holm: float, transfer: bool | None, reason: str
) -> None:
    plan = make_plan(JobSpec.model_validate(spec(warm_start=WARM)))
    warm = find_transfer(
        plan, against_control(against, improvement, p_holm), [Searched(arm, [], None) for arm in plan.arms]
    )
    assert warm is not None
    assert (warm.job, warm.sha256, warm.transfer) == ("job-1", "a" * 64, transfer)
    assert warm.reason.startswith(reason)


def test_a_job_without_a_warm_start_says_nothing(spec: SpecMaker) -> None:
    assert find_transfer(make_plan(JobSpec.model_validate(spec())), against_control("adamw", 1.0, 0.01), []) is None


def test_a_stop_before_the_control_is_why_nothing_is_known_of_transfer(spec: SpecMaker) -> None:
    plan = make_plan(JobSpec.model_validate(spec(warm_start=WARM)))
    warm = find_transfer(plan, [], [Searched(plan.arm("warpadam"), [], None), Searched(plan.arm("adamw"), [], None)])
    assert warm is not None
    assert warm.reason == "transfer is unknown: the job was stopped before it had searched shuffled_p"


@pytest.mark.parametrize(
    ("cut", "said"),
    [
        (0, ""),
        (1, "; 1 trial that counts as pruned was cut off by budget.max_seconds"),
        (2, "; 2 trials that count as pruned were cut off by budget.max_seconds"),
    ],
)
def test_trials_that_were_cut_off_are_told_from_pruned_ones(spec: SpecMaker, arm: ArmPlan, cut: int, said: str) -> None:
    plan = make_plan(JobSpec.model_validate(spec(search={"pruner": "none"})))
    rows = searched(arm, [1.0, 2.0, 3.0, 4.0])
    for row in rows[:cut]:
        row.state, row.cause = TrialState.PRUNED, f"{OUT_OF_TIME} = 1.5"
    rows[3].state, rows[3].cause = TrialState.PRUNED, "pruner asha"
    sentence = _pruning(plan, [Searched(arm, rows, None)])
    assert sentence == f"no trial was pruned: the spec asks for no pruner{said}"


def test_runs_start_from_the_p_of_the_job_or_from_it_shuffled(spec: SpecMaker) -> None:
    body: dict[str, Any] = spec(warm_start=WARM, controls=["diagonal_pre", "random_p"])
    plan = make_plan(JobSpec.model_validate(body))
    names = ["warpadam", "adamw", "diagonal_pre", "random_p", "shuffled_p", "adamw_default"]
    assert [arm.name for arm in plan.arms] == names
    starts = {}
    for arm in plan.arms:
        run = plan.run(arm.name, arm.space.some_values(), PreparedData("", ""), seed=1, test=False)
        starts[arm.name] = (run.from_p_sha256, run.shuffle_seed)
    none = (None, None)
    assert starts == {
        "warpadam": ("a" * 64, None),
        "adamw": none,
        "diagonal_pre": none,
        "random_p": none,
        "shuffled_p": ("a" * 64, 0),
        "adamw_default": none,
    }
    assert plan.arm("shuffled_p").space == plan.arm("warpadam").space


BASELINE, CHALLENGER = Trial(number=0, arm="adamw"), Trial(number=1, arm="warpadam")


@pytest.fixture
def family_plan(spec: SpecMaker) -> JobPlan:
    family = {"class_subsets": {"ways": 2}, "learn_tasks": 10, "learn_steps": 9}
    return make_plan(JobSpec.model_validate(spec(family=family)))


def confirm_run(
    trial: Trial, seed: int, losses: Sequence[float], a_step_s: float, learning_s: float = 0.0
) -> ConfirmRun:
    """A run with a point every 10 steps."""
    curve = stored_curve(
        [
            CurvePoint(10 * i, loss, loss, 10 * i * a_step_s, learning_seconds=learning_s)
            for i, loss in enumerate(losses, start=1)
        ]
    )
    return ConfirmRun(trial_number=trial.number, arm=trial.arm, seed=seed, state=TrialState.COMPLETE, curve=curve)


def both(warp: Sequence[float], warp_step_s: float = 0.02) -> list[ConfirmRun]:
    return [
        run
        for seed in (1, 2)
        for run in (
            confirm_run(BASELINE, seed, [0.9, 0.7, 0.5, 0.4], 0.01),
            confirm_run(CHALLENGER, seed, warp, warp_step_s, learning_s=3.0),
        )
    ]


def found(family_plan: JobPlan, runs: Sequence[ConfirmRun]) -> BreakEven:
    result = find_break_even(family_plan, BASELINE, CHALLENGER, runs, tasks=2)
    assert result is not None
    return result


def test_learning_is_repaid_by_the_steps_and_seconds_saved_on_each_task(family_plan: JobPlan) -> None:
    result = found(family_plan, both([0.4, 0.3, 0.2, 0.1]))
    assert (result.seeds, result.missed) == (2, 0)
    assert (result.baseline_steps, result.challenger_steps) == (40, 10)
    assert (result.learning_steps, result.tasks_in_steps) == (90, 3)  # 30 saved on each
    assert (result.baseline_seconds, result.challenger_seconds) == pytest.approx((0.2, 0.1))  # two tasks side by side
    assert (result.learning_seconds, result.tasks_in_seconds) == (3.0, 30)
    assert "10.0 steps to the loss that the baseline has after 40.0" in result.summary
    assert "after 3 tasks in steps, after 30 tasks in seconds" in result.summary


def test_a_step_that_costs_more_than_it_saves_is_never_repaid_in_seconds(family_plan: JobPlan) -> None:
    result = found(family_plan, both([0.5, 0.4, 0.3, 0.2], warp_step_s=0.03))
    assert (result.tasks_in_steps, result.tasks_in_seconds) == (5, None)
    assert "never in seconds" in result.summary


def test_a_p_that_does_not_get_there_saves_nothing_and_says_how_often(family_plan: JobPlan) -> None:
    result = found(family_plan, both([0.9, 0.8, 0.7, 0.6]))
    assert (result.missed, result.challenger_steps, result.tasks_in_steps) == (2, 40, None)


def test_without_a_seed_that_both_completed_there_is_no_break_even(family_plan: JobPlan) -> None:
    runs = both([0.4, 0.3, 0.2, 0.1])
    for run in runs[::2]:
        run.state = TrialState.DIVERGED
    assert find_break_even(family_plan, BASELINE, CHALLENGER, runs, tasks=2) is None
