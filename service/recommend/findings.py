"""Describes a job besides its verdict: nothing here decides what is recommended. Pure functions.

Other arms and metrics, tuning curves, importances, the Pareto front, pruning, whether the P of a warm start transfers,
and when the cost of learning P over a family is repaid.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Final, NamedTuple

from service.db.models import ConfirmRun, Trial
from service.ledger.queries import curve_of
from service.planning.arms import SHUFFLED_P, UNTUNED, ArmPlan, Role
from service.planning.atlas import similar_to
from service.planning.objective import TIMED, Objective, decided_by_outliers, time_to
from service.planning.plan import JobPlan
from service.recommend.fidelity import MIN_TAU, UNPRUNED
from service.recommend.recommendation import (
    MIN_PAIRS,
    TIED,
    Costs,
    Finalist,
    completed,
    length,
    paired_runs,
    pairs_of,
)
from service.recommend.verdict import compare, holm
from service.result.effects import percent
from service.result.job_result import (
    ALPHA,
    ArmFinding,
    BreakEven,
    Comparison,
    FamilyFinding,
    Fidelity,
    Findings,
    Paired,
    ParetoPoint,
    Recommendation,
    TuningPoint,
    WarmStartOutcome,
)
from service.spec.metrics import METRICS, MetricEntry, metric_of
from service.spec.tasks import Task
from service.states import ENDED_TRIAL, TrialState
from service.training.run import CurvePoint

NOTE: Final = (
    "descriptive: these comparisons were not planned before the runs; p-values are two-sided and Holm-adjusted over "
    "all comparisons listed here"
)

JUDGED: Final = {
    "val_loss": "test_loss",
    **{metric.field: metric.compared_as for metric in METRICS.values()},
    **{name: name for name in TIMED},
}
"""Metric of the objective -> what the fresh seeds are compared on; times to a target are on validation."""

MIN_IMPORTANCE_TRIALS: Final = 4
"""With fewer completed trials, importances are noise."""

Curves = Sequence[tuple[Sequence[CurvePoint], Sequence[CurvePoint]]]
"""The learning curves of the baseline and of the challenger, seed by seed."""

TOO_GOOD: Final = 0.002
"""Share of the trivial predictor's loss below which a model is implausibly good."""

ENOUGH_ROWS: Final = 200
"""Rows of a table from which on that is said: of a few test rows, an honest model can have all right."""

EARLY: Final = 0.6
"""Share of the steps: a best point before that means that the rest of the run was of no use."""


OUT_OF_TIME: Final = "the arm reached budget.max_seconds"
"""How the cause of a trial begins that was cut off because the time of its arm was up."""


class Searched(NamedTuple):
    """An arm with its trials, and how well early losses rank those."""

    arm: ArmPlan
    trials: Sequence[Trial]
    fidelity: Fidelity | None


def make_findings(
    plan: JobPlan,
    result: Recommendation,
    finalists: Sequence[Finalist],
    searched: Sequence[Searched],
    runs: Sequence[ConfirmRun],
    objective: Objective,
    family: FamilyFinding | None = None,
    notes: Sequence[str] = (),
) -> Findings:
    """Describe a job by its searches and the runs of the ``confirm`` phase; ``notes`` are about its split."""
    by_arm = {finalist.trial.arm: finalist.trial for finalist in finalists}
    found = list(_comparisons(by_arm, result, runs, objective))
    adjusted = zip(found, holm([comparison.p_holm for comparison in found]), strict=True)
    rivals = [row for item in searched if item.arm.role in (Role.WARPADAM, Role.BASELINE) for row in item.trials]
    return Findings(
        note=NOTE,
        comparisons=[comparison.model_copy(update={"p_holm": p}) for comparison, p in adjusted],
        arms=[
            ArmFinding(
                arm=item.arm.name,
                role=item.arm.role,
                tuning_curve=tuning_curve(item.trials),
                importances=importances(item.arm, item.trials),
                fidelity=item.fidelity,
            )
            for item in searched
        ],
        pareto=pareto(rivals) if plan.spec.objective.trade_off else [],
        pruning=_pruning(plan, searched),
        advice=[*notes, *_too_good(plan, result), *_advice(plan, result, runs), *_left_out(searched, by_arm)],
        similar=similar_to(plan),
        family=family,
    )


def _comparisons(
    by_arm: dict[str, Trial], result: Recommendation, runs: Sequence[ConfirmRun], objective: Objective
) -> Iterator[Comparison]:
    """Yield the comparisons of a job besides that of the verdict; their p-values are not adjusted yet."""
    baseline, challenger = by_arm[result.baseline], by_arm[result.challenger]
    both = paired_runs(runs, baseline, challenger)
    names, score = (challenger.arm, baseline.arm), METRICS.get(result.score or "")
    metrics: dict[str, list[Costs]] = {"test_loss": [(base.test_loss, warp.test_loss) for base, warp in both]}
    if score is not None:
        metrics[score.compared_as] = [(_cost_on_test(base, score), _cost_on_test(warp, score)) for base, warp in both]
    metrics["training_seconds"] = [(base.seconds, warp.seconds) for base, warp in both]
    metrics.pop(JUDGED[objective.metric], None)  # the verdict is about it
    for metric, values in metrics.items():
        yield from _compare(names, metric, values, 0)
    for metric in ("steps_to_target", "seconds_to_target"):
        values, missed = _times([(curve_of(base), curve_of(warp)) for base, warp in both], metric, objective)
        yield from _compare(names, metric.replace("target", "loss_of_baseline"), values, missed)
    for arm, trial in by_arm.items():
        if arm in (*names, UNTUNED):
            continue
        worse, better = (trial, challenger) if arm == SHUFFLED_P else (baseline, trial)
        pairs = pairs_of(runs, worse, better, objective)
        costs = [(pair.baseline, pair.warpadam) for pair in pairs]
        missed = sum(len(pair.missed) for pair in pairs)
        yield from _compare((better.arm, worse.arm), JUDGED[objective.metric], costs, missed)


def _cost_on_test(run: ConfirmRun, score: MetricEntry) -> float | None:
    return None if run.test_score is None else score.cost(run.test_score)


def _times(both: Curves, metric: str, objective: Objective) -> tuple[list[Costs], int]:
    """Return the times of both arms to the loss of the baseline's best point, and how many runs never reached it.

    Those count as the longest run.
    """
    whole = [(base, warp) for base, warp in both if base and warp]
    longest = max((length(curve, metric) for pair in whole for curve in pair), default=0.0)
    times = [
        [time_to(curve, objective.best_point(base).val_loss, metric) for curve in (base, warp)] for base, warp in whole
    ]
    missed = sum(pair.count(None) for pair in times)
    base_times, warp_times = ([longest if pair[i] is None else pair[i] for pair in times] for i in (0, 1))
    return list(zip(base_times, warp_times, strict=True)), missed


def _compare(names: tuple[str, str], metric: str, values: Sequence[Costs], missed: int) -> Iterator[Comparison]:
    """Yield the comparison with its raw p-value; nothing if too few seeds have both values."""
    whole = [(base, other) for base, other in values if base is not None and other is not None]
    if len(whole) < MIN_PAIRS:
        return
    verdict = compare([base for base, _ in whole], [other for _, other in whole], 0.0)
    yield Comparison(
        arm=names[0],
        against=names[1],
        metric=metric,
        missed=missed,
        mean=verdict.challenger_mean,
        against_mean=verdict.baseline_mean,
        p_holm=min(1.0, 2 * min(verdict.p_helps, verdict.p_hurts)),
        **verdict.model_dump(include=set(Paired.model_fields)),
    )


def _advice(plan: JobPlan, result: Recommendation, runs: Sequence[ConfirmRun]) -> Iterator[str]:
    """Say what would make the answer better."""
    steps = plan.spec.budget.steps
    early = [arm for arm in result.finalists if arm.best_step is not None and arm.best_step <= EARLY * steps]
    for arm in early:
        yield f"{arm.arm} is best on validation near step {arm.best_step:.0f} of {steps} and then gets worse"
    if early:
        yield "the model overfits: fewer steps, more weight decay, a smaller model or more rows may do better"
        if plan.spec.training.patience is None:
            yield "training.patience stops runs early that no longer get better"
    yield from _advice_on_classes(plan, result)
    yield from _advice_on_outliers(plan)
    score = metric_of(plan.spec.objective.metric)
    if score and any((curve := curve_of(run)) and curve[-1].val_score is None for run in runs):
        yield f"the {score.label} is not defined on a validation part: there, runs were judged by their loss"


def _advice_on_classes(plan: JobPlan, result: Recommendation) -> Iterator[str]:
    """Say what tells more than an accuracy that always predicting the most frequent class has, too."""
    bar = None if result.trivial is None else result.trivial.mean_test_score
    compared = [arm for arm in result.finalists if arm.arm in (result.challenger, result.baseline)]
    is_better = any(bar is not None and (arm.mean_test_score or 0.0) > bar + TIED for arm in compared)
    if result.score == "accuracy" and plan.task == Task.CLASSIFICATION and bar is not None and not is_better:
        yield (
            f"always predicting the most frequent class is right for {percent(bar)} of the rows, and no finalist is "
            "right more often; with a rare class, judge by val_average_precision or val_balanced_accuracy, or set "
            "training.class_weights to balanced"
        )


def _advice_on_outliers(plan: JobPlan) -> Iterator[str]:
    """Say what a few odd rows of the target do not decide."""
    metric, transform, info = plan.spec.objective.metric, plan.spec.dataset.target_transform, plan.info
    if any(decided_by_outliers(name, transform, info.target_outliers) for name in (metric, "val_loss")):
        takes_log = info.target_low is None or info.target_low > -1
        yield (
            f"look at the odd rows of the target; if they are right, set dataset.target_transform to "
            f"{'quantile or log1p' if takes_log else 'quantile'} and judge by val_loss or val_median_absolute_error"
        )


def _too_good(plan: JobPlan, result: Recommendation) -> Iterator[str]:
    """Say that a model is implausibly good, which may mean that test rows are known from training."""
    losses = [arm.mean_test_loss for arm in result.finalists if arm.mean_test_loss is not None]
    is_table = plan.spec.dataset.id is not None and plan.info.columns and plan.info.rows >= ENOUGH_ROWS
    if is_table and result.trivial is not None and losses and min(losses) < TOO_GOOD * result.trivial.mean_test_loss:
        yield (
            f"a test loss of {min(losses):.2g}, where {result.trivial.predicts} has "
            f"{result.trivial.mean_test_loss:.2g}, is nearly perfect: check that no feature holds the answer "
            "(dataset.exclude) and that rows which belong together stay in one part (dataset.split)"
        )


def _left_out(searched: Sequence[Searched], by_arm: Mapping[str, Trial]) -> Iterator[str]:
    """Say which arms completed no trial, and why: only one that nobody tunes, as the job fails without the others."""
    for item in searched:
        if item.arm.name not in by_arm:
            cause = next((trial.cause for trial in item.trials if trial.cause), "none was started")
            yield f"{item.arm.name} completed no trial and is left out: {cause}"


def _pruning(plan: JobPlan, searched: Sequence[Searched]) -> str:
    cut = sum(
        trial.state == TrialState.PRUNED and (trial.cause or "").startswith(OUT_OF_TIME)
        for item in searched
        for trial in item.trials
    )
    if not cut:
        return _trust(plan, searched)
    counted = "1 trial that counts" if cut == 1 else f"{cut} trials that count"
    return (
        f"{_trust(plan, searched)}; {counted} as pruned {'was' if cut == 1 else 'were'} cut off by budget.max_seconds"
    )


def _trust(plan: JobPlan, searched: Sequence[Searched]) -> str:
    """Say whether trials were pruned by their early losses."""
    if plan.spec.search.pruner == "none":
        return "no trial was pruned: the spec asks for no pruner"
    for item in searched:
        fidelity = item.fidelity
        if fidelity is not None and not fidelity.trusted:
            tau = "could not be measured" if fidelity.tau is None else f"{fidelity.tau:.2f}, under {MIN_TAU}"
            return (
                f"pruning was turned off from arm {item.arm.name} on: losses at step {fidelity.rung_step} do not "
                f"predict the final ones well enough (Kendall's tau {tau})"
            )
    if all(item.fidelity is None for item in searched):
        return f"no trial was pruned: the first {UNPRUNED} trials of an arm never are"
    return f"pruning was on after the first {UNPRUNED} trials of each arm: early losses rank runs as final losses do"


def tuning_curve(trials: Sequence[Trial]) -> list[TuningPoint]:
    """Return the best cost so far over ended trials and their training seconds."""
    points: list[TuningPoint] = []
    best, seconds = None, 0.0
    for count, row in enumerate((row for row in trials if row.state in ENDED_TRIAL), start=1):
        seconds += row.seconds
        if row.state == TrialState.COMPLETE and row.value is not None:
            best = row.value if best is None else min(best, row.value)
        if best is not None:
            points.append(TuningPoint(trials=count, seconds=seconds, best=best))
    return points


def importances(arm: ArmPlan, trials: Sequence[Trial]) -> dict[str, float]:
    """Return how much each parameter matters, the largest first, by Optuna's default evaluator.

    A parameter that only some completed trials have is left out: the evaluator would rank it by those alone.
    """
    complete = [row for row in trials if row.state == TrialState.COMPLETE and row.value is not None]
    if len(complete) < MIN_IMPORTANCE_TRIALS or len({row.value for row in complete}) == 1:
        return {}
    shared = [name for name in complete[0].params if all(name in row.params for row in complete)]
    import optuna  # slow to load, and the API does without it

    from search_spaces.to_optuna import distributions

    study = optuna.create_study()
    for row in complete:
        study.add_trial(
            optuna.trial.create_trial(
                value=row.value, params=dict(row.params), distributions=distributions(arm.space, row.params)
            )
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        found = optuna.importance.get_param_importances(study, params=shared)
    return {name: float(value) for name, value in found.items()}


def pareto(trials: Sequence[Trial]) -> list[ParetoPoint]:
    """Return the completed trials that no other beats in both cost and seconds, the fastest first."""
    front: list[ParetoPoint] = []
    complete = [row for row in trials if row.state == TrialState.COMPLETE and row.value is not None]
    for row in sorted(complete, key=lambda row: (row.seconds, row.value)):
        assert row.value is not None, "trials without a value were left out"
        if not front or row.value < front[-1].value:
            front.append(ParetoPoint(arm=row.arm, trial=row.number, value=row.value, seconds=row.seconds))
    return front


def find_transfer(
    plan: JobPlan, comparisons: Sequence[Comparison], searched: Sequence[Searched]
) -> WarmStartOutcome | None:
    """Return whether the P of a warm start transfers; None for a job without one.

    Transfer is claimed only if the two-sided p-value, Holm-adjusted with all comparisons of the job, is at most 0.05.
    With eight seeds, P must win on all eight, and the job may have one further arm. ``comparisons`` includes the one of
    the challenger with the control.
    """
    warm = plan.spec.warm_start
    if warm is None:
        return None
    assert warm.sha256 is not None, "filled in when the job was submitted"
    item = next((item for item in comparisons if item.against == SHUFFLED_P), None)
    if item is None:
        reason = "transfer is unknown: too few seeds completed from P and from the same P in wrong coordinates"
        if all(item.arm.name != SHUFFLED_P for item in searched):
            reason = f"transfer is unknown: the job was stopped before it had searched {SHUFFLED_P}"
        return WarmStartOutcome(job=warm.job, sha256=warm.sha256, transfer=None, reason=reason)
    transfer = item.improvement > 0 and item.p_holm <= ALPHA
    better = item.relative_improvement
    change = f"{abs(item.improvement):.3g}" if better is None else f"{abs(better):.1%}"
    reason = (
        f"{'transfer' if transfer else 'no transfer shown'}: from the P of {warm.job} the cost on the fresh seeds is "
        f"{change} {'lower' if item.improvement >= 0 else 'higher'} than from the same P in wrong coordinates, on "
        f"{item.pairs} paired seeds (p {item.p_holm:.3g} after Holm)"
    )
    return WarmStartOutcome(job=warm.job, sha256=warm.sha256, transfer=transfer, reason=reason)


def find_break_even(
    plan: JobPlan, baseline: Trial, challenger: Trial, runs: Sequence[ConfirmRun], tasks: int
) -> BreakEven | None:
    """Return after how many further tasks of a family P has repaid its learning.

    None without a seed that both finalists completed. Each run of the ``confirm`` phase trains on ``tasks`` tasks.
    """
    assert plan.spec.family is not None, "only called for a family"
    base, warp = (completed(runs, trial.number) for trial in (baseline, challenger))
    curves = [(curve_of(base[seed]), curve_of(warp[seed])) for seed in sorted(base.keys() & warp.keys())]
    both = [pair for pair in curves if all(pair)]
    if not both:
        return None
    base_steps, warp_steps, _ = _mean_times(both, "steps_to_target")
    base_seconds, warp_seconds, missed = _mean_times(both, "seconds_to_target")
    learning_steps = plan.spec.family.learn_tasks * plan.spec.family.learn_steps
    learning_seconds = fmean(curve[-1].learning_seconds for _, curve in both)
    in_steps = _repaid(learning_steps, base_steps, warp_steps)
    in_seconds = _repaid(learning_seconds, base_seconds / tasks, warp_seconds / tasks)
    return BreakEven(
        seeds=len(both),
        missed=missed,
        learning_steps=learning_steps,
        learning_seconds=learning_seconds,
        baseline_steps=base_steps,
        challenger_steps=warp_steps,
        baseline_seconds=base_seconds / tasks,
        challenger_seconds=warp_seconds / tasks,
        tasks_in_steps=in_steps,
        tasks_in_seconds=in_seconds,
        summary=_summary(learning_steps, base_steps, warp_steps, in_steps, in_seconds),
    )


def _mean_times(both: Curves, metric: str) -> tuple[float, float, int]:
    """Return the mean times of both arms to the baseline's final loss, and how many runs with P never had it."""
    base_times = [time_to(base, base[-1].val_loss, metric) or 0.0 for base, _ in both]
    reached = [time_to(warp, base[-1].val_loss, metric) for base, warp in both]
    warp_times = [length(warp, metric) if time is None else time for time, (_, warp) in zip(reached, both, strict=True)]
    return fmean(base_times), fmean(warp_times), reached.count(None)


def _repaid(cost: float, without: float, with_p: float) -> int | None:
    return math.ceil(cost / (without - with_p)) if without > with_p else None


def _summary(
    learning_steps: int, base_steps: float, warp_steps: float, in_steps: int | None, in_seconds: int | None
) -> str:
    repaid = [
        f"never in {unit}, because P saves none" if tasks is None else f"after {tasks} tasks in {unit}"
        for tasks, unit in ((in_steps, "steps"), (in_seconds, "seconds"))
    ]
    return (
        f"on unseen tasks P needs {warp_steps:.1f} steps to the loss that the baseline has after {base_steps:.1f}; the "
        f"{learning_steps} steps of learning it are repaid {repaid[0]}, {repaid[1]}"
    )
