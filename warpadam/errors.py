"""Every error of warpadam. Each is also the builtin exception that a torch user would catch.

WarpAdamError
├── CudaGraphError(RuntimeError)           a step while a CUDA graph is captured
├── InvalidConfigError(ValueError)         a setting is out of range, or settings do not go together
├── UnsupportedParameterError(TypeError)   a tensor is sparse, complex, or sharded in an unknown way
├── WarpFileError(ValueError)              the file holds no P, or was changed after it was saved
└── WarpMismatchError(ValueError)          a P or a saved state does not fit the optimizer it is given to
"""

from __future__ import annotations

import reprlib
from typing import Final

from typing_extensions import override

_MAX_LINES: Final = 20
"""Most lines of one message."""


class _Repr(reprlib.Repr):
    """Shortens values; an int that Python refuses to write, being of over 4,300 digits, gets words."""

    @override
    def repr_int(self, x: int, level: int) -> str:
        try:
            return super().repr_int(x, level)
        except ValueError:
            return f"a whole number of {x.bit_length():,} bits"


_repr: Final = _Repr()
_repr.maxstring = _repr.maxlong = _repr.maxother = 200


def field_text(field: str, value: object, message: str, hint: str | None) -> str:
    """Return one line about a wrong field: its name, what is wrong, the value, and what to do.

    >>> field_text("lr", -1, "must be at least 0", None)
    'lr: must be at least 0 (got -1)'
    >>> field_text("preset", "quik", "must be one of default, quick", "Did you mean 'quick'?")
    "preset: must be one of default, quick (got 'quik'). Did you mean 'quick'?"
    """
    got = "" if value is None else f" (got {_repr.repr(value)})"
    return f"{field}: {message}{got}" + ("" if hint is None else f". {hint}")


class WarpAdamError(Exception):
    """Base of every error of this package."""


class InvalidConfigError(WarpAdamError, ValueError):
    """A setting is out of range, or settings do not go together.

    Attributes:
        field: Name of the setting, as in :class:`~warpadam.WarpAdamConfig`.
        value: The value that was given.
        message: What is wrong, as a clause that follows the field's name: ``must be at least 0``.
        hint: What to do about it, as a sentence; None if the message says enough.

    >>> print(InvalidConfigError("rank", 0, "must be a whole number of at least 1"))
    rank: must be a whole number of at least 1 (got 0)
    """

    def __init__(self, field: str, value: object, message: str, hint: str | None = None) -> None:
        super().__init__(field, value, message, hint)
        self.field = field
        self.value = value
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return field_text(self.field, self.value, self.message, self.hint)


class CudaGraphError(WarpAdamError, RuntimeError):
    """A step counts on the CPU and decides there when P is updated, so a CUDA graph cannot record it."""


class UnsupportedParameterError(WarpAdamError, TypeError):
    """WarpAdam cannot step a parameter or gradient of this kind."""


class WarpFileError(WarpAdamError, ValueError):
    """The file does not hold a saved P, or was changed after it was saved."""


class WarpMismatchError(WarpAdamError, ValueError):
    """A P, or a saved state, does not fit the optimizer it is given to.

    Attributes:
        mismatches: One line for each thing that does not fit.
        what: What does not fit: ``P`` or ``state``.
    """

    def __init__(self, mismatches: tuple[str, ...], what: str = "P") -> None:
        super().__init__(mismatches, what)
        self.mismatches = mismatches
        self.what = what

    def __str__(self) -> str:
        lines = [f"this {self.what} does not fit the optimizer:", *self.mismatches[:_MAX_LINES]]
        left = len(self.mismatches) - _MAX_LINES
        return "\n  ".join(lines + ([f"and {left:,} more"] if left > 0 else []))
