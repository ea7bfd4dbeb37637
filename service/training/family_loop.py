"""Trains on a family: learns P on the meta-training tasks, one by one, then trains fresh networks on other tasks.

A run that was stopped while it learned P continues at the last task; its training starts again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from torch.linalg import LinAlgError  # type: ignore[attr-defined]
from torch.optim import Optimizer

from service.data.prepared_files import Array, Family, TaskArrays, load_family
from service.optimizers import build_optimizer
from service.spec.tasks import Task
from service.training.checkpoint import Checkpoints
from service.training.learned_p import read_p, write_warp
from service.training.loop import report_steps
from service.training.networks import linear_layers
from service.training.run import CurvePoint, DivergedError, FamilyTraining, Run, TrivialScores
from service.training.step import make_schedule, training_loss
from service.training.tasks import loss_of, score_at_once, score_of, trivial_model
from warpadam import MetaConfig, MetaTrainer, Warp, WarpAdam, WarpAdamConfig


def train_family(run: Run) -> Iterator[CurvePoint]:
    """Learn P, starting from the P of the run if it has one, then train; yield the means over the tasks.

    The tasks are those of meta-validation, or with ``run.test`` those of meta-test. ``val_loss`` is the loss on the
    held-out rows; with ``run.test`` the last one is the test loss too. ``seconds`` counts all tasks together, without
    the time to learn P.

    Raises:
        DivergedError: A loss is not finite, or P could not be learned.
    """
    assert run.family is not None, "only called for a family"
    torch.set_num_threads(run.threads)
    family = load_family(run.data.url, run.data.sha256)
    warp, learning_seconds = read_p(run), 0.0
    if run.family.learn_tasks:
        warp, learning_seconds = _learn_p(run, run.family, warp)
        if run.p_url is not None:
            write_warp(warp, run.p_url, run.data.url)
    tasks = family.tasks("meta_test" if run.test else "meta_validation")
    networks = _SideBySide(run, tasks)
    optimizer = _optimizer_for_all(run, networks.models)
    if warp is not None:
        _carry(warp, optimizer, len(tasks))
    schedule = make_schedule(optimizer, run.training, run.steps)
    done, seconds = 0, 0.0
    for step in report_steps(run.steps):
        started, total = time.perf_counter(), torch.zeros((), device=run.device)
        for _ in range(step - done):
            optimizer.zero_grad()
            total += networks.backward()
            optimizer.step()
            schedule.step()
        train_loss = total.item() / (step - done)
        seconds, done = seconds + time.perf_counter() - started, step
        point = _point(run, networks, step, train_loss, seconds)._replace(learning_seconds=learning_seconds)
        yield point if point.test_loss is None else point._replace(trivial=_trivial(run, family))


def _point(run: Run, networks: _SideBySide, step: int, train_loss: float, seconds: float) -> CurvePoint:
    loss, score = networks.evaluate()
    for name, value in (("training", train_loss), ("held-out", loss)):
        if not math.isfinite(value):
            raise DivergedError(f"the mean {name} loss is {value} after {step} of {run.steps} steps")
    tested = run.test and step == run.steps
    return CurvePoint(step, train_loss, loss, seconds, loss if tested else None, score, score if tested else None)


def _trivial(run: Run, family: Family) -> TrivialScores | None:
    """Return the means of what always predicting the same gets on the tasks of meta-validation and of meta-test."""
    found: list[tuple[float, float | None]] = []
    for part in ("meta_validation", "meta_test"):
        tasks = family.tasks(part)
        targets = [_tensors(run, task.x_train, task.y_train)[1] for task in tasks]
        models = [model for y in targets if (model := trivial_model(run.task, y, run.sizes[-1])) is not None]
        if not models:
            return None
        found.append(_evaluate(run, models, [_tensors(run, task.x_held_out, task.y_held_out) for task in tasks]))
    return TrivialScores(*found[0], *found[1])


@torch.no_grad()
def _evaluate(
    run: Run, models: Sequence[nn.Module], held_out: Sequence[tuple[Tensor, Tensor]]
) -> tuple[float, float | None]:
    """Return the means of the loss and of the score on the held-out rows; no score if it is not finite."""
    loss_function, score_function = loss_of(run.task), score_of(run.task, run.metric)
    outputs = [(model(x), y) for model, (x, y) in zip(models, held_out, strict=True)]
    loss = fmean(loss_function(output, y).item() for output, y in outputs)
    score = (
        fmean(score_at_once(score_function, output, y) for output, y in outputs) if math.isfinite(loss) else math.nan
    )
    return loss, score if math.isfinite(score) else None


def _learn_p(run: Run, how: FamilyTraining, start: Warp | None) -> tuple[Warp, float]:
    """Return P after all tasks, learned from ``start`` on, and the seconds that this took."""
    tasks = load_family(run.data.url, run.data.sha256).tasks("meta_train")

    def resumed(saved: Mapping[str, Any] | None) -> tuple[MetaTrainer, int, float]:
        trainer = MetaTrainer(
            [_FamilyTask(run, task) for task in tasks],
            WarpAdamConfig.from_dict(run.config),
            MetaConfig(steps=how.learn_steps, seed=run.seed),
            start=start,
        )
        if saved is None:
            return trainer, 0, 0.0
        trainer.load_state_dict(saved["trainer"])
        return trainer, saved["tasks"], saved["seconds"]

    checkpoints = Checkpoints(run)
    trainer, done, seconds = checkpoints.resume(resumed)
    while done < how.learn_tasks:
        started = time.perf_counter()
        try:
            result = trainer.train(1)
        except LinAlgError as error:  # a matrix that is not finite cannot be factorised
            raise DivergedError(f"P could not be learned after {done} of {how.learn_tasks} tasks: {error}") from error
        done, seconds = done + 1, seconds + time.perf_counter() - started
        if checkpoints.due():
            checkpoints.save(done, {"trainer": trainer.state_dict(), "tasks": done, "seconds": seconds})
    result = trainer.train(0)
    if result.skipped == how.learn_tasks:
        raise DivergedError(f"P was learned on no task: a loss was not finite on each of {how.learn_tasks}")
    return result.warp, seconds


class _FamilyTask:
    """The training rows of a task. MetaTrainer takes everything random from torch's global generator."""

    def __init__(self, run: Run, task: TaskArrays) -> None:
        self._run = run
        self._x, self._y = _tensors(run, task.x_train, task.y_train)
        self._loss = training_loss(loss_of(run.task), run.training, self._y, run.sizes[-1], run.device)

    def make_model(self) -> nn.Module:
        return linear_layers(self._run.sizes, self._run.activation).to(self._run.device)

    def sample(self, generator: torch.Generator | None = None) -> Callable[[nn.Module], Tensor]:
        rows = torch.randint(len(self._x), (self._run.batch_size,), generator=generator).to(self._x.device)
        x, y = self._x[rows], self._y[rows]
        return lambda model: self._loss(model(x), y)


class _SideBySide:
    """A fresh network for each task, all stepped by one optimizer. Each parameter has its own state."""

    def __init__(self, run: Run, tasks: Sequence[TaskArrays]) -> None:
        torch.manual_seed(run.seed)
        self._tasks = [_FamilyTask(run, task) for task in tasks]
        self.models = [task.make_model() for task in self._tasks]
        self._held_out = [_tensors(run, task.x_held_out, task.y_held_out) for task in tasks]
        self._run = run
        self._order = torch.Generator().manual_seed(run.seed)

    def backward(self) -> Tensor:
        """Draw a batch for each network and take its gradient; return the mean of the losses."""
        pairs = zip(self.models, self._tasks, strict=True)
        losses = torch.stack([task.sample(self._order)(model) for model, task in pairs])
        losses.sum().backward()  # type: ignore[no-untyped-call]
        return losses.detach().mean()

    def evaluate(self) -> tuple[float, float | None]:
        """Return the means of the loss and of the score on the held-out rows; no score if it is not finite."""
        return _evaluate(self._run, self.models, self._held_out)


def _tensors(run: Run, x: Array, y: Array) -> tuple[Tensor, Tensor]:
    inputs = torch.from_numpy(x).to(run.device)
    return inputs, inputs if run.task == Task.AUTOENCODING else torch.from_numpy(y).to(run.device)


def _optimizer_for_all(run: Run, models: Sequence[nn.Module]) -> Optimizer:
    """Return one optimizer with the parameters of all networks, called ``<task>.<name>``.

    One is made for each network, so that each has its own output layer, and then they are merged.
    """
    first, *others = (
        build_optimizer(run.arm, nn.ModuleDict({str(index): model}), run.config) for index, model in enumerate(models)
    )
    for other in others:
        first.state.update(other.state)
        for group, same in zip(first.param_groups, other.param_groups, strict=True):
            for name in {"params", "param_names"} & set(group):
                group[name] = [*group[name], *same[name]]
    return first


def _carry(warp: Warp, optimizer: Optimizer, networks: int) -> None:
    """Start every network from P."""
    assert isinstance(optimizer, WarpAdam), "only WarpAdam learns P"
    each = {f"{index}.{name}": own for index in range(networks) for name, own in warp.parameters.items()}
    Warp(warp.config, each).apply(optimizer)
