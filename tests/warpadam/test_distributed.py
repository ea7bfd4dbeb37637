"""Ranks that share a step have the same parameters and the same P, and train as one process does."""

from __future__ import annotations

import copy
import io
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    get_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from tests.warpadam.ranks import make_model, make_optimizer, make_sharded_model, run_ranks, train
from warpadam import STRATEGIES, Learner, Strategy, UnsupportedParameterError, WarpAdam, diagnose

OF_EACH_LEARNER = [next(strategy for strategy in STRATEGIES if strategy.learner == learner) for learner in Learner]
WHITENING = next(strategy for strategy in STRATEGIES if strategy.learner == Learner.WHITENING)
TOLERANCE = 1e-9
"""Relative, in fp64. Matrices that are stacked in other ways are multiplied by other kernels."""

each_world = pytest.mark.parametrize(
    ("world", "strategies"), [(1, OF_EACH_LEARNER), (2, list(STRATEGIES)), (4, OF_EACH_LEARNER)], ids=["1", "2", "4"]
)


def _same_on_all_ranks(value: Tensor) -> bool:
    first = value.detach().clone()
    distributed.broadcast(first, 0)
    return torch.equal(first, value)


def _share_a_step(folder: Path, strategies: list[Strategy]) -> None:
    rank, world = distributed.get_rank(), distributed.get_world_size()
    for strategy in strategies:
        model, alone = make_model(), make_model()
        parallel, parallel_alone = DistributedDataParallel(model), DistributedDataParallel(alone)
        optimizer = make_optimizer(parallel, strategy, process_group=distributed.group.WORLD)
        each_alone = make_optimizer(parallel_alone, strategy)
        losses = train(parallel, optimizer, range(12), rank)
        assert losses == pytest.approx(train(parallel_alone, each_alone, range(12), rank), rel=TOLERANCE), strategy
        assert all(_same_on_all_ranks(param) for param in model.parameters()), strategy
        _check_each_state_is_on_one_rank(optimizer, world)
        for param, other in zip(model.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(param, other, rtol=TOLERANCE, atol=TOLERANCE)
            distortion = optimizer.get_distortion(param)
            assert distortion.keys() == each_alone.get_distortion(other).keys()
            assert all(_same_on_all_ranks(value) for value in distortion.values()), strategy
            assert all(_same_on_all_ranks(value) for value in each_alone.get_distortion(other).values()), strategy


def _check_each_state_is_on_one_rank(optimizer: WarpAdam, world: int) -> None:
    owned = torch.tensor([float(bool(state)) for state in optimizer.state.values()])
    counts = owned.clone()
    distributed.all_reduce(counts)
    assert counts.eq(1).all()
    assert owned.sum() < len(owned) or world == 1


@pytest.mark.timeout(300)
def test_two_ranks_share_a_whitening(tmp_path: Path) -> None:
    run_ranks(_share_a_step, 2, tmp_path, [WHITENING])


@pytest.mark.slow
@pytest.mark.timeout(600)
@each_world
def test_ranks_share_a_step_of_every_strategy(world: int, strategies: list[Strategy], tmp_path: Path) -> None:
    run_ranks(_share_a_step, world, tmp_path, strategies)


def _shard(folder: Path, strategies: list[Strategy]) -> None:
    for strategy in strategies:
        model, plain = make_sharded_model(), make_model()
        optimizer, reference = make_optimizer(model, strategy), make_optimizer(plain, strategy)
        losses = train(model, optimizer, range(12))
        assert losses == pytest.approx(train(plain, reference, range(12)), rel=TOLERANCE), strategy
        for param, other in zip(model.parameters(), plain.parameters(), strict=True):
            whole = param.full_tensor()  # type: ignore[attr-defined]
            torch.testing.assert_close(whole, other.detach(), rtol=TOLERANCE, atol=TOLERANCE)
            assert all(_same_on_all_ranks(value) for value in optimizer.get_distortion(param).values()), strategy


@pytest.mark.slow
@pytest.mark.timeout(600)
@each_world
def test_a_sharded_model_trains_as_one_process(world: int, strategies: list[Strategy], tmp_path: Path) -> None:
    run_ranks(_shard, world, tmp_path, strategies)


def _shard_on_a_plane(folder: Path) -> None:
    mesh = init_device_mesh("cpu", (2, 2))
    weight = torch.randn(5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for placements in ([Replicate(), Shard(0)], [Shard(0), Shard(1)], [Shard(1), Replicate()]):
        param, other = nn.Parameter(distribute_tensor(weight, mesh, placements)), nn.Parameter(weight.clone())
        optimizer, reference = (WarpAdam([value], 0.01, **WHITENING._asdict()) for value in (param, other))
        for step in range(8):
            grad = torch.randn(5, 6, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
            param.grad, other.grad = distribute_tensor(grad, mesh, placements), grad
            optimizer.step()
            reference.step()
        assert torch.equal(param.full_tensor(), other.detach())  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_parameter_may_be_sharded_over_two_dimensions_of_a_mesh(tmp_path: Path) -> None:
    run_ranks(_shard_on_a_plane, 4, tmp_path)


SPLIT = {"4.weight": [4, 2, 2], "4.bias": 2, "0.weight": "each"}
"""Parts of a matrix, of a vector, and of a weight with more axes, which is sharded unevenly."""


def _shard_split(folder: Path, strategies: list[Strategy]) -> None:
    for strategy in strategies:
        model, copied, plain = make_sharded_model(), make_model(), make_model()
        optimizer, reference = (make_optimizer(own, strategy, split=SPLIT) for own in (model, plain))
        shared = make_optimizer(copied, strategy, split=SPLIT, process_group=distributed.group.WORLD)
        after = train(plain, reference, range(8))
        assert train(model, optimizer, range(8)) == pytest.approx(after, rel=TOLERANCE), strategy
        assert train(copied, shared, range(8)) == pytest.approx(after, rel=TOLERANCE), strategy
        for param, own, other in zip(model.parameters(), copied.parameters(), plain.parameters(), strict=True):
            whole = param.full_tensor()  # type: ignore[attr-defined]
            torch.testing.assert_close(whole, other.detach(), rtol=TOLERANCE, atol=TOLERANCE)
            assert _same_on_all_ranks(own)
            assert optimizer.get_distortion(param).keys() == reference.get_distortion(other).keys()


@pytest.mark.timeout(300)
def test_two_ranks_share_split_parameters(tmp_path: Path) -> None:
    run_ranks(_shard_split, 2, tmp_path, [WHITENING])


@pytest.mark.slow
@pytest.mark.timeout(600)
@each_world
def test_split_parameters_train_as_in_one_process(world: int, strategies: list[Strategy], tmp_path: Path) -> None:
    run_ranks(_shard_split, world, tmp_path, strategies)


def _save(folder: Path, split: dict[str, Any] | None) -> None:
    for strategy in OF_EACH_LEARNER:
        model = make_sharded_model()
        optimizer = make_optimizer(model, strategy, split=split)
        train(model, optimizer, range(7))
        weights, state = get_state_dict(model, optimizer)
        state_dict_saver.save({"model": weights, "optimizer": state}, checkpoint_id=folder / strategy.learner)
        losses = train(model, optimizer, range(7, 12))
        if distributed.get_rank() == 0:
            torch.save(losses, folder / f"{strategy.learner}.pt")


def _go_on(folder: Path, split: dict[str, Any] | None) -> None:
    for strategy in OF_EACH_LEARNER:
        model = make_sharded_model()
        optimizer = make_optimizer(model, strategy, split=split)
        weights, state = get_state_dict(model, optimizer)
        loaded: dict[str, Any] = {"model": weights, "optimizer": state}
        state_dict_loader.load(loaded, checkpoint_id=folder / strategy.learner)
        set_state_dict(model, optimizer, model_state_dict=loaded["model"], optim_state_dict=loaded["optimizer"])
        before = torch.load(folder / f"{strategy.learner}.pt")
        losses = train(model, optimizer, range(7, 12))
        if distributed.get_world_size() == 2:
            assert losses == before, strategy
        assert losses == pytest.approx(before, rel=TOLERANCE), strategy


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("split", [None, SPLIT], ids=["whole", "split"])
def test_a_checkpoint_of_two_ranks_goes_on_with_one_two_and_four(split: dict[str, Any] | None, tmp_path: Path) -> None:
    run_ranks(_save, 2, tmp_path, split)
    for world in (1, 2, 4):
        run_ranks(_go_on, world, tmp_path, split)


def _parallel(kind: str, strategy: Strategy, **settings: Any) -> tuple[nn.Module, WarpAdam]:
    if kind == "sharded":
        model: nn.Module = make_sharded_model()
    else:
        model = DistributedDataParallel(make_model())
    group = distributed.group.WORLD if kind == "shared" else None
    return model, make_optimizer(model, strategy, process_group=group, **settings)


def _send_from_rank_0(folder: Path, strategies: list[Strategy]) -> None:
    """As torch's documentation loads a checkpoint: rank 0 has the whole state, the others get it from there."""
    for strategy, kind, dtype in product(strategies, ("copied", "shared", "sharded"), (None, torch.bfloat16)):
        model, optimizer = _parallel(kind, strategy, momentum_dtype=dtype)
        train(model, optimizer, range(5))
        to_save = StateDictOptions(full_state_dict=True, cpu_offload=True)
        saved = get_optimizer_state_dict(model, optimizer, options=to_save)
        assert bool(saved) == (distributed.get_rank() == 0)
        other, resumed = _parallel(kind, strategy, momentum_dtype=dtype)
        to_load = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        set_optimizer_state_dict(other, resumed, saved, options=to_load)
        before, after = optimizer.state_dict()["state"], resumed.state_dict()["state"]
        for index, (name, _) in enumerate(model.named_parameters()):
            assert before[index].keys() == after[index].keys()
            for entry, value in before[index].items():
                assert torch.equal(after[index][entry], value), f"{strategy} {kind}: {entry} of {name}"


@pytest.mark.timeout(300)
def test_two_ranks_load_the_state_that_rank_0_has(tmp_path: Path) -> None:
    run_ranks(_send_from_rank_0, 2, tmp_path, [WHITENING])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_ranks_load_the_state_that_rank_0_has_with_every_strategy(tmp_path: Path) -> None:
    run_ranks(_send_from_rank_0, 2, tmp_path, list(STRATEGIES))


def _use_the_whole_surface(folder: Path) -> None:
    model = make_model()
    optimizer = make_optimizer(model, WHITENING, process_group=distributed.group.WORLD)
    train(model, optimizer, range(8))
    saved = io.BytesIO()
    torch.save(optimizer.state_dict(), saved)
    plain = make_model()
    plain.load_state_dict(model.state_dict())
    alone = make_optimizer(plain, WHITENING)
    alone.load_state_dict(torch.load(io.BytesIO(saved.getvalue()), weights_only=True))
    after = train(plain, alone, range(8, 12))
    assert train(model, optimizer, range(8, 12)) == pytest.approx(after, rel=TOLERANCE)
    param = next(model.parameters())
    doubled = {name: 2 * value for name, value in optimizer.get_distortion(param).items()}
    optimizer.set_distortion(param, doubled)
    for name, value in optimizer.get_distortion(param).items():
        assert torch.equal(value, doubled[name])
    added = nn.Parameter(torch.ones(3, 3))
    named = [*model.named_parameters(), ("added", added)]
    optimizer.add_param_group({"params": [("added", added)], "learner": "frozen"})
    added.grad = torch.ones(3, 3)
    optimizer.step()
    assert not torch.equal(added, torch.ones(3, 3))
    assert _same_on_all_ranks(added)
    assert [row.name for row in diagnose(optimizer)] == [name for name, own in named if optimizer.owns(own)]
    assert all(row.distance > 0 for row in diagnose(optimizer) if row.name.endswith("weight"))
    with pytest.raises(UnsupportedParameterError, match="neither copied nor pickled"):
        copy.deepcopy(optimizer)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_shared_optimizer_saves_carries_p_and_grows(tmp_path: Path) -> None:
    run_ranks(_use_the_whole_surface, 2, tmp_path)
