"""Chooses the Ray scheduler that stops runs early, for each pruner of a spec.

The schedulers read the numbers that ray_trainable.py adds to each point.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from ray.tune import schedulers
from ray.tune.experiment import Trial

from service.engines.base import Pruning
from service.engines.ray_trainable import RUN, RUNGS, SIGNAL, STEP

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController


@final
class SparingASHAScheduler(schedulers.ASHAScheduler):
    """Compares all runs, but stops only those that may be stopped."""

    def on_trial_result(self, tune_controller: TuneController, trial: Trial, result: dict[str, object]) -> str:
        """Take a point and decide whether its run continues."""
        decision: str = super().on_trial_result(tune_controller, trial, result)
        return decision if trial.config[RUN].prunable else schedulers.TrialScheduler.CONTINUE


def make_scheduler(pruning: Pruning | None) -> schedulers.TrialScheduler:
    """Return the scheduler for a pruner. None: no run is stopped early."""
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
