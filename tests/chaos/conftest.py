"""The sample of the tests that CHAOS_SAMPLE names, such as 3/25: part 3 of 25, counted from 0."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

SHUFFLED_WITH = 0


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave only the sample. Each part has tests of every kind, because they are shuffled, always in the same way."""
    sample = os.environ.get("CHAOS_SAMPLE")
    if not sample:
        return
    index, count = map(int, sample.split("/"))
    here = [item for item in items if item.path.is_relative_to(Path(__file__).parent)]
    shuffled = random.Random(SHUFFLED_WITH).sample(here, len(here))
    left_out = {item.nodeid for i, item in enumerate(shuffled) if i % count != index % count}
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in left_out])
    items[:] = [item for item in items if item.nodeid not in left_out]
