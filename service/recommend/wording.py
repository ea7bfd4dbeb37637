"""Says a verdict and the scores in a sentence each, the same in API, terminal, report and exports. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from service.planning.arms import UNTUNED
from service.planning.objective import Objective
from service.result.effects import figure, percent, times
from service.result.job_result import ArmResult, TrivialResult, Verdict, Word
from service.spec.job import MAX_CONFIRM_SEEDS

NOUNS: Final = {
    "val_loss": "loss",
    "seconds_to_target": "time to the target",
    "steps_to_target": "number of steps to the target",
}
"""What is judged, unless it is a score -> what is compared on the fresh seeds."""

P_DOES: Final = {Word.HELPS: "P helps", Word.HURTS: "P hurts"}


def explain(
    verdict: Verdict,
    at_equal_seconds: Verdict | None,
    objective: Objective,
    split_seeds: Sequence[int],
    may_have_more_trials: bool,
) -> str:
    """Return the sentence of a verdict: the effect, where it was seen, what luck does, and what would tell more.

    Args:
        verdict: The comparison at equal steps, or of times to a target.
        at_equal_seconds: The comparison at equal training time; None if too few pairs can be compared.
        objective: What both are judged by.
        split_seeds: Seed of the split of each pair.
        may_have_more_trials: Whether trials can be added to the job.
    """
    effect = f"with P {_compared(verdict, objective)} {_change(verdict)}"
    clauses = [effect + ("" if objective.is_timed else " at equal steps") + _remark(verdict)]
    if not objective.is_timed:
        clauses.append(f"at equal time, on validation, {_at_equal_time(at_equal_seconds, verdict.word)}")
    clauses.append(f"seen {_where(split_seeds, objective)}{_footnote(verdict)}")
    return "; ".join([*clauses, *_luck(verdict), *_advice(verdict, may_have_more_trials)])


def worth_of(objective: Objective, loss: float | None, score: float | None) -> str:
    """Say a loss, or a score if that is judged, with its name."""
    return (
        f"loss {loss:.4g}" if objective.score is None else f"{objective.score.label} {figure(score, objective.score)}"
    )


def put_in_order(
    arms: Sequence[ArmResult],
    trivial: TrivialResult | None,
    objective: Objective,
    compared: tuple[str, str],
    target: str | None,
) -> str:
    """Say the mean losses, or scores if those are judged, from always predicting the same to P.

    Args:
        arms: The results of all arms.
        trivial: What always predicting the same gets; None if there is no such thing.
        objective: What all are judged by.
        compared: The baseline and the challenger.
        target: Name of the target, if it has one.
    """
    named: list[tuple[str, ArmResult | TrivialResult]] = []
    if trivial is not None:
        named.append((f"always predicting {trivial.predicts}", trivial))
    results = {result.arm: result for result in arms}
    if UNTUNED in results:
        named.append(("AdamW as PyTorch ships it", results[UNTUNED]))
    named += [(f"tuned {arm}", results[arm]) for arm in compared]
    score = objective.score
    figures = [(name, result.mean_test_score if score else result.mean_test_loss) for name, result in named]
    listed = [f"{'none' if mean is None else figure(mean, score)} for {name}" for name, mean in figures]
    units = f", in units of {target or 'the target'}" if score and score.unit == "target" else ""
    return f"Mean {objective.part} {score.label if score else 'loss'}{units}: {'; '.join(listed)}"


def explain_disagreement(test: Verdict, validation: Verdict) -> str:
    """Return why there is no word where validation says the opposite of the test."""
    return (
        f"validation says that {P_DOES[validation.word]} (the cost {_change(validation)}), test says the opposite "
        f"(it {_change(test)}): the parts of this dataset are not alike"
    )


def _compared(verdict: Verdict, objective: Objective) -> str:
    """Say what changes; of a score also what it is with P and without."""
    score = objective.score
    if score is None:
        return f"the {'' if objective.is_timed else f'{objective.part} '}{NOUNS[objective.metric]}"
    means = (verdict.challenger_mean, verdict.baseline_mean)
    with_p, without = (figure(score.score_of(mean), score) for mean in means)
    return f"the {objective.part} {score.label} is {with_p}, without it {without}: {score.noun}"


def _change(verdict: Verdict) -> str:
    if _size(verdict) in ("0", "0 %"):
        return "is the same"
    if verdict.word is Word.NO_DIFFERENCE and not _is_real(verdict):
        return f"differs by less than {percent(verdict.min_effect)}"
    if verdict.relative_improvement is not None and verdict.relative_improvement < -1:
        return f"is {times(1 - verdict.relative_improvement)} as high"
    return f"is {_size(verdict)} {'lower' if verdict.improvement > 0 else 'higher'}"


def _size(verdict: Verdict) -> str:
    relative = verdict.relative_improvement
    return f"{abs(verdict.improvement):.3g}" if relative is None else percent(abs(relative))


def _is_significant(verdict: Verdict) -> bool:
    return min(verdict.p_helps, verdict.p_hurts) <= verdict.alpha


def _is_inside_luck(verdict: Verdict) -> bool:
    band = verdict.luck_interval
    return band is not None and band[0] <= 0 <= band[1]


def _is_real(verdict: Verdict) -> bool:
    """Tell whether neither chance nor luck in the search explains a difference, however small."""
    return _is_significant(verdict) and not _is_inside_luck(verdict)


def _remark(verdict: Verdict) -> str:
    if verdict.word in P_DOES:
        return ""
    if _is_real(verdict):
        surely = "" if verdict.word is Word.NO_DIFFERENCE else "probably "
        matters = percent(verdict.min_effect)
        return f"; that is real but {surely}smaller than the {matters} that matters (confirm.min_effect)"
    if verdict.word is Word.NO_DIFFERENCE:
        return ", too little to matter"
    if _is_significant(verdict):
        return ", which is more than chance between the seeds, but may be luck in the search"
    if verdict.interval[0] <= 0 <= verdict.interval[1]:
        return ", but that may be chance"
    p = min(verdict.p_helps, verdict.p_hurts)
    stricter = f"the 95 % interval leaves out 0, but the exact test does not rule chance out (p {p:.2g})"
    return f", but that may be chance: {stricter}"


def _at_equal_time(verdict: Verdict | None, headline: Word) -> str:
    if verdict is None:
        return "too few pairs can be compared"
    match verdict.word:
        case Word.NO_DIFFERENCE:
            return "there is no difference that matters"
        case Word.INCONCLUSIVE:
            return f"that is not clear ({_change(verdict).removeprefix('is ')})"
        case word if word is headline:
            return f"it {_change(verdict)}"
        case word:
            return f"{P_DOES[word]}: {_change(verdict).removeprefix('is ')}"


def _where(split_seeds: Sequence[int], objective: Objective) -> str:
    pairs, splits = len(split_seeds), len(set(split_seeds))
    if objective.part == "validation":  # a loop of the user's splits as it likes
        return f"on {pairs} fresh seeds"
    if splits == pairs:
        return f"on {pairs} fresh seeds, each with its own split of the data"
    if splits == 1:
        return f"on {pairs} fresh seeds, on this one split of the data"
    return f"on {pairs} fresh seeds over {splits} splits of the data"


def _footnote(verdict: Verdict) -> str:
    return f" (look {verdict.look}, tested at level {verdict.alpha:g})" if verdict.look > 1 else ""


def _luck(verdict: Verdict) -> Iterator[str]:
    if verdict.word is Word.NO_DIFFERENCE or (_is_real(verdict) and verdict.word is Word.INCONCLUSIVE):
        return
    inside = f", and {_size(verdict)} lies inside that" if _is_inside_luck(verdict) else ""
    if verdict.luck is not None:
        yield f"two searches for the same optimizer would differ by up to {percent(verdict.luck)} just by luck{inside}"
    elif verdict.word in P_DOES:
        yield "chance alone does not explain that"


def _advice(verdict: Verdict, may_have_more_trials: bool) -> Iterator[str]:
    """Say what would settle an inconclusive comparison, within the limits of a spec."""
    if verdict.word is not Word.INCONCLUSIVE:
        return
    if verdict.more_pairs is not None:
        yield f"about {verdict.more_pairs} more seeds would be needed"
    elif not _is_inside_luck(verdict):
        yield f"even {MAX_CONFIRM_SEEDS} seeds, the most that a job can have, would probably not be enough"
    elif may_have_more_trials:
        enough = _is_significant(verdict) or verdict.pairs == MAX_CONFIRM_SEEDS
        yield f"more trials for each arm{'' if enough else ', and more seeds,'} may tell"
