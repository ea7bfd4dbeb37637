"""Makes Markdown of docstrings for mkdocstrings: fences around examples, which begin with ``>>>``, and no roles."""

from __future__ import annotations

import re
from typing import Any, Final

import griffe

ROLE: Final = re.compile(r":\w+:`")
"""What reStructuredText has before a name in code: ``:class:`Warp```."""

EXAMPLE: Final = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)
"""An example with what it prints: up to the next empty line."""


class FenceExamples(griffe.Extension):
    """Puts a fence around each example, and removes roles."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the docstring of an object when it is read."""
        if obj.docstring:
            text = ROLE.sub("`", obj.docstring.value)
            obj.docstring.value = EXAMPLE.sub(lambda found: f"```pycon\n{found[0]}\n```", text)
