# Every error of the optimizer. Each is also the builtin that a torch user would catch.
#
#   WarpAdamError
#   ├── InvalidConfigError(ValueError)       a hyper-parameter out of range, or an illegal combination
#   ├── UnsupportedParameterError(TypeError) a sparse or complex tensor
#   ├── WarpFileError(ValueError)            a file that holds no P, or no longer the one that was saved
#   └── WarpMismatchError(ValueError)        a P that does not fit the optimizer it is given to
"""Errors raised by warpadam."""

from __future__ import annotations


class WarpAdamError(Exception):
    """Base of every error of this package."""


class InvalidConfigError(WarpAdamError, ValueError):
    """A hyper-parameter is out of range, or the strategy is not a legal combination.

    Attributes:
        field: Name of the offending :class:`~warpadam.config.WarpAdamConfig` field.
        value: The value that was given.
        expected: What would be right.
    """

    def __init__(self, field: str, value: object, expected: str) -> None:
        super().__init__(f"{field}={value!r} is not valid: expected {expected}")
        self.field = field
        self.value = value
        self.expected = expected


class UnsupportedParameterError(WarpAdamError, TypeError):
    """A parameter or its gradient is of a kind that WarpAdam cannot step."""


class WarpFileError(WarpAdamError, ValueError):
    """A file does not hold a saved P, or its content is no longer what was saved."""


class WarpMismatchError(WarpAdamError, ValueError):
    """A P does not fit the optimizer it is given to.

    Attributes:
        mismatches: One line for each thing that does not fit.
    """

    def __init__(self, mismatches: tuple[str, ...]) -> None:
        super().__init__("this P does not fit the optimizer:\n" + "\n".join(f"  {line}" for line in mismatches))
        self.mismatches = mismatches
