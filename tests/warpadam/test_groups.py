"""Which tensors get a P and which are left to plain Adam, and that the groups are what WarpAdam takes."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from warpadam import InvalidConfigError, WarpAdam, WarpAdamConfig, param_groups

WHITENING: dict[str, Any] = {"structure": "kronecker", "placement": "pre", "learner": "whitening"}


class Transformer(nn.Module):
    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 8)
        self.pos_embed = nn.Parameter(torch.zeros(1, 5, 8))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 8))
        self.head = nn.Linear(8, 11, bias=False)  # registered before the hidden layers
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
        self.out = nn.Linear(8, 11)
        if tied:
            self.head.weight = self.table.weight


def _names(groups: Iterable[dict[str, Any]], learner: str | None = None) -> list[str]:
    return [name for group in groups if learner in (None, group["learner"]) for name, _ in group["params"]]


TABLES = {"table.weight", "pos_embed", "cls_token"}


@pytest.mark.parametrize(
    ("tied", "plain", "expected"),
    [
        (False, (), set()),
        (True, (), set()),  # the weight of the tied layer is the table itself
        (False, ("head.weight",), {"head.weight"}),
        (False, "out", {"out.weight", "out.bias"}),
        (True, ("head",), set()),
        (False, ("head", "out.bias"), {"head.weight", "out.bias"}),
    ],
)
def test_embeddings_and_what_is_named_are_left_to_plain_adam(tied: bool, plain: Any, expected: set[str]) -> None:
    model = Transformer(tied)
    groups = param_groups(model, plain=plain, learner="rotation")
    assert set(_names(groups, "frozen")) == TABLES | expected
    assert sorted(_names(groups)) == sorted(dict(model.named_parameters()))


def test_a_module_is_chosen_by_itself_and_a_container_as_one() -> None:
    first = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model = nn.Sequential(first, nn.Linear(2, 2))
    assert set(_names(param_groups(model, plain=first, learner="rotation"), "frozen")) == {
        n for n in model.state_dict() if n[0] == "0"
    }
    assert set(_names(param_groups(model, plain=[first[1]], learner="rotation"), "frozen")) == {
        "0.1.weight",
        "0.1.bias",
    }


@pytest.mark.parametrize("choice", ["heat", nn.Linear(2, 2)], ids=["name", "module"])
def test_something_the_model_does_not_have_is_refused(choice: nn.Module | str) -> None:
    with pytest.raises(InvalidConfigError, match=r"plain: must hold modules of the model, .* \(got "):
        param_groups(Transformer(), plain=(choice,))


def test_a_bad_plain_lr_is_blamed_by_its_own_name() -> None:
    with pytest.raises(InvalidConfigError) as caught:
        param_groups(Transformer(), plain_lr=-1.0)
    assert caught.value.field == "plain_lr"


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(InvalidConfigError, match=r"momentum: .*\(got 0\.9\)"):
        param_groups(Transformer(), momentum=0.9)


def test_frozen_parameters_are_left_out_and_tied_ones_appear_once() -> None:
    model = Transformer(tied=True)
    model.block.requires_grad_(False)
    assert sorted(_names(param_groups(model))) == sorted([*TABLES, "out.weight", "out.bias"])


def test_biases_and_norms_have_no_weight_decay() -> None:
    decays = {
        name: (param.ndim, group["weight_decay"])
        for group in param_groups(Transformer(), WarpAdamConfig(weight_decay=0.1))
        for name, param in group["params"]
    }
    assert {decay for ndim, decay in decays.values() if ndim < 2} == {0.0}
    assert {decay for ndim, decay in decays.values() if ndim >= 2} == {0.1}
    assert decays["block.norm1.weight"] == (1, 0.0)


def test_what_whitening_has_no_p_for_is_stepped_by_adam_at_its_own_rate() -> None:
    groups = param_groups(Transformer(), WarpAdamConfig(**WHITENING, lr=0.03, max_dim=10), plain_lr=0.01)
    rates = {name: (group["lr"], group["learner"]) for group in groups for name, _ in group["params"]}
    assert rates["block.linear1.weight"] == rates["block.self_attn.in_proj_weight"] == (0.03, "whitening")
    for name in ("block.linear1.bias", "block.norm1.weight"):
        assert rates[name] == (0.03, "frozen")
    for name in TABLES:
        assert rates[name] == (0.01, "frozen")
    assert len(groups) == 3
    longer = nn.Sequential(nn.Conv2d(12, 12, 1), nn.Linear(2, 2))  # both axes over max_dim
    assert "0.weight" in _names(param_groups(longer, **WHITENING, max_dim=10), "whitening")


@pytest.mark.parametrize(
    ("settings", "rate"), [({}, 0.04), ({"learner": "rotation"}, 0.02), ({"plain_lr": 0.01}, 0.01)], ids=str
)
def test_tables_have_twice_the_lr_of_whitening_unless_told(settings: dict[str, Any], rate: float) -> None:
    rates = {
        name: group["lr"] for group in param_groups(Transformer(), lr=0.02, **settings) for name, _ in group["params"]
    }
    assert {rates.pop(name) for name in TABLES} == {rate}
    assert set(rates.values()) == {0.02}


@pytest.mark.parametrize("structure", ["kronecker", "full"])
def test_whitening_leaves_vectors_to_plain_adam_in_four_groups_at_most(structure: str) -> None:
    groups = param_groups(Transformer(), structure=structure, plain=("out", "block.norm1"))
    assert {param.ndim >= 2 for group in groups if group["learner"] == "whitening" for _, param in group["params"]} == {
        True
    }
    assert len(groups) == 4


def test_a_setting_of_the_strategy_alone_is_completed() -> None:
    learners = {group["learner"] for group in param_groups(Transformer(), structure="diagonal")}
    assert learners == {"hypergradient", "frozen"}


def test_a_scheduler_multiplies_all_rates_alike() -> None:
    model = Transformer()
    optimizer = WarpAdam(param_groups(model, lr=0.02, plain_lr=0.01))
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 0.5, 1.0, 4)
    assert sorted({group["lr"] for group in optimizer.param_groups}) == [0.005, 0.01]
    for _ in range(4):
        optimizer.step()
        schedule.step()
    assert sorted({group["lr"] for group in optimizer.param_groups}) == pytest.approx([0.01, 0.02])


def test_overrides_replace_fields_of_the_config_and_every_setting_is_in_every_group() -> None:
    config = WarpAdamConfig(betas=(0.8, 0.9), meta_every=3)
    for group in param_groups(Transformer(), config, p_lr=0.5):
        settings = {name: value for name, value in group.items() if name not in ("params", "lr")}
        assert (settings["betas"], settings["meta_every"], settings["p_lr"]) == ((0.8, 0.9), 3, 0.5)
        assert set(settings) == set(config.to_dict()) - {"lr"}


def _loss(model: Transformer, tokens: Tensor) -> Tensor:
    loss: Tensor = model.out(model.block(model.table(tokens) + model.pos_embed + model.cls_token)).logsumexp(-1).mean()
    return loss


def test_the_plain_groups_are_stepped_exactly_as_adamw_steps_them() -> None:
    torch.manual_seed(0)
    model = Transformer().double()
    twin = copy.deepcopy(model)
    groups = param_groups(model, **WHITENING, weight_decay=0.1, plain=("out",))
    warped = WarpAdam([{**group, "lr": 0.0 if group["learner"] == "whitening" else 0.02} for group in groups])
    plain = [(name, param) for group in warped.param_groups for name, param in _named(group) if group["lr"] > 0]
    theirs = dict(twin.named_parameters())
    decayed = [theirs[name] for name, param in plain if param.ndim >= 2]
    others = [theirs[name] for name, param in plain if param.ndim < 2]
    numbers: dict[str, Any] = {"lr": 0.02, "betas": (0.9, 0.95)}
    adamw = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}], **numbers
    )
    for step in range(10):
        tokens = torch.randint(0, 11, (3, 5), generator=torch.Generator().manual_seed(step))
        for own, optimizer in ((model, warped), (twin, adamw)):
            optimizer.zero_grad()
            _loss(own, tokens).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    assert len(plain) >= 8
    for name, param in model.named_parameters():
        torch.testing.assert_close(param, theirs[name], rtol=1e-9, atol=1e-9)


def _named(group: dict[str, Any]) -> Iterable[tuple[str, Tensor]]:
    return zip(group["param_names"], group["params"], strict=True)


@pytest.mark.parametrize("settings", [{}, {"learner": "rotation", "lr": 0.02}, {"weight_decay": 0.1}], ids=str)
def test_a_model_is_divided_into_the_same_groups(settings: dict[str, Any]) -> None:
    model = Transformer()
    whole, divided = WarpAdam(model, **settings), WarpAdam(param_groups(model, **settings))
    assert whole.param_groups == divided.param_groups


def test_a_model_is_split_by_name() -> None:
    model = nn.ModuleDict({"qkv": nn.Linear(4, 6, bias=False)})
    optimizer = WarpAdam(model, split={"qkv.weight": 3})
    weight = model.get_parameter("qkv.weight")
    weight.grad = torch.ones(6, 4)
    optimizer.step()
    assert "2.row_factor" in optimizer.state[weight]
    with pytest.raises(InvalidConfigError, match="kqv"):
        WarpAdam(model, split={"kqv.weight": 3})


def test_a_model_takes_no_tensor_as_lr() -> None:
    """Its embeddings have another lr, which would not follow the tensor."""
    with pytest.raises(InvalidConfigError, match=r"lr: must be a number for a model.*param_groups"):
        WarpAdam(nn.Linear(3, 2), lr=torch.tensor(0.1))


def test_the_summary_tells_every_tensor_once() -> None:
    model = Transformer()
    optimizer = WarpAdam(model, weight_decay=0.1)
    lines = optimizer.summary().splitlines()
    assert lines[0].startswith("6 tensors with 688 elements: kronecker P (pre) learned by whitening every 5 steps, lr")
    assert lines[0].endswith("lr 0.005, weight decay 0.1")
    counted = [(int(line.split()[0]), int(line.split()[3].replace(",", ""))) for line in lines]
    params = list(model.parameters())
    assert (len(params), sum(param.numel() for param in params)) == tuple(map(sum, zip(*counted, strict=True)))
    raw = WarpAdam(model.parameters(), learner="whitening").summary()
    assert "plain Adam" in raw  # vectors, for which whitening has no P
    frozen = WarpAdam(model.parameters(), structure="kronecker", learner="frozen").summary()
    assert "P (pre) that does not learn" in frozen
