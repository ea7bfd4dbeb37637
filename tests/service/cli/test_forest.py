# A forest plot in a terminal: aligned, at most 80 columns, and in plain characters where the terminal has no others.
from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from service.cli.display import show_recommendation
from service.cli.forest import draw_forest
from service.result.job_result import JobResult
from tests.service.results import NO_FINDINGS, STATISTICS, a_comparison, a_result


def result(**changes: Any) -> JobResult:
    statistics = STATISTICS.model_copy(update={"luck": 0.25, "luck_interval": (0.02, 0.28), "min_effect": 0.05})
    hurts = {"improvement": -0.1, "relative_improvement": -0.2, "interval": (-0.15, -0.05), "luck": 0.1}
    row = a_comparison(arm="sgd", improvement=-0.2, interval=(-0.2, -0.2), against_mean=0.5)
    fields = {
        "statistics": statistics,
        "at_equal_seconds": STATISTICS.model_copy(update=hurts),
        "findings": NO_FINDINGS.model_copy(update={"comparisons": [row]}),
    }
    return a_result(**fields | changes)


def test_every_row_shows_its_mean_interval_and_bands_on_one_scale() -> None:
    header, steps, time, sgd, *legend = draw_forest(result(), 80)
    zero = header.index("0", header.index("<"))
    assert header.startswith("against adamw  worse -40 % <")
    assert header.endswith("> +40 % better")
    assert steps.index("●") - zero == pytest.approx(0.3 / 0.4 * (zero - 15), abs=0.5)
    assert zero - time.index("●") == pytest.approx(0.2 / 0.4 * (zero - 15), abs=0.5)
    assert {line[zero] for line in (steps, time, sgd)} == {"│"}
    for row in (steps, time, sgd):
        assert row[zero - 2 : zero] == row[zero + 1 : zero + 3] == "▒▒"
    assert steps.count("░") > time.count("░") > sgd.count("░") == 0
    assert [row.split()[-2:] for row in (steps, time, sgd)] == [["+30", "%"], ["-20", "%"], ["-40", "%"]]
    assert sgd[15] == "●"
    assert legend == ["● mean  ━ 95 % interval  ▒ under 5 %: too small  ░ luck of two equal searches"]


@pytest.mark.parametrize("width", [200, 80, 60])
def test_no_line_is_wider_than_the_terminal_or_80_columns(width: int) -> None:
    lines = draw_forest(result(), width)
    assert len(lines) >= 5
    assert max(map(len, lines)) <= min(width, 80)
    assert len({len(line) for line in lines[1:4]}) == 1


def test_a_terminal_that_is_too_narrow_gets_no_plot() -> None:
    assert draw_forest(result(), 40) == []


def test_without_a_comparison_there_is_no_plot() -> None:
    assert draw_forest(a_result(statistics=None), 80) == []


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_terminal_without_unicode_gets_plain_characters(encoding: str) -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    show_recommendation(Console(file=file, width=80), result())
    file.flush()
    assert isinstance(file.buffer, io.BytesIO)
    shown = file.buffer.getvalue().decode(encoding)
    assert ("● mean" in shown) is (encoding == "utf-8")
    assert ("o mean" in shown) is (encoding == "ascii")
    assert max(map(len, shown.splitlines())) <= 80
