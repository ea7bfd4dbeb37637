# The finalists of the arms on fresh seeds, as work for an engine. Every finalist gets the same seeds: the same initial
# weights and the same batches, so that the losses are paired. What they mean is decided in recommendation.py.
"""Confirmation runs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, Literal

from service.artifacts import ArtifactStore, read_artifact
from service.db.models import ConfirmRun, Trial
from service.engines.base import Assignment, Pruning
from service.ledger.runs import RunLog
from service.planning.arms import Role
from service.planning.plan import JobPlan
from service.spec.job import MAX_CONFIRM_SEEDS, JobSpec
from service.states import TrialState
from service.training.run import Ended, Progress

Phase = Literal["select", "confirm", "from_p"]

FIRST_SEED: Final = 1
"""Distance of the first fresh seed from the job's seed, which every trial used."""


def fresh_seeds(spec: JobSpec, phase: Phase) -> list[int]:
    """Return the seeds of a phase: ``select`` and ``confirm`` share none with each other or a trial, however extended.

    ``from_p`` is one run, on the seed whose ``confirm`` run left the P that it starts from.
    """
    start = spec.seed + FIRST_SEED + (MAX_CONFIRM_SEEDS if phase == "select" else 0)
    return list(range(start, start + (1 if phase == "from_p" else spec.confirm.seeds)))


def _checkpoint_name(run_id: int) -> str:
    return f"confirm-{run_id}"


class ConfirmRuns:
    """The runs of one phase.

    Args:
        log: Writes to the ledger.
        plan: The job's plan.
        phase: ``select`` picks one finalist of each arm by validation; ``confirm`` compares the arms on test;
            ``from_p`` trains the recommended config once more from the P that it learned, on one task.
        finalists: The trials whose configs are run.
        data: URL and SHA-256 of the prepared data: a split, or a family in all phases but ``from_p``.
        artifacts: Keeps the checkpoints of the runs.
        halted: Whether the worker wants everything stopped.
        steps: Steps of a run by arm, where they are not those of the spec.
    """

    def __init__(
        self,
        log: RunLog,
        plan: JobPlan,
        phase: Phase,
        finalists: Sequence[Trial],
        data: tuple[str, str],
        artifacts: ArtifactStore,
        halted: Callable[[], bool],
        steps: Mapping[str, int] | None = None,
    ) -> None:
        self._log, self._plan, self._phase, self._data, self._artifacts = log, plan, phase, data, artifacts
        self.halted = halted
        self._steps = steps or {}
        self._curves: dict[int, list[Progress]] = {}
        self.pruning: Pruning | None = None
        self._params = {trial.number: trial.params for trial in finalists}
        runs = log.plan_confirm_runs(phase, finalists, fresh_seeds(plan.spec, phase))
        self._runs: dict[int, ConfirmRun] = {run.id: run for run in runs}
        mine = [run for run in runs if run.trial_number in self._params]  # another finalist's look is over
        self._waiting = [run for run in mine if run.state == TrialState.QUEUED]

    def next(self) -> Assignment | None:
        """Return the next run of the plan."""
        if not self._waiting:
            return None
        row = self._waiting.pop(0)
        test = self._phase != "select"
        params, steps = self._params[row.trial_number], self._steps.get(row.arm)
        url = self._artifacts.checkpoint_url(self._log.job_id, _checkpoint_name(row.id))
        run = self._plan.run(row.arm, params, self._data, seed=row.seed, test=test, steps=steps, checkpoint_url=url)
        p_url = self._artifacts.p_url(self._log.job_id, row.trial_number)
        if self._phase == "from_p":
            digest = hashlib.sha256(read_artifact(p_url)).hexdigest()
            run = replace(run, from_p_url=p_url, from_p_sha256=digest, family=None)
        elif self._leaves_p(row):
            run = replace(run, p_url=p_url)
        return Assignment(row.id, run, self._plan.spec.resources.max_attempts - row.attempts - 1)

    def _leaves_p(self, row: ConfirmRun) -> bool:
        """Tell whether the P that a run learns is kept: that of the first ``confirm`` run of an arm that learns it."""
        first = row.seed == fresh_seeds(self._plan.spec, "confirm")[0]
        return self._phase == "confirm" and first and self._plan.arm(row.arm).role is Role.WARPADAM

    def started(self, assignment: Assignment) -> None:
        """Count the attempt."""
        self._curves[assignment.key] = []
        self._runs[assignment.key].attempts = self._log.start_confirm_run(assignment.key)

    def progress(self, assignment: Assignment, point: Progress) -> bool:
        """Keep the point and go on: a confirmation run is never stopped early."""
        self._curves[assignment.key].append(point)
        return True

    def finished(self, assignment: Assignment, ended: Ended) -> None:
        """Record how the run ended."""
        self._log.finish_confirm_run(assignment.key, ended, self._curves.pop(assignment.key, []))
        self._artifacts.delete_checkpoints(self._log.job_id, _checkpoint_name(assignment.key))

    def lost(self, assignment: Assignment, cause: str) -> bool:
        """Let the run begin again while it has attempts left."""
        del cause
        return self._runs[assignment.key].attempts < self._plan.spec.resources.max_attempts

    def interrupted(self, assignment: Assignment) -> None:
        """Leave the run to the next worker."""
        self._log.requeue_confirm_run(assignment.key)
