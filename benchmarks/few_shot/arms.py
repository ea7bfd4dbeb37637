"""The arms: peers that start from nothing, and ways to learn P on some tasks and to use it on others.

One recipe serves all families. Only the lr of use is chosen for each family and column.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Final

import pytorch_optimizer
import torch
from torch import Tensor

from benchmarks.few_shot.evolution import evolve
from benchmarks.few_shot.families import FAMILIES
from benchmarks.few_shot.networks import NamedParams, OptimizerFactory, SideBySide, train_together
from benchmarks.optimizers.few_shot import RECIPES, STEPS_PER_TASK, from_warp
from warpadam import MetaConfig, MetaTrainer, Warp, WarpAdam, WarpAdamConfig

Learn = Callable[[str, float, int], Warp | None]
"""Returns P, from the name of a family, the lr of use, and a seed. A peer has none."""


@dataclass(frozen=True)
class Arm:
    """A way to learn P on some tasks and to use it on others.

    Attributes:
        lrs: Learning rates of use to choose from. Peers have more to choose from.
        make: Returns the optimizers of the networks on the tasks that judge, from what was learned, the lr and the
            number of networks.
        learn: None for a peer.
    """

    lrs: tuple[float, ...]
    make: Callable[[Warp | None, float, int], OptimizerFactory]
    learn: Learn = lambda family, lr, seed: None  # noqa: ARG005


_BETAS: Final = (0.8, 0.95)
_TODAY: Final = RECIPES["disjoint"]
_USE: Final = {name: value for name, value in _TODAY.held_out.items() if name != "lr"}
_WITHOUT_SCALE: Final = WarpAdamConfig(learner="rotation", betas=_BETAS, p_lr=0.0, meta_every=1, cov_beta=0.99)
_PEER_LRS: Final = (0.01, 0.03, 0.06, 0.1, 0.2)
_LRS: Final = (0.005, 0.01, 0.02)


def _peer(make: Callable[[NamedParams, float], torch.optim.Optimizer], lrs: tuple[float, ...] = _PEER_LRS) -> Arm:
    return Arm(lrs, lambda warp, lr, networks: lambda named: [make(named, lr)])  # noqa: ARG005


def _adamw(named: NamedParams, lr: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for _, p in named], lr, (0.9, 0.95), weight_decay=0.0)


def _soap(named: NamedParams, lr: float) -> torch.optim.Optimizer:
    return WarpAdam(named, lr, learner="rotation", betas=_BETAS, cov_beta=_BETAS[1], p_lr=0.0, meta_every=1)


def _other_soap(named: NamedParams, lr: float) -> torch.optim.Optimizer:
    return pytorch_optimizer.SOAP([p for _, p in named], lr, betas=_BETAS, weight_decay=0.0, precondition_frequency=1)


def _carry(learn: Learn, lrs: tuple[float, ...] = _LRS, **settings: Any) -> Arm:
    def make(warp: Warp | None, lr: float, networks: int) -> OptimizerFactory:
        assert warp is not None, "this arm learns P"
        return from_warp(warp, networks, lr=lr, **settings)

    return Arm(lrs, make, learn)


def _online(config: WarpAdamConfig, tasks: int, steps: int, family: str, lr: float, seed: int) -> Warp:
    return _learned(config.changed(lr=lr), tasks, steps, family, seed)


@lru_cache(maxsize=4)
def _learned(config: WarpAdamConfig, tasks: int, steps: int, family: str, seed: int) -> Warp:
    meta = MetaConfig(steps=steps, seed=seed)
    return MetaTrainer(FAMILIES[family]().learning, config, meta).train(tasks).warp


@lru_cache(maxsize=3)  # one for each seed
def _last_and_mean(family: str, seed: int) -> tuple[Warp, Warp]:
    """Return the P of today's recipe after the last task, and with the mean of its numbers over the last 60 tasks."""
    meta = MetaConfig(steps=STEPS_PER_TASK, seed=seed)
    trainer, mean = MetaTrainer(FAMILIES[family]().learning, _TODAY.training, meta), 60
    trainer.train(_TODAY.rounds - mean)
    warps = [trainer.train(1).warp for _ in range(mean)]
    tensors = warps[-1].tensors()
    for name, own in tensors.items():
        for key in own:
            if not key.endswith("_factor"):  # a mean of bases is no basis
                own[key] = torch.stack([warp.parameters[name].tensors[key] for warp in warps]).mean(0)
    return warps[-1], warps[-1].with_tensors(tensors)


def _only_inputs(family: str, seed: int) -> Warp:
    """Keep the scales, and of the covariances only that of the inputs: hidden units of a new network are others."""
    warp, _ = _last_and_mean(family, seed)
    tensors = warp.tensors()
    for name, own in tensors.items():
        for side in ("row", "column"):
            if f"{side}_factor" in own and (name, side) != ("0.weight", "column"):
                own[f"{side}_factor"] = torch.eye(len(own[f"{side}_factor"]))
                own[f"{side}_covariance"] = torch.zeros_like(own[f"{side}_covariance"])
    return warp.with_tensors(tensors)


@lru_cache(maxsize=3)
def _evolved(family: str, seed: int) -> Warp:
    """Learn covariances on six tasks, then the length of the steps by evolution, at an lr of 0.03."""
    tasks, lr = FAMILIES[family]().learning, 0.03
    warp = MetaTrainer(tasks, _WITHOUT_SCALE.changed(lr=lr), MetaConfig(steps=100, seed=seed)).train(6).warp
    return evolve(tasks, warp, lr, 25, seed)


@lru_cache(maxsize=3)
def _subspace(family: str, seed: int) -> Warp:
    """Make P from the updates of whole trainings, as SubGD does. The damping is chosen on learning tasks left out.

    The two covariances of the updates of each matrix are averaged over the tasks; P is their damped square root.
    """
    tasks = FAMILIES[family]().learning
    inner, outer = tasks[:16], tasks[16:22]
    networks = SideBySide(inner, seed)
    start = [[p.detach().clone() for p in network.parameters()] for network in networks]
    optimizer = torch.optim.Adam(networks.parameters(), 0.01)
    for _ in range(100):
        optimizer.zero_grad()
        torch.autograd.backward(networks.batch_loss())
        optimizer.step()
    ends = [[p.detach() for p in network.parameters()] for network in networks]
    updates = [torch.stack(same) for same in zip(*ends, strict=True)]
    updates = [end - torch.stack(same) for end, same in zip(updates, zip(*start, strict=True), strict=True)]
    frozen = WarpAdamConfig(learner="frozen", structure="kronecker", placement="sandwich", betas=_BETAS)
    identity = Warp.of(WarpAdam.from_config(list(inner[0].make_model().named_parameters()), frozen))
    tried = {}
    for damping in (0.03, 0.3, 3.0):
        tensors = identity.tensors()
        for update, own in zip(updates, tensors.values(), strict=True):
            if update.ndim == 3:
                own["row_factor"] = damped_root((update @ update.mT).mean(0), damping)
                own["column_factor"] = damped_root((update.mT @ update).mean(0), damping)
        warp = identity.with_tensors(tensors)
        losses = train_together(outer, from_warp(warp, len(outer), lr=0.01), seed)
        tried[float(losses.log().mean())] = warp
    return tried[min(tried)]


def damped_root(covariance: Tensor, damping: float) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance / covariance.trace() * len(covariance))
    roots = (values.clamp_min(0) + damping).sqrt()
    root: Tensor = (vectors * (roots / roots.square().mean().sqrt())) @ vectors.mT
    return root


def _at_any_lr(learn: Callable[[str, int], Warp]) -> Learn:
    return lambda family, lr, seed: learn(family, seed)  # noqa: ARG005


_LAST: Final = _at_any_lr(lambda family, seed: _last_and_mean(family, seed)[0])
_MEAN: Final = _at_any_lr(lambda family, seed: _last_and_mean(family, seed)[1])

SOAPS: Final = ("SOAP", "SOAP of pytorch_optimizer")

ARMS: Final[dict[str, Arm]] = {
    "AdamW": _peer(_adamw, (0.003, 0.01, 0.02, 0.03, 0.06)),
    "SOAP": _peer(_soap),
    "SOAP of pytorch_optimizer": _peer(_other_soap),
    "today": _carry(_LAST, (*_LRS, 0.04, 0.08), **_USE),  # its best on `sites` was the largest of three
    "today, scale frozen": _carry(_LAST, **{**_USE, "p_lr": 0.0}),
    "today, mean of P": _carry(_MEAN, **_USE),
    "today, covariance of inputs only": _carry(_at_any_lr(_only_inputs), **_USE),
    "today, weight decay 1": _carry(_LAST, **_USE, weight_decay=1.0),
    "at the lr and steps of use": _carry(
        partial(_online, _TODAY.training.changed(cov_beta=0.95), 30, 100), betas=_BETAS, p_lr=0.0
    ),
    "rotation without scale": _carry(partial(_online, _WITHOUT_SCALE, 6, 100), (0.01, 0.03, 0.1)),
    "rotation, scale by evolution": _carry(_at_any_lr(_evolved), (0.015, 0.03, 0.06), cov_beta=0.93),
    "whitening, covariances carried": _carry(
        partial(_online, WarpAdamConfig(learner="whitening", p_lr=0.0, meta_every=1, cov_beta=0.99), 6, 100),
        (0.003, 0.01, 0.03),
    ),
    "subspace of updates": _carry(_at_any_lr(_subspace), (0.003, 0.01, 0.03)),
}
"""Today's recipe is ``RECIPES["disjoint"]`` of the digits."""
