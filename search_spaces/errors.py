# The one error of this package. It is raised for a space that makes no sense, for values a space does not hold and
# for overrides that cannot be followed; `path` says where, so that a form can point at its field.
#
#   SearchSpaceError(ValueError)
"""Errors raised by search_spaces."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Final


class SearchSpaceError(ValueError):
    """A search space, a set of values or an override is not valid.

    Attributes:
        path: Where it is wrong, for instance ``p_lr.low`` or ``rank[1]``.
        value: The value that was given.
        expected: What would be right.

    >>> raise SearchSpaceError("rank", 0, "a whole number >= 1")
    Traceback (most recent call last):
    search_spaces.errors.SearchSpaceError: rank: 0 is not valid: expected a whole number >= 1
    """

    def __init__(self, path: str, value: object, expected: str) -> None:
        super().__init__(f"{path}: {value!r} is not valid: expected {expected}")
        self.path = path
        self.value = value
        self.expected = expected

    def __reduce__(self) -> tuple[type[SearchSpaceError], tuple[str, object, str]]:
        return type(self), (self.path, self.value, self.expected)

    def under(self, parent: str) -> SearchSpaceError:
        """Return the same error with its path below ``parent``.

        >>> SearchSpaceError("low", 2, "a number <= 1").under("p_lr").path
        'p_lr.low'
        """
        dot = "" if self.path.startswith("[") else "."
        return SearchSpaceError(f"{parent}{dot}{self.path}", self.value, self.expected)


LIKENESS: Final = 0.65
"""Likeness from which on a name is suggested: a letter too much, left out or swapped; iris is no misspelt digits."""


def one_of(given: object, known: Iterable[str]) -> str:
    """Say which names are known, and which of them ``given`` was probably meant to be.

    >>> one_of("defualt", ["default", "quick"])
    "one of default, quick (did you mean 'default'?)"
    >>> one_of("iris", ["digits", "wine"])
    'one of digits, wine'
    """
    names = list(known)
    close = difflib.get_close_matches(str(given), names, n=1, cutoff=LIKENESS)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"one of {', '.join(names)}{hint}"
