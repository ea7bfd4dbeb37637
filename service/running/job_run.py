"""One job from claimed to ended: data, search of every arm, confirmation, result.

Every decision on the way is worked out from the ledger, so that another worker goes on as this one would have.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from service.artifacts import PREPROCESSING_FILE, START_P_FILE, p_file, weights_file
from service.db.models import ConfirmRun, Trial
from service.engines.base import Work
from service.ledger.runs import RunLog
from service.planning.arms import ArmPlan, Role
from service.planning.objective import Objective
from service.planning.plan import plan_of
from service.recommend.findings import Searched
from service.recommend.recommendation import Finalist, best_trials, rank
from service.result.job_result import KeptWeights, LearnedP
from service.running.arm_search import ArmSearch
from service.running.confirm_runs import ConfirmRuns, Phase, fresh_seeds, other_splits, prepare_splits, recover
from service.running.context import JobContext, StopSignal, Tools, note_size, prepare_data, prepare_one_task
from service.running.decisions import (
    ArmLimits,
    arm_fidelity,
    best_of_arm,
    count_equally,
    final_objective,
    finalists_by_search,
    limits_of,
    make_result,
)
from service.states import ArmState, TrialState


def run_job(record: RunLog, stop: StopSignal, tools: Tools) -> None:
    """Run a job to its result; go on where an earlier worker stopped.

    Raises:
        JobFailedError: The job cannot go on.
    """
    start_url = tools.artifacts.path(record.job_id, START_P_FILE)
    plan = replace(plan_of(record.spec_json, record.info_json), start_url=start_url)
    recover(record, tools.artifacts)
    stop.check()
    data, prepared = prepare_data(record, plan, tools, other_splits(plan))
    note_size(record, tools.artifacts)
    job = JobContext(
        record,
        plan,
        data,
        tools.artifacts,
        stop.halted,
        draining=stop.draining,
        turn_is_over=stop.turn_is_over,
        run_ended=stop.run_ended,
    )
    phases = _Phases(job, tools, stop)
    searched, limits = _search(phases)
    searched, about_stop = count_equally(job, searched)
    steps = {arm: limit.steps for arm, limit in limits.items()}
    job = replace(job, splits=prepare_splits(job, tools), notes=(*about_stop, *prepared.notes))
    phases = replace(phases, job=job)
    note_size(record, tools.artifacts)
    record.verify()
    objective = final_objective(job)
    finalists = _select(phases, searched, objective, steps)
    phases.confirm("confirm", [finalist.trial for finalist in finalists], steps)
    result = make_result(job, finalists, searched, objective, prepared.family)
    chosen = next(finalist.trial for finalist in finalists if finalist.trial.number == result.trial)
    first = _first_run(job, chosen)
    if first.state == TrialState.COMPLETE:  # otherwise, files that are there may be of an earlier version
        weights = _kept_weights(job, first)
        result = result.model_copy(update={"learned_p": _try_p(phases, chosen, steps), "weights": weights})
    record.succeed(result)


@dataclass(frozen=True, slots=True)
class _Phases:
    """Runs the phases of a job on the engine that its spec names. What is done already is not done again."""

    job: JobContext
    tools: Tools
    stop: StopSignal

    def search(self, arm: ArmPlan, limits: ArmLimits) -> bool:
        """Search an arm to its cap; return False for a control that a stop left out."""
        record = self.job.record
        if arm.role is Role.CONTROL and self.job.draining() and not record.trials(arm.name):
            return False
        if record.start_arm(arm.name).state == ArmState.COMPLETE:
            return True
        search = ArmSearch(self.job, arm, self.tools.storage, limits)
        try:
            self._run(search)
        finally:
            search.close()
        if arm.role is Role.CONTROL and search.was_stopped:
            return False
        counted_trials = len(record.trials(arm.name)) if search.was_stopped else None
        record.finish_arm(arm.name, search.seconds_used, search.reached, counted_trials)
        return True

    def confirm(
        self, phase: Phase, trials: Sequence[Trial], steps: Mapping[str, int], seeds: Sequence[int] | None = None
    ) -> Sequence[ConfirmRun]:
        """Run the configs of trials with the steps of their arms; return every run of the phase.

        They run on ``seeds``, or on all fresh seeds of the phase if that is None.
        """
        seeds = fresh_seeds(self.job.plan.spec, phase) if seeds is None else seeds
        self._run(ConfirmRuns(self.job, phase, trials, steps, seeds))
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
        if not phases.search(arm, limits[arm.name]):
            continue
        if arm.role is not Role.UNTUNED:
            best_of_arm(job, arm.name, 1)  # an arm that completed no trial ends the job at once
        trials = job.record.trials(arm.name)
        searched.append(Searched(arm, trials, arm_fidelity(job, arm, limits[arm.name], trials)))
    return searched, limits


def _select(
    phases: _Phases, searched: Sequence[Searched], objective: Objective, steps: Mapping[str, int]
) -> list[Finalist]:
    """Return one finalist for each arm that completed a trial: the winner of a race, or its best trial without one.

    The best trials of an arm run on a fresh seed, the worst of them drop out, the others run on the next seed, and so
    on. The search judged each trial on one seed only, so its best one is often just lucky.
    """
    job = phases.job
    rounds = {item.arm.name: job.plan.race_rounds(item.arm) for item in searched}
    first = {item.arm.name: best_trials(item.trials, max(rounds[item.arm.name], default=1)) for item in searched}
    finalists = {
        finalist.trial.arm: finalist
        for finalist in finalists_by_search(job, [trials[0] for trials in first.values() if trials], objective)
    }
    racing = {name: trials for name, trials in first.items() if rounds[name]}
    for index, seed in enumerate(fresh_seeds(job.plan.spec, "select")):
        racing = {name: trials[: rounds[name][index]] for name, trials in racing.items()}
        planned = phases.confirm("select", [trial for trials in racing.values() for trial in trials], steps, [seed])
        runs = [run for run in planned if run.seed <= seed]  # a race before an extension went further
        ranked = {name: rank(trials, runs, objective) for name, trials in racing.items()}
        finalists |= {name: best for name, (best, *_) in ranked.items()}
        racing = {name: [finalist.trial for finalist in best] for name, best in ranked.items()}
    return list(finalists.values())


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
    data = job.data if family is None else prepare_one_task(job)
    runs = replace(phases, job=replace(job, data=data)).confirm("from_p", [trial], steps)
    run = next(run for run in runs if run.trial_number == trial.number)
    return LearnedP(
        file=p_file(trial.number),
        sha256=hashlib.sha256(content).hexdigest(),
        seed=run.seed,
        test_loss=run.test_loss,
        data_sha256=None if family is None else data.sha256,
    )


def _first_run(job: JobContext, trial: Trial) -> ConfirmRun:
    """Return the confirmation run of a trial that keeps its P and its weights."""
    seed, *_ = fresh_seeds(job.plan.spec, "confirm")
    runs = job.record.confirm_runs("confirm")
    return next(run for run in runs if (run.trial_number, run.seed) == (trial.number, seed))


def _kept_weights(job: JobContext, run: ConfirmRun) -> KeptWeights | None:
    """Return the weights that the first confirmation run of the recommended config left; None if it left none."""
    job_id, name = job.record.job_id, weights_file(run.trial_number)
    digest = job.artifacts.sha256(job_id, name)
    if digest is None or run.test_loss is None:
        return None
    fitted = job.artifacts.sha256(job_id, PREPROCESSING_FILE)
    return KeptWeights(file=name, sha256=digest, preprocessing_sha256=fitted, seed=run.seed, test_loss=run.test_loss)
