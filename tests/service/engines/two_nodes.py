# A cluster of a head that runs nothing and one or two nodes; the node with the run is killed in the middle. If it was
# the only one, another one joins later. Prints what became of the run. Training is the service's own; every step leaves
# a line with the node it was done on.
from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil

os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # loopback only; Ray reads it when it is imported

from ray.cluster_utils import Cluster

from service.artifacts import ArtifactStore
from service.data.prepared import PreparedData
from service.engines.base import Assignment, default_train
from service.engines.ray_tune import RayEngine
from service.spec.job import ResourcesSpec
from service.spec.tasks import Task
from service.training.run import CurvePoint, Run
from tests.service.data.prepared import write_file
from tests.service.engines.contract import SILENCE_S, Recorder

STEPS = 200
STEP_S = 0.05
CHECKPOINT_EVERY_S = 0.5
WITHOUT_NODE_S = 25.0
"""Time until a node joins in place of the only one: Ray has noticed by then, and the engine has counted the nodes."""

NOTICE = {"health_check_period_ms": 1000, "health_check_timeout_ms": 5000, "health_check_failure_threshold": 3}
"""How soon Ray notices that a node is gone; left alone it takes up to a minute."""


def counted(folder: str, run: Run) -> Iterator[CurvePoint]:
    """A real run, slowed down, that writes a line with its node for every step."""
    import ray
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    node = ray.get_runtime_context().get_node_id()
    with (Path(folder) / "steps").open("a") as lines:

        def count(*_: object) -> None:
            print(node, os.getppid(), file=lines, flush=True)
            time.sleep(STEP_S)

        hook = register_optimizer_step_pre_hook(count)
        try:
            yield from default_train(run)
        finally:
            hook.remove()


def make_run(folder: str) -> Run:
    store, packed = ArtifactStore(folder), Path(folder) / "split.npz"
    data = write_file("wine", 0, packed)
    return Run(
        arm="adamw",
        config={"lr": 0.01, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0},
        sizes=(13, 8, 3),
        activation="relu",
        task=Task.CLASSIFICATION,
        data=PreparedData(store.put("job", "data.npz", packed), data.sha256),
        steps=STEPS,
        batch_size=32,
        seed=0,
        checkpoint_url=store.checkpoint_url("job", "trial-0"),
        checkpoint_every_s=CHECKPOINT_EVERY_S,
    )


def kill_node_after(folder: str, steps: int) -> None:
    """Kill the raylet under which the run's process is, and that process, as the end of a machine does."""
    lines: list[str] = []
    while len(lines) < steps:
        time.sleep(0.05)
        file = Path(folder) / "steps"
        lines = file.read_text().splitlines() if file.exists() else []
    raylet = psutil.Process(int(lines[-1].split()[1]))
    for process in [raylet, *raylet.children(recursive=True)]:
        process.send_signal(signal.SIGKILL)


def main(folder: str, nodes_at_first: int) -> None:
    """Start a cluster and run on it."""
    head: dict[str, object] = {"num_cpus": 0, "include_dashboard": False, "_system_config": NOTICE}
    # without hooks for its end, which only the main thread may set
    cluster = Cluster(initialize_head=True, head_node_args=head, shutdown_at_exit=False)
    try:
        run_on(cluster, folder, nodes_at_first)
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]


def run_on(cluster: Cluster, folder: str, nodes_at_first: int) -> None:
    """Run on a cluster, kill the node of the run, and print what became of it."""
    for _ in range(nodes_at_first):
        cluster.add_node(num_cpus=1)
    run = make_run(folder)
    undisturbed = list(default_train(replace(run, checkpoint_url=None)))[-1].val_loss
    work = Recorder(1)
    work.waiting = [Assignment(0, run, 1)]
    done = threading.Event()

    def kill() -> None:
        kill_node_after(folder, STEPS // 2)
        if nodes_at_first == 1 and not done.wait(WITHOUT_NODE_S):
            cluster.add_node(num_cpus=1)
        done.wait()  # the kernel ends the node with the thread that has started it

    killer = threading.Thread(target=kill)
    killer.start()
    engine = RayEngine(cluster.address, partial(counted, folder))
    try:
        engine.run(work, ResourcesSpec(), SILENCE_S)
    finally:
        done.set()
    killer.join()
    nodes = [line.split()[0] for line in (Path(folder) / "steps").read_text().splitlines()]
    steps_before = nodes.count(nodes[0])
    print(
        json.dumps(
            {
                "state": work.ended[0].state,
                "value": work.ended[0].val_loss,
                "undisturbed": undisturbed,
                "begun": len(work.begun),
                "nodes": list(dict.fromkeys(nodes)),
                "steps_before": steps_before,
                "steps_lost": len(nodes) - STEPS,
                "most_lost": int(CHECKPOINT_EVERY_S / STEP_S) + 2,
            }
        )
    )
    engine.close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
