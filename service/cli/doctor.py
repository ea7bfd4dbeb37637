"""The command ``doctor``: what this installation can do, and what to change where something is wrong."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple

import typer
from packaging.requirements import Requirement
from pydantic import ValidationError
from rich.text import Text

from service.cli.console import out, say_json
from service.cli.serve import wrong_settings
from service.errors import DatabaseVersionError
from service.settings import Settings
from service.version import VERSION

LOW_SPACE_BYTES: Final = 1 << 30
"""Free space below which jobs may fail: a checkpoint, a split, the trained weights."""

CONNECT_S: Final = 3.0
"""Longest wait for the Ray cluster."""

NEEDED: Final = ("", "service")
"""Extras without which the service does not run; the empty name is the base install."""

OPTIONAL: Final = {"ray": "the engine ray", "soap": "the baseline soap"}
"""Extra -> what it is for."""

MARKS: Final = {"ok": ("ok ", "green"), "note": ("-- ", "yellow"), "bad": ("BAD", "bold red")}


class Check(NamedTuple):
    """What was looked at, how it is, what was found, and what to do about it."""

    name: str
    state: Literal["ok", "note", "bad"]
    found: str
    advice: str = ""


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the checks as JSON, for programs.")] = False,
) -> None:
    """Check this installation: packages, database, artifacts, threads, GPU, Ray, port. Exit status 1 if one is bad.

    Example: warptune doctor
    """
    checks = list(run_checks())
    if as_json:
        say_json([check._asdict() for check in checks])
    else:
        for check in checks:
            mark, style = MARKS[check.state]
            out.print(Text.assemble((mark, style), f" {check.name:<10} {check.found}"), soft_wrap=True)
            if check.advice:
                out.print(Text(f"    -> {check.advice}"), soft_wrap=True)
    if any(check.state == "bad" for check in checks):
        raise typer.Exit(1)


def run_checks() -> Iterator[Check]:
    """Yield every check. Those that need settings are left out if the settings are not valid."""
    yield Check("python", "ok", f"{platform.python_version()}, warptune {VERSION}")
    yield from _packages()
    try:
        settings = Settings()
    except ValidationError as error:
        wrong = "; ".join(line.strip() for line in wrong_settings(error))
        yield Check("settings", "bad", wrong, "Correct or unset these environment variables; see docs/settings.md.")
        return
    for check in (_database, _artifacts, _ray, _port):
        yield _tried(check, settings)
    yield from _hardware(settings)


def _tried(check: Callable[[Settings], Check], settings: Settings) -> Check:
    """Return a check. Each database driver and each kind of store raises its own errors."""
    try:
        return check(settings)
    except Exception as error:  # noqa: BLE001 - it is what was found
        reason = str(error).partition("\n")[0] or type(error).__name__
        return Check(check.__name__.strip("_"), "bad", reason, ADVICE[check.__name__])


ADVICE: Final = {
    "_database": "Start the database, or correct WARPTUNE_DATABASE_URL.",
    "_artifacts": "Make the folder writable, or correct WARPTUNE_ARTIFACTS_URL.",
    "_ray": "Start the cluster, or correct WARPTUNE_RAY_ADDRESS; without it, a worker starts its own Ray.",
    "_port": "Choose an address of this machine with WARPTUNE_HOST and a free port with WARPTUNE_PORT.",
}
"""What to do when a check fails with an error."""


def _packages() -> Iterator[Check]:
    """Check the packages that the metadata of this project asks for, extra by extra."""
    needed = [requirement for extra in NEEDED for requirement in _requirements(extra)]
    if wrong := list(filter(None, map(_wrong, needed))):
        yield Check("packages", "bad", "; ".join(wrong), "Run: pip install --upgrade '.[service]' in your clone")
    else:
        shown = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "optuna", "fastapi"))
        yield Check("packages", "ok", f"all {len(needed)} in the right versions ({shown}, ...)")
    for extra, purpose in OPTIONAL.items():
        if wrong := list(filter(None, map(_wrong, _requirements(extra)))):
            advice = f"Only if you want {purpose}: pip install '.[{extra}]' in your clone"
            yield Check(f"extra {extra}", "note", "; ".join(wrong), advice)
        else:
            yield Check(f"extra {extra}", "ok", f"installed, for {purpose}")


def _requirements(extra: str) -> list[Requirement]:
    found = map(Requirement, importlib.metadata.requires("warptune") or [])
    return [each for each in found if (each.marker.evaluate({"extra": extra}) if each.marker else not extra)]


def _wrong(requirement: Requirement) -> str | None:
    """Return what is wrong with an installed package; None if it is right."""
    try:
        found = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return f"{requirement.name} is not installed"
    if requirement.specifier.contains(found, prereleases=True):
        return None
    return f"{requirement.name} is {found}, not {requirement.specifier}"


def _database(settings: Settings) -> Check:
    from service.client.rest import without_password
    from service.db.session import Database, require_known_tables
    from service.db.studies import require_current_studies

    url = without_password(settings.database_url)
    with closing(Database(settings.database_url)) as database:
        file = database.url.database if database.url.get_backend_name() == "sqlite" else None
        if file and not Path(file).exists():
            _probe(Path(file).parent)
            return Check("database", "note", f"{url} is not there yet", "Nothing to do: warptune serve makes it.")
        try:
            current, latest = require_known_tables(database)
            require_current_studies(database)
        except DatabaseVersionError as error:  # it says what to do
            return Check("database", "bad", str(error))
    if current == latest:
        return Check("database", "ok", f"{url} answers, tables {latest}")
    return Check("database", "bad", f"{url} has tables {current or '(none)'}, not {latest}", "Run: warptune migrate")


def _probe(folder: Path) -> None:
    """Check that a file can be made in a folder, or in the nearest one above it that exists.

    Raises:
        PermissionError: It cannot.
    """
    from service.disk import nearest

    there = nearest(folder.absolute())
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(f"{there} is not writable")


def _artifacts(settings: Settings) -> Check:
    from service.artifacts import ArtifactStore, local_path
    from service.disk import free_bytes

    folder, is_local = local_path(settings.artifacts_url)
    if not is_local:
        ArtifactStore(settings.artifacts_url).check()
        return Check("artifacts", "ok", f"{settings.artifacts_url} is writable")
    _probe(folder)
    free = free_bytes(folder)
    if free < LOW_SPACE_BYTES:
        advice = "Delete what you do not need, or choose another place with WARPTUNE_ARTIFACTS_URL."
        return Check("artifacts", "bad", f"{folder} has only {free / 2**20:.0f} MiB free", advice)
    return Check("artifacts", "ok", f"{folder} is writable, {free / 2**30:.1f} GiB free")


def _ray(settings: Settings) -> Check:
    try:
        version = importlib.metadata.version("ray")
    except importlib.metadata.PackageNotFoundError:
        state: Literal["bad", "note"] = "bad" if settings.ray_address else "note"
        return Check("ray", state, "not installed", "For the engine ray: pip install '.[ray]' in your clone")
    if settings.ray_address is None:
        return Check("ray", "ok", f"{version}; a worker starts its own Ray when a job needs it")
    host, _, port = settings.ray_address.rpartition(":")
    with socket.create_connection((host, int(port)), CONNECT_S):
        return Check("ray", "ok", f"{version}; the cluster at {settings.ray_address} answers")


def _port(settings: Settings) -> Check:
    from service.client.rest import Client

    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104 - it is not listened on
    name = f"[{host}]" if ":" in host else host
    url = f"{'https' if settings.tls_certificate else 'http'}://{name}:{settings.port}"
    with Client(url, retry_s=0) as client:
        if client.is_up():
            return Check("port", "ok", f"the service answers at {url}")
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.create_server((settings.host, settings.port), family=family):
        return Check("port", "ok", f"{settings.port} on {settings.host} is free; the service is not running")


def _hardware(settings: Settings) -> Iterator[Check]:
    from service.processes import machine_cpus, require_cpus

    cores, set_to = machine_cpus(), os.environ.get("OMP_NUM_THREADS")
    too_many = set_to is not None and set_to.isdecimal() and int(set_to) > cores
    advice = f"More threads than cores are slower: unset OMP_NUM_THREADS, or set at most {cores}." if too_many else ""
    threads = f"{cores} cores for this process, OMP_NUM_THREADS {set_to or 'not set'}"
    yield Check("threads", "note" if too_many else "ok", threads, advice)
    if settings.cpus_of_slots is not None:
        try:
            require_cpus(settings.cpus_of_slots)
        except OSError as error:
            yield Check("slot CPUs", "bad", str(error), "Correct WARPTUNE_SLOT_CPUS, or unset it.")
        else:
            count = len(settings.cpus_of_slots)
            yield Check("slot CPUs", "ok", f"{count} for slots: {settings.slot_cpus} (WARPTUNE_SLOT_CPUS)")
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Check("gpu", "bad", f"torch cannot be imported: {error}", "Run: pip install --force-reinstall torch")
        return
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
        yield Check("gpu", "ok", names)
    else:
        yield Check(
            "gpu", "note", "torch sees no CUDA device", "Jobs run on the CPU. For a GPU: pytorch.org/get-started"
        )
