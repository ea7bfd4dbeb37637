"""A report describes the P of every strategy, and asking for one changes nothing."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from warpadam import STRATEGIES, Strategy, WarpAdam, diagnose

SHAPES: dict[str, tuple[int, ...]] = {"matrix": (4, 3), "long": (9, 3), "vector": (5,), "scalar": (), "empty": (0, 2)}


def _run(strategy: Strategy, steps: int, dtype: torch.dtype = torch.float64, **settings: Any) -> WarpAdam:
    generator = torch.Generator().manual_seed(0)
    named = [(name, nn.Parameter(torch.ones(shape, dtype=dtype))) for name, shape in SHAPES.items()]
    optimizer = WarpAdam(named, 0.01, **strategy._asdict(), max_dim=8, block_size=7, meta_every=2, rank=2, **settings)
    for _ in range(steps):
        for _, param in named:
            param.grad = torch.randn(param.shape, dtype=torch.float64, generator=generator).to(dtype)
        optimizer.step()
    return optimizer


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_before_the_first_step_p_is_the_identity_and_takes_nothing(strategy: Strategy) -> None:
    optimizer = _run(strategy, 0)
    for row in diagnose(optimizer):
        assert (row.norm, row.distance, row.condition) == pytest.approx((1, 0, 1), abs=1e-7)
        assert (row.scale, row.p_bytes) == ((1, 1), 0)
    assert not optimizer.state


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_every_row_agrees_with_the_p_that_the_optimizer_hands_out(strategy: Strategy, dtype: torch.dtype) -> None:
    optimizer = _run(strategy, 9, dtype)
    before = copy.deepcopy(optimizer.state_dict()["state"])
    rows = {row.name: row for row in diagnose(optimizer)}
    assert list(rows) == list(SHAPES)
    for param, row in zip(optimizer.param_groups[0]["params"], rows.values(), strict=True):
        distortion = optimizer.get_distortion(param)
        assert row.shape == tuple(param.shape)
        assert row.strategy == str(strategy)
        assert row.p_bytes == sum(value.nbytes for value in distortion.values())
        for name, measures in row.factors.items():
            if name in distortion and distortion[name].ndim >= 2 and name.endswith("factor"):
                values = torch.linalg.svdvals(distortion[name].double())  # of a block each, if it has blocks
                assert measures.condition == pytest.approx(float(values.max() / values.min()))
        assert row.scale[0] <= row.scale[1]
        has_scale = strategy.learner in ("rotation", "whitening") and "log_scale" in distortion and param.numel()
        assert (row.scale != (1.0, 1.0)) == bool(has_scale)
    learns = strategy.learner != "frozen"
    assert (rows["matrix"].distance > 1e-3) == learns
    for state, then in zip(optimizer.state_dict()["state"].values(), before.values(), strict=True):
        assert all(torch.equal(state[name], then[name]) for name in then)


def test_a_rotation_keeps_its_condition_and_a_turned_basis_is_far_from_the_identity() -> None:
    rotation = next(strategy for strategy in STRATEGIES if strategy.learner == "rotation")
    row = diagnose(_run(rotation, 9))[0]
    assert row.condition == pytest.approx(1)
    assert row.norm == pytest.approx(1)
    assert row.distance > 0.5
    assert set(row.factors) == {"row_factor", "column_factor"}


def test_it_prints_as_a_table_with_a_line_for_each_parameter() -> None:
    lines = str(diagnose(_run(STRATEGIES[8], 9))).splitlines()
    assert lines[0].split()[:3] == ["parameter", "shape", "strategy"]
    assert [line.split()[0] for line in lines[1:]] == list(SHAPES)
    assert lines[1].split()[1:3] == ["4x3", "kronecker/sandwich/hypergradient"]
    assert "row_factor" in lines[1]


def test_without_names_a_row_is_called_by_its_place() -> None:
    optimizer = WarpAdam([nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))])
    assert [row.name for row in diagnose(optimizer)] == ["0 of group 0", "1 of group 0"]
