# Which of Ray's schedulers stops runs early, for each pruner of a spec. They read the numbers that ray_trainable.py
# puts beside each point.
"""Ray's schedulers."""

from __future__ import annotations

from typing import Any, final

from ray.tune import schedulers
from ray.tune.experiment import Trial

from service.engines.base import Pruning
from service.engines.ray_trainable import RUNGS, SIGNAL, STEP, TASK


@final
class SparingASHAScheduler(schedulers.ASHAScheduler):
    """Notes how far every run has come, and stops none that may not be stopped."""

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Note a point, and decide."""
        decision: str = super().on_trial_result(tune_controller, trial, result)
        return decision if trial.config[TASK].prunable else schedulers.TrialScheduler.CONTINUE


def make_scheduler(pruning: Pruning | None) -> schedulers.TrialScheduler:
    """Return Ray's scheduler for a pruner; a run's last point is never stopped early."""
    if pruning is None:
        return schedulers.FIFOScheduler()  # type: ignore[no-untyped-call]
    match pruning.pruner:
        case "asha":
            return SparingASHAScheduler(
                time_attr=STEP,
                metric=SIGNAL,
                mode="min",
                max_t=pruning.steps,
                grace_period=pruning.first_rung,
                reduction_factor=pruning.reduction,
            )
        case "hyperband":
            return schedulers.HyperBandScheduler(
                time_attr=RUNGS,  # its smallest rung is one unit of time
                metric=SIGNAL,
                mode="min",
                max_t=pruning.steps // pruning.first_rung,
                reduction_factor=pruning.reduction,
            )
        case "median":
            return schedulers.MedianStoppingRule(
                time_attr=STEP,
                metric=SIGNAL,
                mode="min",
                grace_period=pruning.first_rung,
                min_samples_required=pruning.startup_runs,
            )
