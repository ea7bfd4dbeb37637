# The scale benchmark, small: every measurement runs, and the search does what a real one does.
from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.scale.measures import Bench, make_spec
from benchmarks.scale.simulation import POINTS


def test_the_curves_have_as_many_points_as_real_ones() -> None:
    from service.training.loop import POINTS as REAL

    assert POINTS == REAL


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
