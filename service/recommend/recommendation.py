"""The recommendation of a job, from its trials and confirmation runs. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean, median
from types import MappingProxyType
from typing import Final, NamedTuple

from search_spaces import Scalar
from search_spaces.refine import at_edge
from service.db.models import ConfirmRun, Trial
from service.errors import JobFailedError
from service.ledger.queries import curve_of
from service.planning.arms import Role
from service.planning.objective import TIMED, Objective, decided_by_outliers, or_worst
from service.planning.plan import JobPlan
from service.recommend.luck import SearchLuck, luck_of
from service.recommend.verdict import compare, mean_interval
from service.recommend.wording import explain, explain_disagreement, put_in_order, worth_of
from service.result.job_result import ArmResult, Pair, Recommendation, TrivialResult, Verdict, Word
from service.spec.tasks import TASKS
from service.states import TrialState
from service.training.best import mean_cost
from service.training.run import CurvePoint, TrivialScores


class Finalist(NamedTuple):
    """The trial that represents its arm, the validation cost it was picked for, and the loss that decides a tie."""

    trial: Trial
    score: float
    loss: float = 0.0


Costs = tuple[float | None, float | None]
"""What the baseline and the challenger cost on one seed; None where one has nothing."""

MIN_TOLD_APART: Final = 3
"""Fewer equal trials may be equal by chance."""

TIED: Final = 1e-6
"""Relative difference up to which costs count as equal."""

NO_LUCK: Final = SearchLuck(penalties=(0.0,), chances=(1.0,))
"""Luck of a search that has only one trial to try: no other could have won."""

MIN_PAIRS: Final = 6
"""Fewer pairs can hardly be significant: five that all agree have a one-sided p of 0.03, four 0.06."""


def completed(runs: Sequence[ConfirmRun], trial: int) -> dict[int, ConfirmRun]:
    """Return the completed runs of a trial, by seed."""
    return {run.seed: run for run in runs if run.trial_number == trial and run.state == TrialState.COMPLETE}


def length(curve: Sequence[CurvePoint], metric: str) -> float:
    """Return the steps of a run for ``steps_to_target``, otherwise its seconds; 0 for an empty curve."""
    if not curve:
        return 0.0
    return float(curve[-1].step) if metric == "steps_to_target" else curve[-1].seconds


def best_trials(trials: Sequence[Trial], count: int) -> list[Trial]:
    """Return the ``count`` completed trials with the lowest cost on validation, best first; the loss decides a tie.

    Of trials with the same settings, which a small search space has, the best one stands for all.
    """
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE and trial.value is not None]
    different: dict[frozenset[tuple[str, Scalar]], Trial] = {}
    for trial in sorted(complete, key=lambda trial: (trial.value, or_worst(trial.val_loss), trial.number)):
        different.setdefault(frozenset(trial.params.items()), trial)
    return list(different.values())[:count]


def rank(contenders: Sequence[Trial], runs: Sequence[ConfirmRun], objective: Objective) -> list[Finalist]:
    """Return the trials of one arm by their mean cost on validation over the selection runs, lowest first.

    The mean loss decides between equal costs. A trial that completed fewer runs ranks after those that completed more:
    a run does not diverge by chance. One that completed none is left out.

    Raises:
        JobFailedError: No trial completed any run.
    """
    ranked: list[tuple[int, float, float, int, Trial]] = []
    for trial in contenders:
        mine = [run for run in runs if run.trial_number == trial.number]
        curves = [curve for run in completed(runs, trial.number).values() if (curve := curve_of(run))]
        costs = [cost for curve in curves if (cost := objective.cost(curve)) is not None]
        if costs:
            loss = mean_cost(objective.best_point(curve).val_loss for curve in curves)
            ranked.append((len(mine) - len(costs), mean_cost(costs), loss, trial.number, trial))
    if not ranked:
        raise JobFailedError(f"arm {contenders[0].arm}: none of its best trials completed a selection run")
    return [Finalist(trial, mean, loss) for _, mean, loss, _, trial in sorted(ranked)]


def why_blind(trials: Sequence[Trial], trivial: TrivialResult | None, objective: Objective) -> str | None:
    """Return why the search of an arm could not tell which trial is the best one; None if it could.

    Either a single trial of several completed, or none is better than always predicting the same, or several completed
    and all cost the same, up to rounding.
    """
    values = [trial.value for trial in trials if trial.state == TrialState.COMPLETE and trial.value is not None]
    if len(values) == 1 < len(trials):
        return f"only one of its {len(trials)} trials completed"
    if values and trivial is not None and trivial.value is not None and not _is_lower(min(values), trivial.value):
        worth = worth_of(objective, trivial.val_loss, trivial.val_score)
        return f"none of its trials is better on validation than always predicting {trivial.predicts} ({worth})"
    if len(values) >= MIN_TOLD_APART and max(values) - min(values) <= TIED * max(map(abs, values)):
        return "all its trials cost the same on validation"
    return None


def _is_lower(cost: float, than: float) -> bool:
    """Tell whether a cost is lower by more than rounding."""
    return cost < than - TIED * abs(than)


def find_trivial(plan: JobPlan, runs: Sequence[ConfirmRun], objective: Objective) -> TrivialResult | None:
    """Return what always predicting the same gets, as the runs of the ``confirm`` phase found it; None if none did.

    Test figures are means over the splits of these runs. Those on validation are of the split of the search.
    """
    entry = TASKS[plan.task].trivial
    by_seed = {run.seed: scores for run in runs if (scores := _trivial_of(run)) is not None}
    if entry is None or not by_seed:
        return None
    first = next((by_seed[seed] for seed in sorted(by_seed) if plan.split_seed(seed) == plan.spec.seed), None)
    val_loss, val_score = (None, None) if first is None else (first.val_loss, first.val_score)
    score = objective.score
    return TrivialResult(
        predicts=(score.trivial or entry).predicts if score else entry.predicts_for_loss,
        value=None if objective.metric in TIMED else objective.cost_of(val_loss, val_score),
        val_loss=val_loss,
        val_score=val_score,
        mean_test_loss=fmean(scores.test_loss for scores in by_seed.values()),
        mean_test_score=_mean(scores.test_score for scores in by_seed.values()),
    )


def _trivial_of(run: ConfirmRun) -> TrivialScores | None:
    """Return what always predicting the same gets on the split of a run; only completed runs know."""
    curve = curve_of(run) if run.state == TrialState.COMPLETE else []
    return curve[-1].trivial if curve else None


def _beats_trivial(trial: Trial, runs: Sequence[ConfirmRun], objective: Objective) -> bool:
    """Tell whether runs cost less on test than always predicting the same on their splits; True if that is unknown."""
    both: list[tuple[float, float]] = []
    for run in completed(runs, trial.number).values():
        cost, scores = objective.cost_of(run.test_loss, run.test_score), _trivial_of(run)
        bar = None if scores is None else objective.cost_of(scores.test_loss, scores.test_score)
        if cost is not None and bar is not None:
            both.append((cost, bar))
    return not both or _is_lower(fmean(cost for cost, _ in both), fmean(bar for _, bar in both))


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

    Trials that raced are compared with the winner on the seeds that both ran, the others as trials. One that did not
    complete all its runs of the race would not have won it, and is left out. Validation tells which trial would have
    won instead. The winner was chosen on validation and looks better there than it is, so what the other trial loses is
    read on test.

    Args:
        plan: The job's plan.
        finalist: The winner of the arm's race.
        trials: The trials of the arm.
        races: Every run of the ``select`` phase.
        objective: What they are judged by.
    """
    raced = {number: completed(races, number) for number in {run.trial_number for run in races}}
    won = raced.get(finalist.number)
    if not won:
        return None
    failed = {run.trial_number for run in races if run.state != TrialState.COMPLETE} - {finalist.number}
    places = list[tuple[float, Mapping[str, Scalar], float]]()
    for trial in best_trials(trials, len(trials)):
        if trial.number in failed:
            continue
        pairs = [(run, won[seed]) for seed, run in raced.get(trial.number, {}).items() if seed in won]
        in_race = [(objective.cost(curve_of(run)), objective.cost(curve_of(best))) for run, best in pairs]
        on_test = [(_cost_on_test(run, objective), _cost_on_test(best, objective)) for run, best in pairs]
        behind = _behind(in_race or [(trial.value, finalist.value)]) or 0.0
        penalty = _behind(on_test)
        places.append((behind, trial.params, max(0.0, behind) if penalty is None else penalty))
    places.sort(key=lambda place: (place[1] != finalist.params, place[0]))
    penalties = [(params, penalty) for _, params, penalty in places]
    return luck_of(penalties, [dict(values) for values in plan.arm(finalist.arm).space.first_trials])


def _behind(costs: Sequence[Costs]) -> float | None:
    """Return how much higher the first costs are than the second ones, in the mean; None if one is missing."""
    differences = [other - best for other, best in costs if other is not None and best is not None]
    return fmean(differences) if differences and len(differences) == len(costs) else None


def recommend(
    plan: JobPlan,
    finalists: Sequence[Finalist],
    runs: Sequence[ConfirmRun],
    objective: Objective,
    look: int = 1,
    luck: Mapping[str, SearchLuck | None] | None = None,
    blind: Mapping[str, str] = MappingProxyType({}),
    edges: Mapping[str, str | None] = MappingProxyType({}),
) -> Recommendation:
    """Judge the arms' finalists by the runs of the ``confirm`` phase.

    Args:
        plan: The job's plan.
        finalists: One for each arm that completed a trial.
        runs: Every run of the phase.
        objective: What they are judged by.
        look: How many times they have been judged, including this time.
        luck: Luck of the search, by arm; None leaves it out.
        blind: Arms whose search could not tell its trials apart, and why.
        edges: Whose finalist is at the edge of its range, by arm, as a sentence. Where the worse of both arms is, the
            word is `inconclusive`: beyond the edge it could be better.
    """
    by_arm = {finalist.trial.arm: finalist.trial for finalist in finalists}
    challenger, baseline = (_best_of(plan, finalists, role).trial for role in (Role.WARPADAM, Role.BASELINE))
    pairs = pairs_of(runs, baseline, challenger, objective)
    of_baseline, of_challenger = ((luck or {}).get(arm) for arm in (baseline.arm, challenger.arm))
    judge = _Judge(
        plan.spec.confirm.min_effect, look, (of_baseline, of_challenger) if of_baseline and of_challenger else None
    )
    statistics = judge.compare([(pair.baseline, pair.warpadam) for pair in pairs])
    both = [] if objective.is_timed else paired_runs(runs, baseline, challenger)
    at_equal_seconds = judge.compare([_at_equal_seconds(*pair, objective) for pair in both])
    on_validation = judge.compare([(_on_validation(a, objective), _on_validation(b, objective)) for a, b in both])
    trivial = find_trivial(plan, runs, objective)
    transform = plan.spec.dataset.target_transform
    doubt = (
        decided_by_outliers(objective.metric, transform, plan.info.target_outliers)
        or _learned_nothing(trivial, (baseline, challenger), runs, objective)
        or _blind((baseline.arm, challenger.arm), blind)
        or _missed(pairs, objective)
        or _undefined(pairs, objective)
        or _incomplete(pairs, statistics, (baseline, challenger), runs)
        or _at_edge(statistics, baseline.arm, challenger.arm, edges)
        or _disagreement(statistics, on_validation)
    )
    if doubt is not None:
        statistics, at_equal_seconds = _undecided(statistics), _undecided(at_equal_seconds)
        verdict, reason = Word.INCONCLUSIVE, doubt
    else:
        assert statistics is not None, "without it there is a doubt"
        verdict = statistics.word
        split_seeds = [plan.split_seed(pair.seed) for pair in pairs]
        reason = explain(statistics, at_equal_seconds, objective, split_seeds, plan.may_have_more_trials)
    arms = [_arm_result(plan, by_arm[arm.name], runs, objective) for arm in plan.arms if arm.name in by_arm]
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
        at_equal_seconds=at_equal_seconds,
        pairs=pairs,
        finalists=arms,
        trivial=trivial,
        metric=objective.metric,
        score=None if plan.score is None else plan.score.name,
        part=objective.part,
        summary=put_in_order(arms, trivial, objective, (baseline.arm, challenger.arm), plan.spec.dataset.target),
    )


class _Judge(NamedTuple):
    """How every comparison of the two compared finalists is judged."""

    min_effect: float
    look: int
    luck: tuple[SearchLuck, SearchLuck] | None

    def compare(self, costs: Sequence[Costs]) -> Verdict | None:
        """Compare the pairs that have both costs; None if they are too few."""
        whole = [(base, other) for base, other in costs if base is not None and other is not None]
        if len(whole) < MIN_PAIRS:
            return None
        baseline, challenger = ([pair[side] for pair in whole] for side in (0, 1))
        return compare(baseline, challenger, self.min_effect, look=self.look, luck=self.luck)


def _learned_nothing(
    trivial: TrivialResult | None, compared: Sequence[Trial], runs: Sequence[ConfirmRun], objective: Objective
) -> str | None:
    if (
        trivial is None
        or objective.metric in TIMED
        or any(_beats_trivial(trial, runs, objective) for trial in compared)
    ):
        return None
    worth = worth_of(objective, trivial.mean_test_loss, trivial.mean_test_score)
    arms = " nor ".join(trial.arm for trial in compared)
    return f"neither {arms} is better on test than always predicting {trivial.predicts} ({worth})"


def _blind(arms: Sequence[str], blind: Mapping[str, str]) -> str | None:
    return "; ".join(f"the search of {arm} was blind: {blind[arm]}" for arm in arms if arm in blind) or None


def _missed(pairs: Sequence[Pair], objective: Objective) -> str | None:
    """Say that neither arm reached the target on half of the seeds or more, so that their times are not known."""
    both = sum(len(pair.missed) == 2 for pair in pairs)
    if not both or 2 * both < len(pairs):
        return None
    return (
        f"neither arm reached the loss {objective.target:.4g} on {both} of {len(pairs)} seeds: ask for a "
        "higher one in objective.target, or train for more steps"
    )


def _undefined(pairs: Sequence[Pair], objective: Objective) -> str | None:
    """Say that runs completed without the score that is judged."""
    missing = [
        pair
        for pair in pairs
        if (pair.baseline is None and pair.baseline_test_loss is not None)
        or (pair.warpadam is None and pair.warpadam_test_loss is not None)
    ]
    if not missing or objective.score is None:
        return None
    label, seeds = objective.score.label, f"{len(missing)} of {len(pairs)} seeds"
    if objective.part == "validation":
        return f"the training loop yielded no finite {label} on {seeds}"
    if all(pair.baseline is None and pair.warpadam is None for pair in missing):
        return (
            f"the {label} is not defined on the test part of {seeds}: a class has no rows there, or all targets are "
            "the same"
        )
    return f"the {label} of one of the two runs is not a finite number on the test part of {seeds}"


def _incomplete(
    pairs: Sequence[Pair], statistics: Verdict | None, compared: Sequence[Trial], runs: Sequence[ConfirmRun]
) -> str | None:
    """A run does not diverge by chance: without it the rest looks better than it is."""
    missing = sum(pair.baseline is None or pair.warpadam is None for pair in pairs)
    if not missing and statistics is not None:
        return None
    count = f"{missing} of {len(pairs)} pairs did not complete"
    if statistics is None:
        count = f"only {len(pairs) - missing} of {len(pairs)} pairs completed, {MIN_PAIRS} are needed"
    why = "; ".join(clause for trial in compared for clause in _why_incomplete(trial, runs))
    return f"{count}: {why}" if why else count


def _why_incomplete(trial: Trial, runs: Sequence[ConfirmRun]) -> Iterator[str]:
    """Say on how many seeds the runs of a trial diverged, and on how many they failed."""
    for state in (TrialState.DIVERGED, TrialState.FAILED):
        ended = [run for run in runs if run.trial_number == trial.number and run.state == state]
        if not ended:
            continue
        clause = f"{trial.arm} {state} on {len(ended)} seed{'s' if len(ended) > 1 else ''}"
        if state is TrialState.FAILED:
            cause = next((run.cause.splitlines()[0] for run in ended if run.cause), "no cause is known")
            clause += f" ({cause}), which an extension runs again"
        yield clause


def _at_edge(statistics: Verdict | None, baseline: str, challenger: str, edges: Mapping[str, str | None]) -> str | None:
    worse = {Word.HELPS: baseline, Word.HURTS: challenger}.get(statistics.word) if statistics else None
    edge = edges.get(worse) if worse else None
    return f"{edge}; beyond it {worse} could be better" if edge else None


def _disagreement(test: Verdict | None, validation: Verdict | None) -> str | None:
    if test and validation and {test.word, validation.word} == {Word.HELPS, Word.HURTS}:
        return explain_disagreement(test, validation)
    return None


def _undecided(verdict: Verdict | None) -> Verdict | None:
    """Take the word from a comparison, and with it the number of seeds that would settle it."""
    return verdict and verdict.model_copy(update={"word": Word.INCONCLUSIVE, "more_pairs": None})


def paired_runs(runs: Sequence[ConfirmRun], baseline: Trial, challenger: Trial) -> list[tuple[ConfirmRun, ConfirmRun]]:
    """Return the runs of two trials on the seeds that both completed."""
    base, other = completed(runs, baseline.number), completed(runs, challenger.number)
    return [(base[seed], other[seed]) for seed in sorted(base.keys() & other.keys())]


def _on_validation(run: ConfirmRun, objective: Objective, seconds: float = math.inf) -> float | None:
    """Return what a run costs on validation at its best point until some training seconds; None without a point."""
    points = [point for point in curve_of(run) if point.seconds <= seconds]
    return objective.cost_at(objective.best_point(points))[0] if points else None


def _at_equal_seconds(baseline: ConfirmRun, challenger: ConfirmRun, objective: Objective) -> Costs:
    """Return what two runs cost on validation until the shorter one ends, in training seconds."""
    ends = min(length(curve_of(run), "seconds_to_target") for run in (baseline, challenger))
    return _on_validation(baseline, objective, ends), _on_validation(challenger, objective, ends)


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
    if objective.is_timed and objective.reached(curve_of(run)) is None:
        return longest, True
    return _cost_on_test(run, objective), False


def _cost_on_test(run: ConfirmRun, objective: Objective) -> float | None:
    """Return what a run costs on the test part; None if it was not tested. The time to a target is on validation."""
    return objective.cost(curve_of(run)) if objective.is_timed else objective.cost_of(run.test_loss, run.test_score)


def _best_of(plan: JobPlan, finalists: Sequence[Finalist], role: Role) -> Finalist:
    mine = [finalist for finalist in finalists if plan.arm(finalist.trial.arm).role is role]
    return min(mine, key=lambda finalist: (finalist.score, finalist.loss, finalist.trial.number))


def _mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of the values that are there; None if there are none."""
    there = _there(values)
    return fmean(there) if there else None


def _there(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _arm_result(plan: JobPlan, trial: Trial, runs: Sequence[ConfirmRun], objective: Objective) -> ArmResult:
    mine = [run for run in runs if run.trial_number == trial.number]
    complete = completed(runs, trial.number).values()
    losses, scores = _there(run.test_loss for run in complete), _there(run.test_score for run in complete)
    steps = [objective.best_point(curve).step for run in complete if (curve := curve_of(run))]
    assert trial.value is not None, "a finalist is a completed trial"
    return ArmResult(
        arm=trial.arm,
        trial=trial.number,
        config=plan.arm(trial.arm).config(trial.params),
        value=trial.value,
        mean_test_loss=_mean(losses),
        test_loss_interval=mean_interval(losses),
        mean_test_score=_mean(scores),
        test_score_interval=mean_interval(scores),
        mean_seconds=fmean(run.seconds for run in complete) if complete else None,
        runs=len(complete),
        planned=len(mine),
        best_step=median(steps) if steps and objective.at_best else None,
    )
