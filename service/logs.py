"""The log of the service's processes: how its lines look, and what they are about.

Only the main function of a process calls :func:`configure`; imports never do. What :func:`about` and :func:`remember`
are told is in every line of their thread or task, and of what it awaits or runs in a thread of the pool.
"""

from __future__ import annotations

import logging
import logging.config
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, Final

from service.settings import LogSettings

_STANDARD: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


_FACTS: Final[ContextVar[Mapping[str, object]]] = ContextVar("facts", default=MappingProxyType({}))


def remember(**facts: object) -> None:
    """Add facts to every later log line of this task or thread."""
    _FACTS.set({**_FACTS.get(), **facts})


@contextmanager
def about(**facts: object) -> Iterator[None]:
    """Add facts to the log lines of a ``with`` block."""
    token = _FACTS.set({**_FACTS.get(), **facts})
    try:
        yield
    finally:
        _FACTS.reset(token)


def request_id() -> str | None:
    """Return the id of the request that is answered here; None outside of requests."""
    found = _FACTS.get().get("request_id")
    return None if found is None else str(found)


class FactsFilter(logging.Filter):
    """Adds the facts that are remembered to a record. It leaves out none."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add them, where the line itself does not say something else."""
        for name, value in _FACTS.get().items():
            if value is not None:
                record.__dict__.setdefault(name, value)
        return True


class TextFormatter(logging.Formatter):
    """Writes the message, then everything in ``extra`` as key=value, on one line. Lines of a traceback are indented.

    So nothing that a user sends can look like a line of its own.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is that of logging.Formatter
        """Return the first line."""
        facts = [f"{key}={value}" for key, value in record.__dict__.items() if key not in _STANDARD and key[0] != "_"]
        line = " ".join([super().formatMessage(record), *facts])
        if line.isprintable():  # nearly always, and a look at each character takes longer than all the rest
            return line
        return "".join(char if char.isprintable() else repr(char)[1:-1] for char in line)

    def formatException(self, ei: Any) -> str:  # noqa: N802
        """Return the traceback, indented."""
        return textwrap.indent(super().formatException(ei), "  ")


def configure(settings: LogSettings) -> None:
    """Send the log of this process to standard error, as text or as one JSON object a line."""
    json_format = "%(asctime)s %(levelname)s %(name)s %(message)s"
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {
                "text": {"()": TextFormatter, "fmt": "%(asctime)s %(levelname)-7s %(name)s: %(message)s"},
                "json": {"()": "pythonjsonlogger.json.JsonFormatter", "format": json_format},
            },
            "filters": {"facts": {"()": FactsFilter}},
            "handlers": {
                "stderr": {"class": "logging.StreamHandler", "formatter": settings.log_format, "filters": ["facts"]}
            },
            "root": {"level": settings.log_level, "handlers": ["stderr"]},
            "loggers": {
                "alembic": {"level": "WARNING"},
                "uvicorn": {"level": "WARNING"},
                "httpx2": {"level": "WARNING"},
            },
        }
    )


def tame_optuna() -> None:
    """Send Optuna's warnings to our log instead of to Optuna's own handler."""
    import optuna

    optuna.logging.disable_default_handler()
    optuna.logging.enable_propagation()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
