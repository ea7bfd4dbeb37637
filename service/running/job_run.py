# One job from claimed to ended: data, arm after arm, verification, recommendation. Whatever is decided on the way is
# worked out from the ledger, so that another worker goes on as this one would have. Leases are worker.py's business.
"""The run of a job."""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import optuna

from service.artifacts import START_P_FILE, ArtifactStore, p_file
from service.data.catalog import DatasetInfo
from service.data.prepared import PreparedData
from service.db.models import Trial
from service.engines.base import Engine, Work
from service.errors import JobFailedError
from service.ledger.runs import RunLog
from service.planning.arms import MORE_STEPS, REFERENCE, ArmPlan, Role
from service.planning.objective import Objective, make_objective
from service.planning.plan import JobPlan, plan_of
from service.recommend.break_even import FamilyFinding, find_break_even
from service.recommend.fidelity import Fidelity
from service.recommend.findings import Searched, make_findings
from service.recommend.recommendation import Finalist, best_trials, recommend, select
from service.recommend.transfer import find_transfer
from service.running.arm_search import ArmSearch, Terms, arm_fidelity
from service.running.confirm_runs import ConfirmRuns, Phase
from service.spec.job import MAX_STEPS
from service.states import ArmState
from service.training.run import Progress
from service.user_code.probe import UserCode
from service.version import versions

if TYPE_CHECKING:
    from service.data.families import FamilySummary


class Watch(Protocol):
    """Says whether work on the job may go on."""

    def halted(self) -> bool:
        """Tell whether work on the job must stop now."""

    def check(self) -> None:
        """Raise if work on the job must stop now."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What a worker runs jobs with."""

    engines: Mapping[str, Engine]
    storage: optuna.storages.BaseStorage
    artifacts: ArtifactStore
    user_code: UserCode


class JobRun:
    """One job on its way from claimed to ended; goes on where an earlier worker stopped.

    Args:
        record: Writes to the ledger.
        watch: Says whether to go on.
        tools: What to run it with.
    """

    def __init__(self, record: RunLog, watch: Watch, tools: Tools) -> None:
        self._record, self._watch, self._tools = record, watch, tools
        self._spec = record.lease.spec
        self._terms: dict[str, Terms] = {}
        self._fidelities: dict[str, Fidelity | None] = {}
        self._family: FamilySummary | None = None

    def execute(self) -> None:
        """Run the job to its recommendation.

        Raises:
            JobFailedError: It cannot go on.
        """
        start_url = self._tools.artifacts.path(self._record.job_id, START_P_FILE)
        plan = replace(plan_of(self._record.lease.spec_json, self._record.lease.info_json), start_url=start_url)
        self._record.recover_trials(self._spec.resources.max_attempts)
        data = self._prepare_data(plan.info)
        for arm in plan.arms:
            self._terms[arm.name] = self._make_terms(plan, arm)
            self._search(plan, arm, data)
            self._best(arm.name, 1)  # an arm that completed nothing ends the job at once
            rows = list(self._record.trials(arm.name))
            fidelity = arm_fidelity(self._record, plan, arm, self._terms[arm.name], rows)
            self._fidelities[arm.name] = None if self._spec.objective.trade_off else fidelity
        self._record.verify()
        objective = self._final_objective()
        finalists = self._select(plan, data, objective)
        self._confirm(plan, "confirm", [finalist.trial for finalist in finalists], data)
        self._finish(plan, finalists, objective, data)

    def _finish(
        self, plan: JobPlan, finalists: Sequence[Finalist], objective: Objective, data: tuple[str, str]
    ) -> None:
        runs, look = self._record.confirm_runs("confirm"), self._record.looks()
        result = recommend(plan, finalists, runs, objective, look)
        searched = [Searched(arm, self._record.trials(arm.name), self._fidelities[arm.name]) for arm in plan.arms]
        findings = make_findings(plan, result, finalists, searched, runs, objective)
        if self._family is not None:
            of_arm = {finalist.trial.arm: finalist.trial for finalist in finalists}
            tasks = len(self._family.tasks["meta_test"])
            repaid = find_break_even(plan, of_arm[result.baseline], of_arm[result.challenger], runs, tasks)
            findings = replace(findings, family=FamilyFinding(**asdict(self._family), break_even=repaid))
        chosen = next(finalist.trial for finalist in finalists if finalist.trial.number == result.trial)
        learned = self._try_p(plan, chosen, data)
        warm = find_transfer(plan, findings)
        found = {"findings": findings.to_json(), "learned_p": learned, "made_with": versions()}
        found |= {"warm_start": asdict(warm)} if warm else {}
        self._record.succeed(result.verdict, result.arm, {**result.to_json(), **found})

    def _try_p(self, plan: JobPlan, trial: Trial, data: tuple[str, str]) -> dict[str, Any] | None:
        """Train once more from the P that the recommended config learned; None if it learns none, or it was not kept.

        The figure is for those who load P: it says what they must get. It is no part of the verdict.
        """
        if plan.arm(trial.arm).role is not Role.WARPADAM:
            return None
        content = self._tools.artifacts.get(self._record.job_id, p_file(trial.number))
        if content is None:
            return None
        digest = hashlib.sha256(content).hexdigest()
        task = data if self._spec.family is None else self._put_one_task(data)
        self._confirm(plan, "from_p", [trial], task)
        run = next(run for run in self._record.confirm_runs("from_p") if run.trial_number == trial.number)
        found = {"file": p_file(trial.number), "sha256": digest, "seed": run.seed, "test_loss": run.test_loss}
        return found if task == data else {**found, "data_sha256": task[1]}

    def _put_one_task(self, data: tuple[str, str]) -> tuple[str, str]:
        """Store the split of one meta-test task, so that the P of a family can be tried on it."""
        from service.data.prepare import write_one_task

        with tempfile.TemporaryDirectory(prefix="warptune-task-") as folder:
            file = write_one_task(PreparedData(*data), Path(folder))
            return self._tools.artifacts.put_file(self._record.job_id, file.path.name, file.path), file.sha256

    def _prepare_data(self, info: DatasetInfo) -> tuple[str, str]:
        """Store the prepared data of the job and return its URL and hash."""
        from service.data.prepare import prepare_job_data  # loads scikit-learn, which an idle worker does not need

        self._watch.check()
        artifacts = self._tools.artifacts
        write_dataset = partial(self._tools.user_code.write_dataset, self._spec, info)
        with tempfile.TemporaryDirectory(prefix="warptune-data-") as folder:
            file = prepare_job_data(self._spec, info.task, artifacts, write_dataset, Path(folder))
            self._family = file.family
            self._agree_on_data(file.sha256)
            return artifacts.put_file(self._record.job_id, file.path.name, file.path), file.sha256

    def _agree_on_data(self, digest: str) -> None:
        before = self._record.set_data_hash(digest)
        if before not in (None, digest):
            raise JobFailedError(
                f"the data that this worker prepares has SHA-256 {digest}, the trials so far were trained on {before}: "
                "the workers have different versions of numpy or scikit-learn"
            )

    def _make_terms(self, plan: JobPlan, arm: ArmPlan) -> Terms:
        """Return what the arms before this one decide about it."""
        return Terms(
            steps=self._more_steps(plan) if arm.name == MORE_STEPS else self._spec.budget.steps,
            target=None if arm.name == REFERENCE else self._target(),
            pruning=all(fidelity is None or fidelity.trusted for fidelity in self._fidelities.values()),
        )

    def _target(self) -> float | None:
        """Return the loss that the tuned AdamW ends with, where that is the target."""
        return self._best(REFERENCE, 1)[0].value if self._spec.objective.target == "baseline" else None

    def _more_steps(self, plan: JobPlan) -> int:
        """Return the steps that AdamW can do in the seconds of WarpAdam's best trial."""
        learned = [self._best(arm.name, 1)[0] for arm in plan.arms if arm.role is Role.WARPADAM]
        seconds = best_trials(learned, 1)[0].seconds
        ratio = seconds / max(self._best(REFERENCE, 1)[0].seconds, 1e-9)
        return min(MAX_STEPS, max(self._spec.budget.steps, round(self._spec.budget.steps * ratio)))

    def _final_objective(self) -> Objective:
        return make_objective(
            self._spec.objective, self._spec.budget.steps, self._spec.budget.max_seconds, self._target()
        )

    def _search(self, plan: JobPlan, arm: ArmPlan, data: tuple[str, str]) -> None:
        if self._record.start_arm(arm.name).state == ArmState.COMPLETE:
            return
        terms, storage = self._terms[arm.name], self._tools.storage
        artifacts = self._tools.artifacts
        search = ArmSearch(self._record, plan, arm, storage, data, artifacts, self._watch.halted, terms)
        try:
            self._run(search)
        finally:
            search.close()
        self._record.finish_arm(arm.name, search.seconds_used, search.reached)

    def _select(self, plan: JobPlan, data: tuple[str, str], objective: Objective) -> list[Finalist]:
        """Return one finalist for each arm."""
        top_k = self._spec.confirm.top_k
        contenders = [self._best(arm.name, top_k) for arm in plan.arms]
        if top_k == 1:
            curves = self._record.curves([trials[0].id for trials in contenders])
            return [Finalist(trials[0], _score(objective, trials[0], curves)) for trials in contenders]
        self._confirm(plan, "select", [trial for trials in contenders for trial in trials], data)
        runs = self._record.confirm_runs("select")
        return [select(trials, runs, objective) for trials in contenders]

    def _best(self, arm: str, count: int) -> list[Trial]:
        trials = self._record.trials(arm)
        best = best_trials(trials, count)
        if not best:
            counts = ", ".join(f"{n} {state}" for state, n in Counter(str(t.state) for t in trials).items()) or "none"
            causes = [trial.cause for trial in trials if trial.cause]
            last = f"; the last cause: {causes[-1]}" if causes else ""
            raise JobFailedError(f"arm {arm} completed no trial (trials: {counts}){last}")
        return best

    def _confirm(self, plan: JobPlan, phase: Phase, finalists: Sequence[Trial], data: tuple[str, str]) -> None:
        steps = {arm: terms.steps for arm, terms in self._terms.items()}
        artifacts, halted = self._tools.artifacts, self._watch.halted
        self._run(ConfirmRuns(self._record, plan, phase, finalists, data, artifacts, halted, steps))

    def _run(self, work: Work) -> None:
        self._tools.engines[self._spec.engine.name].run(work, self._spec.resources, self._spec.budget.max_seconds)
        self._watch.check()


def _score(objective: Objective, trial: Trial, curves: Mapping[int, Sequence[Progress]]) -> float:
    """Return a trial's cost under the objective of the job, which AdamW's search did not know yet where it sets it."""
    cost = objective.cost(curves[trial.id])
    return (trial.value or 0.0) if cost is None else cost
