"""The description of a space is plain JSON and has everything that a form needs."""

from __future__ import annotations

import json

import pytest

from search_spaces import PRESETS, Choice, describe, get_preset


@pytest.mark.parametrize("name", PRESETS)
def test_description_survives_json(name: str) -> None:
    description = describe(get_preset(name))
    assert json.loads(json.dumps(description, allow_nan=False)) == description


@pytest.mark.parametrize("name", PRESETS)
def test_description_has_every_parameter_in_order(name: str) -> None:
    space = get_preset(name)
    description = describe(space)
    assert description["name"] == name
    assert tuple(parameter["name"] for parameter in description["parameters"]) == space.names
    assert description["first_trials"] == [dict(values) for values in space.first_trials]


def test_description_tells_kind_range_and_condition() -> None:
    parameters = {parameter["name"]: parameter for parameter in describe(get_preset("wide"))["parameters"]}
    strategies = get_preset("wide")["strategy"].domain
    assert isinstance(strategies, Choice)
    assert parameters["strategy"] == {
        "name": "strategy",
        "kind": "choice",
        "values": list(strategies.values),
        "when": None,
    }
    assert parameters["rank"] == {
        "name": "rank",
        "kind": "int",
        "low": 1,
        "high": 16,
        "log": True,
        "when": {"parent": "strategy", "values": ["low_rank/sandwich/hypergradient"]},
    }
    assert (parameters["lr"]["kind"], parameters["lr"]["log"]) == ("float", True)
