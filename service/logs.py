"""Configures the log of the service's processes. Only the command line calls this; imports never do."""

from __future__ import annotations

import logging
import logging.config
import textwrap
from typing import Any, Final

from service.settings import Settings

_STANDARD: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class TextFormatter(logging.Formatter):
    """Writes the message, then everything in ``extra`` as key=value, on one line. Lines of a traceback are indented.

    So nothing that a user sends can look like a line of its own.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is that of logging.Formatter
        """Return the first line."""
        facts = [f"{key}={value}" for key, value in record.__dict__.items() if key not in _STANDARD and key[0] != "_"]
        line = " ".join([super().formatMessage(record), *facts])
        return "".join(char if char.isprintable() else repr(char)[1:-1] for char in line)

    def formatException(self, ei: Any) -> str:  # noqa: N802
        """Return the traceback, indented."""
        return textwrap.indent(super().formatException(ei), "  ")


def configure(settings: Settings) -> None:
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
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": settings.log_format}},
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
