"""Measures the seconds of a step and the bytes of P, for each arm of a job.

It runs as a child process with JSON in and out, because the API does not load torch. Steps are timed on random numbers;
the memory is the optimizer's own estimate.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch

from service.optimizers import OPTIMIZERS, build_optimizer
from service.registry import import_object
from service.spec.tasks import TASKS
from service.training.networks import build_network
from service.training.run import Training
from service.training.step import TrainingStep, training_loss
from warpadam import WarpAdamConfig, estimate_memory

WARM_UP_STEPS: Final = 3
TIMED_STEPS: Final = 20
"""Steps after a warm-up; P is updated several times in them."""


def footprint(request: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return ``seconds_a_step`` and ``p_bytes`` by arm.

    Args:
        request: ``sizes``, ``activation``, ``model``, ``shape``, ``task``, ``batch_size`` of the model and its batches,
            ``training``, and for each of ``arms`` its ``name``, ``optimizer`` and ``config``.
    """
    torch.set_num_threads(1)
    return {arm["name"]: _arm(request, arm) for arm in request["arms"]}


def _arm(request: Mapping[str, Any], arm: Mapping[str, Any]) -> dict[str, float]:
    torch.manual_seed(0)
    sizes: Sequence[int] = request["sizes"]
    model = build_network(request["model"], tuple(request["shape"]), sizes, request["activation"])
    optimizer = build_optimizer(arm["optimizer"], model, arm["config"])
    task = TASKS[request["task"]]
    x, y = import_object(task.example)(request["batch_size"], sizes[0], sizes[-1])
    training = Training(**request["training"])
    loss = training_loss(import_object(task.loss), training, y, sizes[-1], "cpu")
    step = TrainingStep(model, optimizer, loss, training, training.warmup_steps + WARM_UP_STEPS + TIMED_STEPS, "cpu")
    began = 0.0
    for done in range(WARM_UP_STEPS + TIMED_STEPS):
        if done == WARM_UP_STEPS:
            began = time.perf_counter()
        step(x, y)
    seconds = (time.perf_counter() - began) / TIMED_STEPS
    has_p = OPTIMIZERS[arm["optimizer"]].has_p
    p_bytes = estimate_memory(model, WarpAdamConfig.from_dict(arm["config"])).p_bytes if has_p else 0
    return {"seconds_a_step": seconds, "p_bytes": float(p_bytes)}


if __name__ == "__main__":
    json.dump(footprint(json.load(sys.stdin)), sys.stdout)
