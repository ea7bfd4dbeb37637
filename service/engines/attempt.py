"""One attempt at a run: it yields the points that the run reaches and then how the run ended.

Called in a slot process (slot.py) and in a Ray actor (ray_trainable.py), which may stop iterating at any point.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator

from service.states import TrialState
from service.training.run import CurvePoint, DivergedError, Ended, Run

Train = Callable[[Run], Iterator[CurvePoint]]


def default_train(run: Run) -> Iterator[CurvePoint]:
    """Train with the service's own loops, loaded on first use."""
    if run.family is not None:
        from service.training.family_loop import train_family

        return train_family(run)
    from service.training.loop import train

    return train(run)


def warm_up(train: Train) -> None:
    """Import what ``train`` needs, so that the seconds of the first run do not include it."""
    if train is default_train:
        import service.training.loop  # noqa: F401


def attempt(train: Train, run: Run) -> Iterator[CurvePoint | Ended]:
    """Yield the points of ``run`` and then how it ended. Nothing that ``train`` raises comes out."""
    last: CurvePoint | None = None
    try:
        for point in train(run):
            last = point
            yield point
    except DivergedError as error:
        yield ended_at(last, TrialState.DIVERGED, str(error))
    except Exception as error:  # noqa: BLE001 - recorded as the cause of the run's failure
        last_frames = "".join(traceback.format_tb(error.__traceback__)[-3:])
        yield ended_at(last, TrialState.FAILED, f"{type(error).__name__}: {error}\n{last_frames}".strip())
    else:
        yield ended_at(last, TrialState.COMPLETE)


def ended_at(last: CurvePoint | None, state: TrialState, cause: str | None = None) -> Ended:
    """Return the end of a run whose last point was ``last``."""
    if last is None:
        return Ended(state, cause=cause)
    return Ended(state, last.val_loss, last.test_loss, last.seconds, cause, last.test_score)
