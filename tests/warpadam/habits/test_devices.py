"""Devices: a step never waits for the device, and a state is where its parameter is. `../gpu` has the tests on CUDA."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Partial

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


@pytest.fixture
def same_parameters() -> Iterator[None]:
    """Let ``model.to`` keep the parameters and change what they hold, also on its way to the meta device."""
    torch.__future__.set_swap_module_params_on_conversion(True)
    yield
    torch.__future__.set_swap_module_params_on_conversion(False)


@pytest.mark.usefixtures("same_parameters")
@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_the_state_follows_a_model_to_another_device(strategy: Strategy) -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 4))
    optimizer = WarpAdam(model.named_parameters(), 0.1, **strategy._asdict(), meta_every=2)
    for step in range(4):
        for param in model.parameters():
            param.grad = torch.empty_like(param) if param.is_meta else torch.ones_like(param)
        optimizer.step()
        if step == 1:
            optimizer.zero_grad()
            model.to("meta")
            assert optimizer.to("meta") is optimizer
    for state in optimizer.state.values():
        assert {value.device.type for name, value in state.items() if name not in ("step", "prev_step")} == {"meta"}
        assert state["step"].item() == 4


def test_the_state_stays_where_the_parameters_are() -> None:
    optimizer = WarpAdam(nn.Linear(2, 2).named_parameters())
    with pytest.raises(ValueError, match=r"parameter 'weight' is on cpu, not on meta: move the model first"):
        optimizer.to("meta")
