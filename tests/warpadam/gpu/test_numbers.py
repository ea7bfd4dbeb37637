"""A device gives the numbers of the CPU in float64, up to the rounding of its own precision.

The parameters of the CPU have an optimizer each, those of the device share one. So stacking is compared too.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.warpadam.gpu.steps import FLOAT32, make_optimizer, make_params, on_cpu, set_grads, train
from warpadam import STRATEGIES, Learner, Strategy, diagnose

STEPS = range(1, 13)

FLOAT64 = 1e-7


def _on_the_cpu(params: list[nn.Parameter], strategy: Strategy) -> list[Tensor]:
    """Train a copy of the parameters in float64 on the CPU, one by one, and return the values."""
    copies = [nn.Parameter(value) for value in on_cpu(params)]
    optimizers = [make_optimizer([param], strategy) for param in copies]
    for step in STEPS:
        set_grads(copies, step)
        for optimizer in optimizers:
            optimizer.step()
    return on_cpu(copies)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_steps_equal_those_of_the_cpu(strategy: Strategy, dtype: torch.dtype, device: torch.device) -> None:
    params = make_params(device, dtype)
    expected = _on_the_cpu(params, strategy)
    optimizer = make_optimizer(params, strategy)
    train(params, optimizer, STEPS)
    tolerance = FLOAT32[Learner(strategy.learner)] if dtype == torch.float32 else FLOAT64
    for ours, theirs in zip(on_cpu(params), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)
    assert all(row.norm > 0 for row in diagnose(optimizer))
    assert optimizer.skipped_updates == 0


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_bfloat16_parameters_differ_by_their_rounding_only(strategy: Strategy, device: torch.device) -> None:
    """Each step rounds a parameter by at most half a unit in its last place. The state is float32."""
    params = make_params(device, torch.bfloat16)
    expected = _on_the_cpu(params, strategy)
    optimizer = make_optimizer(params, strategy)
    train(params, optimizer, STEPS)
    half_unit = torch.finfo(torch.bfloat16).eps / 2
    for ours, theirs in zip(on_cpu(params), expected, strict=True):
        rounding = len(STEPS) * half_unit * (theirs.abs() + 0.2)
        assert ((ours - theirs).abs() <= rounding + FLOAT32[Learner(strategy.learner)]).all()
    for param in params:
        assert param.dtype == torch.bfloat16
        assert {value.dtype for value in optimizer.state[param].values()} == {torch.float32}
