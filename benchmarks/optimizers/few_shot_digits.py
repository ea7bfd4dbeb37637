"""The benchmark task ``few_shot_digits``: train networks on new subsets of digits.

An arm with a P learns it on other subsets first; all other arms start from nothing. ``few_shot_tasks.py`` defines the
subsets. ``few_shot.py`` is a larger comparison with settings chosen by hand.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from torch import nn
from torch.linalg import LinAlgError  # type: ignore[attr-defined]
from torch.optim import Optimizer

from benchmarks.few_shot.networks import SideBySide
from benchmarks.optimizers.arms import Arm
from benchmarks.optimizers.few_shot_tasks import subsets
from benchmarks.optimizers.protocol import FIRST_CONFIRM_SEED
from benchmarks.optimizers.training import Curve, Learning, Problem, Task, train
from search_spaces import Scalar, warpadam_config
from warpadam import MetaConfig, MetaTrainer, Warp, WarpAdam


@dataclass(frozen=True, kw_only=True)
class FewShotTask(Task):
    """Train on digit subsets that P has not seen; the loss is the mean over subsets.

    Tuning and confirmation use different subsets.

    Attributes:
        networks: Number of subsets to train on, with one network each.
        learning_tasks: Number of subsets to learn P on first, online. 0 starts every arm from nothing.
        learning_steps: Steps on each of these.
    """

    networks: int = 10
    learning_tasks: int = 60
    learning_steps: int = 50

    def run(self, arm: Arm, values: Mapping[str, Scalar], seed: int) -> Curve:
        """Learn P if the arm has one, then train with the arm's schedule."""
        confirms = seed >= FIRST_CONFIRM_SEED
        networks = SideBySide((subsets().held_out if confirms else subsets().validation)[: self.networks], seed)
        optimizers = optimizers_for_all(arm, networks, values, self.steps)
        started = time.perf_counter()
        try:
            learns = self._carry_p(optimizers, values, seed)
        except LinAlgError:  # the run diverged: a matrix to factorise is not finite
            return Curve([self.steps], [math.inf], [0.0])
        seconds = time.perf_counter() - started
        problem = Problem(networks, networks.batch_loss, lambda: float(networks.losses()[0].mean()))
        curve = train(problem, optimizers, self.steps, lambda step: arm.lr_factor(step, self.steps, 0))
        learned = Learning(self.learning_tasks, self.learning_tasks * self.learning_steps, round(seconds, 4))
        return replace(curve, learning=learned) if learns else curve

    def _carry_p(self, optimizers: Sequence[Optimizer], values: Mapping[str, Scalar], seed: int) -> bool:
        """Learn P with the same values and copy it to every network; return whether the arm has a P."""
        takers = [optimizer for optimizer in optimizers if isinstance(optimizer, WarpAdam) and self.learning_tasks]
        for optimizer in takers:
            meta = MetaConfig(steps=self.learning_steps, seed=seed)
            warp = MetaTrainer(subsets().training, warpadam_config(values), meta).train(self.learning_tasks).warp
            each = {f"{i}.{name}": own for i in range(self.networks) for name, own in warp.parameters.items()}
            # not strict: parameters that the arm steps with plain Adam have no P
            Warp(warp.config, each).apply(optimizer, strict=False)
        return bool(takers)


def optimizers_for_all(arm: Arm, networks: SideBySide, values: Mapping[str, Scalar], steps: int) -> list[Optimizer]:
    """Return the optimizers that the arm builds for one network, extended to the parameters of all networks.

    The arm builds optimizers for one network at a time, so that it finds the output layer of each. Parameters keep
    their names among all networks.
    """
    first, *others = (
        arm.optimizers(nn.ModuleDict({str(index): network}), values, steps, 0) for index, network in enumerate(networks)
    )
    for other in others:
        for optimizer, more in zip(first, other, strict=True):
            for group, same in zip(optimizer.param_groups, more.param_groups, strict=True):
                for name in {"params", "param_names"} & set(group):
                    group[name] = [*group[name], *same[name]]
    return first


TASKS: Final = (FewShotTask(name="few_shot_digits", version="1", steps=100, cost=8.0),)
