"""The engine for a Ray cluster, which does runs in Ray actors, and its connection to Ray.

Ray Tune places the runs, starts them and stops them early. ray_bridge.py connects it to the Work. The engine keeps
nothing between two calls of ``run``, which the worker calls from its main thread.

The engine connects to a cluster by its address, or to an own Ray that it starts. The own Ray listens only on loopback
and dies with the worker. Ray reads its environment when it is imported, so this file imports it only inside functions.
"""

from __future__ import annotations

import logging
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from service.engines.base import Train, Work, default_train, runs_per_gpu
from service.errors import EngineLostError, JobFailedError
from service.spec.job import ResourcesSpec

if TYPE_CHECKING:
    import psutil

log = logging.getLogger(__name__)

ENVIRONMENT: Final = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # so that relative artifact URLs mean the same in an actor
    "RAY_worker_niceness": "0",  # by default, trials of the own Ray would yield to everything else on the machine
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the future default, about which Ray warns
    "RAY_AIR_NEW_OUTPUT": "0",  # only the old output can be silenced
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the ledger has the results
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a run that fails at once has no loss
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",  # Ray's own restore is not used
    "TUNE_MAX_PENDING_TRIALS_PG": "10000",  # trials that may wait for an actor; our searcher hands out only what fits
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}

OBJECT_STORE_BYTES: Final = 128 << 20
"""Shared memory of the own Ray; runs put nothing in it."""

CONNECT_S: Final = 300.0
"""How long a job waits for a cluster that does not answer, perhaps because its head is being started again."""

CLOSE_S: Final = 30.0
"""How long closing waits for the thread of the connection. One that still tries to connect cannot be ended."""

MEBIBYTE: Final = 1 << 20


class RaySession:
    """The connection of this process to Ray, made on first use. Without an address, it starts an own Ray.

    A connection that the process already has is used and never closed.
    """

    def __init__(self, address: str | None) -> None:
        self._address = address
        self._thread: threading.Thread | None = None
        self._tried, self._closing = threading.Event(), threading.Event()
        self._failure: BaseException | None = None
        self._own: list[psutil.Process] = []

    def connect(self, is_halted: Callable[[], bool] = lambda: False) -> bool:
        """Connect unless connected; return False if ``is_halted`` says so meanwhile.

        Called from the worker's main thread before each run of an engine. Ray itself waits for a cluster that does not
        answer; the next call goes on with what an earlier one gave up.

        Raises:
            JobFailedError: Ray is not installed, or the cluster cannot be reached.
        """
        os.environ.update({name: value for name, value in ENVIRONMENT.items() if name not in os.environ})
        if not self._address:
            os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # makes it listen only on loopback
        try:
            import ray
        except ImportError as error:
            raise JobFailedError(
                f"engine.name: ray needs the package ray on the worker: pip install '.[ray]' in your clone ({error})"
            ) from error
        is_trying = self._thread is not None and not self._tried.is_set()
        if not is_trying:
            if ray.is_initialized() and self.alive():
                return True
            self.close()
            self._tried.clear()
            self._failure = None
            self._thread = threading.Thread(target=self._hold, name="ray", daemon=True)
            self._thread.start()
        where = f"the Ray cluster at {self._address} (WARPTUNE_RAY_ADDRESS)" if self._address else "an own Ray"
        began = time.monotonic()
        while not self._tried.wait(0.2):
            if is_halted():
                return False
            if time.monotonic() - began > CONNECT_S:
                raise JobFailedError(f"cannot connect to {where}: it did not answer within {CONNECT_S:g} seconds")
        if self._failure is not None:
            raise JobFailedError(f"cannot connect to {where}: {self._failure}") from self._failure
        return True

    def alive(self) -> bool:
        """Return whether the node of the own Ray lives. Of a cluster, Ray itself knows which nodes do.

        If its other server dies, Ray ends this process within a minute.
        """
        return all(_is_alive(process) for process in self._own)

    def _hold(self) -> None:
        """Connect, and stay until :meth:`close`. Runs in a thread that lives as long as the connection.

        The kernel kills the processes of an own Ray when the thread that started them ends, so it must not be one that
        ends earlier.
        """
        import ray

        init = partial(ray.init, log_to_driver=False, configure_logging=False, namespace="warptune")
        try:
            if self._address:
                init(address=self._address)
            else:
                init(
                    address="local",  # not a Ray that somebody else has started on this machine
                    include_dashboard=False,
                    object_store_memory=OBJECT_STORE_BYTES,
                    _node_ip_address="127.0.0.1",
                )
        except Exception as error:  # noqa: BLE001 - connect() raises it in the main thread
            self._failure = error
            return
        else:
            self._own = [] if self._address else _own_node()
        finally:
            self._tried.set()
        log.info("connected to ray", extra={"address": self._address or "own"})
        guard = None if self._address else _guard_agents(self._own)
        self._closing.wait()
        ray.shutdown()
        if guard is not None:
            guard.communicate(b"closed\n")

    def close(self) -> None:
        """Disconnect, and end the own Ray. Called from the worker's main thread."""
        if self._thread is not None:
            self._closing.set()
            self._thread.join(CLOSE_S)
            self._closing.clear()
            self._thread, self._own = None, []


def _is_alive(process: psutil.Process) -> bool:
    import psutil

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _own_node() -> list[psutil.Process]:
    """Return the process of the node of the own Ray."""
    import psutil

    return [process for process in psutil.Process().children() if process.name() == "raylet"]


def _guard_agents(nodes: Sequence[psutil.Process]) -> subprocess.Popen[bytes]:
    """Start a shell that kills the raylet's agents when this process dies.

    The kernel kills the processes that Ray itself starts. The children of the raylet would live for another minute.
    """
    agents = [str(agent.pid) for node in nodes for agent in node.children()]
    command = ["sh", "-c", 'read -r _ || kill -9 "$@"', "sh", *agents]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)


def needed(resources: ResourcesSpec) -> dict[str, float]:
    """Return what one trial needs, by Ray's names of resources."""
    amounts = {
        "CPU": float(resources.cpus_per_trial),
        "GPU": resources.gpus_per_trial,
        "memory": float(resources.memory_bytes or 0),
        **resources.custom,
    }
    return {name: amount for name, amount in amounts.items() if amount}


def capacity(resources: ResourcesSpec) -> int:
    """Return how many trials the living nodes can run at once.

    Raises:
        JobFailedError: They cannot run one.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    wanted = needed(resources)
    fits = sum(_fits(wanted, node) for node in nodes)
    if not fits:
        raise JobFailedError(
            f"resources: no node of the Ray cluster has what one trial needs, {_shown(wanted)}; "
            f"its nodes have: {'; '.join(map(_shown, nodes)) or 'nothing (no node is alive)'}"
        )
    return fits


def _fits(wanted: Mapping[str, float], node: Mapping[str, float]) -> int:
    counts = []
    for name, amount in wanted.items():
        has = node.get(name, 0.0)
        shared = name == "GPU" and amount < 1  # a trial never gets parts of two GPUs
        counts.append(int(has) * runs_per_gpu(amount) if shared else int(has / amount + 1e-9))
    return min(counts)


def _shown(amounts: Mapping[str, float]) -> str:
    hidden = ("node:", "object_store_memory")
    shown = [
        f"{name} {amount / MEBIBYTE:.0f} MiB" if name == "memory" else f"{name} {amount:g}"
        for name, amount in sorted(amounts.items())
        if not name.startswith(hidden)
    ]
    return ", ".join(shown) or "no resources"


class RayEngine:
    """Does the runs of a Work with Ray Tune. Ray is imported by the first call of :meth:`run`.

    Args:
        address: host:port of the cluster; None to start an own Ray.
        train: Does a run in the actor; a function that the nodes of the cluster can import.
    """

    def __init__(self, address: str | None = None, train: Train = default_train) -> None:
        self._session = RaySession(address)
        self._train = train

    def run(self, work: Work, resources: ResourcesSpec, silence_s: float) -> None:
        """Do the runs of ``work`` until it has no more or is halted.

        Raises:
            JobFailedError: Ray is not installed or cannot be reached, no node has the resources, or an actor cannot
                start.
            EngineLostError: The own Ray has died. The next call starts another one.
        """
        if work.halted():
            return
        if not self._session.connect(work.halted):
            return
        from ray import tune

        from service.engines.ray_bridge import START_TRIES, Bridge, WorkSearcher, make_scheduler
        from service.engines.ray_trainable import RunActor

        bridge = Bridge(work, self._train, resources, silence_s, self._session.alive)
        wanted = needed(resources)
        with tempfile.TemporaryDirectory(prefix="warptune-ray-") as folder:
            tuner = tune.Tuner(
                tune.with_resources(RunActor, tune.PlacementGroupFactory([wanted])),
                tune_config=tune.TuneConfig(
                    search_alg=WorkSearcher(bridge),
                    scheduler=make_scheduler(work.pruning),
                    num_samples=-1,
                    reuse_actors=True,
                    trial_name_creator=lambda trial: str(trial.trial_id),
                    trial_dirname_creator=lambda trial: str(trial.trial_id),
                ),
                run_config=tune.RunConfig(
                    name="run",
                    storage_path=folder,
                    stop=bridge,
                    callbacks=[bridge],
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                    failure_config=tune.FailureConfig(max_failures=START_TRIES - 1),
                    verbose=0,
                ),
            )
            try:
                tuner.fit()
            except Exception as error:
                if self._session.alive():
                    raise
                raise EngineLostError(f"the worker's own Ray has died: {error}") from error
            finally:
                bridge.kill_all()
        bridge.finish()

    def end_idle(self) -> None:
        """Do nothing: no actor outlives a call of :meth:`run`."""

    def close(self) -> None:
        """End every process of this engine."""
        self._session.close()
