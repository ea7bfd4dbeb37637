"""How much each setting matters for the value of an arm's trials, by Optuna's PED-ANOVA.

It is computed in a thread of its own, one arm at a time, so that no request waits for it.
"""

from __future__ import annotations

import logging
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple

from service.db.session import AWAY, Database
from service.errors import DatabaseReplacedError
from service.ledger import queries
from service.logs import tame_optuna
from service.planning.arms import ArmPlan
from service.states import TrialState

LEAST_TRIALS: Final = 20
"""Completed trials of an arm below which chance decides which settings seem to matter."""

MOST_TRIALS: Final = 1000
"""Completed trials of an arm that are looked at, the best ones, which takes about 0.1 s."""

MOST_KEPT: Final = 200
"""Arms whose importances are kept."""

log = logging.getLogger(__name__)


class _Kept(NamedTuple):
    trials: int
    shares: dict[str, float]


class Importances:
    """Importances of the settings of arms, kept until an arm has more trials. May be used from several threads."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "importances")
        self._lock = threading.Lock()
        self._kept: dict[tuple[str, str], _Kept] = {}
        self._asked: set[tuple[str, str]] = set()

    def of(self, db: Database, job_id: str, arm: ArmPlan, trials: int) -> dict[str, float] | None:
        """Return the share of each setting, the largest first; empty if nothing can be said.

        Args:
            db: Where the trials are.
            job_id: The job.
            arm: One of its arms.
            trials: How many trials of the arm have ended.

        Returns:
            The newest that is known, perhaps of fewer trials; None while the first is computed.
        """
        key = (job_id, arm.name)
        with self._lock:
            kept = self._kept.get(key)
            if key not in self._asked and (kept is None or kept.trials != trials):
                self._asked.add(key)
                self._pool.submit(self._compute, db, job_id, arm, trials)
        return kept.shares if kept else None

    def _compute(self, db: Database, job_id: str, arm: ArmPlan, trials: int) -> None:
        key, shares = (job_id, arm.name), dict[str, float]()
        try:
            shares = _importances(db, job_id, arm)
        except (*AWAY, DatabaseReplacedError):
            log.warning("no importances for now", extra={"job": job_id, "arm": arm.name}, exc_info=True)
            with self._lock:
                self._asked.discard(key)
            return  # the next page asks again
        except Exception:
            log.exception("no importances", extra={"job": job_id, "arm": arm.name})
        with self._lock:
            self._asked.discard(key)
            self._kept.pop(key, None)
            self._kept[key] = _Kept(trials, shares)
            if len(self._kept) > MOST_KEPT:
                del self._kept[next(iter(self._kept))]

    def close(self) -> None:
        """Finish what is being computed, and drop the rest."""
        self._pool.shutdown(cancel_futures=True)


def _importances(db: Database, job_id: str, arm: ArmPlan) -> dict[str, float]:
    import optuna

    from search_spaces.to_optuna import distributions

    tame_optuna()
    with db.read() as session:
        rows = queries.best_trials(session, job_id, MOST_TRIALS, arm=arm.name, state=TrialState.COMPLETE)
    varied = [name for name in arm.space.names if len({row.params.get(name) for row in rows}) > 1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study()
        for row in rows:
            known = distributions(arm.space, row.params)
            study.add_trial(optuna.trial.create_trial(value=row.value, params=dict(row.params), distributions=known))
        found = optuna.importance.get_param_importances(study, params=varied)
    return dict(sorted(found.items(), key=lambda item: -item[1]))
