# The scale benchmark, small: every measurement runs, and the search does what a real one does.
from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from benchmarks.scale import page, throughput
from benchmarks.scale.measures import Bench, database, make_spec
from benchmarks.scale.simulation import POINTS


def test_the_curves_have_as_many_points_as_real_ones() -> None:
    from service.training.loop import POINTS as REAL

    assert POINTS == REAL


@pytest.mark.slow
@pytest.mark.browser
def test_the_page_of_a_job_with_200_trials_is_measured_while_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "VISITS", 2)
    monkeypatch.setattr(page, "LIVE_S", 5.0)
    figures = page.measure(200, 4)
    for name in ("arrived", "drawn", "loaded", "kilobytes"):
        assert 0 < figures["load"][name]["median"] <= figures["load"][name]["max"], name
    for name in ("live", "live_on_a_slow_machine"):
        assert figures[name]["refreshes"] > 0, name
        assert figures[name]["trials_per_s"] > 0, name


@pytest.mark.slow
@pytest.mark.browser
def test_a_page_that_does_not_answer_its_reader_is_noticed() -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        shown = browser.new_page()
        shown.add_init_script(page.WATCH)
        shown.goto("about:blank")
        shown.evaluate("() => { setTimeout(() => { const end = Date.now() + 200; while (Date.now() < end); }); }")
        shown.wait_for_timeout(1000)
        assert max(shown.evaluate("longTasks")) >= 150
        browser.close()


@pytest.mark.slow
def test_300_trials_from_100_slots_are_searched_read_resumed_and_rebuilt(database_url: str, tmp_path: Path) -> None:
    bench = Bench(database_url, str(tmp_path), make_spec(300, "random", "asha"))
    try:
        search = bench.search(100)
        assert search["trials"] == 300
        assert {"complete", "pruned", "diverged"} == set(search["states"])
        assert set(bench.http_ms(5)["the job"]) == {"median", "p95", "max"}
        assert bench.resume_s() > 0
        assert bench.rebuild_s() > 0
    finally:
        bench.close()


@pytest.mark.slow
def test_throughput_is_measured_beside_a_bare_route(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(throughput, "SECONDS", 0.5)
    monkeypatch.setattr(throughput, "ROUNDS", 1)
    with database("sqlite") as url:
        found = throughput.run(url, str(tmp_path), count=5, trials=20)
    assert set(found) == {"open", "writes", "keys"}
    for rows in found.values():
        assert list(rows) == ["bare", "jobs", "job", "trials"]
        assert rows["bare"]["of_bare"] == 1
        assert all(row["per_s"] > 0 and row["p50_ms"] <= row["p99_ms"] for row in rows.values())
