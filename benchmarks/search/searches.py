"""Repeats searches on a dense table: ours, and those of other libraries with as many training steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import optuna

from benchmarks.search.dense import STEPS, load
from search_spaces import Scalar, get_preset
from search_spaces.refine import refinement
from search_spaces.to_optuna import first_trials, suggest
from service.recommend.luck import luck_of
from service.running.samplers import FIRST_RUNG, REDUCTION, make_sampler
from service.spec.job import JobSpec
from service.training.best import smoothed
from service.training.loop import report_steps

TRIALS: Final = 20
SPACES: Final = {"adamw": "adamw", "warpadam": "default"}
FAILED: Final = 1e3
"""Loss of a run that is not finite."""

DEFAULT: Final = JobSpec.model_validate({"dataset": {"name": "wine"}, "model": {"name": "mlp"}})

optuna.logging.set_verbosity(optuna.logging.ERROR)


class DenseTable:
    """The grid of an arm on a table.

    Attributes:
        val: configs x splits: validation cost at the best point.
        test: The same on test, with the weights of that point.
        last_val: configs x splits: validation cost at the last point.
        last_test: The same on test.
        so_far: configs x splits x points: the lowest cost up to each point, which a pruner sees.
        splits: How many splits there are.
        rows: Rows of the table.
    """

    def __init__(self, name: str, arm: str) -> None:
        curves, configs, self.rows = load(name, arm)
        curves = np.nan_to_num(np.minimum(curves, FAILED), nan=FAILED)
        self.name, self.space = name, get_preset(SPACES[arm])
        means = np.apply_along_axis(lambda curve: np.array(smoothed(curve.tolist())), 2, curves[..., 0])
        best = means.argmin(2)[..., None]
        self.val = np.take_along_axis(means, best, 2)[..., 0]
        self.test = np.take_along_axis(curves[..., 1], best, 2)[..., 0]
        self.last_val, self.last_test = curves[:, :, -1, 0], curves[:, :, -1, 1]
        self.so_far = np.minimum.accumulate(means, 2)
        self.splits = self.val.shape[1]
        self._lrs = np.log10([float(config["lr"]) for config in configs])
        self._configs = configs

    @property
    def reference(self) -> int:
        """The config with the lowest mean validation cost over all splits."""
        return int(self.val.mean(1).argmin())

    def nearest(self, values: Mapping[str, Scalar]) -> int:
        """Return the config of the grid that is most like an assignment: first its choices, then its lr."""
        distance = np.abs(self._lrs - math.log10(float(values["lr"])))
        for index, config in enumerate(self._configs):
            for name, value in config.items():
                if name == "strategy" and name in values:
                    distance[index] += 100.0 * (values[name] != value)
                elif name in ("beta1", "beta2", "weight_decay") and name in values:
                    distance[index] += 10.0 * abs(float(values[name]) - float(value))
        return int(distance.argmin())


Tried = tuple[int, Mapping[str, Scalar]]
"""The config of the grid that stands for a trial, and the values that the search suggested."""

Search = Callable[[DenseTable, int, int], int]
"""From a table, the split of the search and a seed to the config with the lowest cost."""


def _trials(
    table: DenseTable, split: int, sampler_of: Callable[[int], optuna.samplers.BaseSampler], count: int, ours: bool
) -> list[Tried]:
    study = optuna.create_study()
    for values in first_trials(table.space) if ours else []:
        study.enqueue_trial(values)
    tried = list[Tried]()
    for number in range(count):
        study.sampler = sampler_of(number)
        if ours and number >= (1 - DEFAULT.search.refine) * count:
            best = [values for _, values in _best_first(table, tried, split)]
            if (near := refinement(table.space, best, [values for _, values in tried])) is not None:
                study.enqueue_trial(near)
        trial = study.ask()
        values = suggest(trial, table.space)
        tried.append((table.nearest(values), values))
        study.tell(trial, float(table.val[tried[-1][0], split]))
    return _best_first(table, tried, split)


def _best_first(table: DenseTable, tried: Sequence[Tried], split: int) -> list[Tried]:
    return sorted(tried, key=lambda one: float(table.val[one[0], split]))


def search(table: DenseTable, split: int, seed: int) -> list[Tried]:
    """Search as the service does; return the trials, best first."""
    arm_seed = f"{table.name}/{seed}"
    return _trials(table, split, lambda number: make_sampler(DEFAULT.search, arm_seed, number), TRIALS, True)


class Race:
    """The race of the best trials on fresh splits, as the service runs it.

    Attributes:
        winner: The finalist.
        luck: What the arm would lose if its search had missed its best trials.
    """

    def __init__(self, table: DenseTable, tried: Sequence[Tried], split: int, splits: Sequence[int]) -> None:
        racing, seen, ran = list(dict.fromkeys(config for config, _ in tried)), list[int](), dict[int, list[int]]()
        for size, fresh in zip(DEFAULT.race_rounds, splits, strict=False):
            racing, seen = racing[:size], [*seen, fresh]
            racing.sort(key=lambda config: table.val[config, seen].mean())
            ran |= {config: list(seen) for config in racing}
        self.winner = racing[0]
        places = list[tuple[float, Mapping[str, Scalar], float]]()
        for config, values in tried:
            on = ran.get(config, [split])
            behind, on_test = (
                float(costs[config, on].mean() - costs[self.winner, on].mean()) for costs in (table.val, table.test)
            )
            place = -math.inf if config == self.winner else behind
            places.append((place, values, on_test if config in ran else max(0.0, behind)))
        places.sort(key=lambda place: place[0])
        self.luck = luck_of([(values, penalty) for _, values, penalty in places], first_trials(table.space))


RUNS: Final = TRIALS + sum(DEFAULT.race_rounds)
"""Whole runs that our search and its race take; the peers get as many steps, and no race."""


def _peer(sampler_with: Callable[[int], optuna.samplers.BaseSampler]) -> Search:
    def searched(table: DenseTable, split: int, seed: int) -> int:
        sampler = sampler_with(seed)
        return _trials(table, split, lambda _: sampler, RUNS, False)[0][0]

    return searched


def _pruned(make_pruner: Callable[[], optuna.pruners.BasePruner]) -> Search:
    """Return a random search whose trials are stopped early, until it has used its steps."""
    points = report_steps(STEPS)

    def searched(table: DenseTable, split: int, seed: int) -> int:
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed), pruner=make_pruner())
        complete, used = list[int](), 0
        while used < RUNS * STEPS:
            trial = study.ask()
            config, stopped = table.nearest(suggest(trial, table.space)), False
            for index, step in enumerate(points):
                trial.report(float(table.so_far[config, split, index]), step)
                if step < STEPS and trial.should_prune():
                    stopped, used = True, used + step
                    break
            if stopped:
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            else:
                used += STEPS
                complete.append(config)
                study.tell(trial, float(table.val[config, split]))
        return min(complete, key=lambda config: float(table.val[config, split]))

    return searched


def _at_the_last_step(table: DenseTable, split: int, seed: int) -> int:
    """Search as the service did until runs were judged at their best point: TPE on the loss at the last step."""
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    tried = list[int]()
    for _ in range(TRIALS):
        trial = study.ask()
        tried.append(table.nearest(suggest(trial, table.space)))
        study.tell(trial, float(table.last_val[tried[-1], split]))
    return min(tried, key=lambda config: float(table.last_val[config, split]))


_RUNG: Final = int(STEPS * FIRST_RUNG)

PEERS: Final[Mapping[str, Search]] = {
    "random": _peer(lambda seed: optuna.samplers.RandomSampler(seed=seed)),
    "TPE": _peer(lambda seed: optuna.samplers.TPESampler(seed=seed)),
    "GP": _peer(lambda seed: optuna.samplers.GPSampler(seed=seed)),
    "ASHA": _pruned(lambda: optuna.pruners.SuccessiveHalvingPruner(_RUNG, REDUCTION)),
    "Hyperband": _pruned(lambda: optuna.pruners.HyperbandPruner(_RUNG, STEPS, REDUCTION)),
}
"""The searches of other libraries, by name."""


BEFORE: Final = "before: last step"


def regrets(table: DenseTable, name: str, repeats: int) -> npt.NDArray[np.float64]:
    """Return the regret of a search, in percent, for several splits and seeds.

    It is measured on the splits that neither the search nor the race has seen.
    """
    return np.array([_regret(table, name, *at) for at in starts(table, repeats)])


def starts(table: DenseTable, repeats: int) -> Iterator[tuple[int, int, list[int]]]:
    """Yield splits of a search, its seed, and the other splits in random order."""
    for seed in range(repeats):
        order = np.random.default_rng(seed).permutation(table.splits).tolist()
        yield order[0], seed, order[1:]


def _regret(table: DenseTable, name: str, split: int, seed: int, others: list[int]) -> float:
    rounds = len(DEFAULT.race_rounds)
    fresh, test = others[rounds:], table.test
    if name == "ours":
        chosen = Race(table, search(table, split, seed), split, others[:rounds]).winner
    elif name == "ours, no race":
        chosen = search(table, split, seed)[0][0]
    elif name == BEFORE:
        chosen, test = _at_the_last_step(table, split, seed), table.last_test
    else:
        chosen = PEERS[name](table, split, seed)
    return 100 * float(test[chosen, fresh].mean() / table.test[table.reference, fresh].mean() - 1)
