# The sentence of a verdict, for every way that a comparison can end.
from __future__ import annotations

import re
from collections.abc import Sequence

import pytest

from service.planning.objective import Objective
from service.recommend.luck import SearchLuck
from service.recommend.verdict import compare
from service.recommend.wording import explain, explain_disagreement
from service.result.job_result import Verdict, Word
from service.spec.job import MAX_CONFIRM_SEEDS
from service.spec.metrics import METRICS
from tests.service.recommend.test_verdict import BASE, LUCKY, SURE, shifted

LOSS = Objective(metric="val_loss", target=None, steps=10, max_seconds=60.0)
EIGHT = list(range(8))
NO_EQUAL_TIME = "at equal time, on validation, too few pairs can be compared"
OWN_SPLITS = "seen on 8 fresh seeds, each with its own split of the data"


def judged(
    by: float, min_effect: float = 0.01, luck: tuple[SearchLuck, SearchLuck] | None = None, look: int = 1
) -> Verdict:
    return compare(BASE, shifted(by), min_effect, luck=luck, look=look)


def said(
    verdict: Verdict,
    in_time: Verdict | None = None,
    *,
    objective: Objective = LOSS,
    splits: Sequence[int] = EIGHT,
    more_trials: bool = True,
) -> list[str]:
    clauses = explain(verdict, in_time, objective, splits, more_trials).split("; ")
    return [clause for clause in clauses if clause != NO_EQUAL_TIME]


def test_helps_says_by_how_much_where_and_against_what_luck() -> None:
    assert said(judged(0.3)) == [
        "with P the test loss is 28.7 % lower at equal steps",
        OWN_SPLITS,
        "chance alone does not explain that",
    ]
    (*_, luck) = said(judged(0.3, luck=(SURE, SURE)))
    assert re.fullmatch(r"two searches for the same optimizer would differ by up to [\d.]+ % just by luck", luck)


def test_hurts_is_said_the_same_way() -> None:
    assert said(judged(-0.3))[0] == "with P the test loss is 28.7 % higher at equal steps"


def test_luck_that_is_larger_than_the_effect_takes_the_word_and_says_so() -> None:
    effect, where, luck, advice = said(judged(0.1, luck=(SURE, LUCKY)))
    assert effect == (
        "with P the test loss is 9.6 % lower at equal steps, which is more than chance between the seeds, but may be "
        "luck in the search"
    )
    assert where == OWN_SPLITS
    assert re.fullmatch(
        r"two searches for the same optimizer would differ by up to [\d.]+ % just by luck, and 9.6 % lies inside that",
        luck,
    )
    assert advice == "more trials for each arm may tell"


def test_no_more_trials_are_asked_for_than_an_arm_can_have() -> None:
    verdict = judged(0.1, luck=(SURE, LUCKY))
    assert "more trials" in said(verdict)[-1]
    assert "more" not in said(verdict, more_trials=False)[-1]


def test_too_few_seeds_say_how_many_more_would_do() -> None:
    verdict = compare(BASE, shifted(0.0), 0.008)
    assert verdict.word is Word.INCONCLUSIVE
    effect, _, advice = said(verdict)
    assert effect == "with P the test loss is the same at equal steps, but that may be chance"
    assert advice == f"about {verdict.more_pairs} more seeds would be needed"


def test_an_interval_without_0_is_not_contradicted_but_explained() -> None:
    verdict = compare(BASE[:4], shifted(0.1)[:4], 0.01)
    assert verdict.word is Word.INCONCLUSIVE
    assert verdict.interval[0] > 0
    assert min(verdict.p_helps, verdict.p_hurts) == 1 / 16
    effect = said(verdict)[0]
    assert effect.endswith(
        "but that may be chance: the 95 % interval leaves out 0, but the exact test does not rule chance out (p 0.062)"
    )


def test_what_no_job_can_settle_asks_for_no_seeds() -> None:
    (*_, advice) = said(compare([1.0] * 8, [1.5, 0.5] * 4, 0.0))
    assert advice == f"even {MAX_CONFIRM_SEEDS} seeds, the most that a job can have, would probably not be enough"


def test_chance_and_luck_together_ask_for_trials_and_seeds() -> None:
    noisy = shifted(0.15)
    noisy[0] += 0.45
    effect, _, luck, advice = said(compare(BASE, noisy, 0.01, luck=(SURE, LUCKY)))
    assert effect.endswith("but that may be chance")
    assert luck.endswith("lies inside that")
    assert advice == "more trials for each arm, and more seeds, may tell"


@pytest.mark.parametrize(("by", "word"), [(0.03, Word.NO_DIFFERENCE), (0.045, Word.INCONCLUSIVE)])
def test_an_effect_that_is_real_but_too_small_says_exactly_that(by: float, word: Word) -> None:
    verdict = judged(by, min_effect=0.05)
    assert (verdict.word, verdict.p_helps <= verdict.alpha) == (word, True)
    effect, real, *rest = said(verdict)
    probably = "" if word is Word.NO_DIFFERENCE else "probably "
    assert re.fullmatch(r"with P the test loss is \d.\d % lower at equal steps", effect)
    assert real == f"that is real but {probably}smaller than the 5 % that matters (confirm.min_effect)"
    assert rest[0] == OWN_SPLITS
    assert not any("chance" in clause or "luck" in clause for clause in rest)


def test_no_difference_names_the_effect_that_would_matter() -> None:
    verdict = compare(BASE, shifted(0.002), 0.05)
    assert said(verdict) == [
        "with P the test loss differs by less than 5 % at equal steps, too little to matter",
        OWN_SPLITS,
    ]
    assert said(compare(BASE, BASE, 0.0))[0] == "with P the test loss is the same at equal steps, too little to matter"


@pytest.mark.parametrize(
    ("in_time", "clause"),
    [
        (judged(0.2), "it is 19.2 % lower"),
        (judged(-0.2), "P hurts: 19.2 % higher"),
        (compare(BASE, shifted(0.002), 0.05), "there is no difference that matters"),
        (compare([1.0] * 8, [1.5, 0.6] * 4, 0.0), "that is not clear (5 % higher)"),
    ],
)
def test_equal_time_stands_in_the_same_sentence(in_time: Verdict, clause: str) -> None:
    assert said(judged(0.3), in_time)[1] == f"at equal time, on validation, {clause}"


def test_without_equal_time_the_sentence_says_so() -> None:
    assert NO_EQUAL_TIME in explain(judged(0.3), None, LOSS, EIGHT, True)


def test_p_that_hurts_in_steps_may_help_in_time() -> None:
    assert said(judged(-0.3), judged(0.3))[1] == "at equal time, on validation, P helps: 28.7 % lower"


@pytest.mark.parametrize(
    ("splits", "where"),
    [
        (EIGHT, OWN_SPLITS),
        ([0] * 8, "seen on 8 fresh seeds, on this one split of the data"),
        ([0, 1, 2, 0, 1, 2, 0, 1], "seen on 8 fresh seeds over 3 splits of the data"),
    ],
)
def test_the_sentence_says_where_it_was_seen(splits: list[int], where: str) -> None:
    assert where in said(judged(0.3), splits=splits)


def test_a_further_look_says_so() -> None:
    assert f"{OWN_SPLITS} (look 2, tested at level 0.025)" in said(judged(0.3, look=2))


def test_a_time_to_a_target_is_not_at_equal_steps() -> None:
    timed = Objective(metric="steps_to_target", target=0.5, steps=10, max_seconds=60.0)
    assert explain(judged(0.3), None, timed, EIGHT, True).split("; ")[:2] == [
        "with P the number of steps to the target is 28.7 % lower",
        OWN_SPLITS,
    ]


def test_a_baseline_without_loss_has_no_percent() -> None:
    verdict = compare([0.0] * 6, [0.1, 0.2, 0.1, 0.2, 0.1, 0.3], 0.01, luck=(SURE, SURE))
    assert said(verdict)[0] == "with P the test loss is 0.167 higher at equal steps"


def test_validation_and_test_that_disagree_are_both_quoted() -> None:
    assert explain_disagreement(judged(-0.3), judged(0.2)) == (
        "validation says that P helps (the cost is 19.2 % lower), test says the opposite (it is 28.7 % higher): the "
        "parts of this dataset are not alike"
    )


@pytest.mark.parametrize(
    ("metric", "start"),
    [
        ("val_accuracy", r"with P the test accuracy is [\d.]+ %, without it -?[\d.]+ %: the error is 28.7 % lower"),
        ("val_roc_auc", r"with P the test ROC AUC is -?0.\d{4}, without it -?0.\d{4}: 1 - ROC AUC is 28.7 % lower"),
        ("val_mae", r"with P the test MAE is [\d.]+, without it [\d.]+: it is 28.7 % lower"),
    ],
)
def test_a_score_is_said_as_people_write_it(metric: str, start: str) -> None:
    objective = Objective(metric=metric, target=None, steps=10, max_seconds=60.0)
    assert re.match(start + " at equal steps", said(judged(0.3), objective=objective)[0])


@pytest.mark.parametrize("metric", METRICS)
def test_no_sentence_names_two_metrics_at_once(metric: str) -> None:
    objective = Objective(metric=f"val_{metric}", target=None, steps=10, max_seconds=60.0)
    effect = said(judged(0.3), objective=objective)[0]
    assert METRICS[metric].label in effect
    assert " or " not in effect
