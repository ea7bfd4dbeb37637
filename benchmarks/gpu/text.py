"""Real text that needs no download: Python's help topics, and the Python source of its library and of torch."""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from pydoc_data.topics import topics
from typing import Final, NamedTuple

import torch
from torch import Tensor

from benchmarks.gpu.sizes import SIZES

HELD_OUT: Final = 10
"""Every tenth document is for validation."""

_LEFT_OUT: Final = {"site-packages", "dist-packages", "test", "tests", "__pycache__"}


class Text(NamedTuple):
    """Bytes as tokens.

    Attributes:
        train: Training text, uint8, one axis.
        held_out: Validation text, the same.
        digest: First digits of the sha256 of both. Losses are comparable only where it is the same.
    """

    train: Tensor
    held_out: Tensor
    digest: str


@cache
def read_text() -> Text:
    """Read documents until there is as much text as the sizes ask for."""
    parts: tuple[bytearray, bytearray] = (bytearray(), bytearray())
    for index, document in enumerate(_documents()):
        parts[index % HELD_OUT == 0].extend(document)
        if sum(map(len, parts)) >= SIZES.text_bytes:
            break
    digest = hashlib.sha256(parts[0] + parts[1]).hexdigest()[:12]
    train, held_out = (torch.frombuffer(part, dtype=torch.uint8) for part in parts)
    return Text(train, held_out, digest)


def _documents() -> Iterator[bytes]:
    yield from (topics[name].encode() for name in sorted(topics))
    for folder in (Path(sysconfig.get_path("stdlib")), Path(torch.__file__).parent):
        for path in sorted(folder.rglob("*.py")):
            if not _LEFT_OUT.intersection(path.relative_to(folder).parts):
                yield path.read_bytes()
