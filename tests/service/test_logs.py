# A line of the log is one line, whatever a user sends.
from __future__ import annotations

import logging
import sys

from service.logs import TextFormatter


def formatted(message: str, **more: object) -> list[str]:
    record = logging.makeLogRecord({"name": "service", "levelname": "INFO", "msg": message, **more})
    return TextFormatter("%(levelname)s %(message)s").format(record).split("\n")


def test_text_with_line_ends_and_escapes_stays_on_one_line() -> None:
    (line,) = formatted("a\nb", name_of_job="x\r\nINFO the job is done\x1b[31m\x85\u2028")
    assert line == r"INFO a\nb name_of_job=x\r\nINFO the job is done\x1b[31m\x85\u2028"


def test_words_of_other_languages_stay_as_they_are() -> None:
    assert formatted("größer 🚀", word="日本") == ["INFO größer 🚀 word=日本"]


def test_lines_of_a_traceback_are_indented() -> None:
    try:
        raise ValueError("wrong\nINFO the job is done")
    except ValueError:
        first, *rest = formatted("failed", exc_info=sys.exc_info(), job="x")
    assert first == "INFO failed job=x"
    assert all(line.startswith("  ") for line in rest)
