"""Wrapped models: compiled, or data parallel over several processes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from tests.warpadam.habits.mixed import loss_of, make_model, make_optimizer, tokens
from warpadam import STRATEGIES, Learner, Strategy

LEARNING = [strategy for strategy in STRATEGIES if strategy.learner != Learner.FROZEN]
RANKS = 2
STEPS = 20


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of torch's own compiler
@pytest.mark.parametrize(
    "backend",
    [
        "aot_eager",
        pytest.param(
            "inductor",
            marks=[pytest.mark.slow, pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")],
        ),
    ],
)
def test_a_compiled_model_trains_as_an_eager_one(backend: str) -> None:
    eager, wrapped = make_model(torch.float64), make_model(torch.float64)
    compiled: Any = torch.compile(wrapped, backend=backend)
    strategies = [strategy for strategy in LEARNING if strategy.structure == "kronecker"]
    for strategy in strategies:
        first, second = make_optimizer(eager, strategy), make_optimizer(compiled, strategy)
        assert second.param_groups[0]["param_names"][0].startswith("_orig_mod.")
        for step in range(5):
            for model, optimizer in ((eager, first), (compiled, second)):
                optimizer.zero_grad()
                loss_of(model, tokens(step)).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
    for ours, theirs in zip(wrapped.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def _train_one_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS)
    try:
        torch.save([_train_in_parallel(strategy, rank) for strategy in LEARNING], f"{folder}/{rank}.pt")
    finally:
        distributed.destroy_process_group()


def _train_in_parallel(strategy: Strategy, rank: int) -> dict[str, Any]:
    model = make_model()
    parallel: nn.Module = DistributedDataParallel(model, find_unused_parameters=True)
    optimizer = make_optimizer(parallel, strategy)
    losses = []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = loss_of(parallel, tokens(RANKS * step + rank))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    return {"losses": losses, "weights": model.state_dict(), "state": optimizer.state_dict()["state"]}


@pytest.mark.slow
def test_every_rank_learns_the_same_p_to_the_last_bit_from_its_own_data(tmp_path: Path) -> None:
    spawn(_train_one_rank, args=(str(tmp_path),), nprocs=RANKS)  # type: ignore[no-untyped-call]
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]
    for strategy, first, second in zip(LEARNING, *ranks, strict=True):
        assert first["losses"] != second["losses"], strategy
        assert all(torch.equal(value, second["weights"][name]) for name, value in first["weights"].items()), strategy
        assert first["state"].keys() == second["state"].keys()
        for key, state in first["state"].items():
            assert set(state) == set(second["state"][key])
            for name, value in state.items():
                assert torch.equal(value, second["state"][key][name]), (strategy, key, name)
