# Autocast is meant for a model's forward pass. An optimizer that is stepped inside it would have its matrix products
# rounded to half precision, against a state in fp32.
"""A step in the precision of its state."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def without_autocast(device_types: Iterable[str]) -> Iterator[None]:
    """Switch autocast off, where it is on.

    Args:
        device_types: Of the tensors that are computed with, for example ``cuda``; repetitions are fine.
    """
    with ExitStack() as stack:
        for device_type in set(device_types):
            if torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type):
                stack.enter_context(torch.autocast(device_type, enabled=False))
        yield
