"""Runs a function on several ranks, and what the tests of shared steps train there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.multiprocessing.spawn import spawn

from warpadam import Strategy, WarpAdam


def run_ranks(function: Callable[..., None], world: int, folder: Path, *args: Any) -> None:
    """Call ``function(folder, *args)`` in ``world`` processes of one group. An error in one of them is raised."""
    (folder / "store").unlink(missing_ok=True)
    spawn(_one_rank, args=(function, world, folder, args), nprocs=world)  # type: ignore[no-untyped-call]


def _one_rank(rank: int, function: Callable[..., None], world: int, folder: Path, args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    function(folder, *args)
    distributed.barrier()  # no rank leaves while another still talks to it
    os._exit(0)  # without taking gloo's threads down, which once in many runs aborts the process


def make_model(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """Layers whose rows can be divided by 2 and 4, and layers whose rows cannot."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = (nn.Conv2d(1, 5, 2), nn.Flatten(), nn.Linear(20, 8), nn.Tanh(), nn.Linear(8, 8), nn.Linear(8, 3))
        return nn.Sequential(*layers).to(dtype)


def make_sharded_model() -> nn.Sequential:
    """The same model under FSDP2."""
    model = make_model()
    for layer in model:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            fully_shard(layer)
    fully_shard(model)
    return model


def make_optimizer(model: nn.Module, strategy: Strategy, **settings: Any) -> WarpAdam:
    """Several refreshes in a few steps, a padded layout and weight decay."""
    numbers: dict[str, Any] = {"meta_every": 2, "p_lr": 0.02, "rank": 2, "max_dim": 12, "block_size": 16}
    return WarpAdam(model.named_parameters(), 0.01, weight_decay=0.1, **strategy._asdict(), **numbers, **settings)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: Iterable[int], rank: int = 0) -> list[float]:
    """Step with the batches of ``rank``, and return the losses."""
    losses = []
    for step in steps:
        generator = torch.Generator().manual_seed(1000 * rank + step)
        images = torch.randn(4, 1, 3, 3, generator=generator).to(next(model.parameters()).dtype)
        optimizer.zero_grad()
        loss: Tensor = (model(images) - 1).square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    return losses
