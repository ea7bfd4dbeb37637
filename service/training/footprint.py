"""Measures the seconds of a step and the bytes of P, for each arm of a job.

It runs as a child process with JSON in and out, because the API does not load torch. Steps are timed on random numbers,
those of a user's training loop in the loop; the memory is the optimizer's own estimate.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import nn

from service.optimizers import OPTIMIZERS, build_optimizer
from service.processes import run_on
from service.registry import import_object
from service.settings import Settings
from service.spec.tasks import TASKS, Task
from service.training.entrypoints import load_allowed
from service.training.networks import build_network
from service.training.own_loop import OwnLoop
from service.training.run import Training
from service.training.step import TrainingStep, training_loss
from warpadam import WarpAdamConfig, estimate_memory

WARM_UP_STEPS: Final = 3
TIMED_STEPS: Final = 20
"""Steps after a warm-up; P is updated several times in them."""

LOOP_S: Final = 2.0
"""Longest time for a training loop of the user's with one optimizer."""


def footprint(request: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return ``seconds_a_step`` and ``p_bytes`` by arm.

    Args:
        request: ``sizes``, ``activation``, ``model``, ``shape``, ``task``, ``batch_size`` of the model and its batches,
            ``training``, ``seed`` and ``steps`` of a run, and for each of ``arms`` its ``name``, ``optimizer`` and
            ``config``.
    """
    torch.set_num_threads(1)
    if request["task"] == Task.LOOP:
        _loop_arm(request, request["arms"][-1])  # what is imported or made once is not counted
        return {arm["name"]: _loop_arm(request, arm) for arm in request["arms"]}
    return {arm["name"]: _arm(request, arm) for arm in request["arms"]}


def _loop_arm(request: Mapping[str, Any], arm: Mapping[str, Any]) -> dict[str, float]:
    """Time a user's training loop up to its first evaluation after ``TIMED_STEPS`` steps, or for ``LOOP_S`` seconds.

    The time before it makes its optimizer is spread over the steps of a run.
    """
    end = time.monotonic() + LOOP_S
    model = request["model"]
    loop = OwnLoop(
        load_allowed(model["entrypoint"], model["sha256"]),
        lambda model: build_optimizer(arm["optimizer"], model, arm["config"]),
        request["seed"],
        model["config"],
        stops=lambda: time.monotonic() > end,
    )
    for evaluation in loop:
        if evaluation.step >= TIMED_STEPS:
            break
    assert loop.model is not None, "a loop that has no optimizer is an error"
    seconds = loop.seconds / loop.steps + loop.setup_seconds / request["steps"]
    return {"seconds_a_step": seconds, "p_bytes": _p_bytes(arm, loop.model)}


def _arm(request: Mapping[str, Any], arm: Mapping[str, Any]) -> dict[str, float]:
    torch.manual_seed(0)
    sizes: Sequence[int] = request["sizes"]
    model = build_network(request["model"], tuple(request["shape"]), sizes, request["activation"])
    optimizer = build_optimizer(arm["optimizer"], model, arm["config"])
    task = TASKS[request["task"]]
    x, y = import_object(task.example)(request["batch_size"], sizes[0], sizes[-1])
    training = Training(**{**request["training"], "compile": False})  # compiling takes longer than all these steps
    loss = training_loss(import_object(task.loss), training, y, sizes[-1], "cpu")
    step = TrainingStep(model, optimizer, loss, training, training.warmup_steps + WARM_UP_STEPS + TIMED_STEPS, "cpu")
    began = 0.0
    for done in range(WARM_UP_STEPS + TIMED_STEPS):
        if done == WARM_UP_STEPS:
            began = time.perf_counter()
        step(x, y)
    seconds = (time.perf_counter() - began) / TIMED_STEPS
    return {"seconds_a_step": seconds, "p_bytes": _p_bytes(arm, model)}


def _p_bytes(arm: Mapping[str, Any], model: nn.Module) -> float:
    if not OPTIMIZERS[arm["optimizer"]].has_p:
        return 0.0
    shapes = {name: parameter.shape for name, parameter in model.named_parameters() if parameter.requires_grad}
    return float(estimate_memory(shapes, WarpAdamConfig.from_dict(arm["config"])).p_bytes)


if __name__ == "__main__":
    run_on(Settings().cpus_of_slots)
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8") as answer:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what user code prints must not get into the answer
        json.dump(footprint(json.load(sys.stdin)), answer)
