"""Learning curves of confirmation runs, as the ledger stores them: a list of numbers for each point."""

from __future__ import annotations

from collections.abc import Sequence

from service.db.models import ConfirmRun
from service.errors import OtherVersionError
from service.training.run import CurvePoint


def stored_curve(points: Sequence[CurvePoint]) -> list[list[float | None]]:
    """Return a learning curve as JSON."""
    return [list(point) for point in points]


def curve_of(run: ConfirmRun) -> list[CurvePoint]:
    """Return the learning curve of a confirmation run.

    Raises:
        OtherVersionError: Another version of the service stored points that this one cannot read.
    """
    try:
        return [CurvePoint._make(point) for point in run.curve]
    except TypeError as error:
        raise OtherVersionError("the learning curve of a confirmation run", error) from error
