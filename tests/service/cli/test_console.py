# What the commands print reaches a person, or a program, as it is.
from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from rich._emoji_codes import EMOJI

from service.cli.console import failure, say, say_err, say_json

LINE = " ".join(["[red]x[/red]", "\\[b]", "https://x/a:100:b", *(f"a:{name}:b" for name in EMOJI)])
"""All that rich would replace, and longer than any terminal is wide."""


@pytest.mark.parametrize("printer", [say, say_err, failure])
def test_a_line_is_printed_as_it_is(printer: Callable[[str], object], capsys: pytest.CaptureFixture[str]) -> None:
    printer(LINE)
    printed = capsys.readouterr()
    assert (printed.out + printed.err).removeprefix("error: ") == f"{LINE}\n"


def test_json_means_what_the_service_answered(capsys: pytest.CaptureFixture[str]) -> None:
    answer = {LINE: [LINE, "größer 🚀", "a\tb\x1b\r", 0.1]}
    say_json(answer)
    printed = capsys.readouterr().out
    assert json.loads(printed) == answer
    assert "größer 🚀" in printed
