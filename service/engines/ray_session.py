# The connection to Ray: a cluster by its address, or a Ray of this process's own, which listens on loopback only and
# dies with the process. Ray reads its environment when it is imported, so nothing here imports it at the top.
"""Connecting to Ray."""

from __future__ import annotations

import logging
import os
import subprocess
import threading
from collections.abc import Mapping
from typing import Any, Final

from service.errors import JobFailedError
from service.spec.job import ResourcesSpec

log = logging.getLogger(__name__)

ENVIRONMENT: Final = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative artifact URLs mean the same in an actor
    "RAY_worker_niceness": "0",  # by default trials of a Ray of our own would yield to all else on the machine
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the coming default; Ray warns of it
    "RAY_AIR_NEW_OUTPUT": "0",  # the older one can be silent
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the ledger has the results
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a run that fails at once has no loss
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",  # Ray's own restore is not used
    "TUNE_MAX_PENDING_TRIALS_PG": "10000",  # how many may wait for an actor; the searcher hands out what fits
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}

OBJECT_STORE_BYTES: Final = 128 << 20
"""Shared memory of a Ray of our own; runs put nothing in it."""

MEBIBYTE: Final = 1 << 20


class RaySession:
    """The connection of this process to Ray, made on first use.

    Args:
        address: host:port of a cluster; None for a Ray of our own. A Ray that the process is connected to already is
            used and left as it is.
    """

    def __init__(self, address: str | None) -> None:
        self._address = address
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()

    def connect(self) -> None:
        """Connect, if that has not been done yet.

        Raises:
            JobFailedError: Ray is not installed, or the cluster cannot be reached.
        """
        os.environ.update({name: value for name, value in ENVIRONMENT.items() if name not in os.environ})
        if self._address is None:
            os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # which makes it listen on loopback only
        try:
            import ray
        except ImportError as error:
            raise JobFailedError(
                f"engine.name: ray needs the package ray on the worker: pip install 'warptune[ray]' ({error})"
            ) from error
        if ray.is_initialized():
            return
        self.close()
        started, failures = threading.Event(), list[BaseException]()
        self._thread = threading.Thread(target=self._hold, args=(started, failures), name="ray", daemon=True)
        self._thread.start()
        started.wait()
        if failures:
            where = f"WARPTUNE_RAY_ADDRESS = {self._address}" if self._address else "a Ray of the worker's own"
            raise JobFailedError(f"cannot connect to {where}: {failures[0]}") from failures[0]

    def _hold(self, started: threading.Event, failures: list[BaseException]) -> None:
        """Connect and wait: the kernel kills Ray's processes when the thread that started them is gone."""
        import ray

        own: Mapping[str, Any] = {
            "address": "local",  # not one that somebody else has started on this machine
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
            "_node_ip_address": "127.0.0.1",
        }
        there: Mapping[str, Any] = {"address": self._address}
        try:
            ray.init(
                log_to_driver=False,
                configure_logging=False,
                namespace="warptune",
                **(there if self._address else own),
            )
        except Exception as error:  # noqa: BLE001 - it is raised again in the thread that waits
            failures.append(error)
            return
        finally:
            started.set()
        log.info("connected to ray", extra={"address": self._address or "own"})
        guard = None if self._address else _guard_agents()
        self._closing.wait()
        ray.shutdown()
        if guard is not None:
            guard.communicate(b"closed\n")

    def close(self) -> None:
        """Disconnect, and end a Ray of our own."""
        if self._thread is not None:
            self._closing.set()
            self._thread.join()
            self._closing.clear()
            self._thread = None


def _guard_agents() -> subprocess.Popen[bytes]:
    """Start a shell that kills the raylet's agents when this process is gone.

    The kernel ends what Ray itself starts, but the raylet's own children outlive it by a minute and more.
    """
    import psutil

    raylets = [process for process in psutil.Process().children() if process.name() == "raylet"]
    agents = [str(process.pid) for raylet in raylets for process in raylet.children()]
    command = ["sh", "-c", 'read -r _ || kill -9 "$@"', "sh", *agents]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)


def needed(resources: ResourcesSpec) -> dict[str, float]:
    """Return what one trial takes, in Ray's words."""
    amounts = {
        "CPU": float(resources.cpus_per_trial),
        "GPU": resources.gpus_per_trial,
        "memory": float(resources.memory_bytes or 0),
        **resources.custom,
    }
    return {name: amount for name, amount in amounts.items() if amount}


def capacity(resources: ResourcesSpec) -> int:
    """Return how many trials the nodes that are alive can run at once.

    Raises:
        JobFailedError: Not even one.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    wanted = needed(resources)
    fits = sum(_fits(wanted, node) for node in nodes)
    if not fits:
        raise JobFailedError(
            f"resources: no node of the Ray cluster has what one trial asks for, {_shown(wanted)}; "
            f"its nodes have: {'; '.join(map(_shown, nodes)) or 'nothing (no node is alive)'}"
        )
    return fits


def _fits(wanted: Mapping[str, float], node: Mapping[str, float]) -> int:
    counts = []
    for name, amount in wanted.items():
        has = node.get(name, 0.0)
        # a device is never split so that a trial gets a part of each of two
        counts.append(int(has) * int(1 / amount + 1e-9) if name == "GPU" and amount < 1 else int(has / amount + 1e-9))
    return min(counts)


def _shown(amounts: Mapping[str, float]) -> str:
    hidden = ("node:", "object_store_memory")
    shown = [
        f"{name} {amount / MEBIBYTE:.0f} MiB" if name == "memory" else f"{name} {amount:g}"
        for name, amount in sorted(amounts.items())
        if not name.startswith(hidden)
    ]
    return ", ".join(shown) or "no resources"
