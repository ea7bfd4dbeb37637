"""The presets keep the promises that make a comparison fair and a short study useful."""

from __future__ import annotations

import inspect

import pytest
import torch

from search_spaces import PRESETS, Choice, SearchSpace, SearchSpaceError, get_preset
from search_spaces.strategies import ALWAYS_USED, is_used
from warpadam.config import LIMITS, STRATEGIES, Structure

ALL = list(PRESETS)
OURS = [name for name, space in PRESETS.items() if "strategy" in space]


def strategies(space: SearchSpace) -> list[str]:
    domain = space["strategy"].domain
    assert isinstance(domain, Choice)
    return [str(value) for value in domain.values]


def test_presets_are_the_documented_ones() -> None:
    assert set(ALL) == {"quick", "default", "wide", "paper", "adamw", "muon", "soap", "sgd"}
    assert all(get_preset(name).name == name for name in ALL)


def test_unknown_preset_is_an_error_that_lists_the_presets_and_suggests_one() -> None:
    with pytest.raises(SearchSpaceError) as caught:
        get_preset("papre")
    assert (caught.value.path, caught.value.value) == ("preset", "papre")
    assert all(name in str(caught.value) for name in ALL)
    assert "Did you mean 'paper'?" in str(caught.value)


@pytest.mark.parametrize("name", OURS)
def test_every_strategy_of_a_preset_is_legal(name: str) -> None:
    assert set(strategies(get_preset(name))) <= set(map(str, STRATEGIES))


@pytest.mark.parametrize("name", ALL)
def test_every_range_of_a_preset_is_legal(name: str) -> None:
    for parameter in get_preset(name):
        if parameter.name == "strategy":
            continue
        domain = parameter.domain
        values = domain.values if isinstance(domain, Choice) else (domain.low, domain.high)
        if parameter.name in LIMITS:
            assert all(LIMITS[parameter.name].allows(value) for value in values), parameter
        else:
            assert parameter.name in {"momentum", "adamw_lr", "output_layer", "shampoo_beta", "precondition_frequency"}


@pytest.mark.parametrize("name", OURS)
def test_number_of_p_exists_exactly_under_the_strategies_that_use_it(name: str) -> None:
    space = get_preset(name)
    for parameter in space:
        if parameter.when is not None:
            used = [strategy for strategy in strategies(space) if is_used(parameter.name, strategy)]
            assert list(parameter.when.values) == used
        else:
            assert parameter.name == "strategy" or parameter.name in ALWAYS_USED


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("number", ["lr", "beta1", "beta2"])
def test_baseline_has_the_same_freedom_as_warpadam(name: str, number: str) -> None:
    assert get_preset(name)[number].domain == get_preset("adamw")[number].domain


@pytest.mark.parametrize("name", OURS)
def test_baseline_may_tune_at_least_the_weight_decay_of_warpadam(name: str) -> None:
    ours, baseline = get_preset(name)["weight_decay"].domain, get_preset("adamw")["weight_decay"].domain
    assert isinstance(ours, Choice)
    assert all(baseline.contains(value) for value in ours.values)


@pytest.mark.parametrize("name", ["muon", "soap", "sgd"])
def test_every_baseline_starts_from_as_many_points_as_adamw_and_they_are_legal(name: str) -> None:
    space = get_preset(name)
    assert len(space.first_trials) == len(get_preset("adamw").first_trials)
    for values in space.first_trials:
        space.check(values)


def test_no_preset_starts_from_more_points_than_the_baseline() -> None:
    counts = {name: len(get_preset(name).first_trials) for name in ALL}
    assert counts["adamw"] == max(counts.values())
    assert min(counts.values()) >= 1


def test_quick_has_few_free_parameters() -> None:
    free = [
        parameter.name
        for parameter in get_preset("quick")
        if not isinstance(parameter.domain, Choice) or len(parameter.domain.values) > 1
    ]
    assert free == ["strategy", "lr", "beta1", "beta2", "p_lr"]


def test_default_tries_a_rotation_and_a_whitening_first_without_a_scale() -> None:
    first = get_preset("default").first_trials[:2]
    assert [(trial["strategy"], trial["lr"], trial["p_lr"]) for trial in first] == [
        ("kronecker/sandwich/rotation", 0.01, 0.0),
        ("kronecker/pre/whitening", 0.1, 0.0),
    ]


def test_the_first_trials_of_every_arm_span_the_learning_rate() -> None:
    lrs = {name: [float(trial["lr"]) for trial in get_preset(name).first_trials] for name in ("adamw", "default")}
    assert lrs["adamw"] == [0.01, 0.001, 0.03, 0.003, 0.1, 0.0003, 0.001, 0.06]
    for name in ("muon", "soap", "sgd"):
        of_arm = [float(trial["lr"]) for trial in get_preset(name).first_trials]
        assert max(of_arm) / min(of_arm) >= 30
    assert sorted(lrs["default"]) == [0.001, 0.003, 0.003, 0.01, 0.03, 0.03, 0.1, 0.1]
    assert len({trial["strategy"] for trial in get_preset("default").first_trials}) == 4


def test_the_defaults_of_pytorch_are_among_the_first_trials_of_adamw() -> None:
    defaults = inspect.signature(torch.optim.AdamW).parameters
    beta1, beta2 = defaults["betas"].default
    names = ("lr", "weight_decay")
    wanted = {name: defaults[name].default for name in names} | {"beta1": beta1, "beta2": beta2}
    assert wanted in [dict(trial) for trial in get_preset("adamw").first_trials]


def test_default_has_fewer_parameters_than_wide_and_may_switch_the_meta_gradient_off() -> None:
    default, wide = get_preset("default"), get_preset("wide")
    assert set(default.names) < set(wide.names)
    assert set(strategies(default)) < set(strategies(wide))
    assert default["p_lr"].domain == Choice(values=(0.0, 0.03))
    assert wide["p_lr"].domain == Choice(values=(0.0, 0.003, 0.01, 0.03, 0.1, 0.3))


def test_quick_tries_whitening_at_its_own_lr_with_hardly_a_scale() -> None:
    (trial,) = (t for t in get_preset("quick").first_trials if t["strategy"] == "kronecker/pre/whitening")
    assert (trial["lr"], trial["p_lr"]) == (0.03, 0.003)


def test_paper_is_pre_placement_learned_by_hypergradient_for_every_structure() -> None:
    assert set(strategies(get_preset("paper"))) == {f"{structure}/pre/hypergradient" for structure in Structure}
