# Dates and times are read as what they are, in every form that is known.
from __future__ import annotations

import datetime as dt
from collections.abc import Callable

import pyarrow as pa
import pytest

from service.data.columns import describe, look
from service.data.facts import ColumnKind, Form, Reading
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


def quarter(moment: dt.datetime) -> int:
    return (moment.month + 2) // 3


def first_of_quarter(moment: dt.datetime) -> dt.datetime:
    return dt.datetime(moment.year, 3 * quarter(moment) - 2, 1)


def monday(moment: dt.datetime) -> dt.datetime:
    return dt.datetime.combine(moment.date() - dt.timedelta(days=moment.weekday()), dt.time())


FORMS: dict[str, tuple[Callable[[dt.datetime], str] | str, Callable[[dt.datetime], dt.datetime] | str | None]] = {
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
    "quarters": (lambda d: f"{d.year}Q{quarter(d)}", first_of_quarter),
    "quarters after a hyphen": (lambda d: f"{d.year}-Q{quarter(d)}", first_of_quarter),
    "quarters first": (lambda d: f"Q{quarter(d)} {d.year}", first_of_quarter),
    "weeks of ISO": ("%G-W%V", monday),
    "days of weeks of ISO": ("%G-W%V-%u", DAY),
}


@pytest.mark.parametrize("case", FORMS)
def test_a_moment_is_read_as_what_it_is(case: str) -> None:
    written, kept = FORMS[case]
    texts = pa.array([moment.strftime(written) if isinstance(written, str) else written(moment) for moment in MOMENTS])
    form, fitting, other = date_form(Texts.of(texts), day_first=None)
    assert (fitting, other) == (len(MOMENTS), ())
    if isinstance(kept, str):
        expected = [dt.datetime.strptime(moment.strftime(kept), kept) for moment in MOMENTS]
    else:
        expected = [*map(kept, MOMENTS)] if kept else MOMENTS
    seconds = [moment.replace(tzinfo=dt.UTC).timestamp() for moment in expected]
    assert read_texts(texts, form or Form()).to_pylist() == seconds


@pytest.mark.parametrize(
    "cells",
    [
        ["1234-45"],
        ["1.2.3"],
        ["Rome 2024"],
        ["13/2024"],
        ["20241301 120000"],
        ["2024-13"],
        ["1001-12-x"],
        ["2024-Q5"],
        ["Q0 2024"],
        ["2024-W53"],
        ["2024-W00"],
        ["2024-W01-8"],
        [f"Q1{number}" for number in range(2000, 2020)],
        [f"{number}Q1" for number in range(1000, 1020)],
        [f"Q1-{number}" for number in range(1000, 1020)],
        [f"{number}-W01" for number in range(1000, 1020)],
        [f"2024W{number}" for number in range(10, 30)],
    ],
)
def test_what_is_no_date_is_not_read_as_one(cells: list[str]) -> None:
    assert date_form(Texts.of(pa.array(cells * 20)), day_first=None)[1] == 0


def found(cells: list[str], day_first: bool | None = None) -> tuple[str, tuple[str, ...]]:
    """The form that dates are read with, and others that they may have."""
    form, fitting, others = date_form(Texts.of(pa.array(cells)), day_first=day_first)
    assert (form is not None, fitting) == (True, len(cells))
    return str(form), others


@pytest.mark.parametrize("written", ["%y/%m/%d", "%d/%m/%y", "%m/%d/%y", "%y.%m.%d", "%d.%m.%y", "%y/%m/%d %H"])
def test_the_days_of_a_month_tell_a_day_from_a_year_of_two_digits(written: str) -> None:
    texts = [moment.strftime(written) for moment in MOMENTS]
    form, others = found(texts)
    assert others == ()
    assert form == written[:8].replace("%y", "yy").replace("%m", "mm").replace("%d", "dd")
    kept = HOUR if "%H" in written else DAY
    expected = [dt.datetime.strptime(moment.strftime(kept), kept).replace(tzinfo=dt.UTC) for moment in MOMENTS]
    assert read_texts(pa.array(texts), Form(date=form)).to_pylist() == [moment.timestamp() for moment in expected]


EITHER = {
    "a few days of one month, with points": ([f"{day:02d}.01.20" for day in range(5, 25)], "yy.mm.dd", "dd.mm.yy", ""),
    "a few days of one month, with slashes": ([f"{day:02d}/01/20" for day in range(5, 25)], "yy/mm/dd", "dd/mm/yy", ""),
    "the first of each month of 16 years": (
        [f"01.{month:02d}.{year:02d}" for year in range(5, 21) for month in range(1, 13)],
        "yy.mm.dd",
        "dd.mm.yy",
        "",
    ),
    "parts up to 12": (
        [f"{n % 12 + 1:02d}/{n % 5 + 1:02d}/{n % 7 + 1:02d}" for n in range(60)],
        "mm/dd/yy",
        "dd/mm/yy",
        "yy/mm/dd",
    ),
}


@pytest.mark.parametrize("case", EITHER)
def test_dates_that_may_be_either_are_read_only_as_a_job_says(case: str) -> None:
    cells, first, day_first, more = EITHER[case]
    form, others = found(cells)
    assert (form, set(others)) == (first, {day_first, more} - {""})
    assert found(cells, day_first=False) == (first, ())
    assert found(cells, day_first=True) == (day_first, ())
    kept = look(pa.array(cells), Reading())
    assert kept.kind in (ColumnKind.TEXT, ColumnKind.CATEGORY)
    may_be = " or ".join(filter(None, (first, more, day_first)))
    assert kept.warnings[0].startswith(f"its dates may be {may_be}: say date (the first) or day_first_date (the last)")


def test_years_of_two_digits_that_are_in_the_future_are_said() -> None:
    births = [f"{n % 28 + 1:02d}.{n % 12 + 1:02d}.{(40 + n) % 100:02d}" for n in range(60)]
    column = describe("born", "string", pa.array(births), Reading())
    assert (column.kind, column.form) == (ColumnKind.DATE, Form(date="dd.mm.yy"))
    assert column.warnings[-1] == (
        "dates up to 2068-05-01, as years 00 to 68 are taken for 2000 to 2068: "
        "write years with four digits if some are not in the future"
    )
    past = describe("born", "string", pa.array([cell[:-2] + "99" for cell in births]), Reading())
    assert (past.kind, past.warnings) == (ColumnKind.DATE, ())
