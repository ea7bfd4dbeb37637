"""What the tests of the command line share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from unittest.mock import patch

import pytest


@pytest.fixture(autouse=True)
def _own_environment() -> Iterator[None]:
    """Give each test a copy of the environment: a command that starts processes changes it for them."""
    with patch.dict(os.environ):
        yield
