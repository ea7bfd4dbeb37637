"""Keeps autocast out of a step.

Autocast is meant for a model's forward pass. In an optimizer step it would round matrix products to half precision
although the state is fp32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache

import torch


@contextmanager
def without_autocast() -> Iterator[None]:
    """Switch autocast off where it is on: for the CPU, and for the accelerator of this process."""
    with ExitStack() as stack:
        for device_type in _device_types():
            if torch.is_autocast_enabled(device_type):
                stack.enter_context(torch.autocast(device_type, enabled=False))
        yield


@cache
def _device_types() -> tuple[str, ...]:
    accelerator = torch.accelerator.current_accelerator()
    return ("cpu",) if accelerator is None else ("cpu", accelerator.type)
