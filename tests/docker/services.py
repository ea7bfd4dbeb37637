# The services of docker-compose.yml as processes on this machine: the same commands and variables, with hosts, folders
# and ports put in terms of this machine. Whatever they start, daemons included, ends with them.
from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import yaml

ROOT = Path(__file__).parents[2]
PR_SET_CHILD_SUBREAPER = 36
STOP_S = 15.0
INSTALLED_AS = {"warptune-ray-worker": [str(ROOT / "docker/worker.sh")]}


def read_compose(secrets: Mapping[str, str]) -> dict[str, Any]:
    """Return the file with ``secrets`` put in, as `docker compose` reads it."""

    def value(match: re.Match[str]) -> str:
        name, kind, rest = match["name"], match["kind"], match["rest"]
        if name in secrets:
            return secrets[name]
        assert kind == ":-", f"{name} is required: {rest}"
        return rest

    text = (ROOT / "docker-compose.yml").read_text()
    filled = re.sub(r"\$\{(?P<name>\w+)(?:(?P<kind>:[-?])(?P<rest>[^}]*))?\}", value, text)
    return yaml.safe_load(filled)  # type: ignore[no-any-return]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Services:
    """Runs services of the file natively.

    Args:
        compose: The file.
        here: What a text of the file is on this machine.
        folder: Where the logs go, and what the processes run in.
    """

    def __init__(self, compose: dict[str, Any], here: Mapping[str, str], folder: Path) -> None:
        self._services, self._here, self._folder = compose["services"], here, folder
        self._mine: list[psutil.Process] = []
        self._programs = folder / "bin"
        self._programs.mkdir(exist_ok=True)
        ray = self._programs / "ray"
        ray.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{ROOT}/tests/docker/loopback_ray.py" "$@"\n')
        ray.chmod(0o755)
        if sys.platform == "linux":  # daemons become children of this process instead of the machine's first one
            ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    @property
    def started(self) -> list[psutil.Process]:
        """The processes that are running."""
        return [process for process in self._mine if process.is_running()]

    def translate(self, text: object) -> str:
        translated = str(text)
        for theirs, ours in self._here.items():
            translated = translated.replace(theirs, ours)
        return translated

    def environment(self, name: str) -> dict[str, str]:
        """Return the service's variables and no other of the service's or Ray's."""
        foreign = ("WARPTUNE_", "RAY_")
        base = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
        theirs = {key: self.translate(value) for key, value in self._services[name]["environment"].items()}
        loopback = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "OMP_NUM_THREADS": "1"}
        return base | theirs | loopback | {"PATH": self._path(), "PYTHONPATH": str(ROOT)}

    def _path(self) -> str:
        return os.pathsep.join([str(self._programs), str(Path(sys.executable).parent), os.environ["PATH"]])

    def command(self, words: list[str]) -> list[str]:
        program = INSTALLED_AS.get(words[0]) or [shutil.which(words[0], path=self._path()) or words[0]]
        return program + [self.translate(word) for word in words[1:]]

    def start(self, name: str) -> psutil.Process:
        """Start a service and return its process."""
        with (self._folder / f"{name}-{len(self._mine)}.log").open("w") as log:
            process = psutil.Popen(
                self.command(self._services[name]["command"]),
                env=self.environment(name),
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=self._folder,
                start_new_session=True,
            )
        self._mine.append(process)
        return process

    def is_healthy(self, name: str) -> bool:
        """Run the health check that the file names for a service."""
        test = self._services[name]["healthcheck"]["test"]
        done = subprocess.run(
            self.command(test[1:]), env=self.environment(name), capture_output=True, timeout=60, check=False
        )
        return done.returncode == 0

    def log(self, name: str) -> str:
        return "\n".join(path.read_text() for path in sorted(self._folder.glob(f"{name}-*.log")))

    def wait(self, name: str, ready: Callable[[], bool], limit_s: float) -> None:
        """Wait until a service is ready, and say what it wrote if it does not become so."""
        deadline = time.monotonic() + limit_s
        while not ready():
            assert time.monotonic() < deadline, f"{name} is not ready after {limit_s:g} s:\n{self.log(name)}"
            time.sleep(0.3)

    def close(self) -> None:
        """End everything that was started, and what that has started."""
        descendants = [child for process in self._mine if process.is_running() for child in _tree(process)]
        for process in self._mine:
            if process.is_running():
                process.send_signal(signal.SIGTERM)
        psutil.wait_procs(self._mine, timeout=STOP_S)
        left = {*descendants, *self._adopted()}
        for process in left:
            if process.is_running():
                process.kill()
        psutil.wait_procs(list(left), timeout=STOP_S)

    def _adopted(self) -> list[psutil.Process]:
        """Return daemons of the services: children of this process that carry the services' folder."""
        return [
            process
            for child in psutil.Process().children()
            for process in _tree(child)
            if process in self._mine or _works_in(process, self._folder)
        ]


def _tree(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _works_in(process: psutil.Process, folder: Path) -> bool:
    try:
        return process.environ().get("PWD") == str(folder) or Path(process.cwd()) == folder
    except psutil.Error:
        return False
