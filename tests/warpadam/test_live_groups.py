"""Settings that change in a live group are taken, or refused by name before anything moves."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import nn

from warpadam import STRATEGIES, InvalidConfigError, Learner, Strategy, WarpAdam, WarpMismatchError

X = torch.randn(64, 6, generator=torch.Generator().manual_seed(7))
Y = torch.stack([X[:, 0].sin(), X[:, 1] * X[:, 2], X[:, 3]], 1)


def _model() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def _train(model: nn.Module, optimizer: WarpAdam, steps: int) -> float:
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (model(X) - Y).square().mean()
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def _means_the_same(old: Strategy, new: Strategy) -> bool:
    """Tell whether a state of the old strategy may go on under the new one."""
    if old[:2] != new[:2]:
        return False
    if new.learner == Learner.FROZEN and old.learner == Learner.ROTATION:
        return True
    return {old.learner, new.learner} <= {Learner.FROZEN, Learner.HYPERGRADIENT} or old == new


@pytest.mark.parametrize("old", STRATEGIES, ids=str)
def test_every_switch_of_strategy_goes_on_or_is_refused_by_name_with_nothing_moved(old: Strategy) -> None:
    for new in STRATEGIES:
        model = _model()
        settings: dict[str, Any] = {"max_dim": 7, "block_size": 16, "meta_every": 2}
        optimizer = WarpAdam(model.named_parameters(), 0.003, **old._asdict(), **settings)
        before = _train(model, optimizer, 20)
        start = [param.detach().clone() for param in model.parameters()]
        optimizer.param_groups[0].update(new._asdict())
        if _means_the_same(old, new):
            assert _train(model, optimizer, 20) < before
            continue
        with pytest.raises(InvalidConfigError, match=rf"parameter '\d\.\w+' was made under {old} ") as caught:
            _train(model, optimizer, 1)
        assert caught.value.field in Strategy._fields
        assert caught.value.value == getattr(new, caught.value.field)
        assert all(torch.equal(now, then) for now, then in zip(model.parameters(), start, strict=True))


@pytest.mark.parametrize(
    ("strategy", "name", "value"),
    [
        ("kronecker/pre/whitening", "max_dim", 4),
        ("kronecker/sandwich/rotation", "max_dim", 4),
        ("full/pre/whitening", "block_size", 5),
        ("low_rank/sandwich/hypergradient", "rank", 1),
    ],
)
def test_a_number_that_changes_the_structure_is_refused_and_one_that_does_not_is_taken(
    strategy: str, name: str, value: int
) -> None:
    model = _model()
    parts: dict[str, Any] = dict(zip(Strategy._fields, strategy.split("/"), strict=True))
    optimizer = WarpAdam(model.named_parameters(), 0.003, **parts)
    _train(model, optimizer, 3)
    optimizer.param_groups[0][name] = value
    with pytest.raises(InvalidConfigError, match=f"{name}: cannot change now"):
        _train(model, optimizer, 1)
    for other in {"max_dim", "block_size", "rank"} - {name}:
        optimizer.param_groups[0][other] += 1
    optimizer.param_groups[0][name] = optimizer.defaults[name]
    _train(model, optimizer, 3)


def test_a_parameter_whose_state_was_deleted_starts_again_under_the_new_settings() -> None:
    model = _model()
    optimizer = WarpAdam(model.named_parameters(), 0.003)
    _train(model, optimizer, 5)
    optimizer.state.clear()
    optimizer.param_groups[0].update(structure="diagonal", learner="frozen")
    _train(model, optimizer, 5)
    assert {int(state["step"]) for state in optimizer.state.values()} == {5}


@pytest.mark.parametrize(
    ("made", "changed"),
    [(None, {"0.weight": 2}), ({"0.weight": 2}, None), ({"0.weight": 2}, {"0.weight": 4}), ({"0.weight": 2}, {"2": 3})],
)
@pytest.mark.parametrize("steps", [None, 3])
def test_a_split_that_changes_is_refused_also_in_a_copy_and_after_loading(
    made: Any, changed: Any, steps: int | None
) -> None:
    model = _model()
    optimizer = WarpAdam(model.named_parameters(), 0.003, split=made)
    if steps:
        _train(model, optimizer, steps)
    optimizer.param_groups[0]["split"] = changed
    copied, copied_optimizer = copy.deepcopy((model, optimizer))
    start = [param.detach().clone() for param in model.parameters()]
    for own_model, own in ((model, optimizer), (copied, copied_optimizer)):
        for _ in range(2):
            with pytest.raises(InvalidConfigError, match="split: cannot change: the optimizer was made with another"):
                _train(own_model, own, 1)
            own.load_state_dict(own.state_dict())
        assert all(torch.equal(now, then) for now, then in zip(own_model.parameters(), start, strict=True))
        own.param_groups[0]["split"] = made
        _train(own_model, own, 2)
        assert ("0.step" in own.state[own_model.get_parameter("0.weight")]) == (made is not None)


def test_a_parameter_that_was_appended_by_hand_is_stepped_and_called_by_its_place() -> None:
    model = _model()
    optimizer = WarpAdam(model.named_parameters(), 0.003)
    extra = nn.Parameter(torch.ones(3, 3))
    optimizer.param_groups[0]["params"].append(extra)
    extra.grad = torch.ones(3, 3)
    optimizer.step()
    assert (extra != 1).all()
    optimizer.state[extra]["exp_avg"] = torch.zeros(2)
    with pytest.raises(WarpMismatchError, match=r"parameter 4 of group 0 has exp_avg of shape \(2,\)"):
        optimizer.step()


def test_a_step_looks_for_no_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each name is a linear search, so the first step of many tensors was quadratic."""

    def refuse(*_: Any) -> str:
        raise AssertionError("a step without an error looked for a name")

    monkeypatch.setattr(WarpAdam, "_name", refuse)
    model = _model()
    _train(model, WarpAdam(model.named_parameters(), split={"0.weight": 2}), 3)


@pytest.mark.parametrize("learner", ["whitening", "rotation", "hypergradient"])
def test_p_lr_may_be_switched_off_and_on(learner: str) -> None:
    model = _model()
    optimizer = WarpAdam(model.named_parameters(), 0.003, learner=learner, p_lr=0.0, meta_every=1)
    losses = []
    for p_lr in (0.0, 0.02, 0.0, 0.02):
        optimizer.param_groups[0]["p_lr"] = p_lr
        losses.append(_train(model, optimizer, 10))
    assert all(after < before for before, after in itertools.pairwise(losses))


def test_a_state_given_by_hand_that_does_not_fit_is_refused_by_name() -> None:
    model = _model()
    optimizer, other = (WarpAdam(own.named_parameters(), 0.003) for own in (model, _model()))
    _train(model, optimizer, 2)
    param = model.get_parameter("0.weight")
    optimizer.load_state_dict(other.state_dict())
    optimizer.state[param] = {"exp_avg": torch.zeros(3, 3)}
    with pytest.raises(ValueError, match=r"'0.weight' has exp_avg of shape \(3, 3\)"):
        _train(model, optimizer, 1)


@pytest.mark.parametrize("wrong", [torch.zeros(3, 3), torch.zeros(()), None, "lost"], ids=str)
@pytest.mark.parametrize("whole", [False, True], ids=["entry", "state"])
@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_an_entry_replaced_by_one_that_does_not_fit_is_refused_by_name(
    strategy: Strategy, whole: bool, wrong: Any
) -> None:
    model = _model()
    optimizer = WarpAdam(model.named_parameters(), 0.003, **strategy._asdict())
    _train(model, optimizer, 2)
    start = [param.detach().clone() for param in model.parameters()]
    state = optimizer.state[model.get_parameter("0.weight")]
    if whole:
        state = optimizer.state[model.get_parameter("0.weight")] = dict(state)
    state["exp_avg"] = wrong
    with pytest.raises(WarpMismatchError, match=r"'0.weight' has exp_avg of "):
        _train(model, optimizer, 1)
    assert all(torch.equal(now, then) for now, then in zip(model.parameters(), start, strict=True))


def test_betas_in_a_list_that_changes_in_place_are_checked() -> None:
    model = _model()
    optimizer = WarpAdam(model.named_parameters(), 0.003)
    betas = optimizer.param_groups[0]["betas"] = [0.9, 0.95]
    _train(model, optimizer, 2)
    betas[1] = 7.0
    with pytest.raises(InvalidConfigError, match="beta2"):
        _train(model, optimizer, 1)


@pytest.mark.parametrize("digits", [400, 5000])
@pytest.mark.parametrize("name", ["lr", "weight_decay", "p_lr"])
def test_a_number_too_large_for_a_float_is_refused_by_name(name: str, digits: int) -> None:
    model = _model()
    optimizer = WarpAdam(model.named_parameters())
    optimizer.param_groups[0][name] = 10**digits
    with pytest.raises(InvalidConfigError, match=f"{name}: must be a finite number"):
        _train(model, optimizer, 1)
