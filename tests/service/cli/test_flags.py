# What notes about a file say in options is what the commands take.
from __future__ import annotations

import re
import shlex

import pytest
import typer

from service.cli.app import app
from service.cli.flags import in_flags
from service.cli.reading import OPTIONS


@pytest.mark.parametrize("command", ["tune", "init", "upload"])
@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_of_a_note_exists(command: str, name: str) -> None:
    advice = in_flags(f"upload the file again with {name}=-999 if that is right", "age")
    said = re.fullmatch(r"say (.*) if that is right", advice)
    assert said is not None
    option, value = shlex.split(said[1])
    found = [one for one in typer.main.get_command(app).commands[command].params if option in one.opts]  # type: ignore[attr-defined]
    assert [one.name for one in found] == [name]
    assert value == "-999"


@pytest.mark.parametrize("name", ["fee", "the fee", "patient's fee", 'a "fee"', 'it\'s "a" fee', "a\\b"])
def test_a_note_that_names_a_column_is_about_this_one(name: str) -> None:
    note = f"column {name!r} tells the target: say ignore in dataset.columns, or split by group (dataset.split)"
    said = re.fullmatch(r"column .* tells the target: say (--column .*), or say (--split .*)", in_flags(note, ""))
    assert said is not None
    assert shlex.split(said[1]) == ["--column", f"{name}=ignore"]
    assert shlex.split(said[2]) == ["--split", f"group={name}"]
