"""The recommendation of a job, from its trials and confirmation runs. Pure functions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from statistics import fmean, median
from typing import Final, NamedTuple

from search_spaces import Scalar
from search_spaces.refine import at_edge
from service.db.models import ConfirmRun, Trial
from service.errors import JobFailedError
from service.ledger.queries import curve_of
from service.planning.arms import Role
from service.planning.objective import Objective
from service.planning.plan import JobPlan
from service.recommend.luck import SearchLuck, luck_of
from service.recommend.verdict import compare
from service.result.job_result import ArmResult, Pair, Recommendation, Verdict, Word
from service.spec.job import MAX_CONFIRM_SEEDS
from service.spec.metrics import METRICS
from service.states import TrialState
from service.training.run import CurvePoint


class Finalist(NamedTuple):
    """The trial that represents its arm, and the validation cost it was picked for."""

    trial: Trial
    score: float


NOUNS: Final = {
    "val_loss": "test loss",
    **{metric.field: metric.noun for metric in METRICS.values()},
    "seconds_to_target": "time to the target",
    "steps_to_target": "number of steps to the target",
}
"""Metric -> what is compared on the fresh seeds."""

MIN_TOLD_APART: Final = 3
"""Fewer equal trials may be equal by chance."""

TIED: Final = 1e-6
"""Relative difference up to which costs count as equal."""

MIN_PAIRS: Final = 6
"""Fewer pairs can hardly be significant: five that all agree have a one-sided p of 0.03, four 0.06."""


def completed(runs: Sequence[ConfirmRun], trial: int) -> dict[int, ConfirmRun]:
    """Return the completed runs of a trial, by seed."""
    return {run.seed: run for run in runs if run.trial_number == trial and run.state == TrialState.COMPLETE}


def error_on_test(run: ConfirmRun, objective: Objective) -> float | None:
    """Return the score on the test part as a cost, such as 1 - accuracy; None if the run has no score."""
    if run.test_score is None:
        return None
    return 1.0 - run.test_score if objective.score is None else objective.score.cost(run.test_score)


def length(curve: Sequence[CurvePoint], metric: str) -> float:
    """Return the steps of a run for ``steps_to_target``, otherwise its seconds; 0 for an empty curve."""
    if not curve:
        return 0.0
    return float(curve[-1].step) if metric == "steps_to_target" else curve[-1].seconds


def best_trials(trials: Sequence[Trial], count: int) -> list[Trial]:
    """Return the ``count`` completed trials with the lowest cost on validation, best first."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE and trial.value is not None]
    return sorted(complete, key=lambda trial: (trial.value, trial.number))[:count]


def rank(contenders: Sequence[Trial], runs: Sequence[ConfirmRun], objective: Objective) -> list[Finalist]:
    """Return the trials of one arm by their mean cost on validation over the selection runs, lowest first.

    A trial that completed fewer runs ranks after those that completed more: a run does not diverge by chance. One that
    completed none is left out.

    Raises:
        JobFailedError: No trial completed any run.
    """
    ranked: list[tuple[int, float, int, Trial]] = []
    for trial in contenders:
        mine = [run for run in runs if run.trial_number == trial.number]
        complete = [objective.cost(curve_of(run)) for run in completed(runs, trial.number).values()]
        costs = [cost for cost in complete if cost is not None]
        if costs:
            ranked.append((len(mine) - len(costs), fmean(costs), trial.number, trial))
    if not ranked:
        raise JobFailedError(f"arm {contenders[0].arm}: none of its best trials completed a selection run")
    return [Finalist(trial, mean) for _, mean, _, trial in sorted(ranked)]


def is_blind(trials: Sequence[Trial]) -> bool:
    """Tell whether several trials completed and all cost the same, up to rounding, so that none is the best one."""
    values = [trial.value for trial in trials if trial.state == TrialState.COMPLETE and trial.value is not None]
    return len(values) >= MIN_TOLD_APART and max(values) - min(values) <= TIED * max(map(abs, values))


def edge_of_range(plan: JobPlan, finalist: Trial) -> str | None:
    """Return that the lr of a finalist is at an end of the range that its arm may try; None if it is not."""
    space = plan.arm(finalist.arm).space
    end = at_edge(space, finalist.params)
    if end is None:
        return None
    return f"the best lr of {finalist.arm}, {finalist.params['lr']:.3g}, is at the {end} end of its range"


def search_luck(
    plan: JobPlan, finalist: Trial, trials: Sequence[Trial], races: Sequence[ConfirmRun], objective: Objective
) -> SearchLuck | None:
    """Return what an arm would lose if its search had missed its best trials; None if they did not race.

    Trials that raced are compared with the winner on the seeds that both ran, the others as trials.

    Args:
        plan: The job's plan.
        finalist: The winner of the arm's race.
        trials: The trials of the arm.
        races: Every run of the ``select`` phase.
        objective: What they are judged by.
    """
    costs: dict[int, dict[int, float]] = {}
    for run in races:
        cost = objective.cost(curve_of(run)) if run.arm == finalist.arm and run.state == TrialState.COMPLETE else None
        if cost is not None:
            costs.setdefault(run.trial_number, {})[run.seed] = cost
    won = costs.get(finalist.number, {})
    if not won or len(costs) == 1:
        return None
    penalties = list[tuple[Mapping[str, Scalar], float]]()
    for trial in best_trials(trials, len(trials)):
        raced = costs.get(trial.number, {}).keys() & won.keys()
        if raced:
            behind, scale = fmean(costs[trial.number][seed] - won[seed] for seed in raced), fmean(won.values())
        else:
            scale = finalist.value or 0.0
            behind = (trial.value or 0.0) - scale
        penalties.append((trial.params, max(0.0, behind) / (abs(scale) or 1.0)))
    penalties.sort(key=lambda one: (one[0] != finalist.params, one[1]))
    return luck_of(penalties, [dict(values) for values in plan.arm(finalist.arm).space.first_trials])


def recommend(
    plan: JobPlan,
    finalists: Sequence[Finalist],
    runs: Sequence[ConfirmRun],
    objective: Objective,
    look: int = 1,
    luck: Mapping[str, SearchLuck | None] | None = None,
    blind_arms: Collection[str] = (),
    edges: Mapping[str, str | None] | None = None,
) -> Recommendation:
    """Judge the arms' finalists by the runs of the ``confirm`` phase.

    Args:
        plan: The job's plan.
        finalists: One for each arm.
        runs: Every run of the phase.
        objective: What they are judged by.
        look: How many times they have been judged, including this time.
        luck: Luck of the search, by arm; None leaves it out.
        blind_arms: Arms whose search could not tell its trials apart.
        edges: Whose finalist is at the edge of its range, by arm, as a sentence. Where the worse of both arms is, the
            word is `inconclusive`: beyond the edge it could be better.
    """
    by_arm = {finalist.trial.arm: finalist.trial for finalist in finalists}
    challenger, baseline = (_best_of(plan, finalists, role).trial for role in (Role.WARPADAM, Role.BASELINE))
    pairs = pairs_of(runs, baseline, challenger, objective)
    of_baseline, of_challenger = ((luck or {}).get(arm) for arm in (baseline.arm, challenger.arm))
    both = (of_baseline, of_challenger) if of_baseline and of_challenger else None
    verdict, reason, statistics = _judge(pairs, plan.spec.confirm.min_effect, look, NOUNS[objective.metric], both)
    if blind := [arm for arm in (challenger.arm, baseline.arm) if arm in blind_arms]:
        verdict = Word.INCONCLUSIVE
        reason = f"the search of {' and '.join(blind)} was blind: all its trials cost the same on validation"
    worse = {Word.HELPS: baseline, Word.HURTS: challenger}.get(verdict)
    if worse is not None and (edge := (edges or {}).get(worse.arm)):
        verdict, reason = Word.INCONCLUSIVE, f"{edge}; beyond it {worse.arm} could be better"
    chosen = challenger if verdict == Word.HELPS else baseline
    if verdict != Word.HELPS:
        reason += f"; the recommendation is {baseline.arm}"
    return Recommendation(
        verdict=verdict,
        reason=reason,
        arm=chosen.arm,
        trial=chosen.number,
        config=plan.arm(chosen.arm).config(chosen.params),
        challenger=challenger.arm,
        baseline=baseline.arm,
        statistics=statistics,
        pairs=pairs,
        finalists=[_arm_result(plan, by_arm[arm.name], runs, objective) for arm in plan.arms],
    )


def _judge(
    pairs: Sequence[Pair], min_effect: float, look: int, noun: str, luck: tuple[SearchLuck, SearchLuck] | None
) -> tuple[Word, str, Verdict | None]:
    whole = [(p.baseline, p.warpadam) for p in pairs if p.baseline is not None and p.warpadam is not None]
    missing = len(pairs) - len(whole)
    if len(whole) < MIN_PAIRS:
        return Word.INCONCLUSIVE, f"only {len(whole)} of {len(pairs)} pairs completed, {MIN_PAIRS} are needed", None
    baseline, challenger = ([pair[side] for pair in whole] for side in (0, 1))
    statistics = compare(
        baseline, challenger, min_effect, look=look, noun=noun, most_pairs=MAX_CONFIRM_SEEDS, luck=luck
    )
    if missing:  # a run does not diverge by chance: without it the rest looks better than it is
        return Word.INCONCLUSIVE, f"{missing} of {len(pairs)} pairs did not complete", statistics
    return statistics.word, statistics.reason, statistics


def pairs_of(runs: Sequence[ConfirmRun], baseline: Trial, challenger: Trial, objective: Objective) -> list[Pair]:
    """Return the runs of two trials, seed by seed. A run that missed the target counts as the longest of them all."""
    both = (completed(runs, baseline.number), completed(runs, challenger.number))
    longest = max((length(curve_of(run), objective.metric) for side in both for run in side.values()), default=0.0)
    pairs = []
    for seed in sorted({run.seed for run in runs if run.trial_number in (baseline.number, challenger.number)}):
        base, other = (side.get(seed) for side in both)
        base_cost, base_missed = _cost(base, objective, longest)
        other_cost, other_missed = _cost(other, objective, longest)
        missed = ((baseline.arm, base_missed), (challenger.arm, other_missed))
        pairs.append(
            Pair(
                seed=seed,
                baseline=base_cost,
                warpadam=other_cost,
                baseline_test_loss=None if base is None else base.test_loss,
                warpadam_test_loss=None if other is None else other.test_loss,
                missed=tuple(arm for arm, late in missed if late),
            )
        )
    return pairs


def _cost(run: ConfirmRun | None, objective: Objective, longest: float) -> tuple[float | None, bool]:
    """Return what a run costs on the test part, and whether it missed the target.

    The cost is None if the run did not complete. The time to a target is read on validation.
    """
    if run is None:
        return None, False
    if objective.is_timed:
        reached = objective.reached(curve_of(run))
        return (longest, True) if reached is None else (reached, False)
    return (run.test_loss if objective.score is None else error_on_test(run, objective)), False


def _best_of(plan: JobPlan, finalists: Sequence[Finalist], role: Role) -> Finalist:
    mine = [finalist for finalist in finalists if plan.arm(finalist.trial.arm).role is role]
    return min(mine, key=lambda finalist: (finalist.score, finalist.trial.number))


def _arm_result(plan: JobPlan, trial: Trial, runs: Sequence[ConfirmRun], objective: Objective) -> ArmResult:
    mine = [run for run in runs if run.trial_number == trial.number]
    complete = completed(runs, trial.number).values()
    losses = [run.test_loss for run in complete if run.test_loss is not None]
    steps = [objective.best_point(curve).step for run in complete if (curve := curve_of(run))]
    assert trial.value is not None, "a finalist is a completed trial"
    return ArmResult(
        arm=trial.arm,
        trial=trial.number,
        config=plan.arm(trial.arm).config(trial.params),
        value=trial.value,
        mean_test_loss=fmean(losses) if losses else None,
        mean_seconds=fmean(run.seconds for run in complete) if complete else None,
        runs=len(complete),
        planned=len(mine),
        best_step=median(steps) if steps and objective.at_best else None,
    )
