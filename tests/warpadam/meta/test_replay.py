"""The offline meta-gradient against autograd through a real step, and the buffer that feeds it."""

from __future__ import annotations

import collections
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from warpadam import Warp, WarpAdam, WarpAdamConfig
from warpadam.learners.normalised import init_normalised
from warpadam.meta.replay import ReplayBuffer, Visit, learn_from, replay, structure_of
from warpadam.structures import Distortion

CONFIG = WarpAdamConfig(lr=0.1, weight_decay=0.1, placement="sandwich", learner="hypergradient", meta_every=1)
STRATEGIES = [("diagonal", "post"), ("diagonal", "sandwich"), ("low_rank", "sandwich"), ("kronecker", "pre")] + [
    (structure, "sandwich") for structure in ("kronecker", "full")
]


class Double:
    """A double precision task: fit a cubic, so that gradients depend on where they are taken."""

    def make_model(self) -> nn.Module:
        return nn.Linear(3, 2).double()

    def sample(self) -> Any:
        inputs, outputs = torch.randn(5, 3).double(), torch.randn(5, 2).double()
        return lambda model: ((model(inputs) - outputs) ** 2).sum() + (model.weight**4).sum()


def _visits(config: WarpAdamConfig, steps: int = 6, size: int = 100) -> tuple[list[Visit], Warp]:
    torch.manual_seed(0)
    optimizer = WarpAdam.from_config(Double().make_model().named_parameters(), config)
    warp = Warp.of(optimizer)
    tensors = warp.tensors()
    for factors in tensors.values():
        for value in factors.values():
            value.add_(torch.randn(value.shape, dtype=value.dtype), alpha=0.2)
    buffer = ReplayBuffer(size)
    assert buffer.collect(Double(), config, warp, steps)
    return buffer.visits, warp.with_tensors(tensors)


def _meta_loss(
    visit: Visit, config: WarpAdamConfig, factors: dict[str, dict[str, Tensor]], structures: dict[str, Distortion]
) -> Tensor:
    """The loss of the meta batch after one step, written out, with P part of the graph."""
    model = visit.model
    model.load_state_dict(visit.values)
    grads = dict(zip(visit.moments, torch.autograd.grad(visit.task_loss(model), list(model.parameters())), strict=True))
    (beta1, beta2), step = config.betas, visit.step
    moved = {}
    for name, param in model.named_parameters():
        structure = structures[name]
        grad = structure.to_layout(grads[name])
        warped = grad if config.placement == "post" else structure.apply(factors[name], grad)
        mean = beta1 * visit.moments[name][0] + (1 - beta1) * warped
        square = beta2 * visit.moments[name][1] + (1 - beta2) * warped**2
        update = (mean / (1 - beta1**step)) / ((square / (1 - beta2**step)).sqrt() + config.eps)
        if config.placement == "post":
            update = structure.apply(factors[name], update)
        elif config.placement == "sandwich":
            zero = torch.zeros_like(
                update, requires_grad=True
            )  # P^T u as the derivative of <P x, u>: nothing overwritten
            (update,) = torch.autograd.grad(structure.apply(factors[name], zero), zero, update, create_graph=True)
        moved[name] = (1 - 0.1 * 0.1) * param.detach() - 0.1 * update.view(param.shape)

    class Moved:
        weight = moved["weight"]

        def __call__(self, inputs: Tensor) -> Tensor:
            return inputs @ moved["weight"].mT + moved["bias"]

    result: Tensor = visit.meta_loss(Moved())  # type: ignore[arg-type]
    return result


@pytest.mark.parametrize(("structure", "placement"), STRATEGIES)
def test_one_sample_gives_the_gradient_of_the_meta_batch_through_its_step(structure: str, placement: str) -> None:
    config = replace(CONFIG, structure=structure, placement=placement, rank=2, block_size=4)
    visits, warp = _visits(config)
    factors = {
        name: {key: value.clone().requires_grad_() for key, value in own.items()}
        for name, own in warp.tensors().items()
    }
    structures = {name: structure_of(source.shape, config) for name, source in warp.parameters.items()}
    visit = visits[3]
    _meta_loss(visit, config, factors, structures).backward()  # type: ignore[no-untyped-call]
    pulled = replay(visit, config, warp.tensors())
    assert pulled.keys() == {"weight", "bias"}
    for name, own in pulled.items():
        assert own.keys() == factors[name].keys()
        for key, value in own.items():
            torch.testing.assert_close(value, factors[name][key].grad, rtol=1e-9, atol=1e-11)
            assert value.abs().max() > 1e-6


def test_a_meta_batch_is_stepped_along_its_mean() -> None:
    """Adam's first step is p_lr times the sign, whatever the batch; the moment behind it is the mean."""
    config = replace(CONFIG, structure="diagonal", p_lr=0.01)
    visits, warp = _visits(config)
    singles = [replay(visit, config, warp.tensors())["bias"]["diagonal"] for visit in visits]
    state = {
        name: {**{key: value.clone() for key, value in own.items()}, **init_normalised(own)}
        for name, own in warp.tensors().items()
    }
    learn_from(visits, config, state, len(visits))
    mean = sum(singles, torch.zeros(2, dtype=torch.float64)) / len(singles)
    torch.testing.assert_close(state["bias"]["diagonal_exp_avg"], 0.1 * mean)
    torch.testing.assert_close(
        state["bias"]["diagonal"], warp.tensors()["bias"]["diagonal"] - 0.01 * mean.sign(), rtol=1e-6, atol=1e-6
    )


def test_the_task_batch_and_the_meta_batch_differ_and_the_first_step_is_left_out() -> None:
    visits, _ = _visits(CONFIG)
    assert [visit.step for visit in visits] == [2, 3, 4, 5, 6]
    for visit in visits:
        visit.model.load_state_dict(visit.values)
        with torch.no_grad():
            assert float(visit.task_loss(visit.model)) != float(visit.meta_loss(visit.model))


def test_a_full_buffer_keeps_every_visit_with_the_same_probability() -> None:
    kept: collections.Counter[int] = collections.Counter()
    warp = _visits(CONFIG)[1]
    for seed in range(120):
        buffer = ReplayBuffer(4)
        torch.manual_seed(seed)
        buffer.collect(Double(), CONFIG, warp, 9)
        assert len(buffer.visits) == 4
        kept.update(visit.step for visit in buffer.visits)
    assert set(kept) == set(range(2, 10))
    assert min(kept.values()) > 35
    assert max(kept.values()) < 85
