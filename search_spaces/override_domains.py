"""Reads the override of one parameter: a scalar fixes it, a list is a choice, ``low`` and ``high`` are a range.

This file checks that the values are legal for the parameter. ``overrides.py`` applies them to the whole space.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from search_spaces.domains import Choice, Domain, Float, Int, Scalar, is_scalar
from search_spaces.errors import SearchSpaceError, must_be_one_of, unknown_name
from warpadam.config import LIMITS

_RANGE_KEYS = ("low", "high", "log")


def domain_from(name: str, override: object, own: Domain | None) -> Domain:
    """Return the domain that ``override`` gives to a parameter.

    Args:
        name: Name of the parameter. The values must be legal for WarpAdam if it has a number of this name, and must lie
            within ``own`` otherwise.
        override: A scalar, a list of scalars, or ``{"low": .., "high": .., "log": ..}``.
        own: The domain that the parameter has so far; None if the space does not have it.

    Raises:
        SearchSpaceError: The override has another form, or a value that is not legal.

    >>> domain_from("p_lr", {"low": 0.01, "high": 0.2}, Float(low=0.001, high=0.1, log=True))
    Float(low=0.01, high=0.2, log=True)
    >>> domain_from("lr", 1, None)
    Choice(values=(1.0,))
    """
    if isinstance(override, Mapping):
        try:
            return _range(name, override, own)
        except SearchSpaceError as error:
            raise error.under(name) from None
    try:
        return Choice(values=tuple(_legal(name, value, own, path) for path, value in _items(name, override)))
    except SearchSpaceError as error:
        raise error.under(name) if error.path.startswith("[") else error from None


def names_from(name: str, override: object, known: Sequence[str]) -> tuple[str, ...]:
    """Return the names in ``override``, which is a name or a list of names.

    Args:
        name: What is overridden, for instance ``structure``.
        override: A name, or a list of names.
        known: The legal names.

    Raises:
        SearchSpaceError: The override is a range or an empty list, or has a repeated or unknown name.

    >>> names_from("structure", ["full", "diagonal"], ["diagonal", "full"])
    ('full', 'diagonal')
    """
    if isinstance(override, Mapping):
        raise SearchSpaceError(name, override, "must be a name or a list of names: it has no range")
    names: list[str] = []
    for path, value in _items(name, override):
        if not isinstance(value, str) or value not in known:
            raise SearchSpaceError(path, value, *must_be_one_of(value, known))
        if value in names:
            raise SearchSpaceError(path, value, "repeats a name; each may occur once")
        names.append(str(value))
    return tuple(names)


def _items(name: str, override: object) -> list[tuple[str, object]]:
    if not isinstance(override, list | tuple):
        return [(name, override)]
    if not override:
        raise SearchSpaceError(name, override, "must have at least one value")
    return [(f"{name}[{position}]", value) for position, value in enumerate(override)]


def _range(name: str, override: Mapping[object, object], own: Domain | None) -> Domain:
    for key, value in override.items():
        if key not in _RANGE_KEYS:
            raise SearchSpaceError(str(key), value, *unknown_name(key, _RANGE_KEYS))
    for end in ("low", "high"):
        if end not in override:
            raise SearchSpaceError(end, None, "is required", "A range has both ends, low and high.")
    if name not in LIMITS and not isinstance(own, Float | Int):
        raise SearchSpaceError(
            "low", override["low"], f"is not allowed: {name} has no range", "Give a value or a list."
        )
    log = override.get("log", own.log if isinstance(own, Float | Int) else False)
    low, high = (_legal(name, override[end], own, end) for end in ("low", "high"))
    kind: type[Float | Int] = Int if _is_whole(name, own) else Float
    return kind(low=low, high=high, log=log)  # type: ignore[arg-type]  # the domain checks what it is given


def _legal(name: str, value: object, own: Domain | None, path: str) -> Scalar:
    if name in LIMITS:
        legal, right = LIMITS[name].allows(value), str(LIMITS[name])
    else:
        legal, right = own is None or own.contains(value), str(own)
    if not legal:
        raise SearchSpaceError(path, value, f"must be {right}")
    if not is_scalar(value):
        raise SearchSpaceError(path, value, "must be a whole number of at most 2**53")
    if name == "lr" and value == 0 and path != "low":
        raise SearchSpaceError(path, value, "must be more than 0: with an lr of 0 nothing is trained")
    is_real = name in LIMITS and not LIMITS[name].whole
    return float(value) if is_real else value


def _is_whole(name: str, own: Domain | None) -> bool:
    return LIMITS[name].whole if name in LIMITS else isinstance(own, Int)
