from __future__ import annotations

import mmap
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service import processes
from service.errors import UnavailableError
from service.processes import MAX_WAITING, Turns, how_it_ended, memory_bytes, oom_kills


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


def test_a_container_has_no_more_memory_than_it_is_given(counter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "MEMORY_LIMITS", (f"{counter.parent.parent}{{}}/memory.max",))
    physical = processes.machine_memory_bytes()
    assert physical == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = counter.with_name("memory.max")
    for text, expected in (("max\n", physical), (f"{1 << 28}\n", 1 << 28), (f"{2 * physical}\n", physical)):
        limit.write_text(text)
        assert processes.machine_memory_bytes() == expected


def test_only_some_wait_for_their_turn() -> None:
    turns, released = Turns(at_once=2), threading.Event()

    def take() -> None:
        with turns.take("others run", 60):
            released.wait()

    with ThreadPoolExecutor(2 + MAX_WAITING) as threads:
        taken = [threads.submit(take) for _ in range(2 + MAX_WAITING)]
        while turns._here._value:
            time.sleep(0.01)
        with pytest.raises(UnavailableError, match="8 other requests wait: others run"), turns.take("others run", 60):
            pass
        released.set()
    assert all(turn.exception() is None for turn in taken)
    with turns.take("others run", 0):
        pass


def test_a_turn_that_does_not_come_in_time_is_refused() -> None:
    turns = Turns()
    with (
        turns.take("others run", 60),
        pytest.raises(UnavailableError, match=r"others run for 0\.01 seconds"),
        turns.take("others run", 0.01),
    ):
        pass
    with turns.take("others run", 0):
        pass


def test_the_memory_of_a_process_is_its_own(tmp_path: Path) -> None:
    before = memory_bytes(os.getpid())  # not by bytearray: that may be memory that the process has already
    with mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as taken:
        taken.write(bytes(64 << 20))
        assert memory_bytes(os.getpid()) > before + (60 << 20)
    assert not memory_bytes(2**22 + 1)
