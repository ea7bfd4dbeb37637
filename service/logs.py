"""Configures the log of the service's processes. Only the command line calls this; imports never do."""

from __future__ import annotations

import logging
import logging.config
from typing import Final

from service.settings import Settings

_STANDARD: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class TextFormatter(logging.Formatter):
    """Writes the message, then everything in ``extra`` as key=value.

    A value with a line break, such as the path of a request, is escaped, so that nobody can write lines of their own.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        given = {key: str(value) for key, value in record.__dict__.items() if key not in _STANDARD}
        facts = [f"{key}={value if value.isprintable() else repr(value)}" for key, value in given.items()]
        first, *rest = super().format(record).split("\n")
        return "\n".join([" ".join([first, *facts]), *rest])


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
