"""The ``warptune`` command: it starts processes, or talks to a running service through client.py.

Heavy imports are inside the commands, so that ``warptune show`` does not wait for them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from service.cli import backup, doctor, keys, offline, remote, serve, tune
from service.cli.console import say
from service.version import VERSION

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]}
)


def _show_version(wanted: bool) -> None:
    if wanted:
        say(f"warptune {VERSION}")
        raise typer.Exit


@app.callback()
def warptune(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Tune WarpAdam's distortion matrix P on your task, and find out whether P helps.

    On a file of your own: `warptune tune churn.csv --target churned`
    """


_PANELS: dict[str, tuple[Callable[..., None], ...]] = {
    "Start here": (tune.tune, tune.init, offline.examples),
    "Processes": (
        *(serve.serve, serve.worker, serve.migrate, doctor.doctor),
        *(backup.backup, backup.restore, backup.verify, remote.audit),
    ),
    "Jobs": (
        remote.submit,
        remote.jobs,
        remote.show,
        remote.watch,
        remote.logs,
        remote.extend,
        remote.stop,
        remote.pause,
        remote.resume,
        remote.cancel,
        remote.retry,
        remote.delete,
    ),
    "Results": (
        *(remote.open_page, remote.trials, remote.compare, remote.export, remote.report),
        *(offline.replay, offline.predict),
    ),
    "Data and code": (remote.upload, remote.datasets, remote.delete_dataset, remote.catalog, offline.check),
}

_NAMES: dict[Callable[..., None], str] = {remote.open_page: "open"}
"""Commands that are not called as their functions are."""

app.add_typer(keys.app, name="keys", rich_help_panel="Processes")

for panel, commands in _PANELS.items():
    for command in commands:
        app.command(_NAMES.get(command), rich_help_panel=panel)(command)
