"""Runs the phases of a job on the engine that its spec names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from service.db.models import ConfirmRun, Trial
from service.engines.base import Work
from service.planning.arms import ArmPlan
from service.running.arm_search import ArmSearch
from service.running.arms import ArmLimits
from service.running.confirm_runs import ConfirmRuns, Phase, fresh_seeds
from service.running.context import JobContext, StopSignal, Tools
from service.states import ArmState


@dataclass(frozen=True, slots=True)
class Phases:
    """The phases of a job. What is done already is not done again.

    Attributes:
        job: The job.
        tools: What to run it with.
        stop: Says whether to go on; it is asked after each phase.
    """

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

    def confirm(
        self, phase: Phase, trials: Sequence[Trial], steps: Mapping[str, int], seeds: Sequence[int] | None = None
    ) -> Sequence[ConfirmRun]:
        """Run trials on fresh seeds; return every run of the phase.

        Args:
            phase: The phase.
            trials: Whose configs are run.
            steps: Steps of a run by arm.
            seeds: Seeds to run them on; None for all of the phase.
        """
        seeds = fresh_seeds(self.job.plan.spec, phase) if seeds is None else seeds
        self._run(ConfirmRuns(self.job, phase, trials, steps, seeds))
        return self.job.record.confirm_runs(phase)

    def _run(self, work: Work) -> None:
        spec = self.job.plan.spec
        self.tools.engines[spec.engine.name].run(work, spec.resources, spec.budget.max_seconds)
        self.stop.check()
