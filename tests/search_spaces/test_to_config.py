"""Values of a space become configurations; a wrong value is refused by name."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from search_spaces import AdamWConfig, Scalar, SearchSpaceError, adamw_config, get_preset, warpadam_config
from warpadam import InvalidConfigError, WarpAdamConfig


def test_strategy_splits_and_betas_join() -> None:
    config = warpadam_config(get_preset("default").first_trials[0])
    assert config == WarpAdamConfig(
        lr=0.01,
        betas=(0.9, 0.95),
        structure="kronecker",
        placement="sandwich",
        learner="rotation",
        p_lr=0.0,
        weight_decay=0.1,
        meta_every=5,
    )


def test_missing_values_take_the_defaults() -> None:
    assert warpadam_config({}) == WarpAdamConfig()
    assert warpadam_config({"beta2": 0.5}).betas == (WarpAdamConfig().betas[0], 0.5)
    assert adamw_config({}) == AdamWConfig()
    assert adamw_config({"beta1": 0.5}).betas == (0.5, AdamWConfig().betas[1])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rank": 0}, r"rank: must be a whole number of at least 1 \(got 0\)"),
        ({"beta1": 1.0}, r"beta1: .*\(got 1\.0\)"),
        ({"momentum": 0.9}, "momentum: is not a field"),
    ],
)
def test_value_that_warpadam_refuses_is_refused(values: dict[str, Scalar], message: str) -> None:
    with pytest.raises(InvalidConfigError, match=message):
        warpadam_config(values)


def test_unknown_strategy_is_refused() -> None:
    with pytest.raises(SearchSpaceError, match=r"strategy: .*\(got 'diagonal/pre/rotation'\)"):
        warpadam_config({"strategy": "diagonal/pre/rotation"})


@pytest.mark.parametrize(
    ("values", "path", "expected"),
    [
        ({"lr": -1.0}, "lr", "at least 0"),
        ({"lr": float("nan")}, "lr", "finite"),
        ({"betas": [0.9]}, "betas", "two numbers"),
        ({"betas": 0.9}, "betas", "two numbers"),
        ({"betas": [0.9, 1.0]}, "beta2", "below 1"),
        ({"eps": "small"}, "eps", "finite number"),
        ({"weight_decay": None}, "weight_decay", "finite number"),
        ({"weight_deacy": 0.1}, "weight_deacy", "Did you mean 'weight_decay'?"),
    ],
)
def test_wrong_baseline_config_is_refused_by_field(values: dict[str, Any], path: str, expected: str) -> None:
    with pytest.raises(SearchSpaceError) as caught:
        AdamWConfig.from_dict(values)
    assert caught.value.path == path
    assert expected in str(caught.value)


def test_value_of_another_optimizer_is_refused_by_the_baseline() -> None:
    with pytest.raises(SearchSpaceError, match=r"p_lr: .*\(got 0\.1\)"):
        adamw_config({"p_lr": 0.1})


def test_baseline_config_survives_json() -> None:
    config = AdamWConfig(lr=0.01, betas=(0.8, 0.99), weight_decay=0.1)
    assert AdamWConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert isinstance(AdamWConfig(betas=[0.8, 0.99]).betas, tuple)  # type: ignore[arg-type]


def test_baseline_config_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        AdamWConfig().lr = 1.0  # type: ignore[misc]


def test_baseline_config_is_made_of_torch_arguments_and_torch_defaults() -> None:
    torch = pytest.importorskip("torch")
    parameter = torch.nn.Parameter(torch.zeros(1))
    ours = torch.optim.AdamW([parameter], **AdamWConfig().to_dict()).defaults
    theirs = torch.optim.AdamW([parameter]).defaults
    assert {**ours, "betas": tuple(ours["betas"])} == theirs
