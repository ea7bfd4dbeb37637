"""The protocol for one task and arm: tune, confirm the best values on fresh seeds, and sweep the lr.

A run that is on record is not repeated. So you can stop the protocol at any time: the next call continues it, with the
same trials as if you had not stopped it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import optuna
from optuna.trial import TrialState, create_trial

from benchmarks.optimizers.arms import Arm
from benchmarks.optimizers.records import Record, Records, Stage
from benchmarks.optimizers.training import Curve, Task
from search_spaces import Scalar
from search_spaces.to_optuna import distributions, first_trials, suggest
from service.running.arm_study import NO_LOSS
from service.running.samplers import make_sampler
from service.spec.job import SearchSpec

FIRST_CONFIRM_SEED: Final = 100
"""Tuning uses seeds from 0, confirmation uses seeds from this one. The lr sweep uses this seed only."""

LR_FACTORS: Final = tuple(8.0**power for power in (-0.5, -0.17, 0.17, 0.5))
"""Factors of the best lr in the sweep. They span a factor of 8."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much to run, the same for every arm.

    Attributes:
        trials: Number of tuning trials.
        seeds: Number of fresh seeds to confirm the best values on.
        sweeps: Whether to sweep the lr.
    """

    trials: int = 24
    seeds: int = 6
    sweeps: bool = True


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the protocol found.

    Attributes:
        trials: Values and loss of every trial; the loss is infinite if the trial diverged.
        best: Values of the best trial.
        confirmed: Curves of the best values, one for each fresh seed.
        swept: Curves on the first fresh seed, by lr factor. 1.0 is always there.
    """

    trials: list[tuple[Mapping[str, Scalar], float]]
    best: Mapping[str, Scalar]
    confirmed: list[Curve]
    swept: dict[float, Curve]


class MissingRunError(LookupError):
    """A run is not on record, and only a report was asked for."""


Said = Callable[[Record], None]


class Unit:
    """Runs the protocol for one task and arm.

    Args:
        task: The task.
        arm: The arm.
        budget: How much to run.
        folder: Folder of the records.
        said: Called after every new run.
    """

    def __init__(self, task: Task, arm: Arm, budget: Budget, folder: Path, said: Said | None = None) -> None:
        self.task, self.arm, self.budget = task, arm, budget
        self.records = Records(folder, task, arm)
        self._said = said
        self._may_run = True

    def outcome(self, *, run: bool) -> Outcome:
        """Return the outcome. Takes finished runs from the record.

        Args:
            run: Whether to run what is missing.

        Raises:
            MissingRunError: A run is missing and ``run`` is false.
            ArithmeticError: Every trial diverged.
        """
        self._may_run = run
        trials = list(self._tune())
        best, loss = min(trials, key=lambda trial: trial[1])
        if not math.isfinite(loss):
            raise ArithmeticError(f"{self.task.name}: every trial of {self.arm.name} diverged")
        seeds = range(FIRST_CONFIRM_SEED, FIRST_CONFIRM_SEED + self.budget.seeds)
        confirmed = [self._curve(Stage.CONFIRM, 0, seed, best) for seed in seeds]
        swept = {1.0: confirmed[0]}
        for number, factor in enumerate(LR_FACTORS if self.budget.sweeps else ()):
            values = self.arm.scaled(best, factor)
            swept[factor] = self._curve(Stage.SWEEP, number, FIRST_CONFIRM_SEED, values)
        return Outcome(trials, best, confirmed, swept)

    def _tune(self) -> Iterator[tuple[Mapping[str, Scalar], float]]:
        """Yield the values and the loss of every trial, recorded ones first."""
        study = optuna.create_study()
        worst = -math.inf
        for number in range(self.budget.trials):
            values = self._recorded_values(number) or self._ask(study, number)
            seeds = range(self.task.seeds_per_trial)
            losses = [self._curve(Stage.TUNE, number, seed, values).final for seed in seeds]
            loss = statistics.fmean(losses)
            diverged = not math.isfinite(loss)
            worst = worst if diverged else max(worst, loss)
            # as in the service: tell a diverged trial as pruned, with the worst loss so far
            penalty = worst if math.isfinite(worst) else NO_LOSS
            study.add_trial(
                create_trial(
                    state=TrialState.PRUNED if diverged else TrialState.COMPLETE,
                    value=None if diverged else loss,
                    intermediate_values={1: penalty} if diverged else {},
                    params=dict(values),
                    distributions=distributions(self.arm.space, values),
                )
            )
            yield values, loss

    def _recorded_values(self, number: int) -> Mapping[str, Scalar] | None:
        known = (record.values for record in self.records.of(Stage.TUNE) if record.number == number)
        return next(known, None)

    def _ask(self, study: optuna.Study, number: int) -> Mapping[str, Scalar]:
        first = first_trials(self.arm.space)
        if number < len(first):
            return first[number]
        if not self._may_run:
            raise MissingRunError(f"{self.task.name}, {self.arm.name}: trial {number} has not been run")
        study.sampler = make_sampler(SearchSpec(sampler="tpe"), f"0/{self.task.name}/{self.arm.name}", number)
        asked = study.ask()
        values = suggest(asked, self.arm.space)
        study.tell(asked, state=TrialState.FAIL)  # _tune adds the finished trial, in the same way as a recorded one
        return values

    def _curve(self, stage: Stage, number: int, seed: int, values: Mapping[str, Scalar]) -> Curve:
        record = self.records.find(stage, number, seed, values)
        if record is None:
            if not self._may_run:
                raise MissingRunError(f"{self.task.name}, {self.arm.name}: {stage} with seed {seed} has not been run")
            curve = self.task.run(self.arm, values, seed)
            record = Record(stage=stage, number=number, seed=seed, values=dict(values), curve=curve)
            self.records.add(record)
            if self._said:
                self._said(record)
        return record.curve
