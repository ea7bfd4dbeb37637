# The command line: starts processes, or talks to a running service through client.py. Heavy imports are inside the
# commands, so that `warptune show` does not wait for them.
"""The ``warptune`` command."""

from __future__ import annotations

import typer

from service.cli import data, jobs, processes, results
from service.cli.check import check

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Tune how WarpAdam's P is shaped and learned, and learn whether it helps.",
)

_PANELS = {
    "Processes": (processes.serve, processes.worker, processes.migrate),
    "Jobs": (jobs.submit, jobs.jobs, jobs.show, jobs.extend, jobs.cancel, jobs.delete),
    "Results": (results.export, results.report, results.replay),
    "Data and code": (data.upload, data.datasets, data.delete_dataset, check),
}

for panel, commands in _PANELS.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)
