"""Devices: a step never waits for the device, and CUDA gives the same results as the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Partial

from tests.warpadam.habits.mixed import loss_of, make_model, make_optimizer, tokens, train
from warpadam import (
    STRATEGIES,
    Strategy,
    UnsupportedParameterError,
    Warp,
    WarpAdam,
    WarpAdamConfig,
    diagnose,
    estimate_memory,
    step_profile,
)

SHAPES: list[tuple[int, ...]] = [(6, 4), (6, 4), (7,), (3, 2, 3, 3), (), (9, 11), (0,), (2, 0)]
CUDA = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here"),
]


def _on_meta(strategy: Strategy) -> tuple[list[nn.Parameter], WarpAdam]:
    params = [nn.Parameter(torch.empty(shape, device="meta")) for shape in SHAPES]
    return params, WarpAdam(params, 0.1, **strategy._asdict(), meta_every=2, max_dim=8, block_size=9, weight_decay=0.1)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_no_step_asks_the_device_for_a_value(strategy: Strategy) -> None:
    """A tensor on the meta device has no value, so to read one, for a branch or a shape, is an error there."""
    params, optimizer = _on_meta(strategy)
    for _ in range(9):
        for param in params:
            param.grad = torch.empty_like(param)
        optimizer.step()
    for param in params:
        entries = {name: value.device.type for name, value in optimizer.state[param].items()}
        assert {entries.pop(name) for name in ("step", "prev_step") if name in entries} == {"cpu"}
        assert set(entries.values()) == {"meta"}


@pytest.mark.parametrize("read", [lambda v: v.item(), torch.nonzero, bool, torch.Tensor.tolist])
def test_the_meta_device_would_notice(read: object) -> None:
    assert callable(read)
    with pytest.raises((RuntimeError, NotImplementedError)):
        read(torch.empty(1, device="meta"))


def test_a_model_made_on_the_meta_device_trains_once_it_has_storage() -> None:
    with torch.device("meta"):
        model: nn.Module = nn.Linear(3, 2)
    model.to_empty(device="cpu")
    optimizer = WarpAdam(model.named_parameters())
    nn.init.ones_(model.get_parameter("weight"))
    nn.init.zeros_(model.get_parameter("bias"))
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert model.get_parameter("weight").lt(1).all()


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_the_default_device_decides_nothing(strategy: Strategy) -> None:
    """Everything is on the parameter's device. A tensor on the meta device, the default here, would have no value."""
    named = [(f"p{index}", nn.Parameter(torch.ones(shape))) for index, shape in enumerate(SHAPES)]
    settings: dict[str, Any] = {**strategy._asdict(), "max_dim": 8, "block_size": 9, "meta_every": 1}
    with torch.device("meta"):
        optimizer = WarpAdam(named, 0.01, **settings)
        for step in range(5):
            for _, param in named:
                param.grad = torch.full_like(param, step + 1.0)
            optimizer.step()
        optimizer.load_state_dict(optimizer.state_dict())
        optimizer.set_distortion(named[0][1], optimizer.get_distortion(named[0][1]))
        diagnose(optimizer)
        step_profile(optimizer, steps=1)
        estimate_memory({"w": (6, 4)}, WarpAdamConfig(**strategy._asdict()))
        Warp.of(optimizer).shuffled(0)
    for _, param in named:
        assert param.isfinite().all()
        assert {value.device.type for value in optimizer.state[param].values()} == {"cpu"}


@pytest.mark.filterwarnings("ignore")  # torch's own, on making a process group
@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_a_parameter_with_another_placement_is_refused_by_name(strategy: Strategy, one_rank: DeviceMesh) -> None:
    linear = nn.Linear(4, 3)
    sharded = nn.Parameter(DTensor.from_local(linear.weight.detach(), one_rank, [Partial()]))
    expected = r"'weight' of shape \(3, 4\) is a DTensor placed as \(Partial\(sum\),\).*only with the placements Shard"
    with pytest.raises(UnsupportedParameterError, match=expected):
        WarpAdam([("bias", linear.bias), ("weight", sharded)], **strategy._asdict())


@pytest.fixture
def one_rank(tmp_path: Path) -> Iterator[DeviceMesh]:
    """A mesh of this process alone."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        yield init_device_mesh("cpu", (1,))
    finally:
        distributed.destroy_process_group()


@pytest.mark.parametrize("strategy", [pytest.param(strategy, marks=CUDA, id=str(strategy)) for strategy in STRATEGIES])
def test_cuda_gives_what_the_cpu_gives_without_waiting(strategy: Strategy) -> None:
    here, there = make_model(torch.float64), make_model(torch.float64).cuda()
    first, second = make_optimizer(here, strategy), make_optimizer(there, strategy)
    for step in range(8):
        train(here, first, [step])
        second.zero_grad()
        batch = tokens(step).cuda()
        loss_of(there, batch).backward()  # type: ignore[no-untyped-call]
        torch.cuda.set_sync_debug_mode("error" if step else "default")
        try:
            second.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    for ours, theirs in zip(here.parameters(), there.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs.cpu(), rtol=1e-6, atol=1e-8)
    for state in second.state.values():
        assert {value.device.type for name, value in state.items() if name != "step"} == {"cuda"}
    for here_row, there_row in zip(diagnose(first), diagnose(second), strict=True):
        assert here_row.norm == pytest.approx(there_row.norm, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("strategy", [pytest.param(strategy, marks=CUDA, id=str(strategy)) for strategy in STRATEGIES])
def test_a_cuda_run_saved_on_the_cpu_is_restored_on_cuda(strategy: Strategy, dtype: torch.dtype) -> None:
    model, other = make_model(dtype).cuda(), make_model(dtype).cuda()
    optimizer, restored = make_optimizer(model, strategy), make_optimizer(other, strategy)
    for step in range(5):
        optimizer.zero_grad()
        loss_of(model, tokens(step).cuda()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    saved = optimizer.state_dict()
    saved["state"] = {k: {name: value.cpu() for name, value in state.items()} for k, state in saved["state"].items()}
    restored.load_state_dict(saved)
    for param, same in zip(model.parameters(), other.parameters(), strict=True):
        for name, value in optimizer.state.get(param, {}).items():
            assert torch.equal(restored.state[same][name], value)
            assert restored.state[same][name].dtype == torch.float32
