from __future__ import annotations

from pathlib import Path

import pytest

from service import processes
from service.processes import how_it_ended, oom_kills


@pytest.fixture
def counter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which the kernel counts, for the cgroup /box."""
    (tmp_path / "cgroups").write_text("4:cpu:/other\n0::/box\n")
    monkeypatch.setattr(processes, "CGROUPS", tmp_path / "cgroups")
    monkeypatch.setattr(processes, "OOM_COUNTERS", (f"{tmp_path}{{}}/memory.events",))
    (tmp_path / "box").mkdir()
    return tmp_path / "box/memory.events"


def test_a_process_that_the_kernel_killed_for_its_memory_is_told_from_one_that_was_killed_otherwise(
    counter: Path,
) -> None:
    counter.write_text("low 0\noom 4\noom_kill 2\noom_group_kill 9\n")
    before = oom_kills()
    assert before == 2
    assert how_it_ended(-9, before) == "was killed (signal 9)"
    counter.write_text("low 0\noom 5\noom_kill 3\noom_group_kill 9\n")
    assert how_it_ended(-9, before) == "was killed because memory ran out (signal 9)"
    assert how_it_ended(-11, before) == "was killed (signal 11, SIGSEGV)"


def test_where_the_kernel_does_not_say_it_only_often_was_the_memory(counter: Path) -> None:
    assert oom_kills() is None
    assert how_it_ended(-9, oom_kills()) == "was killed (signal 9); often out of memory"
    processes.CGROUPS.unlink()
    assert oom_kills() is None
