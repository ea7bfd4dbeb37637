"""The state follows its parameters to another device, by ``to`` or by ``load_state_dict``."""

from __future__ import annotations

import copy

import pytest
import torch

from tests.warpadam.gpu.steps import FLOAT32, make_optimizer, make_params, on_cpu, train
from warpadam import STRATEGIES, Learner, Strategy, WarpAdam

CPU = torch.device("cpu")


def _devices(optimizer: WarpAdam) -> set[str]:
    counters = ("step", "prev_step")
    states = optimizer.state.values()
    return {value.device.type for state in states for name, value in state.items() if name not in counters}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_a_state_saved_on_the_cpu_is_restored_to_the_last_bit(
    strategy: Strategy, dtype: torch.dtype, device: torch.device
) -> None:
    params, others = make_params(device, dtype), make_params(device, dtype)
    optimizer, restored = make_optimizer(params, strategy), make_optimizer(others, strategy)
    train(params, optimizer, range(5))
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"] = {key: {name: value.cpu() for name, value in own.items()} for key, own in saved["state"].items()}
    restored.load_state_dict(saved)
    assert _devices(restored) == {device.type}
    for param, other in zip(params, others, strict=True):
        for name, value in optimizer.state[param].items():
            assert torch.equal(restored.state[other][name], value)
            assert restored.state[other][name].dtype == torch.float32


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_a_run_goes_on_when_model_and_optimizer_move(strategy: Strategy, device: torch.device) -> None:
    params, stayed = make_params(CPU, torch.float32), make_params(CPU, torch.float32)
    optimizer, reference = make_optimizer(params, strategy), make_optimizer(stayed, strategy)
    train(params, optimizer, range(5))
    for param in params:
        param.data, param.grad = param.detach().to(device), None  # what model.to(device) does
    optimizer.to(device)
    train(params, optimizer, range(5, 10))
    train(stayed, reference, range(10))
    assert _devices(optimizer) == {device.type}
    for ours, theirs in zip(on_cpu(params), on_cpu(stayed), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=FLOAT32[Learner(strategy.learner)])
