"""One job from claimed to ended: data, search of every arm, confirmation, result.

Every decision on the way is worked out from the ledger, so that another worker goes on as this one would have.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from service.artifacts import START_P_FILE, p_file
from service.db.models import ConfirmRun, Trial
from service.ledger.runs import RunLog
from service.planning.arms import Role
from service.planning.objective import Objective
from service.planning.plan import plan_of
from service.recommend.findings import Searched
from service.recommend.recommendation import Finalist, rank
from service.result.job_result import LearnedP
from service.running.arms import (
    ArmLimits,
    arm_fidelity,
    best_of_arm,
    final_objective,
    finalists_by_search,
    limits_of,
)
from service.running.confirm_runs import fresh_seeds
from service.running.context import JobContext, StopSignal, Tools
from service.running.finish import make_result
from service.running.phases import Phases
from service.running.prepare import DataPreparation


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
    preparation = DataPreparation(record, tools)
    job = JobContext(record, plan, preparation.prepare(plan.info), tools.artifacts, stop.halted)
    phases = Phases(job, tools, stop)
    searched, limits = _search(job, phases)
    steps = {arm: limit.steps for arm, limit in limits.items()}
    job = replace(job, splits=preparation.prepare_splits(plan))
    phases = replace(phases, job=job)
    record.verify()
    objective = final_objective(job)
    finalists = _select(job, phases, objective, steps)
    phases.confirm("confirm", [finalist.trial for finalist in finalists], steps)
    result = make_result(job, finalists, searched, objective, preparation.family)
    chosen = next(finalist.trial for finalist in finalists if finalist.trial.number == result.trial)
    record.succeed(result.model_copy(update={"learned_p": _try_p(phases, chosen, steps, preparation)}))


def _search(job: JobContext, phases: Phases) -> tuple[list[Searched], dict[str, ArmLimits]]:
    """Search every arm; return the arms with their trials, and what earlier arms decided about each."""
    searched: list[Searched] = []
    limits: dict[str, ArmLimits] = {}
    for arm in job.plan.arms:
        limits[arm.name] = limits_of(job, arm, searched)
        phases.search(arm, limits[arm.name])
        best_of_arm(job, arm.name, 1)  # an arm that completed no trial ends the job at once
        trials = job.record.trials(arm.name)
        searched.append(Searched(arm, trials, arm_fidelity(job, arm, limits[arm.name], trials)))
    return searched, limits


def _select(job: JobContext, phases: Phases, objective: Objective, steps: Mapping[str, int]) -> list[Finalist]:
    """Return one finalist for each arm: the winner of a race.

    The best trials of an arm run on a fresh seed, the worst of them drop out, the others run on the next seed, and so
    on. The search judged each trial on one seed only, so its best one is often just lucky.
    """
    spec = job.plan.spec
    racing = [best_of_arm(job, arm.name, spec.contenders) for arm in job.plan.arms]
    if spec.contenders == 1:
        return finalists_by_search(job, [trials[0] for trials in racing], objective)
    runs: Sequence[ConfirmRun] = ()
    ranked: list[list[Finalist]] = []
    for seed, size in zip(fresh_seeds(spec, "select"), spec.race_rounds, strict=True):
        racing = [trials[:size] for trials in racing]
        planned = phases.confirm("select", [trial for trials in racing for trial in trials], steps, [seed])
        runs = [run for run in planned if run.seed <= seed]  # a race before an extension went further
        ranked = [rank(trials, runs, objective) for trials in racing]
        racing = [[finalist.trial for finalist in arm] for arm in ranked]
    return [finalists[0] for finalists in ranked]


def _try_p(phases: Phases, trial: Trial, steps: Mapping[str, int], preparation: DataPreparation) -> LearnedP | None:
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
    data = job.data if family is None else preparation.put_one_task(job.data)
    runs = replace(phases, job=replace(job, data=data)).confirm("from_p", [trial], steps)
    run = next(run for run in runs if run.trial_number == trial.number)
    return LearnedP(
        file=p_file(trial.number),
        sha256=hashlib.sha256(content).hexdigest(),
        seed=run.seed,
        test_loss=run.test_loss,
        data_sha256=None if family is None else data.sha256,
    )
