"""The options of commands that read a file of the user: how it is written, where the service cannot find out."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, Final, Literal

import typer


def _option(kind: Any, text: str, *names: str) -> Any:
    return Annotated[kind, typer.Option(*names, rich_help_panel="How the file is read", help=text)]


OPTIONS: Final = {
    "encoding": _option(str | None, "Encoding of a CSV file. Default: found."),
    "delimiter": _option(str | None, "What separates its cells, or tab. Default: found."),
    "header": _option(Literal["first", "none"] | None, "The first row has the names, or is data. Default: found."),
    "decimal": _option(str | None, "Decimal mark of a table: . or , Default: found."),
    "thousands": _option(str | None, "What separates thousands. Default: found."),
    "na_values": _option(
        list[str] | None, "Cell without a value, instead of NA, null and others; may be repeated.", "--na-value"
    ),
}
"""Parameter of an upload -> the option for it."""


def with_reading(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the ``OPTIONS``; it gets those that were given as the argument ``reading``."""
    signature = inspect.signature(command, eval_str=True)
    own = [parameter for name, parameter in signature.parameters.items() if name != "reading"]
    kind = inspect.Parameter.KEYWORD_ONLY
    more = [inspect.Parameter(name, kind, default=None, annotation=option) for name, option in OPTIONS.items()]

    @wraps(command)
    def run(**values: Any) -> None:
        given = {name: value for name in OPTIONS if (value := values.pop(name)) is not None}
        command(**values, reading=given)

    run.__signature__ = signature.replace(parameters=[*own, *more])  # type: ignore[attr-defined]
    return run
