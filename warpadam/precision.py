"""Keeps settings that are meant for a model's forward pass out of a step.

In an optimizer step autocast would round matrix products to half precision although the state is fp32, and TF32 would
leave too few digits for an inverse root.
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


@contextmanager
def in_full_precision() -> Iterator[None]:
    """Compute matrix products of fp32 tensors in fp32, even if TF32 or bf16 is allowed for them."""
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
    allowed = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        yield
    finally:
        for backend, precision in zip(backends, allowed, strict=True):
            backend.fp32_precision = precision


@cache
def _device_types() -> tuple[str, ...]:
    accelerator = torch.accelerator.current_accelerator()
    return ("cpu",) if accelerator is None else ("cpu", accelerator.type)
