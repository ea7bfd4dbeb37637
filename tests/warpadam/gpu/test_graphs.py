"""CUDA graphs: a step is refused by name inside one; the model's forward and backward pass may be in one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from tests.warpadam.gpu.steps import make_optimizer, make_params, on_cpu, set_grads, train
from warpadam import STRATEGIES, CudaGraphError, Strategy, WarpAdam


@contextmanager
def _capturing(device: torch.device, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Capture a CUDA graph. On the CPU torch only says that it does."""
    if device.type == "cuda":
        with torch.cuda.graph(torch.cuda.CUDAGraph()):
            yield
        return
    with patch.context() as patched:
        patched.setattr("torch.cuda.is_initialized", lambda: True)
        patched.setattr("torch.cuda.is_current_stream_capturing", lambda: True)
        yield


@pytest.mark.filterwarnings("ignore:The CUDA Graph is empty")
@pytest.mark.parametrize("lr", ["number", "tensor"])
@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_a_captured_step_is_refused_and_moves_nothing(
    strategy: Strategy, lr: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = make_params(device, torch.float32)
    optimizer = make_optimizer(params, strategy)
    if lr == "tensor":
        optimizer.param_groups[0]["lr"] = torch.tensor(0.01, device=device)
    train(params, optimizer, range(3))
    before = on_cpu(params)
    set_grads(params, 3)
    with _capturing(device, monkeypatch), pytest.raises(CudaGraphError, match="no capturable step"):
        optimizer.step()
    assert all(map(torch.equal, on_cpu(params), before))
    assert {float(state["step"]) for state in optimizer.state.values()} == {3.0}
    optimizer.step()
    assert not any(map(torch.equal, on_cpu(params), before))


def test_capturable_is_not_an_argument() -> None:
    with pytest.raises(TypeError, match="capturable"):
        WarpAdam([nn.Parameter(torch.ones(2))], capturable=True)  # type: ignore[call-arg]


def test_a_model_whose_passes_are_a_graph_trains_as_any_other(device: torch.device) -> None:
    losses: list[list[float]] = []
    for replayed in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4)).to(device)
        batch = torch.randn(16, 8, generator=torch.Generator().manual_seed(1)).to(device)
        optimizer = WarpAdam(model.named_parameters())

        def passes(model: nn.Module = model, batch: Tensor = batch) -> Tensor:
            for param in model.parameters():
                assert param.grad is not None
                param.grad.zero_()
            loss: Tensor = (model(batch) - batch[:, :4].sin()).square().mean()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        for param in model.parameters():
            param.grad = torch.zeros_like(param)
        run = _graph_of(passes) if replayed and device.type == "cuda" else passes
        losses.append([])
        for _ in range(20):
            losses[-1].append(run().item())
            optimizer.step()
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert losses[1][-1] < losses[1][0]


def _graph_of(passes: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Record ``passes`` and return a function that replays them. Torch asks for a few runs on a side stream first."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            passes()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = passes()

    def replay() -> Tensor:
        graph.replay()
        return loss

    return replay
