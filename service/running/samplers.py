"""Optuna's samplers and pruners by the names that a spec uses."""

from __future__ import annotations

import warnings
import zlib
from typing import Final

import optuna

from service.engines.base import Pruning
from service.planning.objective import Objective
from service.spec.job import EngineSpec, SearchSpec

FIRST_RUNG: Final = 0.25
"""Share of a run's steps before which no trial is stopped: with a decaying lr, earlier losses say little."""

REDUCTION: Final = 2
"""One in this many of the trials at a rung goes on (asha, hyperband)."""

STARTUP_TRIALS: Final = 6
"""Trials of an arm after which TPE learns from what was tried; those before are drawn at random.

The first trials of a preset count. Most presets have eight, so none is random. After the three of ``quick`` and
``paper``, three are.
"""

STARTUP_RUNS: Final = 5
"""Trials of an arm before which none is stopped (median)."""


def make_sampler(search: SearchSpec, arm_seed: str, asked: int) -> optuna.samplers.BaseSampler:
    """Return the sampler that a spec names; ``asked`` counts the trials that the arm has asked for before.

    Each trial gets a freshly seeded sampler, so that an interrupted search goes on as it would have. Only qmc is one
    sequence, whose place Optuna stores.
    """
    of_arm, of_trial = (zlib.crc32(name.encode()) for name in (arm_seed, f"{arm_seed}/{asked}"))
    with warnings.catch_warnings():
        # qmc, and TPE's `group`, the only mode that models conditional parameters
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match search.sampler:
            case "random":
                return optuna.samplers.RandomSampler(seed=of_trial)
            case "gp":
                return optuna.samplers.GPSampler(seed=of_trial, warn_independent_sampling=False)
            case "qmc":
                conditional = optuna.samplers.RandomSampler(seed=of_trial)  # draws the conditional parameters
                return optuna.samplers.QMCSampler(
                    seed=of_arm, scramble=True, independent_sampler=conditional, warn_independent_sampling=False
                )
            case _:
                return optuna.samplers.TPESampler(
                    seed=of_trial, multivariate=True, group=True, n_startup_trials=STARTUP_TRIALS
                )


def first_rung(steps: int) -> int:
    """Return the step before which no trial of ``steps`` steps is stopped."""
    return max(1, int(steps * FIRST_RUNG))


def make_pruning(engine: EngineSpec, search: SearchSpec, objective: Objective) -> Pruning | None:
    """Return how the engine stops runs early by itself; None if Optuna's pruner decides, or if none is asked for."""
    if engine.name != "ray" or search.pruner == "none":
        return None
    return Pruning(
        pruner=search.pruner,
        steps=objective.steps,
        first_rung=first_rung(objective.steps),
        reduction=REDUCTION,
        startup_runs=STARTUP_RUNS,
        signal=objective.signal,
    )


def make_pruner(engine: EngineSpec, search: SearchSpec, objective: Objective) -> optuna.pruners.BasePruner:
    """Return the pruner that a spec names; none for an engine that stops runs early by itself.

    No pruner stops a trial in the first quarter of its steps.
    """
    steps = objective.steps
    if make_pruning(engine, search, objective):
        return optuna.pruners.NopPruner()
    first = first_rung(steps)
    match search.pruner:
        case "asha":
            return optuna.pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=REDUCTION)
        case "hyperband":
            return optuna.pruners.HyperbandPruner(min_resource=first, max_resource=steps, reduction_factor=REDUCTION)
        case "median":
            return optuna.pruners.MedianPruner(n_startup_trials=STARTUP_RUNS, n_warmup_steps=first)
        case _:
            return optuna.pruners.NopPruner()
