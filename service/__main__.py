"""The command ``warptune``, which is also ``python -m service``.

The base install has only the optimizer. Without the extra ``service``, this says what to install.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from typing import Final

AROUND: Final = 20
"""Characters before and after a wrong one that an error shows."""


def main() -> None:
    """Run the command line. What no command expects of files, names and outputs becomes one line."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as standard error: a name need not fit its encoding
    try:
        try:
            _run()
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # an output that is full is noticed here, not when Python ends
    except KeyboardInterrupt:  # while the command line loads; afterwards, typer handles it
        sys.exit(128 + signal.SIGINT)
    except UnicodeEncodeError as error:
        part = error.object[max(0, error.start - AROUND) : error.end + AROUND]
        advice = "in a terminal, a UTF-8 locale may help, such as LC_ALL=C.UTF-8"
        sys.exit(f"error: {part!r} cannot be sent or stored: it is not {error.encoding} text; {advice}")
    except OSError as error:
        if sys.stdout is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would write the rest once more
        where = "" if error.filename is None else f"{error.filename}: "
        sys.exit(1 if error.errno == errno.EPIPE else f"error: {where}{error.strerror or error}")


def _run() -> None:
    try:
        from service.cli.app import app
        from service.registry import PluginError
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in ("service", "search_spaces", "warpadam"):
            raise
        sys.exit(f"error: warptune needs {error.name}; install the service: pip install '.[service]' in your clone")
    try:
        app(prog_name="warptune")
    except PluginError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
