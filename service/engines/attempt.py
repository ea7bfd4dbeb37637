# One attempt at a run, the same in a slot process and in a Ray actor: the points, then how it ended. Whoever iterates
# it may stop at any point; what stopping means is the iterator's business.
"""One attempt at a run."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator

from service.states import TrialState
from service.training.run import DivergedError, Ended, Progress, Run

Train = Callable[[Run], Iterator[Progress]]


def default_train(run: Run) -> Iterator[Progress]:
    """Train with the service's own loops, loaded on first use."""
    if run.family is not None:
        from service.training.family_loop import train_family

        return train_family(run)
    from service.training.loop import train

    return train(run)


def warm_up(train: Train) -> None:
    """Load what ``train`` will need, so that the clock of the first run does not pay for it."""
    if train is default_train:
        import service.training.loop  # noqa: F401


def attempt(train: Train, run: Run) -> Iterator[Progress | Ended]:
    """Yield the points of ``run`` and then, whatever happens in it, how it ended."""
    last: Progress | None = None
    try:
        for point in train(run):
            last = point
            yield point
    except DivergedError as error:
        yield ended_at(last, TrialState.DIVERGED, str(error))
    except Exception as error:  # noqa: BLE001 - whatever a run raises is recorded as its cause
        last_frames = "".join(traceback.format_tb(error.__traceback__)[-3:])
        yield ended_at(last, TrialState.FAILED, f"{type(error).__name__}: {error}\n{last_frames}".strip())
    else:
        yield ended_at(last, TrialState.COMPLETE)


def ended_at(last: Progress | None, state: TrialState, cause: str | None = None) -> Ended:
    """Return the end of a run whose last point was ``last``."""
    if last is None:
        return Ended(state, cause=cause)
    return Ended(state, last.val_loss, last.test_loss, last.seconds, cause, last.test_score)
