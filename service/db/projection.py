# Optuna's tables as the one worker that owns a job sees them. It reads from its own memory and writes a trial when that
# has ended, in one transaction: nobody else changes the study, and what is lost with the worker is in the ledger.
# Optuna's own storage reads every open trial again at each ask and commits every parameter: studies.py has it.
"""A study of one writer."""

from __future__ import annotations

import copy
import heapq
import json
import math
from collections.abc import Callable, Container, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import optuna
from optuna.distributions import distribution_to_json
from optuna.exceptions import DuplicatedStudyError
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, MetaData, Table, func, insert, select

HORIZON: Final = 1000
"""Ended trials that samplers and pruners look at, the newest ones, beside the best: a model of everything would cost
more with every trial, and TPE takes its good ones from the best alone."""

BEST: Final = 25
"""Completed trials that are looked at however old they are: as many as TPE ever takes for good ones."""

Item = TypeVar("Item")

_TABLES: Final = (
    "trials",
    "trial_params",
    "trial_values",
    "trial_intermediate_values",
    "trial_user_attributes",
    "trial_system_attributes",
)


class Projection(optuna.storages.InMemoryStorage):
    """The storage of one arm's study, held in memory; ended trials are written to ``backend``.

    Open trials of an earlier owner are failed there when the study is opened. Ended ones are not read back: the owner
    has them in the ledger, puts into memory what :func:`horizon` looks at, and writes what is missing.

    Args:
        backend: Optuna's tables.
        label: User attribute that tells a trial's number in the ledger.
    """

    def __init__(self, backend: optuna.storages.RDBStorage, label: str) -> None:
        super().__init__()
        self._backend, self._label = backend, label
        metadata = MetaData()
        metadata.reflect(backend.engine, only=[*_TABLES])
        self._tables: dict[str, Table] = dict(metadata.tables)
        self._stored_id = -1
        self._stored_trials = 0
        self._open: set[int] = set()
        self._ended: list[FrozenTrial] = []

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        """Create the study, or take the one of that name over."""
        assert study_name is not None, "the study of an arm has a name"
        try:
            self._stored_id = self._backend.create_new_study(directions, study_name)
        except DuplicatedStudyError:
            self._stored_id = self._backend.get_study_id_from_name(study_name)
            for ghost in self._backend.get_all_trials(
                self._stored_id, deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING)
            ):
                self._backend.set_trial_state_values(ghost._trial_id, TrialState.FAIL)
        study_id = super().create_new_study(directions, study_name)
        for key, value in self._backend.get_study_system_attrs(self._stored_id).items():
            super().set_study_system_attr(study_id, key, value)
        trials = self._tables["trials"]
        with self._backend.engine.connect() as connection:
            count = select(func.count()).select_from(trials).where(trials.c.study_id == self._stored_id)
            self._stored_trials = connection.scalar(count) or 0
        return study_id

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """Store an attribute: the place of a sampler that follows one sequence."""
        super().set_study_system_attr(study_id, key, value)
        self._backend.set_study_system_attr(self._stored_id, key, value)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Change the state; a trial that has ended is written."""
        changed = super().set_trial_state_values(trial_id, state, values)
        if changed and state.is_finished():
            self._look_at(trial_id)
            self.write([self.get_trial(trial_id)])
        return changed

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Add a trial in memory: a new one, or one that the tables have already."""
        trial_id = super().create_new_trial(study_id, template_trial)
        if template_trial is not None and template_trial.state.is_finished():
            self._look_at(trial_id)
        else:
            self._open.add(trial_id)
        return trial_id

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Return what is open, the newest trials that have ended, and the best of the older ones."""
        del study_id  # there is one
        trials = [*self._ended, *map(self.get_trial, self._open)]
        if states is not None:
            trials = [trial for trial in trials if trial.state in states]
        trials.sort(key=lambda trial: trial.number)
        return copy.deepcopy(trials) if deepcopy else trials

    def _look_at(self, trial_id: int) -> None:
        self._open.discard(trial_id)
        self._ended = horizon([*self._ended, self.get_trial(trial_id)], _complete_value)

    def told(self) -> dict[Any, dict[str, Any]]:
        """Return the ledger's number of every trial that samplers learn from -> what pruners have noted about it."""
        trials, labels = self._tables["trials"], self._tables["trial_user_attributes"]
        notes = self._tables["trial_system_attributes"]
        wanted = (
            select(labels.c.value_json, notes.c.key, notes.c.value_json)
            .join(trials, trials.c.trial_id == labels.c.trial_id)
            .outerjoin(notes, notes.c.trial_id == trials.c.trial_id)
            .where(trials.c.study_id == self._stored_id, labels.c.key == self._label)
            .where(trials.c.state.in_([TrialState.COMPLETE.name, TrialState.PRUNED.name]))
        )
        told: dict[Any, dict[str, Any]] = {}
        with self._backend.engine.connect() as connection:
            for label, key, value in connection.execute(wanted):
                of_trial = told.setdefault(json.loads(label), {})
                if key is not None:
                    of_trial[key] = json.loads(value)
        return told

    def write(self, trials: Iterable[FrozenTrial]) -> None:
        """Write ended trials to the tables, in one transaction."""
        with self._backend.engine.begin() as connection:
            for trial in trials:
                self._insert(connection, trial)

    # --- the tables of Optuna, as its own storage writes them

    def _insert(self, connection: Connection, trial: FrozenTrial) -> None:
        row = {
            "number": self._stored_trials,
            "study_id": self._stored_id,
            "state": trial.state.name,
            "datetime_start": _stored_time(trial.datetime_start),
            "datetime_complete": _stored_time(trial.datetime_complete),
        }
        table = self._tables["trials"]
        trial_id = connection.scalar(insert(table).values(row).returning(table.c.trial_id))
        self._stored_trials += 1
        for name, rows in _details(trial).items():
            if rows:
                connection.execute(insert(self._tables[name]), [{"trial_id": trial_id, **values} for values in rows])


def horizon(ended: Sequence[Item], value: Callable[[Item], float | None]) -> list[Item]:
    """Return what samplers and pruners look at: the newest of ``ended``, and before them the best of the older ones.

    Args:
        ended: Trials that have ended, the oldest first.
        value: Their values; None for those that did not complete.
    """
    ranked = [(v, i) for i, item in enumerate(ended[:-HORIZON]) if (v := value(item)) is not None]
    return [ended[i] for i in sorted(i for _, i in heapq.nsmallest(BEST, ranked))] + list(ended[-HORIZON:])


def _complete_value(trial: FrozenTrial) -> float | None:
    return trial.value if trial.state == TrialState.COMPLETE else None


def _details(trial: FrozenTrial) -> dict[str, list[dict[str, Any]]]:
    points = trial.intermediate_values
    assert all(map(math.isfinite, points.values())), "a loss that is not finite ends a trial as diverged"
    return {
        "trial_params": [
            {
                "param_name": name,
                "param_value": trial.distributions[name].to_internal_repr(value),
                "distribution_json": distribution_to_json(trial.distributions[name]),
            }
            for name, value in trial.params.items()
        ],
        "trial_values": [
            {"objective": index, "value": value, "value_type": "FINITE"}
            for index, value in enumerate(trial.values or ())
        ],
        "trial_intermediate_values": [
            {"step": step, "intermediate_value": value, "intermediate_value_type": "FINITE"}
            for step, value in points.items()
        ],
        "trial_user_attributes": _attributes(trial.user_attrs),
        "trial_system_attributes": _attributes(trial.system_attrs),
    }


def _attributes(attributes: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value_json": json.dumps(value)} for key, value in attributes.items()]


def _stored_time(moment: datetime | None) -> datetime | None:
    """Return Optuna's local time as the naive UTC that its tables hold."""
    return None if moment is None else moment.astimezone(UTC).replace(tzinfo=None)
