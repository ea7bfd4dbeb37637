# Every optimizer that an arm can name trains, repeats itself from a seed, and goes on from its state as if nothing had
# happened; the composed ones are held against their parts.
from __future__ import annotations

import copy
import importlib
import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import JsonValue
from torch import nn

from search_spaces import get_preset
from service.optimizers import OPTIMIZERS, baselines, build_optimizer
from service.optimizers.muon_with_adamw import MuonWithAdamW
from service.planning.arms import baseline_arm, control_arm, warpadam_arms
from service.registry import UnknownNameError
from service.training.networks import linear_layers

ARMS = [
    *warpadam_arms(get_preset("quick"), per_structure=False),
    *map(baseline_arm, baselines()),
    *map(control_arm, ("diagonal_pre", "random_p", "adamw_more_steps")),
]
X = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))
Y = X @ torch.randn(6, 2, generator=torch.Generator().manual_seed(1))


def make(arm: Any, seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = linear_layers((6, 8, 2), "tanh")
    return model, build_optimizer(arm.optimizer, model, arm.config(arm.space.first_trials[0]))


def loss_of(model: nn.Module) -> torch.Tensor:
    return nn.functional.mse_loss(model(X), Y)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> float:
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(model).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return loss_of(model).item()


def test_every_optimizer_that_an_arm_can_name_can_be_built() -> None:
    assert set(OPTIMIZERS) == {arm.optimizer for arm in ARMS}


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.name)
def test_it_learns_and_repeats_itself(arm: Any) -> None:
    first, second = make(arm), make(arm)
    before = loss_of(first[0]).item()
    assert train(*first, 40) < 0.7 * before
    train(*second, 40)
    assert all(torch.equal(a, b) for a, b in zip(first[0].parameters(), second[0].parameters(), strict=True))


RECOMMENDED = [*warpadam_arms(get_preset("wide"), per_structure=False), *map(baseline_arm, baselines())]


@pytest.mark.parametrize("arm", RECOMMENDED, ids=lambda arm: arm.name)
def test_what_exports_name_makes_the_optimizer_from_the_exported_config(arm: Any) -> None:
    """A class takes the config as its arguments, a function takes the model and the config."""
    entry = OPTIMIZERS[arm.optimizer]
    module, _, name = entry.library.rpartition(".")
    named = getattr(importlib.import_module(module), name)
    for values in arm.space.first_trials:
        config = json.loads(json.dumps(arm.config(values)))
        model = linear_layers((6, 8, 2), "tanh")
        params = model.named_parameters() if entry.has_p else model.parameters()
        made = named(params, **config) if isinstance(named, type) else named(model, config)
        assert settings(made) == settings(build_optimizer(entry.name, model, arm.config(values)))


def settings(optimizer: torch.optim.Optimizer) -> list[Any]:
    """Return the class, and the groups without their tensors; a list counts as a tuple."""
    groups = [
        {name: tuple(value) if isinstance(value, list) else value for name, value in group.items() if name != "params"}
        for group in optimizer.param_groups
    ]
    return [type(optimizer), [len(group["params"]) for group in optimizer.param_groups], groups]


def test_a_config_of_sgd_that_was_stored_without_nesterov_makes_the_same_optimizer() -> None:
    model, stored = nn.Linear(2, 2), {"lr": 0.1, "weight_decay": 0.0}
    for momentum in (0.0, 0.9):
        optimizer = build_optimizer("sgd", model, {**stored, "momentum": momentum})
        assert optimizer.defaults["nesterov"] == (momentum > 0)


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.name)
def test_it_goes_on_from_its_state_as_if_nothing_had_happened(arm: Any) -> None:
    model, optimizer = make(arm)
    train(model, optimizer, 5)
    other, resumed = make(arm, seed=1)
    other.load_state_dict(model.state_dict())
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert train(model, optimizer, 5) == train(other, resumed, 5)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.name)
def test_a_schedule_reaches_every_group(arm: Any) -> None:
    model, optimizer = make(arm)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: float(step == 0))
    train(model, optimizer, 1)
    schedule.step()
    before = [param.clone() for param in model.parameters()]
    train(model, optimizer, 1)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.name)
def test_it_trains_parameters_that_are_added_later_as_if_they_had_been_there(arm: Any) -> None:
    model, optimizer = make(arm)
    added, start = nn.Linear(2, 2), torch.eye(2)
    nn.init.eye_(added.weight)
    train(model, optimizer, 2)
    optimizer.add_param_group({"params": list(added.parameters()), "lr": 0.01})
    whole = nn.Sequential(model, added)
    before = loss_of(whole).item()
    assert train(whole, optimizer, 20) < before
    assert not torch.equal(added.weight, start)
    assert all(optimizer.state[param] for param in added.parameters())


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))], ids=["copy", "pickle"]
)
@pytest.mark.parametrize(
    "arm",
    [arm for arm in ARMS if arm.name != "soap"],  # copies of pytorch_optimizer's own SOAP lack its attributes
    ids=lambda arm: arm.name,
)
def test_a_copy_goes_on_as_the_original_does(arm: Any, copied: Callable[[Any], Any]) -> None:
    model, optimizer = make(arm)
    train(model, optimizer, 3)
    other, copy_of_it = copied((model, optimizer))
    assert train(model, optimizer, 3) == train(other, copy_of_it, 3)


@pytest.mark.parametrize(
    "schedule",
    [
        lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=9),
        lambda optimizer: torch.optim.lr_scheduler.CyclicLR(optimizer, 0.001, 0.01, step_size_up=4),
    ],
    ids=["OneCycleLR", "CyclicLR"],
)
@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.name)
def test_it_takes_the_schedules_that_cycle_the_momentum(arm: Any, schedule: Callable[..., Any]) -> None:
    model, optimizer = make(arm)
    made = schedule(optimizer)
    rates = set()
    for _ in range(8):
        train(model, optimizer, 1)
        made.step()
        rates.add(optimizer.param_groups[-1]["lr"])
    assert len(rates) >= 4


def test_muon_with_adamw_gives_what_is_added_later_to_adamw() -> None:
    torch.manual_seed(0)
    added, alone = nn.Linear(6, 2), nn.Linear(6, 2)
    alone.load_state_dict(added.state_dict())
    _, optimizer = make(baseline_arm("muon"))
    optimizer.add_param_group({"params": list(added.parameters())})
    train(added, optimizer, 5)
    settings = {name: optimizer.param_groups[1][name] for name in ("lr", "betas", "weight_decay")}
    train(alone, torch.optim.AdamW(alone.parameters(), **settings), 5)
    assert all(torch.equal(a, b) for a, b in zip(added.parameters(), alone.parameters(), strict=True))


def test_muon_with_adamw_steps_as_its_parts_do() -> None:
    def parts(model: nn.Module) -> tuple[torch.optim.Muon, torch.optim.AdamW]:
        matrices = [param for param in model.parameters() if param.ndim == 2]
        vectors = [param for param in model.parameters() if param.ndim != 2]
        return torch.optim.Muon(matrices, lr=0.01), torch.optim.AdamW(vectors, lr=0.01)

    torch.manual_seed(0)
    together = linear_layers((6, 8, 2), "tanh")
    apart = copy.deepcopy(together)
    train(together, MuonWithAdamW(*parts(together)), 5)
    muon, adamw = parts(apart)
    for _ in range(5):
        apart.zero_grad()
        loss_of(apart).backward()  # type: ignore[no-untyped-call]
        muon.step()  # type: ignore[no-untyped-call]
        adamw.step()
    assert all(torch.equal(a, b) for a, b in zip(together.parameters(), apart.parameters(), strict=True))


MUON: dict[str, JsonValue] = {
    "lr": 0.01,
    "momentum": 0.9,
    "weight_decay": 0.0,
    "adamw_lr": 0.01,
    "output_layer": "adamw",
}


def stepped_by_muon(model: nn.Module, output: str = "adamw") -> set[str]:
    optimizer = build_optimizer("muon", model, {**MUON, "output_layer": output})
    params = set(optimizer.param_groups[0]["params"])
    assert params.isdisjoint(optimizer.param_groups[1]["params"])
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))
    return {name for name, param in model.named_parameters() if param in params}


def test_muon_leaves_the_output_layer_to_adamw_where_it_is_told_to() -> None:
    model = linear_layers((6, 8, 2), "tanh")
    assert stepped_by_muon(model) == {"0.weight"}
    assert stepped_by_muon(model, "muon") == {"0.weight", "2.weight"}
    assert stepped_by_muon(nn.Linear(6, 2)) == {"weight"}  # else the lr that is tuned would be that of nothing


def test_muon_steps_convolutions_but_no_tables() -> None:
    def image_net() -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(24, 5))

    assert stepped_by_muon(image_net()) == {"0.weight", "2.weight"}
    assert stepped_by_muon(image_net(), "muon") == {"0.weight", "2.weight", "4.weight"}

    language_net = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 8), nn.Linear(8, 4), nn.Linear(4, 9))
    language_net.positions = nn.Parameter(torch.zeros(1, 7, 4))
    assert stepped_by_muon(language_net) == {"1.weight", "2.weight"}
    language_net[3].weight = language_net[0].weight  # the output layer is tied to the table
    assert stepped_by_muon(language_net) == {"1.weight", "2.weight"}


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_muon_steps_a_convolution_as_the_matrix_of_its_filters(memory_format: torch.memory_format) -> None:
    torch.manual_seed(0)
    first, head = nn.Conv2d(3, 4, 2), nn.Linear(4, 2)
    first.weight.data = first.weight.data.to(memory_format=memory_format)
    matrix = nn.Parameter(first.weight.detach().flatten(1).clone())
    optimizer = build_optimizer("muon", nn.Sequential(first, head), MUON)
    alone = torch.optim.Muon([matrix], lr=0.01, momentum=0.9, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        first.weight.grad = grad = torch.randn_like(first.weight)
        matrix.grad = grad.flatten(1).clone()
        optimizer.step()
        alone.step()  # type: ignore[no-untyped-call]
        assert first.weight.grad is grad
        torch.testing.assert_close(first.weight.detach().flatten(1), matrix.detach())
    assert first.weight.is_contiguous(memory_format=memory_format)
    copied = copy.deepcopy(first)
    again = build_optimizer("muon", nn.Sequential(copied, head), MUON)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for conv, stepped in ((first, optimizer), (copied, again)):
        conv.weight.grad = torch.ones_like(conv.weight)
        stepped.step()
    assert torch.equal(first.weight, copied.weight)


def test_a_random_p_has_the_norm_of_the_identity_and_differs_from_seed_to_seed() -> None:
    factors = []
    for seed in (0, 1):
        model, optimizer = make(control_arm("random_p"), seed)
        weight = next(iter(model.parameters()))
        factors.append(optimizer.get_distortion(weight)["row_factor"])  # type: ignore[attr-defined]
    for factor in factors:
        assert torch.allclose(factor @ factor.T, torch.eye(8), atol=1e-5)
    assert not torch.equal(*factors)


def test_a_random_p_of_a_long_axis_is_orthogonal_in_each_block() -> None:
    torch.manual_seed(0)
    model = nn.Linear(784, 96)
    optimizer = build_optimizer("random_p", model, OPTIMIZERS["random_p"].config({"lr": 0.01}))
    bases = optimizer.get_distortion(model.weight)  # type: ignore[attr-defined]
    blocks = bases["column_factor"]
    assert blocks.ndim == 3
    assert len(blocks) > 1
    assert torch.allclose(blocks @ blocks.mT, torch.eye(blocks.shape[-1]).expand_as(blocks), atol=1e-5)
    torch.manual_seed(0)
    nn.Linear(784, 96)
    assert torch.equal(bases["row_factor"], nn.init.orthogonal_(torch.empty(96, 96)))


def test_an_optimizer_that_is_not_known_is_an_error_with_the_names() -> None:
    with pytest.raises(UnknownNameError, match=r"optimizer: must be one of warpadam, adamw.*got 'lion'"):
        build_optimizer("lion", nn.Linear(2, 2), {})


class Gains(nn.Module):
    """A model without a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.gains = nn.Parameter(torch.zeros(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :2] * self.gains


@pytest.mark.parametrize("make_model", [lambda: nn.Linear(6, 2, bias=False), Gains], ids=["no vector", "no matrix"])
@pytest.mark.parametrize("output", ["adamw", "muon"])
def test_muon_takes_a_model_that_has_nothing_for_it_or_nothing_for_adamw(make_model: Any, output: str) -> None:
    torch.manual_seed(0)
    model = make_model()
    config = {**dict(baseline_arm("muon").space.first_trials[0]), "output_layer": output}
    optimizer = build_optimizer("muon", model, config)
    before = loss_of(model).item()
    assert train(model, optimizer, 40) < before
    again = build_optimizer("muon", model, config)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert train(model, again, 1) < before
