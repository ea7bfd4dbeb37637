"""Times calls on the device, and reads its memory."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Final

import torch

from benchmarks.gpu.sizes import FAKE

GIB: Final = 2**30


def call_ms(call: Callable[[], object], count: int) -> list[float]:
    """Return the milliseconds of each of ``count`` calls, one after the other, on the device's own clock."""
    if FAKE:
        marks = [time.perf_counter()]
        for _ in range(count):
            call()
            marks.append(time.perf_counter())
        return [(after - before) * 1e3 for before, after in pairwise(marks)]
    events = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    events[0].record()
    for event in events[1:]:
        call()
        event.record()
    torch.cuda.synchronize()
    return [before.elapsed_time(after) for before, after in pairwise(events)]


def seconds_now() -> float:
    """Return a time in seconds, after the device has finished what it was given."""
    if not FAKE:
        torch.cuda.synchronize()
    return time.perf_counter()


def allocated_gib() -> float | None:
    """Return the memory of all tensors on the device; None on the CPU."""
    return None if FAKE else torch.cuda.memory_allocated() / GIB


def peak_gib() -> float | None:
    """Return the most memory of tensors since :func:`forget_peak`; None on the CPU."""
    return None if FAKE else torch.cuda.max_memory_allocated() / GIB


def free_memory() -> None:
    """Give back what earlier jobs of this process left behind."""
    gc.collect()
    if not FAKE:
        torch.cuda.empty_cache()


def forget_peak() -> None:
    """Start to measure the peak again."""
    if not FAKE:
        torch.cuda.reset_peak_memory_stats()
