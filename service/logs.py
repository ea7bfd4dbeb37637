# The only place that configures logging; called by the command line, never on import.
"""Logging of the service's processes."""

from __future__ import annotations

import logging
import logging.config
from typing import Final

from service.settings import Settings

_STANDARD: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class TextFormatter(logging.Formatter):
    """One readable line: the constant message, then the facts of ``extra`` as key=value."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        facts = [f"{key}={value}" for key, value in record.__dict__.items() if key not in _STANDARD]
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
    """Let Optuna's warnings go where ours go, instead of to a handler of its own."""
    import optuna

    optuna.logging.disable_default_handler()
    optuna.logging.enable_propagation()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
