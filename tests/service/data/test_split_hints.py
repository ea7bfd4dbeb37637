# A table that looks like one of times or of groups gets a hint how to split it; a job that has decided gets none.
from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from service.data.facts import column_uses
from service.spec.data import DatasetSpec
from tests.service.data import files
from tests.service.data.tables import LABELS, NUMBERS, ROWS, replaced, written
from tests.service.data.test_reading import read

START = dt.datetime(2024, 1, 13, 9, 5)
TIMES = [START + dt.timedelta(hours=7 * row) for row in range(ROWS)]
SHUFFLED = [TIMES[row * 7 % ROWS] for row in range(ROWS)]
PATIENTS = [f"P{row // 6:02d}" for row in range(ROWS)]


def hints(folder: Path, name: str, values: Sequence[Any], **spec: Any) -> list[str]:
    """What is said about one column of a table."""
    return hints_of(folder, name, written([name, "x", "label"], [values, NUMBERS, LABELS]).encode(), "table.csv", spec)


def hints_of(folder: Path, name: str, content: bytes, filename: str, spec: dict[str, Any]) -> list[str]:
    facts = read(content, folder, filename)
    uses = {use.name: use for use in column_uses(facts, DatasetSpec.model_validate({"id": "ds-1"} | spec))}
    return [note for note in uses[name].warnings if "dataset.split" in note]


BY_TIME: dict[str, tuple[str, Sequence[Any]]] = {
    "ISO": ("when", TIMES),
    "the newest first": ("when", TIMES[::-1]),
    "ISO with zones": ("when", [f"{time.isoformat()}+01:00" for time in TIMES]),
    "days": ("x_day", [time.date() for time in TIMES]),
    "German": ("Messzeit", [time.strftime("%d.%m.%Y, %H:%M Uhr") for time in TIMES]),
    "a web server": ("at", [time.strftime("[%d/%b/%Y:%H:%M:%S +0100]") for time in TIMES]),
    "compact": ("at", [time.strftime("%Y%m%dT%H%M%SZ") for time in TIMES]),
    "RFC 2822": ("at", [time.strftime("%a, %d %b %Y %H:%M:%S GMT") for time in TIMES]),
    "a log": ("at", [time.strftime("%Y-%m-%d %H:%M:%S,123") for time in TIMES]),
    "seconds since 1970": ("timestamp", [int(time.timestamp()) for time in TIMES]),
    "seconds since the start": ("time", [row * 0.25 for row in range(ROWS)]),
    "in another order": ("created_at", SHUFFLED),
    "a time is missing": ("when", replaced(TIMES, {5: ""})),
}


@pytest.mark.parametrize("case", BY_TIME)
def test_times_of_rows_are_a_hint_to_split_by_them(tmp_path: Path, case: str) -> None:
    name, values = BY_TIME[case]
    (hint,) = hints(tmp_path, name, list(map(str, values)))
    assert f"say {{by: time, column: {name}}} in dataset.split" in hint
    assert ("in the order of this column" in hint) == (case != "in another order")


NEITHER: dict[str, tuple[str, Sequence[Any]]] = {
    "dates of birth": ("birth_date", [time.date() for time in TIMES]),
    "dates in no order": ("visited", SHUFFLED),
    "sorted numbers": ("weight", sorted(NUMBERS)),
    "numbers of a time in no order": ("lead_time", NUMBERS),
    "ids of one row": ("patient_id", range(ROWS)),
    "few groups": ("site_id", [row % 3 for row in range(ROWS)]),
    "the same cities": ("city", [f"city {row % 12}" for row in range(ROWS)]),
    "numbers of stays": ("hospital", [row % 9 for row in range(ROWS)]),
    "numbers of visits": ("n_visit", [row * 7 % 6 for row in range(ROWS)]),
    "fractions": ("customer_id", [row % 7 + 0.5 for row in range(ROWS)]),
}


@pytest.mark.parametrize("case", NEITHER)
def test_other_columns_give_no_hint(tmp_path: Path, case: str) -> None:
    name, values = NEITHER[case]
    assert hints(tmp_path, name, list(map(str, values))) == []


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("patient_id", PATIENTS),
        ("Patient", PATIENTS),
        ("customerID", [70_000 + row // 4 for row in range(ROWS)]),
        ("subject", [f"{row % 12} {row % 12}" for row in range(ROWS)]),
        ("member_nr", [row % 9 for row in range(ROWS)]),
        ("subject", [1 + row % 9 for row in range(ROWS)]),
        ("Kunde", [f"{row % 15:04d}" for row in range(ROWS)]),
    ],
)
def test_what_several_rows_belong_to_is_a_hint_to_split_by_it(tmp_path: Path, name: str, values: Sequence[Any]) -> None:
    (hint,) = hints(tmp_path, name, values)
    assert f"{len(set(values))} values in 60 rows: say {{by: group, column: {name}}} in dataset.split" in hint


@pytest.mark.parametrize(
    "spec",
    [
        {"split": {"by": "time", "column": "when"}},
        {"split": {"by": "group", "column": "x"}},
        {"target": "when"},
        {"exclude": ["when"]},
        {"columns": {"when": "ignore"}},
    ],
)
def test_a_job_that_has_decided_gets_no_hint(tmp_path: Path, spec: dict[str, Any]) -> None:
    assert hints(tmp_path, "when", TIMES, **spec) == []


def test_times_of_a_file_with_types_are_a_hint_too(tmp_path: Path) -> None:
    (hint,) = hints_of(tmp_path, "when", files.table(when=TIMES, x=NUMBERS, label=LABELS), "table.parquet", {})
    assert "say {by: time, column: when} in dataset.split" in hint


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("time", [time.strftime("%b %d %H:%M:%S") for time in TIMES], "times that cannot be read: write them as 2024"),
        ("quarter_date", [f"{time.year}Q{time.month // 4 + 1}-{time.day}" for time in TIMES], "cannot be read"),
        ("Messdatum", [str(45_300 + row) for row in range(ROWS)], "may count days as Excel does: write them as 2024"),
        ("date", [time.strftime("%Y%m%d") for time in TIMES], "dates such as 20240113: say date in dataset.columns"),
    ],
)
def test_times_that_are_not_read_are_named(tmp_path: Path, name: str, values: list[str], expected: str) -> None:
    facts = read(written([name, "x", "label"], [values, NUMBERS, LABELS]).encode(), tmp_path)
    assert expected in " ".join(facts.columns[0].warnings)
