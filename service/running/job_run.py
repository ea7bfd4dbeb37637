"""One job from claimed to ended: data, search of every arm, confirmation, result.

Every decision on the way is worked out from the ledger, so that another worker goes on as this one would have.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from service.artifacts import START_P_FILE, ArtifactStore, p_file
from service.data.prepared import PreparedData
from service.db.models import ConfirmRun, Trial
from service.engines.base import Work
from service.errors import JobFailedError
from service.ledger.runs import RunLog
from service.planning.arms import ArmPlan, Role
from service.planning.objective import Objective
from service.planning.plan import JobPlan, plan_of
from service.recommend.findings import Searched, find_break_even, find_transfer, make_findings
from service.recommend.recommendation import Finalist, recommend, select
from service.result.job_result import FamilyFinding, JobResult, LearnedP, Recommendation
from service.running.arm_search import ArmSearch
from service.running.arms import (
    ArmLimits,
    arm_fidelity,
    best_of_arm,
    final_objective,
    finalists_by_search,
    limits_of,
)
from service.running.confirm_runs import ConfirmRuns, Phase
from service.running.context import JobContext, StopSignal, Tools
from service.states import ArmState
from service.version import versions

if TYPE_CHECKING:
    from service.data.families import FamilySummary
    from service.data.prepare import PreparedFile


def run_job(record: RunLog, stop: StopSignal, tools: Tools) -> None:
    """Run a job to its result; go on where an earlier worker stopped.

    Args:
        record: Writes to the ledger.
        stop: Says whether to go on.
        tools: What to run the job with.

    Raises:
        JobFailedError: The job cannot go on.
    """
    start_url = tools.artifacts.path(record.job_id, START_P_FILE)
    plan = replace(plan_of(record.lease.spec_json, record.lease.info_json), start_url=start_url)
    record.recover_trials(plan.spec.resources.max_attempts)
    stop.check()
    data, family = _prepare_data(record, plan, tools)
    job = JobContext(record, plan, data, tools.artifacts, stop.halted)
    phases = _Phases(job, tools, stop)
    searched, limits = _search(phases)
    steps = {arm: limit.steps for arm, limit in limits.items()}
    record.verify()
    objective = final_objective(job)
    finalists = _select(phases, objective, steps)
    phases.confirm("confirm", [finalist.trial for finalist in finalists], steps)
    result = _make_result(job, finalists, searched, objective, family)
    chosen = next(finalist.trial for finalist in finalists if finalist.trial.number == result.trial)
    record.succeed(result.model_copy(update={"learned_p": _try_p(phases, chosen, steps)}))


# --- the data


def _prepare_data(record: RunLog, plan: JobPlan, tools: Tools) -> tuple[PreparedData, FamilySummary | None]:
    """Store the prepared data of the job; return where it is, and the tasks of a family."""
    from service.data.prepare import prepare_job_data  # loads scikit-learn, which an idle worker does not need

    write_dataset = partial(tools.user_code.write_dataset, plan.spec, plan.info)
    with tempfile.TemporaryDirectory(prefix="warptune-data-") as folder:
        file = prepare_job_data(plan.spec, plan.info.task, tools.artifacts, write_dataset, Path(folder))
        before = record.set_data_hash(file.sha256)
        if before not in (None, file.sha256):
            raise JobFailedError(
                f"the data that this worker prepares has SHA-256 {file.sha256}, the trials so far were trained on "
                f"{before}: the workers have different versions of numpy or scikit-learn"
            )
        return _store(tools.artifacts, record.job_id, file), file.family


def _prepare_one_task(job: JobContext) -> PreparedData:
    """Store the split of one meta-test task, so that the P of a family can be tried on it."""
    from service.data.prepare import write_one_task

    with tempfile.TemporaryDirectory(prefix="warptune-task-") as folder:
        return _store(job.artifacts, job.record.job_id, write_one_task(job.data, Path(folder)))


def _store(artifacts: ArtifactStore, job_id: str, file: PreparedFile) -> PreparedData:
    return PreparedData(artifacts.put_file(job_id, file.path.name, file.path), file.sha256)


# --- the runs


@dataclass(frozen=True, slots=True)
class _Phases:
    """Runs the phases of a job on the engine that its spec names. What is done already is not done again."""

    job: JobContext
    tools: Tools
    stop: StopSignal

    def search(self, arm: ArmPlan, limits: ArmLimits) -> None:
        """Search an arm to its cap."""
        record = self.job.record
        if record.start_arm(arm.name).state == ArmState.COMPLETE:
            return
        search = ArmSearch(self.job, arm, self.tools.storage, limits)
        try:
            self._run(search)
        finally:
            search.close()
        record.finish_arm(arm.name, search.seconds_used, search.reached)

    def confirm(self, phase: Phase, trials: Sequence[Trial], steps: Mapping[str, int]) -> Sequence[ConfirmRun]:
        """Run the configs of trials on fresh seeds, with the steps of their arms; return every run of the phase."""
        self._run(ConfirmRuns(self.job, phase, trials, steps))
        return self.job.record.confirm_runs(phase)

    def _run(self, work: Work) -> None:
        spec = self.job.plan.spec
        self.tools.engines[spec.engine.name].run(work, spec.resources, spec.budget.max_seconds)
        self.stop.check()


def _search(phases: _Phases) -> tuple[list[Searched], dict[str, ArmLimits]]:
    """Search every arm; return the arms with their trials, and what earlier arms decided about each."""
    job = phases.job
    searched: list[Searched] = []
    limits: dict[str, ArmLimits] = {}
    for arm in job.plan.arms:
        limits[arm.name] = limits_of(job, arm, searched)
        phases.search(arm, limits[arm.name])
        best_of_arm(job, arm.name, 1)  # an arm that completed no trial ends the job at once
        trials = job.record.trials(arm.name)
        searched.append(Searched(arm, trials, arm_fidelity(job, arm, limits[arm.name], trials)))
    return searched, limits


def _select(phases: _Phases, objective: Objective, steps: Mapping[str, int]) -> list[Finalist]:
    """Return one finalist for each arm."""
    job = phases.job
    top_k = job.plan.spec.confirm.top_k
    contenders = [best_of_arm(job, arm.name, top_k) for arm in job.plan.arms]
    if top_k == 1:
        return finalists_by_search(job, [trials[0] for trials in contenders], objective)
    runs = phases.confirm("select", [trial for trials in contenders for trial in trials], steps)
    return [select(trials, runs, objective) for trials in contenders]


def _try_p(phases: _Phases, trial: Trial, steps: Mapping[str, int]) -> LearnedP | None:
    """Train once more from the P that the recommended config learned; None if it learns none, or it was not kept.

    Users who load P should get this test loss. It does not affect the verdict.
    """
    job = phases.job
    if job.plan.arm(trial.arm).role is not Role.WARPADAM:
        return None
    content = job.artifacts.get(job.record.job_id, p_file(trial.number))
    if content is None:
        return None
    family = job.plan.spec.family
    data = job.data if family is None else _prepare_one_task(job)
    runs = replace(phases, job=replace(job, data=data)).confirm("from_p", [trial], steps)
    run = next(run for run in runs if run.trial_number == trial.number)
    return LearnedP(
        file=p_file(trial.number),
        sha256=hashlib.sha256(content).hexdigest(),
        seed=run.seed,
        test_loss=run.test_loss,
        data_sha256=None if family is None else data.sha256,
    )


# --- the result


def _make_result(
    job: JobContext,
    finalists: Sequence[Finalist],
    searched: Sequence[Searched],
    objective: Objective,
    family: FamilySummary | None,
) -> JobResult:
    """Judge a job by its confirmation runs. The learned P is not in the result yet."""
    plan, runs = job.plan, job.record.confirm_runs("confirm")
    recommended = recommend(plan, finalists, runs, objective, job.record.looks())
    tasks = None if family is None else _family_finding(plan, recommended, finalists, runs, family)
    findings = make_findings(plan, recommended, finalists, searched, runs, objective, tasks)
    return JobResult(
        **vars(recommended),
        job_id=job.record.job_id,
        findings=findings,
        learned_p=None,
        warm_start=find_transfer(plan, findings.comparisons),
        made_with=versions(),
    )


def _family_finding(
    plan: JobPlan,
    recommended: Recommendation,
    finalists: Sequence[Finalist],
    runs: Sequence[ConfirmRun],
    family: FamilySummary,
) -> FamilyFinding:
    of_arm: dict[str, Trial] = {finalist.trial.arm: finalist.trial for finalist in finalists}
    baseline, challenger = of_arm[recommended.baseline], of_arm[recommended.challenger]
    break_even = find_break_even(plan, baseline, challenger, runs, len(family.tasks["meta_test"]))
    return FamilyFinding(
        made_by=family.made_by, tasks=dict(family.tasks), left_out=family.left_out, break_even=break_even
    )
