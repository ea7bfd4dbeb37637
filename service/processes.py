"""Child processes: what the machine has for them, how many run at once, the memory that one takes, and how it ended.

Children of the API run user code, time steps and read files. Requests wait for their turn in :class:`Turns`.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from service.errors import UnavailableError

MAX_WAITING: Final = 8
"""Threads that may wait for one kind of child process. The API has 40 threads for all requests."""

MOST_CPUS: Final = 8192
"""CPUs that a kernel can have. Source: Linux, arch/x86/Kconfig, NR_CPUS."""

OOM_COUNTERS: Final = ("/sys/fs/cgroup{}/memory.events", "/sys/fs/cgroup/memory{}/memory.oom_control")
"""Files of the kernel with the number of processes of a cgroup that it killed because memory ran out."""

MEMORY_LIMITS: Final = ("/sys/fs/cgroup{}/memory.max", "/sys/fs/cgroup/memory{}/memory.limit_in_bytes")
"""Files of the kernel with the most memory that a cgroup may take; ``max`` for all that there is."""

CGROUPS: Final = Path("/proc/self/cgroup")

OWN_MEMORY: Final = re.compile(r"^RssAnon:\s*(\d+) kB", re.MULTILINE)
"""How the kernel says how much memory is a process's own."""


def memory_bytes(pid: int | None) -> int:
    """Return the bytes of memory that are a process's own; 0 if it has ended.

    Files that it maps are not counted: the kernel takes their memory back when it is needed.

    Source: Linux, Documentation/filesystems/proc.rst, ``RssAnon`` of ``/proc/PID/status``.
    """
    try:
        found = OWN_MEMORY.search(Path(f"/proc/{pid}/status").read_text(errors="replace"))
    except OSError:
        return 0
    return int(found[1]) << 10 if found else 0


def oom_kills() -> int | None:
    """Return how many processes of this cgroup were killed because memory ran out; None if that cannot be read."""
    return next(_numbers_of_cgroup(OOM_COUNTERS, r"^oom_kill (\d+)$"), None)


def machine_cpus() -> int:
    """Return the CPUs that this process may run on."""
    return len(os.sched_getaffinity(0))


def usable_cpus() -> frozenset[int]:
    """Return the CPUs that processes of this one can be given: more than its own, if it was started on some of them."""

    def ask() -> frozenset[int]:
        os.sched_setaffinity(0, range(MOST_CPUS))  # of this thread only; the kernel takes those that there are
        return frozenset(os.sched_getaffinity(0))

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(ask).result()


def require_cpus(cpus: frozenset[int] | None) -> None:
    """Check that processes of this one can be given the CPUs that the operator names for slots.

    Raises:
        OSError: The machine does not have all of them, or this process may not use them.
    """
    if cpus is not None and (missing := sorted(cpus - (usable := usable_cpus()))):
        raise OSError(
            f"WARPTUNE_SLOT_CPUS names the CPUs {_numbers(missing)}, which this process cannot use: it may use "
            f"{_numbers(sorted(usable))}"
        )


def run_on(cpus: Iterable[int] | None) -> None:
    """Let this process, and what it will start, run on some CPUs only. None changes nothing."""
    if cpus is not None:
        for thread in Path("/proc/self/task").iterdir():  # libraries may have started some when they were imported
            with suppress(ProcessLookupError):  # it has ended
                os.sched_setaffinity(int(thread.name), cpus)


def _numbers(numbers: Sequence[int]) -> str:
    """Return sorted numbers as taskset writes them.

    >>> _numbers([0, 4, 5, 6])
    '0,4-6'
    """
    starts = [number for number in numbers if number - 1 not in numbers]
    ends = [number for number in numbers if number + 1 not in numbers]
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))


def machine_memory_bytes() -> int:
    """Return the memory that this process and its children can have: of the machine, or of a container on it."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([physical, *_numbers_of_cgroup(MEMORY_LIMITS, r"^(\d+)$")])


def _numbers_of_cgroup(files: Iterable[str], pattern: str) -> Iterator[int]:
    """Yield the numbers that files of the kernel have for the cgroup of this process, and for the one at the top.

    Source: Linux, Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.
    """
    try:
        groups = [line.split(":", 2) for line in CGROUPS.read_text().splitlines()]
    except OSError:
        return
    own = [path for _, controllers, path in groups if controllers in ("", "memory")]
    for file in (form.format(path.rstrip("/")) for path in (*own, "") for form in files):
        try:
            found = re.search(pattern, Path(file).read_text(), re.MULTILINE)
        except OSError:
            continue
        if found:
            yield int(found[1])


def how_it_ended(exit_code: int | None, oom_kills_before: int | None) -> str:
    """Return how a process ended, as a clause that follows its name.

    Args:
        exit_code: Its exit code, or minus the number of a signal; None if it has not ended.
        oom_kills_before: What :func:`oom_kills` returned when it was started.

    >>> how_it_ended(3, None)
    'ended with exit code 3'
    >>> how_it_ended(-11, None)
    'was killed (signal 11, SIGSEGV)'
    """
    if exit_code is None:
        return "closed its connection"
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    number = -exit_code
    if number != signal.SIGKILL:
        known = number in set(signal.Signals)
        return f"was killed (signal {number}{f', {signal.Signals(number).name}' if known else ''})"
    now = oom_kills()
    if now is None or oom_kills_before is None:
        return "was killed (signal 9); often out of memory"
    return "was killed because memory ran out (signal 9)" if now > oom_kills_before else "was killed (signal 9)"


@contextmanager
def process_group(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """Start a child as ``subprocess.Popen`` does. At the end it is killed, and with it every process of its group."""
    with subprocess.Popen(command, start_new_session=True, **options) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


class Turns:
    """Lets a number of child processes run at once, and only ``MAX_WAITING`` threads wait for one."""

    def __init__(self, at_once: int = 1) -> None:
        self._running = threading.BoundedSemaphore(at_once)
        self._here = threading.BoundedSemaphore(at_once + MAX_WAITING)

    @contextmanager
    def take(self, what: str, limit_s: float) -> Iterator[None]:
        """Wait for a turn.

        Args:
            what: What other requests are doing, for the error.
            limit_s: Longest time to wait.

        Raises:
            UnavailableError: Too many wait already, or none had a turn in time.
        """
        if not self._here.acquire(blocking=False):
            raise UnavailableError(f"{MAX_WAITING} other requests wait: {what}. Send the request again in a while")
        try:
            if not self._running.acquire(timeout=limit_s):
                raise UnavailableError(f"{what} for {limit_s:g} seconds. Send the request again in a while")
            try:
                yield
            finally:
                self._running.release()
        finally:
            self._here.release()
