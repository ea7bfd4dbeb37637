"""Learns P offline, from a buffer of points that training passed.

First train on tasks with P fixed and keep some of the points in a bounded buffer. Then learn P from these points in
random order, and compute each gradient again under the current P. This needs a meta-gradient for every factor, so it is
for the learner ``hypergradient`` only. ``trainer.py`` learns online, and chooses the tasks in both cases.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor, nn

from warpadam.adam import Moments, direction, update_moments
from warpadam.config import WarpAdamConfig
from warpadam.learners.normalised import normalised_step
from warpadam.meta.tasks import Loss, Task, start_task, take_gradient
from warpadam.meta.warp import Warp
from warpadam.placements import PlacedDistortion, meta_gradient, unwarp_direction, warp_gradient
from warpadam.structures import Distortion, Factors, make_distortion

_FIRST_STEP = 2
"""Adam's first direction is sign(q) for every P, so the first step teaches nothing about P."""


@final
@dataclass(frozen=True, slots=True)
class Visit:
    """A point that training passed, and two batches of its task.

    Attributes:
        model: The task's model. All visits of a task share it; a replay overwrites its values.
        values: Parameters and buffers of the model at that point, by name.
        moments: The two moments before the step, by parameter name.
        step: The number of this step, from 1.
        task_loss: The batch of the step.
        meta_loss: The batch that judges the step.
    """

    model: nn.Module
    values: Mapping[str, Tensor]
    moments: Mapping[str, tuple[Tensor, Tensor]]
    step: int
    task_loss: Loss
    meta_loss: Loss


@final
class ReplayBuffer:
    """Keeps at most ``size`` of the offered visits, each with the same probability (reservoir sampling)."""

    def __init__(self, size: int) -> None:
        self.visits: list[Visit] = []
        self._size = size
        self._offered = 0

    def collect(self, task: Task, config: WarpAdamConfig, warp: Warp, steps: int) -> bool:
        """Train on a task with P fixed, and offer the points that it passes. Drop them if a loss is not finite.

        Returns:
            Whether every loss was finite.
        """
        model, optimizer = start_task(task, replace(config, p_lr=0.0), warp)
        before, offered = list(self.visits), self._offered
        for step in range(1, steps + 1):
            task_loss = task.sample()
            if not take_gradient(model, task_loss):
                self.visits, self._offered = before, offered
                return False
            place = self._draw_place() if step >= _FIRST_STEP else None
            if place is not None:
                moments = {
                    name: (optimizer.state[param]["exp_avg"].clone(), optimizer.state[param]["exp_avg_sq"].clone())
                    for name, param in model.named_parameters()
                    if param.grad is not None
                }
                values = {name: value.detach().clone() for name, value in model.state_dict().items()}
                self.visits[place : place + 1] = [Visit(model, values, moments, step, task_loss, task.sample())]
            optimizer.step()
        return True

    def _draw_place(self) -> int | None:
        self._offered += 1
        if len(self.visits) < self._size:
            return len(self.visits)
        place = int(torch.randint(self._offered, (), device="cpu"))
        return place if place < self._size else None


def replay(visit: Visit, config: WarpAdamConfig, tensors: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Factors]:
    """Return the meta-gradient of every factor for one visit, under the current P.

    The step is taken again from the kept point and moments. The moments before it count as constants.

    Args:
        visit: Its model's values are overwritten.
        config: Settings of the step.
        tensors: The factors of P, by parameter and name.

    Cost: two gradients of the model.

    Source: Flennerhag et al. 2019 (arXiv 1909.00025), algorithm 2, with the exact one-step meta-gradient.
    """
    model = visit.model
    model.load_state_dict(visit.values)
    take_gradient(model, visit.task_loss)
    taken: dict[str, tuple[Distortion, PlacedDistortion, Moments, Tensor]] = {}
    with torch.no_grad():
        for name, param in model.named_parameters():
            if param.grad is not None and name in visit.moments:
                distortion = structure_of(tuple(param.shape), config)
                placed = PlacedDistortion(config.placement, distortion, tensors[name])
                exp_avg, exp_avg_sq = (distortion.to_layout(moment).clone() for moment in visit.moments[name])
                moments = Moments(exp_avg, exp_avg_sq, visit.step, *config.betas, config.eps)
                grad = distortion.to_layout(param.grad.to(exp_avg.dtype)).clone()
                update_moments(moments, warp_gradient(placed, grad))
                moved = unwarp_direction(placed, direction(moments))
                update = distortion.from_layout(moved, tuple(param.shape))
                param.mul_(1 - config.lr * config.weight_decay).sub_(update.to(param.dtype), alpha=config.lr)
                taken[name] = (distortion, placed, moments, grad)
    take_gradient(model, visit.meta_loss)
    params = dict(model.named_parameters())
    pulled = {}
    for name, (distortion, placed, moments, grad) in taken.items():
        following = params[name].grad
        if following is not None:
            next_grad = distortion.to_layout(following.to(grad.dtype)).clone()
            pulled[name] = meta_gradient(placed, moments, grad, next_grad, config.lr)
    return pulled


def learn_from(
    visits: list[Visit], config: WarpAdamConfig, state: dict[str, dict[str, Tensor]], meta_batch_size: int
) -> None:
    """Go through the visits in random order; step P for each meta-batch along its mean meta-gradient, in place.

    Args:
        visits: The visits in the buffer.
        config: Settings. ``p_lr`` is the step size, ``p_decay`` the pull towards the identity.
        state: By parameter name, the factors and the moments of their meta-gradients.
        meta_batch_size: Visits for each step of P.
    """
    order = torch.randperm(len(visits), device="cpu").tolist()
    shapes = {name: tuple(param.shape) for name, param in visits[0].model.named_parameters()} if visits else {}
    for first in range(0, len(order), meta_batch_size):
        batch = [visits[index] for index in order[first : first + meta_batch_size]]
        total: dict[str, Factors] = {}
        for visit in batch:
            for name, pulled in replay(visit, config, state).items():
                sums = total.setdefault(name, {})
                for factor, grad in pulled.items():
                    sums[factor] = sums[factor] + grad if factor in sums else grad
        for name, sums in total.items():
            mean = {factor: grad / len(batch) for factor, grad in sums.items()}
            normalised_step(state[name], mean, config.p_lr)
            structure_of(shapes[name], config).settle({factor: state[name][factor] for factor in sums}, config.p_decay)


def structure_of(shape: tuple[int, ...], config: WarpAdamConfig) -> Distortion:
    """Return the structure of P for a parameter of this shape."""
    return make_distortion(
        config.structure, shape, rank=config.rank, block_size=config.block_size, max_dim=config.max_dim
    )
