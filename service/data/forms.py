"""How numbers and dates are written: finds the form of a column of texts, and reads texts that have it.

    "2,04"  "-2,56"  "0,42"         a decimal comma
    "$1,200"  "$900"  "$12,000"     a unit, and thousands
    "31.12.2024"  "01.02.2025"      dd.mm.yyyy

A form is one for a whole column, as a rule the one that most of its cells have. All work is done by pyarrow on whole
columns.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from service.data.facts import EXACT, LARGEST, Form, Reading

ODD_SHARE: Final = 0.05
"""Largest share of odd cells in a column that is taken for numbers or dates without being told so."""

SAMPLE: Final = 1000
"""Values that are looked at first, so that a column of long texts is not searched for numbers as a whole."""

# fmt: off
MARKS: Final = (
    "?", "-", "--", "---", ".", "..", "n.a.", "n.a", "na", "n/a", "nan", "none", "null", "nil", "missing", "unknown",
    "k.a.", "#n/a", "#div/0!", "#value!", "#ref!", "#num!", "#name?",
)
"""What people write for no value, in lower case. In a column of texts these are values like any other."""

UNITS: Final = (
    "%", "$", "€", "£", "¥", "₹",
    "EUR", "USD", "GBP", "CHF", "JPY", "CAD", "AUD", "CNY", "INR", "SEK", "NOK", "DKK", "PLN",
)
"""Units that numbers are read with, before or after them; others are read after them."""
# fmt: on

_SIGN: Final = r"[^\d\s.,;:/()+\-*&<>\[\]~!?^]"
AFTER_NUMBER: Final = (
    r"[+-]?(?:\p{Sc}[ \x{a0}\x{2009}\x{202f}]?)?\d[\d.,]*[ \x{a0}\x{2009}\x{202f}]?"
    rf"(?P<unit>{_SIGN}{{1,3}}\d?|{_SIGN}{{4,9}}\.?|\pL{{1,5}}\.|\pL+/\pL+)"
)
"""A number and its unit, such as 5 kg, 36.6°C, 12 Stk. or 80 km/h."""

SPACES: Final = "[ \u00a0\u2009\u202f]"
"""Spaces within a number, as a regular expression."""

GROUPS: Final = {",": ",", ".": r"\.", " ": SPACES, "'": "['\u2019]"}
"""What separates thousands -> its regular expression."""

_HALF: Final = r"[ \x{a0}\x{2009}\x{202f}]?(?P<half>[AaPp])\.? ?[Mm]\.?"
"""AM or PM, also as a.m. and p.m."""

_TIME: Final = (
    r"(?:(?:[T ] *|, *|:)(?P<h>\d{1,2})(?::(?P<min>\d{2})(?::(?P<s>\d{2}(?:[.,]\d+)?))?)?(?: Uhr)?"
    rf"(?:{_HALF})?"
    r"(?: ?(?:Z|(?:UTC|GMT)?(?P<zh>[+-]\d{1,2}):?(?P<zm>\d{2})?|UTC|GMT))?"
    r"(?:\[[\w/+-]+\])?)?"
)
_WEEKDAY: Final = r"(?:[A-Za-z]{2,10}\.?,? +)?"
_NAME: Final = r"(?P<name>[A-Za-zÄÖÜäöü]{3,9})"
_MONTHS: Final = (
    *("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"),
    *("jan", "feb", "mär", "apr", "mai", "jun", "jul", "aug", "sep", "okt", "nov", "dez"),
    *("jän", "feb", "mrz", "apr", "mai", "jun", "jul", "aug", "sep", "okt", "nov", "dez"),
)
"""How the names of months begin: in English, German, and in other ways in German."""

PLAIN: Final = Form(decimal=".", thousands="", unit="", date="", missing=())
"""The form of numbers as programs write them; complete, as the ``Form`` of a script has no defaults."""

CLOCK: Final = "hh:mm"
"""Form of times of day, also as 3:05 PM and 3 PM, and of durations; with seconds or without."""

DATES: Final[Mapping[str, str]] = {
    "yyyy-mm-dd": r"(?P<y>\d{4})-(?P<m>\d{1,2})-(?P<d>\d{1,2})" + _TIME,
    "yyyy/mm/dd": r"(?P<y>\d{4})/(?P<m>\d{1,2})/(?P<d>\d{1,2})" + _TIME,
    "yyyy.mm.dd": r"(?P<y>\d{4})\.(?P<m>\d{1,2})\.(?P<d>\d{1,2})" + _TIME,
    "dd.mm.yyyy": _WEEKDAY + r"(?P<d>\d{1,2})\. ?(?P<m>\d{1,2})\. ?(?P<y>\d{4})" + _TIME,
    "yy.mm.dd": r"(?P<y>\d{2})\.(?P<m>\d{2})\.(?P<d>\d{2})" + _TIME,
    "dd.mm.yy": r"(?P<d>\d{2})\.(?P<m>\d{2})\.(?P<y>\d{2})" + _TIME,
    "mm/dd/yyyy": r"(?P<m>\d{1,2})/(?P<d>\d{1,2})/(?P<y>\d{4})" + _TIME,
    "dd/mm/yyyy": r"(?P<d>\d{1,2})/(?P<m>\d{1,2})/(?P<y>\d{4})" + _TIME,
    "mm/dd/yy": r"(?P<m>\d{1,2})/(?P<d>\d{1,2})/(?P<y>\d{2})" + _TIME,
    "yy/mm/dd": r"(?P<y>\d{2})/(?P<m>\d{1,2})/(?P<d>\d{1,2})" + _TIME,
    "dd/mm/yy": r"(?P<d>\d{1,2})/(?P<m>\d{1,2})/(?P<y>\d{2})" + _TIME,
    "mm-dd-yyyy": r"(?P<m>\d{1,2})-(?P<d>\d{1,2})-(?P<y>\d{4})" + _TIME,
    "dd-mm-yyyy": r"(?P<d>\d{1,2})-(?P<m>\d{1,2})-(?P<y>\d{4})" + _TIME,
    "dd mon yyyy": r"\[?" + _WEEKDAY + r"(?P<d>\d{1,2})\.?[ /-]" + _NAME + r"\.?[ /-](?P<y>\d{4})" + _TIME + r"\]?",
    "mon dd yyyy": _WEEKDAY + _NAME + r"\.? (?P<d>\d{1,2}),? (?P<y>\d{4})" + _TIME,
    "mon dd hh:mm:ss yyyy": _WEEKDAY
    + _NAME
    + r" +(?P<d>\d{1,2}) (?P<h>\d{2}):(?P<min>\d{2}):(?P<s>\d{2}(?:\.\d+)?) (?:[A-Z]{3,4} )?(?P<y>\d{4})",
    "yyyymmdd hhmmss": r"(?P<y>[12]\d{3})(?P<m>\d{2})(?P<d>\d{2})[T _-](?P<h>\d{2}):?(?P<min>\d{2}):?(?P<s>\d{2})?Z?",
    "yyyy-mm": r"(?P<y>[12]\d{3})[-/](?P<m>\d{2})",
    "mm/yyyy": r"(?P<m>\d{2})/(?P<y>[12]\d{3})",
    "mon yyyy": _NAME + r"\.?[ -](?P<y>[12]\d{3})",
    "yyyy-Qn": r"(?P<y>(?:19|20)\d{2})[ -]?[Qq](?P<q>[1-4])",
    "Qn yyyy": r"[Qq](?P<q>[1-4])[ /-](?P<y>(?:19|20)\d{2})",
    "yyyy-Wnn": r"(?P<y>(?:19|20)\d{2})[ -][Ww](?P<w>\d{2})(?:-(?P<wd>[1-7]))?",
    "yyyymmdd": r"(?P<y>[12]\d{3})(?P<m>\d{2})(?P<d>\d{2})",
    CLOCK: (
        rf"(?P<h>\d{{1,3}}):(?P<min>\d{{2}})(?::(?P<s>\d{{2}}(?:\.\d+)?))?(?:{_HALF})?"
        rf"|(?P<h12>\d{{1,2}}){_HALF.replace('half', 'half12')}"
    ),
}
"""Forms of dates and times of day -> their regular expression."""

LOOK_ALIKE: Final = (
    ("mm/dd/yyyy", "dd/mm/yyyy"),
    ("mm-dd-yyyy", "dd-mm-yyyy"),
    ("mm/dd/yy", "yy/mm/dd", "dd/mm/yy"),
    ("yy.mm.dd", "dd.mm.yy"),
)
"""Forms that fit the same texts if no part shows what it is: 03/04/2025, 18.01.20."""

LATE_DAY: Final = 28
MANY_DAYS: Final = 13
"""Days of a month that show that a part is one, if the other part that may be has at most half as many values."""

LAST_SHORT_YEAR: Final = 68
"""Years of two digits up to here are after 2000, the others before, as in C and Python."""

WANTED_ONLY: Final = ("yyyymmdd",)
"""Forms of dates that are used only where a job says that a column holds dates."""

SECONDS_PER_DAY: Final = 86_400.0

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Texts:
    """The distinct values of a column of texts and how many cells have each, without those that are ``MARKS``."""

    values: pa.Array
    cells: npt.NDArray[np.int64]

    @classmethod
    def of(cls, texts: pa.Array) -> Texts:
        """Count the values of a column."""
        counted = texts.drop_null().value_counts()
        values, cells = counted.field("values"), counted.field("counts").to_numpy()
        real = pc.invert(pc.is_in(pc.utf8_lower(values), pa.array(MARKS)))
        return cls(values.filter(real), cells[real.to_numpy(zero_copy_only=False)])

    @property
    def total(self) -> int:
        """Number of cells."""
        return int(self.cells.sum())

    def head(self) -> Texts:
        """Return the first ``SAMPLE`` values."""
        return Texts(self.values[:SAMPLE], self.cells[:SAMPLE])

    def count(self, fit: pa.Array) -> int:
        """Return how many cells have the values for which ``fit`` is true."""
        return int(self.cells[fit.to_numpy(zero_copy_only=False)].sum())

    def matching(self, pattern: str) -> int:
        """Return how many cells are what a regular expression describes."""
        return self.count(pc.match_substring_regex(self.values, f"^(?:{pattern})$"))


def number_form(texts: Texts, reading: Reading) -> tuple[Form | None, int, tuple[str, ...]]:
    """Return the form of a column, how many cells have it, and a warning if they could be read in another way.

    It is the form that most cells have. But 1.013 may be 1013, so where forms differ in that, the decimal mark of the
    file decides, unless over ``ODD_SHARE`` of the cells are against it, or one such as 1.234.567 shows thousands.
    """
    tidy = replace(texts, values=_tidy(texts.values))
    head = tidy.head()
    unit = next((u for u in UNITS if 2 * head.count(pc.match_substring(head.values, u)) >= head.total > 0), "")
    behind = next((u for u, cells in units_of(head).items() if 2 * cells >= head.total > 0), "")
    unit = behind if unit in behind else f"{unit} {behind}".strip()  # "$ k" for $12.3k
    decimal = decimal_mark(reading) or PLAIN.decimal
    marks = (decimal, "," if decimal == "." else ".")
    forms = [Form(decimal=d, thousands=t, unit=unit) for d in marks for t in ("", *GROUPS) if t != d]
    likely = [form for form in forms if 2 * head.matching(number_pattern(form)) >= head.total > 0]
    counts = {form: tidy.matching(number_pattern(form)) for form in likely}
    if not counts or not max(counts.values()):
        return None, 0, ()
    most = tidy.total * (1 - ODD_SHARE)
    best = max(counts, key=lambda form: counts[form])  # the first of equals
    usual = max((form for form in counts if form.decimal == decimal), key=lambda form: counts[form], default=best)
    if _clash(best, usual) and counts[usual] >= most and not _shows_thousands(tidy, best, usual):
        best = usual
    fitting, notes = counts[best], tuple[str, ...]()
    other = max((form for form in counts if _clash(best, form)), key=lambda form: counts[form], default=best)
    may_be_other = best.thousands or counts[other] > fitting  # a decimal point in 1.013 needs no note
    if may_be_other and (counts[other] >= most or best.decimal != decimal) and not _shows_thousands(tidy, best, other):
        notes = tuple(_other_reading(texts.values, best, other))
    if not best.thousands and not pc.any(pc.match_substring(tidy.values, best.decimal)).as_py():
        best = replace(best, decimal=Form().decimal)  # whole numbers have no decimal mark
    return best, fitting, notes


def decimal_mark(reading: Reading) -> str | None:
    """Return the decimal mark of a file if it is known, also from what separates thousands."""
    return reading.decimal or {".": ",", ",": "."}.get(reading.thousands or "")


def _clash(one: Form, other: Form) -> bool:
    """Return whether what separates thousands in one of two forms is the decimal mark of the other."""
    return one.thousands == other.decimal or other.thousands == one.decimal


def _shows_thousands(tidy: Texts, form: Form, other: Form) -> bool:
    """Return whether a cell such as 1,234,567 or 1,234.5 has the thousands of a form, and cannot have another form."""
    if not form.thousands:
        return False
    grouped = pc.match_substring_regex(tidy.values, GROUPS[form.thousands])
    only_here = pc.and_not(have_form(tidy.values, form), have_form(tidy.values, other))
    return bool(pc.any(pc.and_(grouped, only_here)).as_py())


def _other_reading(texts: pa.Array, form: Form, other: Form) -> Iterator[str]:
    """Quote the first number that two forms read in different ways, if there is one."""
    numbers, others = (read_texts(texts, each).cast(pa.float64()) for each in (form, other))
    index = pc.index(pc.not_equal(numbers, others), True).as_py()
    if index >= 0:
        read = f"{texts[index].as_py()!r} is read as {numbers[index].as_py():g}"
        yield f"{read}: upload the file again with decimal={other.decimal} if it is {others[index].as_py():g}"


def units_of(texts: Texts) -> dict[str, int]:
    """Return what stands after the numbers of a column, such as kg, and in how many cells."""
    parts = pc.extract_regex(texts.values, f"^(?:{AFTER_NUMBER})$")
    found = Counter[str]()
    for part, cells in zip(parts.to_pylist(), texts.cells.tolist(), strict=True):
        if part is not None:
            found[part["unit"]] += cells
    return dict(found.most_common())


def _tidy(texts: pa.Array) -> pa.Array:
    """Write minus signs, and brackets around negative amounts, as people do who write numbers for programs."""
    texts = pc.replace_substring_regex(texts, r"^[\x{2012}\x{2013}\x{2212}]", "-")
    texts = pc.replace_substring_regex(texts, r"^(\d[\d.,]*)-$", r"-\1")  # as SAP writes them
    return pc.replace_substring_regex(texts, r"^\((.*)\)$", r"-\1")


def number_pattern(form: Form) -> str:
    """Return a regular expression for the numbers that have a form."""
    decimal = GROUPS[form.decimal]
    if form.thousands:
        groups = GROUPS[form.thousands]
        number = rf"(?:[1-9]\d{{0,2}}(?:{groups}\d{{3}})+|\d+)(?:{decimal}\d+)?"
    else:
        number = rf"(?:\d+(?:{decimal}\d*)?|{decimal}\d+)(?:[eE][+-]?\d+)?"
    if not form.unit:
        return f"[+-]?{number}"
    if " " in form.unit:
        before, behind = map(re.escape, form.unit.split(" "))
        return f"[+-]?{before}{SPACES}?[+-]?{number}{SPACES}?{behind}"
    unit = re.escape(form.unit)
    return f"[+-]?{unit}{SPACES}?[+-]?{number}|[+-]?{number}{SPACES}?{unit}"


def have_form(texts: pa.Array, form: Form) -> pa.Array:
    """Return which texts are numbers that have a form."""
    return pc.fill_null(pc.match_substring_regex(texts, f"^(?:{number_pattern(form)})$"), False)


def date_form(texts: Texts, day_first: bool | None) -> tuple[Form | None, int, tuple[str, ...]]:
    """Return the form that most cells have, how many have it, and other forms that they may have as well.

    ``day_first`` chooses one of them: that with the day first, or the first of the others. None chooses none.
    """
    counts = dict[str, int]()
    head = texts.head()
    for key, pattern in DATES.items():
        if (key in WANTED_ONLY and day_first is None) or 2 * head.matching(pattern) < head.total:
            continue
        counts[key] = texts.count(pc.is_valid(seconds_of(texts.values, key)))
    best = max(counts, key=lambda key: counts[key], default="")  # the first of equals
    most = counts.get(best, 0)
    if not most:
        return None, 0, ()
    alike = next((keys for keys in LOOK_ALIKE if best in keys), (best,))
    fitting = [key for key in alike if counts.get(key) == most]
    likely = _likely(texts, fitting) if len(fitting) > 1 else fitting
    if day_first is None:
        return Form(date=likely[0]), most, tuple(likely[1:])
    days_first = [key for key in fitting if key.startswith("dd")]
    return Form(date=days_first[0] if day_first and days_first else likely[0]), most, ()


def _likely(texts: Texts, keys: Sequence[str]) -> list[str]:
    """Return forms without those that take a year of two digits for a day, as far as the days tell."""
    days = {key: pc.struct_field(_parts(texts.values, key), "d").drop_null().unique().to_pylist() for key in keys}

    def shows(key: str, other: str) -> bool:
        found = days[key]
        return max(map(int, found)) >= LATE_DAY and len(found) >= max(MANY_DAYS, 2 * len(days[other]))

    return [key for key in keys if not any(shows(other, key) for other in keys)]


def read_texts(texts: pa.Array, form: Form) -> pa.Array:
    """Return texts as numbers; a text that does not have the form, or stands for no value, becomes a missing value."""
    counted = texts.dictionary_encode()  # so that each text is read once, however often it is there
    texts = without(counted.dictionary, form.missing, form)
    values = seconds_of(texts, form.date) if form.date else _numbers_of(texts, form)
    return values.take(counted.indices)


def numbers_among(nulls: Iterable[str]) -> Sequence[float]:
    """Return the numbers, such as -999, among the cells that stand for no value."""
    return [float(mark) for mark in nulls if re.fullmatch(r"[+-]?\d+(\.\d+)?", mark)]


def without(cells: pa.Array, marks: Sequence[float], form: Form) -> pa.Array:
    """Return cells without the numbers that stand for no value, however texts write them: -999, -999.0 or -999,00 €."""
    if not marks:
        return cells
    numbers = _numbers_of(cells, form) if pa.types.is_string(cells.type) else cells
    is_mark = pc.is_in(numbers.cast(pa.float64(), safe=False), pa.array(marks, pa.float64()))
    return pc.if_else(is_mark, pa.scalar(None, cells.type), cells)


def _numbers_of(texts: pa.Array, form: Form) -> pa.Array:
    texts = _tidy(texts)
    texts = pc.if_else(have_form(texts, form), texts, pa.scalar(None, pa.string()))
    for unit in filter(None, form.unit.split(" ")):
        texts = pc.replace_substring(texts, unit, "")
    for separator in (SPACES, GROUPS.get(form.thousands)):
        texts = pc.replace_substring_regex(texts, separator, "") if separator else texts
    numbers = pc.replace_substring(texts, form.decimal, ".").cast(pa.float64())
    numbers = pc.if_else(pc.less_equal(pc.abs(numbers), LARGEST), numbers, pa.scalar(None, pa.float64()))
    return whole_if_all_are(numbers)


def whole_if_all_are(numbers: pa.Array) -> pa.Array:
    """Return numbers as whole ones if all are, so that class labels are written as such."""
    whole = pc.and_(pc.equal(pc.floor(numbers), numbers), pc.less_equal(pc.abs(numbers), float(EXACT)))
    return numbers.cast(pa.int64()) if pc.all(whole).as_py() else numbers


def seconds_of(texts: pa.Array, key: str) -> pa.Array:
    """Return dates as seconds since 1970, and times of day as seconds since midnight."""
    parts = _parts(texts, key)
    fields = {field.name for field in parts.type}
    fits = pc.is_valid(parts).to_numpy(zero_copy_only=False)

    def number(name: str) -> Numbers:
        if name not in fields:
            return np.zeros(len(texts))
        given = pc.struct_field(parts, name)
        digits = pc.replace_substring(pc.if_else(pc.equal(given, ""), "0", given), ",", ".")
        found: Numbers = digits.cast(pa.float64()).fill_null(0.0).to_numpy()
        return found

    hour, zone_hour = number("h") + number("h12"), number("zh")
    halves = [pc.struct_field(parts, name) for name in ("half", "half12") if name in fields]
    if halves:
        joined = pc.binary_join_element_wise(*halves, "", null_handling="replace")
        half = pc.utf8_lower(joined).to_numpy(zero_copy_only=False)
        fits &= (half == "") | (hour < 24)
        hour = np.where(half == "", hour, hour % 12 + 12 * (half == "p"))
    zone = zone_hour * 3600 + np.copysign(number("zm"), zone_hour) * 60
    seconds = hour * 3600 + number("min") * 60 + number("s") - zone
    if "w" in fields:
        days, is_real = _days_of_weeks(number("y"), number("w"), np.maximum(number("wd"), 1.0))
        fits &= is_real
        seconds += days * SECONDS_PER_DAY
    elif "y" in fields:
        day = number("d") if "d" in fields else np.ones(len(texts))  # a month begins on its first day
        days, is_real = _days(number("y"), _month(parts, fields, number), day)
        fits &= is_real & (hour < 24)
        seconds += days * SECONDS_PER_DAY
    fits &= (number("min") < 60) & (number("s") < 61)
    return pa.array(seconds, pa.float64(), mask=~fits)


def _parts(texts: pa.Array, key: str) -> pa.Array:
    """Return the parts of dates, null where a text does not have the form."""
    return pc.extract_regex(texts, f"^(?:{DATES[key]})$")


def _month(parts: pa.Array, fields: Iterable[str], number: Callable[[str], Numbers]) -> Numbers:
    if "q" in fields:
        return 3 * number("q") - 2
    if "name" not in fields:
        return number("m")
    names = pc.utf8_slice_codeunits(pc.utf8_lower(pc.struct_field(parts, "name")), 0, 3)
    index = pc.index_in(names, pa.array(_MONTHS)).fill_null(-1).to_numpy()
    found: Numbers = np.where(index < 0, 0, index % 12 + 1).astype(np.float64)
    return found


def _days(year: Numbers, month: Numbers, day: Numbers) -> tuple[Numbers, npt.NDArray[np.bool_]]:
    """Return days since 1970, and whether there is such a day."""
    year = np.where(year < 100, year + np.where(year <= LAST_SHORT_YEAR, 2000, 1900), year)
    months = ((year - 1970) * 12 + month - 1).astype("datetime64[M]")
    days = months.astype("datetime64[D]") + (day - 1).astype("timedelta64[D]")
    is_real = (month >= 1) & (month <= 12) & (day >= 1) & (days.astype("datetime64[M]") == months)
    return days.astype(np.float64), is_real


def _days_of_weeks(year: Numbers, week: Numbers, weekday: Numbers) -> tuple[Numbers, npt.NDArray[np.bool_]]:
    """Return days since 1970 of the weeks of ISO 8601, from Monday, 1, and whether a year has such a week."""

    def first_monday(year: Numbers) -> Numbers:
        fourth, _ = _days(year, np.ones(len(year)), np.full(len(year), 4.0))  # it is always in the first week
        return fourth - (fourth + 3) % 7  # the first day of 1970 was a Thursday

    days = first_monday(year) + 7 * (week - 1) + weekday - 1
    return days, (week >= 1) & (days < first_monday(year + 1))
