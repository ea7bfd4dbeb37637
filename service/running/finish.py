"""From the confirmation runs to the result of a job."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from service.db.models import ConfirmRun, Trial
from service.planning.objective import Objective
from service.planning.plan import JobPlan
from service.recommend.findings import Searched, find_break_even, find_transfer, make_findings
from service.recommend.recommendation import Finalist, is_blind, recommend, search_luck
from service.result.job_result import FamilyFinding, JobResult, Recommendation
from service.running.context import JobContext
from service.states import TrialState
from service.version import versions

if TYPE_CHECKING:
    from service.data.families import FamilySummary


def make_result(
    job: JobContext,
    finalists: Sequence[Finalist],
    searched: Sequence[Searched],
    objective: Objective,
    family: FamilySummary | None,
) -> JobResult:
    """Judge a job by its confirmation runs. The learned P is not in the result yet.

    Args:
        job: The job.
        finalists: One trial for each arm.
        searched: The arms with their trials.
        objective: What the finalists are judged by.
        family: Its tasks; None for a job on one task.
    """
    plan, runs = job.plan, job.record.confirm_runs("confirm")
    races = job.record.confirm_runs("select")
    completed = Counter(trial.arm for item in searched for trial in item.trials if trial.state == TrialState.COMPLETE)
    luck = {
        finalist.trial.arm: search_luck(finalist.trial, completed[finalist.trial.arm], races, objective)
        for finalist in finalists
    }
    blind = [item.arm.name for item in searched if is_blind(item.trials)]
    recommended = recommend(plan, finalists, runs, objective, job.record.looks(), luck, blind)
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
