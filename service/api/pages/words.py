"""How the pages and the report name optimizers and state an answer."""

from __future__ import annotations

from typing import Final

from service.result.job_result import JobResult, Word

NAMES: Final = {"warpadam": "WarpAdam", "adamw": "AdamW", "muon": "Muon", "soap": "SOAP", "sgd": "SGD"}
"""How people write the optimizers. An arm with another name is shown as it is called."""

ANSWERS: Final = {
    Word.HELPS: "Yes, {challenger} is better than {baseline} here",
    Word.HURTS: "No, {challenger} is worse than {baseline} here",
    Word.NO_DIFFERENCE: "No, {challenger} and {baseline} are equally good here",
    Word.INCONCLUSIVE: "It is not clear yet whether {challenger} is better than {baseline} here",
}


def name_of(arm: str) -> str:
    """Return how people write the optimizer of an arm."""
    return NAMES.get(arm, arm)


def answer_of(result: JobResult) -> str:
    """Return the answer of a job in one sentence, without a full stop."""
    return ANSWERS[result.verdict].format(challenger=name_of(result.challenger), baseline=name_of(result.baseline))


def extension_of(result: JobResult) -> dict[str, int] | None:
    """Return how many ``trials`` and ``seeds`` more may settle an unclear answer; None if nothing would."""
    if result.verdict is not Word.INCONCLUSIVE:
        return None
    if result.statistics and result.statistics.more_pairs:
        return {"seeds": result.statistics.more_pairs}
    return {"trials": 20, "seeds": 8} if "may tell" in result.reason else None


def duration(minutes: float) -> str:
    """Return about how long something takes.

    >>> duration(0.4), duration(1.2), duration(89), duration(1477), duration(90 * 24 * 60)
    ('less than a minute', 'about 1 minute', 'about 89 minutes', 'about 25 hours', 'about 90 days')
    """
    if minutes < 1:
        return "less than a minute"
    unit, size = ("minute", 1) if minutes < 90 else ("hour", 60) if minutes < 2880 else ("day", 1440)
    count = round(minutes / size)
    return f"about {count:,} {unit}{'s' if count > 1 else ''}"
