"""What is saved can be loaded, what does not fit is refused before anything changes, and nothing is lost between."""

from __future__ import annotations

import copy
import io
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy
import pytest
import torch
from torch import nn
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from warpadam import STRATEGIES, Learner, Strategy, WarpAdam, WarpMismatchError
from warpadam.errors import InvalidConfigError

SHAPES: list[tuple[int, ...]] = [(6, 4), (5,), (3, 2, 2), (9, 10), ()]
ROTATION = next(strategy for strategy in STRATEGIES if strategy.learner == "rotation")
WHITENING = next(strategy for strategy in STRATEGIES if strategy.learner == "whitening")

each_strategy = pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
each_learner = pytest.mark.parametrize("strategy", [WHITENING, ROTATION, STRATEGIES[8], STRATEGIES[-6]], ids=str)


def _make(shapes: list[tuple[int, ...]], strategy: Strategy, **settings: Any) -> tuple[list[nn.Parameter], WarpAdam]:
    params = [nn.Parameter(torch.ones(shape)) for shape in shapes]
    numbers: dict[str, Any] = {"max_dim": 8, "block_size": 16, "rank": 2, "meta_every": 3, **settings}
    named = [(f"p{index}", param) for index, param in enumerate(params)]
    return params, WarpAdam(named, 0.01, **strategy._asdict(), **numbers)


def _train(params: list[nn.Parameter], optimizer: WarpAdam, steps: range) -> None:
    for step in steps:
        for index, param in enumerate(params):
            param.grad = torch.randn(param.shape, generator=torch.Generator().manual_seed(100 * step + index))
        optimizer.step()


@pytest.mark.parametrize("p_lr", [0.0, 0.02])
@each_strategy
def test_after_the_first_step_entries_keep_names_shapes_and_devices(strategy: Strategy, p_lr: float) -> None:
    params, optimizer = _make(SHAPES, strategy, p_lr=p_lr)
    seen = []
    for step in range(9):
        _train(params, optimizer, range(step, step + 1))
        seen.append([{name: (v.shape, v.dtype) for name, v in optimizer.state[param].items()} for param in params])
    assert all(entries == seen[0] for entries in seen)


@each_strategy
def test_moments_have_the_shape_of_their_parameter(strategy: Strategy) -> None:
    """But the second moment of a whitening, which has one number for each row."""
    params, optimizer = _make(SHAPES, strategy)
    _train(params, optimizer, range(2))
    for param in params:
        assert optimizer.state[param]["exp_avg"].shape == param.shape
        if strategy.learner != "whitening" or param.ndim < 2:
            assert optimizer.state[param]["exp_avg_sq"].shape == param.shape


class _Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList([nn.Parameter(torch.ones(shape)) for shape in SHAPES])


def _distributed(strategy: Strategy, p_lr: float, **others: Any) -> tuple[_Model, WarpAdam]:
    model = _Model()
    settings: dict[str, Any] = {"max_dim": 8, "block_size": 16, "rank": 2, "meta_every": 3, "p_lr": p_lr, **others}
    return model, WarpAdam(model.parameters(), 0.01, **strategy._asdict(), **settings)


@pytest.mark.filterwarnings("ignore")  # torch's: no process group, and its own deprecations
@pytest.mark.parametrize("flat", [False, True], ids=["nested", "flattened"])
@pytest.mark.parametrize("p_lr", [0.0, 0.02])
@each_strategy
def test_a_distributed_checkpoint_loses_nothing(strategy: Strategy, p_lr: float, flat: bool, tmp_path: Path) -> None:
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    model, optimizer = _distributed(strategy, p_lr)
    _train(list(model.weights), optimizer, range(7))
    optimizer.zero_grad()
    saved = get_optimizer_state_dict(model, optimizer, options=options)
    state_dict_saver.save({"optimizer": saved}, checkpoint_id=tmp_path, no_dist=True)

    other, resumed = _distributed(strategy, p_lr)
    other.load_state_dict(model.state_dict())
    state = {"optimizer": get_optimizer_state_dict(other, resumed, options=options)}
    state_dict_loader.load(state, checkpoint_id=tmp_path, no_dist=True)
    set_optimizer_state_dict(other, resumed, state["optimizer"], options=options)
    for one, two in zip(model.weights, other.weights, strict=True):
        assert optimizer.state[one].keys() == resumed.state[two].keys()
        assert all(torch.equal(value, resumed.state[two][name]) for name, value in optimizer.state[one].items())
    _train(list(model.weights), optimizer, range(7, 12))
    _train(list(other.weights), resumed, range(7, 12))
    assert all(torch.equal(one, two) for one, two in zip(model.weights, other.weights, strict=True))


def _untouched(params: list[nn.Parameter], optimizer: WarpAdam, saved: Any, match: str) -> None:
    """Check that loading is refused with all of these words, and changes nothing."""
    before = copy.deepcopy((optimizer.state_dict(), params))
    with pytest.raises(WarpMismatchError, match=match):
        optimizer.load_state_dict(saved)
    after = optimizer.state_dict()
    assert after["param_groups"] == before[0]["param_groups"]
    for key, state in before[0]["state"].items():
        assert all(torch.equal(value, after["state"][key][name]) for name, value in state.items())
    _train(params, optimizer, range(3, 5))


@each_strategy
def test_the_state_of_another_optimizer_is_refused_by_parameter_and_entry(strategy: Strategy) -> None:
    params, optimizer = _make([(6, 4)], strategy)
    _train(params, optimizer, range(3))
    foreign = torch.optim.AdamW([("p0", nn.Parameter(torch.ones(6, 4)))])
    foreign.param_groups[0]["params"][0].grad = torch.ones(6, 4)
    foreign.step()
    _untouched(
        params, optimizer, foreign.state_dict(), r"this state does not fit .*\n  parameter 'p0' has no .*skipped"
    )


@pytest.mark.parametrize(
    ("saved", "own"),
    [([(10, 4)], [(12, 4)]), ([(10, 4)] * 2, [(4, 10)] * 2), ([(8, 8)], [(8, 4)]), ([(6,)], [(7,)]), ([()], [(1,)])],
    ids=str,
)
@each_strategy
def test_other_shapes_are_refused_with_both(strategy: Strategy, saved: Any, own: Any) -> None:
    params, optimizer = _make(own, strategy)
    others, other = _make(saved, strategy)
    _train(params, optimizer, range(3))
    _train(others, other, range(3))
    both = rf"parameter 'p0' has exp_avg of shape {saved[0]} in the state and {own[0]} in the optimizer"
    _untouched(params, optimizer, other.state_dict(), both.replace("(", r"\(").replace(")", r"\)"))


@each_strategy
def test_an_entry_that_is_no_tensor_is_refused_where_one_must_be(strategy: Strategy) -> None:
    params, optimizer = _make([(6, 4)], strategy)
    _train(params, optimizer, range(3))
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"][0]["exp_avg"] = "lost"
    _untouched(params, optimizer, saved, "parameter 'p0' has exp_avg of type str, not a tensor")


def test_a_long_list_of_misfits_is_cut() -> None:
    with pytest.raises(WarpMismatchError) as caught:
        raise WarpMismatchError(tuple(f"line {index}" for index in range(1030)), "state")
    assert str(caught.value).splitlines()[-1] == "  and 1,010 more"
    assert len(str(caught.value).splitlines()) == 22


@each_strategy
def test_a_state_of_another_precision_is_converted(strategy: Strategy) -> None:
    params, optimizer = _make(SHAPES, strategy)
    _train(params, optimizer, range(3))
    saved = copy.deepcopy(optimizer.state_dict())
    for state in saved["state"].values():
        state.update({name: value.double() for name, value in state.items()})
    optimizer.load_state_dict(saved)
    assert {value.dtype for param in params for value in optimizer.state[param].values()} == {torch.float32}
    _train(params, optimizer, range(3, 6))


@each_strategy
def test_entries_of_others_are_kept_and_change_nothing(strategy: Strategy) -> None:
    """Someone else may keep a moving average, a name or a list in the state, before or after the first step."""
    (params, optimizer), (others, plain) = (
        _make([(6, 4)] * 3 + [(5,)], strategy),
        _make([(6, 4)] * 3 + [(5,)], strategy),
    )
    average = torch.full((7,), 2.0)
    for when in (0, 3):
        for param in params:
            optimizer.state[param].update({f"average{when}": average, f"label{when}": "mine", f"list{when}": [1, 2]})
        _train(params, optimizer, range(when, when + 3))
        _train(others, plain, range(when, when + 3))
    assert all(torch.equal(one, two) for one, two in zip(params, others, strict=True))
    for param in params:
        assert optimizer.state[param]["average0"] is average
        assert optimizer.state[param]["label3"] == "mine"
    saved = copy.deepcopy(optimizer.state_dict())
    optimizer.load_state_dict(saved)
    _train(params, optimizer, range(6, 9))
    _train(others, plain, range(6, 9))
    assert all(torch.equal(one, two) for one, two in zip(params, others, strict=True))
    assert optimizer.state[params[0]]["list0"] == [1, 2]


def _through_a_file(state_dict: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


LIVE: list[tuple[str, Any, Any]] = [
    ("lr", -4e-4, -4e-4),
    ("lr", numpy.float64(0.02), 0.02),
    ("lr", numpy.float32(0.5), 0.5),
    ("lr", torch.tensor(0.02), torch.tensor(0.02)),
    ("meta_every", 5.0, 5),
    ("meta_every", numpy.int64(5), 5),
    ("betas", [0.8, 0.9], (0.8, 0.9)),
    ("betas", (numpy.float64(0.5), 0.9), (0.5, 0.9)),
    ("betas", [numpy.float32(0.5), 0.9], (0.5, 0.9)),
    ("maximize", numpy.bool_(True), True),
    ("lr", Fraction(1, 50), 0.02),
    ("p_decay", Fraction(1, 50), 0.02),
    ("weight_decay", 0, 0),
]


@pytest.mark.parametrize(("name", "value", "loaded"), LIVE, ids=str)
@each_learner
def test_what_a_step_takes_is_saved_and_loaded(strategy: Strategy, name: str, value: Any, loaded: Any) -> None:
    params, optimizer = _make([(6, 4), (5,)], strategy)
    optimizer.param_groups[0][name] = value
    _train(params, optimizer, range(4))
    saved = _through_a_file(optimizer.state_dict())
    others, other = _make([(6, 4), (5,)], strategy)
    with torch.no_grad():
        for one, two in zip(others, params, strict=True):
            one.copy_(two)
    other.load_state_dict(saved)
    assert other.param_groups[0][name] == loaded or list(other.param_groups[0][name]) == list(loaded)
    _train(params, optimizer, range(4, 8))
    _train(others, other, range(4, 8))
    assert all(torch.equal(one, two) for one, two in zip(params, others, strict=True))


@each_learner
def test_names_of_a_strategy_from_the_enums_are_saved_and_loaded(strategy: Strategy) -> None:
    params, optimizer = _make([(6, 4), (5,)], strategy)
    for kind, name in strategy._asdict().items():
        optimizer.param_groups[0][kind] = name  # a StrEnum
    _train(params, optimizer, range(3))
    saved = _through_a_file(optimizer.state_dict())
    assert Strategy(**{kind: saved["param_groups"][0][kind] for kind in Strategy._fields}) == strategy
    _, other = _make([(6, 4), (5,)], strategy)
    other.load_state_dict(saved)


@pytest.mark.parametrize(
    ("split", "plain"),
    [
        ({"p0": numpy.int64(2)}, {"p0": 2}),
        ({"p0": [numpy.int32(4), 2]}, {"p0": [4, 2]}),
        ({"p0": {"parts": numpy.int64(2), "dim": numpy.int64(1)}}, {"p0": {"parts": 2, "dim": 1}}),
        (MappingProxyType({"p0": numpy.str_("each")}), {"p0": "each"}),
    ],
    ids=str,
)
def test_a_split_in_numbers_of_numpy_is_saved_and_loaded(split: Any, plain: Any) -> None:
    params, optimizer = _make([(6, 4), (5,)], WHITENING, split=split)
    _train(params, optimizer, range(3))
    saved = _through_a_file(optimizer.state_dict())
    assert saved["param_groups"][0]["split"] == plain
    others, other = _make([(6, 4), (5,)], WHITENING, split=plain)
    _goes_on_alike(params, optimizer, others, other)


@each_strategy
def test_a_saved_tensor_is_contiguous_and_shares_no_memory(strategy: Strategy) -> None:
    """Else torch.distributed sends it wrongly, safetensors refuses it, and a pickle of one holds all."""
    params, optimizer = _make(SHAPES, strategy, split={"p3": 3})
    given = {name: value.mT for name, value in optimizer.get_distortion(params[0]).items() if value.ndim == 2}
    optimizer.set_distortion(
        params[0], {name: value for name, value in given.items() if value.shape[0] == value.shape[1]}
    )
    for step in range(4):
        saved = optimizer.state_dict()
        values = [value for state in saved["state"].values() for value in state.values() if value.numel()]
        assert all(value.is_contiguous() for value in values)
        assert all(value.untyped_storage().nbytes() == value.nbytes for value in values)
        assert len({value.untyped_storage().data_ptr() for value in values}) == len(values)
        for param, state in zip(params, saved["state"].values(), strict=False):
            assert all(torch.equal(optimizer.state[param][name], value) for name, value in state.items())
        _train(params, optimizer, range(step, step + 1))


@pytest.mark.filterwarnings("ignore")  # torch's: no process group, and its own deprecations
@pytest.mark.parametrize(
    "options",
    [
        StateDictOptions(full_state_dict=True),
        StateDictOptions(cpu_offload=True),
        StateDictOptions(flatten_optimizer_state_dict=True),
    ],
    ids=["full", "cpu", "flattened"],
)
def test_a_momentum_in_bf16_goes_through_a_distributed_checkpoint(options: StateDictOptions) -> None:
    model, optimizer = _distributed(WHITENING, 0.02, momentum_dtype=torch.bfloat16)
    _train(list(model.weights), optimizer, range(4))
    optimizer.zero_grad()
    saved = get_optimizer_state_dict(model, optimizer, options=options)
    other, resumed = _distributed(WHITENING, 0.02, momentum_dtype=torch.bfloat16)
    set_optimizer_state_dict(other, resumed, saved, options=options)
    for one, two in zip(model.weights, other.weights, strict=True):
        assert all(torch.equal(value, resumed.state[two][name]) for name, value in optimizer.state[one].items())
    assert resumed.param_groups[0]["momentum_dtype"] == torch.bfloat16


def test_a_schedule_that_ends_below_zero_is_saved_and_loaded() -> None:
    params, optimizer = _make([(6, 4)], WHITENING)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: numpy.float64(1 - step / 4))
    for step in range(6):
        _train(params, optimizer, range(step, step + 1))
        schedule.step()
    saved = _through_a_file(optimizer.state_dict())
    assert saved["param_groups"][0]["lr"] == pytest.approx(-0.005)
    optimizer.load_state_dict(saved)
    _train(params, optimizer, range(6, 8))


BAD: list[tuple[str, Any]] = [
    ("lr", float("nan")),
    ("lr", "0.1"),
    ("lr", torch.ones(2)),
    ("betas", 0.9),
    ("meta_every", 0),
    ("meta_every", 2.5),
    ("p_lr", -1.0),
    ("weight_decay", -0.1),
    ("eps", None),
    ("eps", torch.ones(2)),
    ("p_lr", numpy.ones(2)),
    ("betas", numpy.array([0.9, 0.95])),
    ("betas", torch.tensor([0.9, 0.95])),
    ("learner", "magic"),
    ("cov_beta", 1.5),
]


@pytest.mark.parametrize(("name", "value"), BAD, ids=str)
@each_learner
def test_a_setting_that_is_not_legal_is_refused_by_the_step_and_by_loading(
    strategy: Strategy, name: str, value: Any
) -> None:
    params, optimizer = _make([(6, 4), (5,)], strategy)
    _train(params, optimizer, range(3))
    saved = copy.deepcopy(optimizer.state_dict())
    before = [param.detach().clone() for param in params]
    optimizer.param_groups[0][name] = value
    with pytest.raises(InvalidConfigError) as caught:
        _train(params, optimizer, range(3, 4))
    assert caught.value.field == name
    assert all(torch.equal(now, then) for now, then in zip(params, before, strict=True))
    assert optimizer.state_dict()["state"].keys() == saved["state"].keys()  # it can be saved all the same
    saved["param_groups"][0][name] = value
    with pytest.raises(InvalidConfigError) as caught:
        _make([(6, 4), (5,)], strategy)[1].load_state_dict(saved)
    assert caught.value.field == name


def test_a_p_lr_that_was_switched_on_asks_for_its_entries() -> None:
    """A distributed checkpoint drops entries that the new optimizer does not have; that must not pass unseen."""
    params, optimizer = _make([(6, 4)], ROTATION, p_lr=0.0)
    _train(params, optimizer, range(3))
    saved = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][0]["p_lr"] = 0.1
    with pytest.raises(WarpMismatchError, match="'p0' has no log_scale"):
        optimizer.load_state_dict(saved)


def _goes_on_alike(
    params: list[nn.Parameter], optimizer: WarpAdam, others: list[nn.Parameter], other: WarpAdam
) -> None:
    """Check that an optimizer which loads the state of another goes on as that one does."""
    other.load_state_dict(_through_a_file(optimizer.state_dict()))
    for one, two in zip(others, params, strict=True):
        one.data.copy_(two.data)
    _train(params, optimizer, range(10, 15))
    _train(others, other, range(10, 15))
    assert all(torch.equal(one, two) for one, two in zip(params, others, strict=True))


@pytest.mark.parametrize("p_lr", [0.0, 0.02])
@each_strategy
def test_what_is_saved_between_the_change_to_a_p_that_learns_and_the_next_step_can_be_loaded(
    strategy: Strategy, p_lr: float
) -> None:
    settings: dict[str, Any] = {"split": {"p3": 3}, "momentum_dtype": torch.bfloat16}
    params, optimizer = _make(SHAPES, strategy, p_lr=0.0, **settings)
    _train(params, optimizer, range(4))
    optimizer.param_groups[0]["p_lr"] = 0.02
    params[0].grad = params[3].grad = None  # these have no gradient for a while, so they wait with the change
    optimizer.step()
    _goes_on_alike(params, optimizer, *_make(SHAPES, strategy, p_lr=p_lr, **settings))


@pytest.mark.parametrize("learning", [own for own in STRATEGIES if own.learner == Learner.HYPERGRADIENT], ids=str)
def test_a_frozen_p_that_was_told_to_learn_can_be_saved_at_once(learning: Strategy) -> None:
    params, optimizer = _make(SHAPES, learning._replace(learner=Learner.FROZEN))
    _train(params, optimizer, range(4))
    optimizer.param_groups[0]["learner"] = "hypergradient"
    _goes_on_alike(params, optimizer, *_make(SHAPES, learning))


def test_a_carried_scale_that_was_told_to_learn_can_be_saved_at_once() -> None:
    params, optimizer = _make([(6, 4)], ROTATION, p_lr=0.0)
    optimizer.set_distortion(params[0], {"log_scale": torch.full((10,), 0.1)})
    _train(params, optimizer, range(4))
    optimizer.param_groups[0]["p_lr"] = 0.02
    _goes_on_alike(params, optimizer, *_make([(6, 4)], ROTATION))


@each_strategy
def test_a_compact_state_is_loaded_whole(strategy: Strategy) -> None:
    """P was updated in the last step, so the factors that are computed again are those that were left out."""
    params, optimizer = _make(SHAPES, strategy)
    _train(params, optimizer, range(6))
    others, resumed = _make(SHAPES, strategy)
    resumed.load_state_dict(optimizer.compact_state_dict())
    for param, other in zip(params, others, strict=True):
        assert optimizer.state[param].keys() == resumed.state[other].keys()
        for name, value in optimizer.state[param].items():
            torch.testing.assert_close(resumed.state[other][name], value, rtol=1e-3, atol=1e-2)
        other.data.copy_(param.data)
    _train(params, optimizer, range(6, 9))
    _train(others, resumed, range(6, 9))
    for param, other in zip(params, others, strict=True):
        torch.testing.assert_close(param, other, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("p_lr", "left_out"), [(0.015, 1 / 3), (0.0, 2 / 5)])
def test_a_compact_state_of_a_square_matrix_leaves_out_what_is_documented(p_lr: float, left_out: float) -> None:
    params, optimizer = _make([(64, 64)], WHITENING, max_dim=64, p_lr=p_lr)
    _train(params, optimizer, range(3))
    whole, compact = (
        sum(value.numel() for value in state["state"][0].values())
        for state in (optimizer.state_dict(), optimizer.compact_state_dict())
    )
    assert 1 - compact / whole == pytest.approx(left_out, abs=0.01)
    assert {"row_factor", "column_factor"} <= optimizer.state[params[0]].keys()


def test_before_the_first_update_of_p_a_compact_state_is_loaded_with_the_identity() -> None:
    params, optimizer = _make([(6, 4)], WHITENING)
    _train(params, optimizer, range(1))
    others, resumed = _make([(6, 4)], WHITENING)
    resumed.load_state_dict(optimizer.compact_state_dict())
    assert torch.equal(resumed.state[others[0]]["row_factor"], torch.eye(6))


def test_a_covariance_of_another_shape_is_refused_and_no_factor_computed() -> None:
    params, optimizer = _make([(6, 4)], WHITENING)
    _train(params, optimizer, range(3))
    saved = optimizer.compact_state_dict()
    saved["state"][0]["row_covariance"] = torch.eye(5)
    _untouched(params, optimizer, saved, r"(?s)has no row_factor.*has row_covariance of shape \(5, 5\)")


def test_a_compact_state_whose_step_is_a_number_is_loaded_as_well() -> None:
    params, optimizer = _make([(6, 4)], WHITENING)
    _train(params, optimizer, range(3))
    saved = optimizer.compact_state_dict()
    saved["state"][0]["step"] = 3
    others, resumed = _make([(6, 4)], WHITENING)
    resumed.load_state_dict(saved)
    assert not torch.equal(resumed.state[others[0]]["row_factor"], torch.eye(6))
