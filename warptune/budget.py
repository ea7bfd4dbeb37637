"""Chooses trials and steps so that a job takes about as long as a caller can wait."""

from __future__ import annotations

from typing import Final, NamedTuple

from service.client.answers import Estimate
from service.errors import FieldError, InvalidSpecError

FEWEST_TRIALS: Final = 8
"""Trials of an arm without which its search says little: presets begin with as many."""

MOST_TRIALS: Final = 100
"""Trials of an arm after which more hardly find anything better."""

FEWEST_STEPS: Final = 50
"""Steps of a run below which we refuse rather than train for less."""


STARTING_S: Final = 15.0
"""Seconds in which processes start and load torch, which an estimate does not count."""


class Size(NamedTuple):
    """How much a job does."""

    trials: int
    steps: int


def fit(plan: Estimate, steps: int, minutes: float, slots: int, *, keep_steps: bool) -> Size:
    """Return the size of a job that takes about some minutes.

    As many trials as fit are taken, between 8 and 100. If 8 do not fit, the runs become shorter, down to 50 steps.

    Args:
        plan: The estimate of the job with ``steps`` steps, for any number of trials.
        steps: Steps of a run in that estimate.
        minutes: How long the job may take.
        slots: Runs at once.
        keep_steps: Whether the steps may not change.

    Raises:
        InvalidSpecError: It does not fit.
    """
    trial_s = sum(arm["seconds_a_run"] for arm in plan["arms"] if arm["trials"] > 1)
    fixed_s = sum(arm["seconds_a_run"] * (arm["confirm_runs"] + (arm["trials"] == 1)) for arm in plan["arms"])
    train_s = slots * (60 * minutes - STARTING_S)
    trials = int((train_s - fixed_s) / trial_s) if trial_s else MOST_TRIALS
    if trials >= FEWEST_TRIALS:
        return Size(min(trials, MOST_TRIALS), steps)
    needed_s = fixed_s + FEWEST_TRIALS * trial_s
    shorter = int(steps * train_s / needed_s)
    if keep_steps or shorter < FEWEST_STEPS:
        least = needed_s if keep_steps else needed_s * FEWEST_STEPS / steps
        enough = _rounded_up((STARTING_S + least / slots) / 60)
        at_least = f"must be at least {enough:g} for {FEWEST_TRIALS} trials of each optimizer"
        hint = f"Or give fewer steps than {steps}." if keep_steps else "Or take a smaller model."
        raise InvalidSpecError(FieldError("minutes", minutes, at_least, hint, "out_of_range"))
    return Size(FEWEST_TRIALS, shorter)


def _rounded_up(minutes: float) -> float:
    """Return a number of minutes with one decimal that is not smaller."""
    return int(minutes * 10 + 1) / 10
