"""The estimate is the memory that is really used, for every strategy, and it takes no memory itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from warpadam import STRATEGIES, Strategy, WarpAdam, WarpAdamConfig, estimate_memory, param_groups

SHAPES: dict[str, tuple[int, ...]] = {
    "matrix": (4, 3),
    "same": (4, 3),
    "conv": (3, 2, 3, 3),
    "tall": (9, 3),
    "vector": (5,),
    "scalar": (),
    "empty": (0, 2),
}


def _config(strategy: Strategy, p_lr: float = 0.01) -> WarpAdamConfig:
    return WarpAdamConfig(**strategy._asdict(), max_dim=8, block_size=7, rank=2, meta_every=5, p_lr=p_lr)


def _params(dtype: torch.dtype) -> list[tuple[str, nn.Parameter]]:
    return [(name, nn.Parameter(torch.ones(shape, dtype=dtype))) for name, shape in SHAPES.items()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("p_lr", [0.0, 0.01])
@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_the_estimate_is_what_is_there_after_ten_steps(strategy: Strategy, p_lr: float, dtype: torch.dtype) -> None:
    named = _params(dtype)
    estimate = estimate_memory(named, _config(strategy, p_lr))
    optimizer = WarpAdam.from_config(named, _config(strategy, p_lr))
    for step in range(10):  # after the tenth the previous gradient is remembered: 10 is a multiple of meta_every
        for _, param in named:
            param.grad = torch.full_like(param, step + 1)
        optimizer.step()
    for row, (name, param) in zip(estimate, named, strict=True):
        state, carried = optimizer.state[param], optimizer.get_distortion(param)
        assert (row.name, row.shape) == (name, tuple(param.shape))
        assert row.p_bytes == sum(value.nbytes for value in carried.values())
        assert row.moments_bytes == sum(state[name].nbytes for name in ("step", "exp_avg", "exp_avg_sq"))
        assert row.p_bytes + row.moments_bytes + row.learning_bytes == sum(value.nbytes for value in state.values())
    assert estimate.total_bytes == sum(value.nbytes for s in optimizer.state.values() for value in s.values())


def test_a_model_shapes_and_its_groups_give_the_same_estimate() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 4))
    config = WarpAdamConfig(structure="full", learner="hypergradient", block_size=8)
    of_model = estimate_memory(model, config)
    assert of_model == estimate_memory({name: param.shape for name, param in model.named_parameters()}, config)
    grouped = estimate_memory(param_groups(model, config))
    assert sorted(row.name for row in grouped) == sorted(row.name for row in of_model)
    assert grouped.total_bytes == of_model.total_bytes
    assert estimate_memory(param_groups(model, config, plain="1")).p_bytes < of_model.p_bytes


def test_parameters_that_need_no_gradient_are_left_out() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 4))
    model[0].requires_grad_(False)
    assert [row.name for row in estimate_memory(model)] == ["1.weight", "1.bias"]


def test_a_model_too_large_for_any_machine_is_estimated() -> None:
    side = 2**20
    with torch.device("meta"):
        model: Any = nn.Linear(side, side, bias=False)
    config = WarpAdamConfig(learner="rotation", max_dim=side, p_lr=0.0)
    estimate = estimate_memory(model, config)
    assert estimate.p_bytes == 4 * 4 * side**2  # two factors, two covariances, fp32
    assert estimate.moments_bytes == 2 * 4 * side**2 + 4


def test_it_prints_as_a_table_with_a_total() -> None:
    lines = str(estimate_memory({"weight": (4, 3), "bias": (4,)})).splitlines()
    assert [line.split()[0] for line in lines] == ["parameter", "weight", "bias", "total"]
    total = estimate_memory({"weight": (4, 3), "bias": (4,)}).total_bytes
    assert lines[-1].split()[-1] == f"{total:,}"
