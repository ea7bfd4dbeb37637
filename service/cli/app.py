"""The ``warptune`` command: it starts processes, or talks to a running service through client.py.

Heavy imports are inside the commands, so that ``warptune show`` does not wait for them.
"""

from __future__ import annotations

from typing import Annotated

import typer

from service.cli import data, jobs, processes, results
from service.cli.check import check
from service.cli.console import out
from service.version import VERSION

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        out.print(f"warptune {VERSION}", highlight=False)
        raise typer.Exit


@app.callback()
def warptune(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Tune WarpAdam's distortion matrix P on your task, and find out whether P helps.

    Start the service with `warptune serve`, then queue a job: `warptune submit examples/digits-mlp.yaml --watch`
    """


_PANELS = {
    "Processes": (processes.serve, processes.worker, processes.migrate),
    "Jobs": (jobs.submit, jobs.jobs, jobs.show, jobs.extend, jobs.cancel, jobs.delete),
    "Results": (results.export, results.report, results.replay),
    "Data and code": (data.upload, data.datasets, data.delete_dataset, check),
}

for panel, commands in _PANELS.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)
