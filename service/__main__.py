"""The command ``warptune``, which is also ``python -m service``.

The base install has only the optimizer. Without the extra ``service``, this says what to install.
"""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Run the command line."""
    try:
        _run()
    except KeyboardInterrupt:  # while the command line loads; afterwards, typer handles it
        sys.exit(128 + signal.SIGINT)


def _run() -> None:
    try:
        from service.cli.app import app
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in ("service", "search_spaces", "warpadam"):
            raise
        sys.exit(f"error: warptune needs {error.name}; install the service: pip install '.[service]' in your clone")
    app(prog_name="warptune")


if __name__ == "__main__":
    main()
