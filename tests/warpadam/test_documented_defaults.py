"""docs/warpadam.md names every setting with its default and range, and the constants of the code."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path

import pytest

from warpadam import Learner, MetaConfig, Placement, Structure, WarpAdam, WarpAdamConfig
from warpadam.config import DEFAULT_LR, LIMITS
from warpadam.groups import WHITENING_PLAIN_LR
from warpadam.learners import roots, whitening
from warpadam.stacks import _MAX_ELEMENTS, _MAX_PADDED
from warpadam.structures.measures import EXACT_LENGTH

TEXT = (Path(__file__).parents[2] / "docs/warpadam.md").read_text()
NAMES = [field.name for field in fields(WarpAdamConfig)]
KINDS = {"structure": Structure, "placement": Placement, "learner": Learner}


def table(heading: str) -> dict[str, list[str]]:
    """Return the cells of each row of the table with this first heading, by the first cell."""
    rows = re.search(rf"^\| {re.escape(heading)} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", TEXT, re.MULTILINE)
    assert rows
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in rows[1].splitlines()]
    return {first.strip("`"): others for first, *others in cells}


def test_the_table_has_every_setting_in_order() -> None:
    assert list(table("setting")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_default_and_range_is_the_documented_one(name: str) -> None:
    default, legal, *_ = table("setting")[name]
    if name == "lr":
        others = {DEFAULT_LR[learner] for learner in Learner if learner != Learner.WHITENING}
        assert default == f"`{DEFAULT_LR[Learner.WHITENING]}` with `whitening`, else `{others.pop()}`"
        assert not others
    else:
        assert default == f"`{getattr(WarpAdamConfig(), name)}`"
    if name in KINDS:
        assert legal == ", ".join(f"`{value}`" for value in KINDS[name])
    else:
        assert legal == (f"each {LIMITS['beta1']}" if name == "betas" else str(LIMITS[name]))


def test_the_arguments_of_the_optimizer_have_the_same_defaults() -> None:
    arguments = inspect.signature(WarpAdam).parameters
    assert set(arguments) == {"params", *NAMES, "split", "maximize", "momentum_dtype", "process_group"}
    open_ones = {*KINDS, "lr"}
    for name in set(NAMES) - open_ones:
        assert arguments[name].default == getattr(WarpAdamConfig(), name)
    assert all(arguments[name].default is None for name in open_ones)


def test_the_table_of_meta_learning_has_every_default() -> None:
    documented = {name: cells[0] for name, cells in table("`MetaConfig`").items()}
    assert documented == {field.name: f"`{field.default}`" for field in fields(MetaConfig)}


def given_and_completed() -> list[tuple[str, str]]:
    return [(given, completed) for given, (completed,) in table("given alone").items()]


@pytest.mark.parametrize(("given", "completed"), given_and_completed())
def test_a_strategy_is_completed_as_documented(given: str, completed: str) -> None:
    rest = re.findall(r"`(\w+)`", completed)
    options = re.findall(r'(?:(\w+)=)?"(\w+)"', given)
    name = ""
    for key, value in options:
        name = key or name
        expected = rest if len(rest) == 3 else [value, *rest]
        assert list(WarpAdamConfig(**{name: value}).strategy) == expected
    if given.startswith("nothing"):
        assert list(WarpAdamConfig().strategy) == rest


@pytest.mark.parametrize(
    "sentence",
    [
        f"root mean square of {whitening.UPDATE_RMS}",
        f"(L / |L| + {roots.DAMPING} I)^-1/2",
        "at steps {}, {} and {}.".format(*whitening._EARLY_REFRESHES),
        f"up to {_MAX_ELEMENTS:,} elements",
        f"vectors of up to {_MAX_PADDED:,} elements",
        f"factors longer than {EXACT_LENGTH}",
    ],
)
def test_every_constant_in_the_text_is_that_of_the_code(sentence: str) -> None:
    assert sentence in " ".join(TEXT.split())


def test_the_documented_plain_lr_is_that_of_the_code() -> None:
    assert WHITENING_PLAIN_LR == 2.0
    assert "twice the lr with `whitening`" in TEXT
