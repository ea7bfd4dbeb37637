# Dates and times are read as what they are, in every form that is known.
from __future__ import annotations

import datetime as dt
from collections.abc import Callable

import pyarrow as pa
import pytest

from service.data.facts import Form
from service.data.forms import Texts, date_form, read_texts

MOMENTS = [dt.datetime(2024, 1, 13, 9, 5, 7) + dt.timedelta(days=5 * n, hours=7 * n, minutes=n) for n in range(60)]
GERMAN = [
    "Januar",
    "Februar",
    "März",
    "April",
    "Mai",
    "Juni",
    "Juli",
    "August",
    "September",
    "Oktober",
    "November",
    "Dezember",
]
SHORT = ["Jän.", "Feb.", "Mrz.", "Apr.", "Mai", "Jun.", "Jul.", "Aug.", "Sep.", "Okt.", "Nov.", "Dez."]
WEEKDAYS = ["Mo", "Di", "Mi", "Do", "Fr", "Sa", "So"]
DAY, MINUTE, HOUR, MONTH = "%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H", "%Y-%m"
"""What is left of a moment, by the form."""

FORMS: dict[str, tuple[Callable[[dt.datetime], str] | str, str | None]] = {
    "ISO": ("%Y-%m-%dT%H:%M:%S", None),
    "a log": ("%Y-%m-%d %H:%M:%S,000", None),
    "ISO to the hour": ("%Y-%m-%d %H", HOUR),
    "a named zone": ("%Y-%m-%dT%H:%M:%S+00:00[Europe/London]", None),
    "points": ("%Y.%m.%d %H:%M", MINUTE),
    "compact": ("%Y%m%dT%H%M%SZ", None),
    "compact, to the minute": ("%Y%m%d %H%M", MINUTE),
    "a web server": ("[%d/%b/%Y:%H:%M:%S +0000]", None),
    "RFC 2822": ("%a, %d %b %Y %H:%M:%S GMT", None),
    "C": ("%a %b %e %H:%M:%S %Y", None),
    "C with a zone": ("%a %b %d %H:%M:%S UTC %Y", None),
    "German with a comma": ("%d.%m.%Y, %H:%M Uhr", MINUTE),
    "German with a weekday": (lambda d: f"{WEEKDAYS[d.weekday()]}, {d:%d.%m.%Y}", DAY),
    "German months": (lambda d: f"{d.day}. {GERMAN[d.month - 1]} {d.year}", DAY),
    "short German months": (lambda d: f"{d.day}. {SHORT[d.month - 1]} {d.year}", DAY),
    "months": ("%Y-%m", MONTH),
    "months first": ("%m/%Y", MONTH),
    "names of months": ("%b %Y", MONTH),
}


@pytest.mark.parametrize("case", FORMS)
def test_a_moment_is_read_as_what_it_is(case: str) -> None:
    written, kept = FORMS[case]
    texts = pa.array([moment.strftime(written) if isinstance(written, str) else written(moment) for moment in MOMENTS])
    form, fitting, other = date_form(Texts.of(texts), day_first=None)
    assert (fitting, other) == (len(MOMENTS), None)
    expected = [dt.datetime.strptime(m.strftime(kept), kept) if kept else m for m in MOMENTS]
    seconds = [moment.replace(tzinfo=dt.UTC).timestamp() for moment in expected]
    assert read_texts(texts, form or Form()).to_pylist() == seconds


@pytest.mark.parametrize(
    "cells", [["1234-45"], ["1.2.3"], ["Rome 2024"], ["13/2024"], ["20241301 120000"], ["2024-13"], ["1001-12-x"]]
)
def test_what_is_no_date_is_not_read_as_one(cells: list[str]) -> None:
    assert date_form(Texts.of(pa.array(cells * 20)), day_first=None)[1] == 0
