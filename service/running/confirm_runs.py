"""Confirmation runs: the finalists of the arms on fresh seeds, as work for an engine.

Every finalist gets the same seeds, and so the same initial weights and the same batches: the losses are paired.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final, Literal

from service.artifacts import ArtifactStore, checkpoint_steps, read_artifact, weights_file
from service.data.prepared import PreparedData
from service.db.models import ConfirmRun, Trial
from service.engines.base import Assignment, Pruning
from service.ledger.runs import RunLog
from service.planning.arms import Role
from service.planning.plan import JobPlan
from service.running.context import JobContext, Tools, store_prepared
from service.spec.job import MAX_CONFIRM_SEEDS, JobSpec
from service.states import TrialState
from service.training.run import CurvePoint, Ended

log = logging.getLogger(__name__)

Phase = Literal["select", "confirm", "from_p"]

FIRST_SEED: Final = 1
"""Distance of the first fresh seed from the job's seed, which all trials use."""


def fresh_seeds(spec: JobSpec, phase: Phase) -> list[int]:
    """Return the seeds of a phase.

    ``select`` and ``confirm`` share no seed with each other or with a trial, even after an extension. ``select`` has
    one for each round of the race. ``from_p`` is one run, on the seed whose ``confirm`` run left the P that it starts
    from.
    """
    start = spec.seed + FIRST_SEED + (MAX_CONFIRM_SEEDS if phase == "select" else 0)
    counts = {"select": len(spec.race_rounds), "confirm": spec.confirm.seeds, "from_p": 1}
    return list(range(start, start + counts[phase]))


def other_splits(plan: JobPlan) -> list[int]:
    """Return the seeds that draw the splits of a job's fresh seeds, without the split of its search."""
    seeds = [*fresh_seeds(plan.spec, "select"), *fresh_seeds(plan.spec, "confirm")]
    return sorted({plan.split_seed(seed) for seed in seeds} - {plan.spec.seed})


def prepare_splits(job: JobContext, tools: Tools) -> dict[int, PreparedData]:
    """Store the other splits that the fresh seeds of a job use; return them by the seeds that draw them."""
    from service.data.prepare import prepare_splits as prepared  # loads scikit-learn

    plan, drawn = job.plan, other_splits(job.plan)
    if not drawn:
        return {}
    write_dataset = partial(tools.user_code.write_dataset, plan.spec, plan.info)
    with tempfile.TemporaryDirectory(prefix="warptune-data-") as folder:
        files = prepared(plan.spec, plan.info.task, tools.artifacts, write_dataset, Path(folder), drawn)
        return {seed: store_prepared(tools.artifacts, job.record.job_id, file) for seed, file in files}


def recover(record: RunLog, artifacts: ArtifactStore) -> None:
    """Queue again what an earlier worker was running. How far a confirmation run had come, its checkpoints tell."""
    reached = {}
    for run_id in record.running_confirm_runs():
        try:
            steps = checkpoint_steps(artifacts.checkpoint_url(record.job_id, checkpoint_folder(run_id)))
        except Exception:  # each kind of store raises its own errors
            log.warning("cannot list the checkpoints of a run", extra=record.facts, exc_info=True)
        else:
            reached[run_id] = max(steps, default=0)
    record.recover_trials(reached)


def checkpoint_folder(run_id: int) -> str:
    """Return the name of the folder with the checkpoints of a confirmation run."""
    return f"confirm-{run_id}"


class ConfirmRuns:
    """The runs of one phase.

    Args:
        job: For ``from_p`` its data is a split.
        phase: ``select`` picks one finalist of each arm by validation. Its runs are tested, too, to tell how much luck
            that takes, but not with a family, whose test is as long as the run. ``confirm`` compares the arms on test.
            ``from_p`` trains the recommended config once more from the P that it learned, on one task.
        finalists: The trials whose configs are run.
        steps: Steps of a run by arm, where they are not those of the spec.
        seeds: Seeds that they are run on.
    """

    def __init__(
        self,
        job: JobContext,
        phase: Phase,
        finalists: Sequence[Trial],
        steps: Mapping[str, int],
        seeds: Sequence[int],
    ) -> None:
        self._job, self._log, self._plan, self._phase, self._steps = job, job.record, job.plan, phase, steps
        self.halted = job.halted
        self._curves: dict[int, list[CurvePoint]] = {}
        self.pruning: Pruning | None = None
        self._params = {trial.number: trial.params for trial in finalists}
        runs = self._log.plan_confirm_runs(phase, finalists, seeds)
        self._runs: dict[int, ConfirmRun] = {run.id: run for run in runs}
        mine = [run for run in runs if run.trial_number in self._params]  # others were before, or are out of the race
        self._waiting = [run for run in mine if run.state == TrialState.QUEUED]

    def next(self) -> Assignment | None:
        """Return the next run of the plan; None when there is none, or the turn of the job is over."""
        if not self._waiting or self._job.turn_is_over():
            return None
        row = self._waiting.pop(0)
        test = self._phase != "select" or self._plan.spec.family is None
        params, steps = self._params[row.trial_number], self._steps.get(row.arm)
        url = self._job.artifacts.checkpoint_url(self._log.job_id, checkpoint_folder(row.id))
        data = self._job.data_of(row.seed)
        run = self._plan.run(row.arm, params, data, seed=row.seed, test=test, steps=steps, checkpoint_url=url)
        p_url = self._job.artifacts.p_url(self._log.job_id, row.trial_number)
        if self._phase == "from_p":
            digest = hashlib.sha256(read_artifact(p_url)).hexdigest()
            run = replace(run, from_p_url=p_url, from_p_sha256=digest, family=None)
        elif self._is_first(row) and self._plan.arm(row.arm).role in (Role.WARPADAM, Role.BASELINE):
            learns_p = self._plan.arm(row.arm).role is Role.WARPADAM
            weights_url = self._job.artifacts.path(self._log.job_id, weights_file(row.trial_number))
            run = replace(run, p_url=p_url if learns_p else None, weights_url=None if run.family else weights_url)
        retries = max(0, self._plan.spec.resources.max_attempts - row.losses - 1)
        facts = {**self._log.facts, "trial": row.trial_number, "phase": row.phase, "seed": row.seed}
        return Assignment(row.id, run, retries, row.furthest_step, facts=facts)

    def _is_first(self, row: ConfirmRun) -> bool:
        """Tell whether a run is the first ``confirm`` run of its arm, which leaves its P and its weights.

        It is not chosen by its loss, and it runs on the split of the search, which exports hold.
        """
        return self._phase == "confirm" and row.seed == fresh_seeds(self._plan.spec, "confirm")[0]

    def started(self, assignment: Assignment) -> None:
        """Count the attempt."""
        self._curves[assignment.key] = []
        self._runs[assignment.key].attempts = self._log.start_confirm_run(assignment.key)

    def progress(self, assignment: Assignment, point: CurvePoint) -> bool:
        """Keep the point. A confirmation run is never stopped early."""
        self._curves[assignment.key].append(point)
        return True

    def finished(self, assignment: Assignment, ended: Ended) -> None:
        """Record how the run ended."""
        self._log.finish_confirm_run(assignment.key, ended, self._curves.pop(assignment.key, []))
        self._job.run_ended()
        self._job.artifacts.delete_checkpoints(self._log.job_id, checkpoint_folder(assignment.key))

    def lost(self, assignment: Assignment, cause: str) -> bool:
        """Let the run begin again while it has attempts left."""
        points, attempts = self._curves[assignment.key], self._plan.spec.resources.max_attempts
        row = self._log.lose(self._runs[assignment.key], cause, points[-1].step if points else 0, attempts)
        self._runs[row.id] = row
        return row.state == TrialState.QUEUED

    def delayed(self, cause: str, pause_s: float) -> None:
        """Record that a process could not start."""
        self._log.delay_start(cause, pause_s)

    def interrupted(self, assignment: Assignment) -> None:
        """Leave the run to the next worker."""
        self._log.requeue_confirm_run(assignment.key)
