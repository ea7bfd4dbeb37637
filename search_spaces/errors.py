"""The one error of search_spaces, and the words for an unknown name.

    SearchSpaceError(ValueError)

It is raised for a space that makes no sense, for values that a space does not hold, and for overrides that cannot be
followed. ``path`` says where, so that a form can point at its field.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Final

from warpadam.errors import field_text


class SearchSpaceError(ValueError):
    """A search space, a set of values or an override is not valid.

    Attributes:
        path: Where it is wrong, for instance ``p_lr.low`` or ``rank[1]``.
        value: The value that was given.
        message: What is wrong, as a clause that follows the path: ``must be at least 1``.
        hint: What to do about it, as a sentence; None if the message says enough.

    >>> raise SearchSpaceError("rank", 0, "must be at least 1")
    Traceback (most recent call last):
    search_spaces.errors.SearchSpaceError: rank: must be at least 1 (got 0)
    """

    def __init__(self, path: str, value: object, message: str, hint: str | None = None) -> None:
        super().__init__(path, value, message, hint)
        self.path = path
        self.value = value
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return field_text(self.path, self.value, self.message, self.hint)

    def under(self, parent: str) -> SearchSpaceError:
        """Return the same error with its path below ``parent``.

        >>> SearchSpaceError("low", 2, "must be at most 1").under("p_lr").path
        'p_lr.low'
        """
        dot = "" if self.path.startswith("[") else "."
        return SearchSpaceError(f"{parent}{dot}{self.path}", self.value, self.message, self.hint)


SIMILARITY: Final = 0.65
"""Similarity cutoff for "Did you mean ...?": one letter too many, missing or swapped passes; iris is not digits."""


def must_be_one_of(given: object, known: Iterable[str]) -> tuple[str, str | None]:
    """Return message and hint for a value that is not one of the known names.

    >>> must_be_one_of("defualt", ["default", "quick"])
    ('must be one of default, quick', "Did you mean 'default'?")
    >>> must_be_one_of("iris", ["digits", "wine"])
    ('must be one of digits, wine', None)
    """
    names = list(known)
    close = _closest(given, names)
    return f"must be one of {', '.join(names)}", None if close is None else f"Did you mean {close!r}?"


def unknown_name(given: object, known: Iterable[str]) -> tuple[str, str]:
    """Return message and hint for a field, key or parameter whose own name is not known.

    >>> unknown_name("rnk", ["rank", "lr"])
    ('is not a known name', "Did you mean 'rank'? The names are rank, lr.")
    """
    names = list(known)
    close = _closest(given, names)
    suggestion = "" if close is None else f"Did you mean {close!r}? "
    return "is not a known name", f"{suggestion}The names are {', '.join(names)}."


def _closest(given: object, names: list[str]) -> str | None:
    if not isinstance(given, str):
        return None
    return next(iter(difflib.get_close_matches(given, names, n=1, cutoff=SIMILARITY)), None)
