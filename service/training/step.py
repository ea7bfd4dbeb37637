"""One step of training, the same for every optimizer: forward pass, loss, gradient, clipping, optimizer, schedule.

An exported script contains the source of this step, so it uses torch only.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from service.training.run import Training

Loss = Callable[[Tensor, Tensor], Tensor]


class TrainingStep:
    """Makes training steps; ``steps`` is how many the whole run has.

    Only its own calls of the model are compiled, if ``training`` asks for it: elsewhere the model is called as it is.
    """

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, loss: Loss, training: Training, steps: int, device: str
    ) -> None:
        self._model, self._optimizer, self._loss = model, optimizer, loss
        self._call = compiled(model, device) if training.compile else model
        to_training(model, frozen_parts(model))
        self._max_grad_norm = training.max_grad_norm
        self._device, self._dtype = torch.device(device).type, getattr(torch, training.precision)
        self._schedule = make_schedule(optimizer, training, steps)
        self._scaler = torch.amp.GradScaler(self._device) if self._dtype is torch.float16 else None

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Make a step on a batch and return its loss."""
        loss = self._loss(self._forward(x), y)
        self._optimizer.zero_grad()
        if self._scaler is None:
            loss.backward()  # type: ignore[no-untyped-call]
            self._clip()
            self._optimizer.step()
            self._schedule.step()
        else:
            self._scaled_step(self._scaler, loss)
        return loss.detach()

    def _forward(self, x: Tensor) -> Tensor:
        if self._dtype is torch.float32:
            return self._call(x)
        with torch.autocast(self._device, self._dtype):
            output = self._call(x)
        return output.float()

    def _scaled_step(self, scaler: torch.amp.GradScaler, loss: Tensor) -> None:
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        scaler.unscale_(self._optimizer)
        self._clip()
        scaler.step(self._optimizer)
        scaler.update()
        with warnings.catch_warnings():  # a first step that overflowed is left out on purpose, not forgotten
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
            self._schedule.step()

    def _clip(self) -> None:
        if self._max_grad_norm is not None:
            clip_grad_norm_(self._model.parameters(), self._max_grad_norm)

    def state_dict(self) -> dict[str, Any]:
        """Return what changes from step to step, apart from the model and the optimizer."""
        scaler = None if self._scaler is None else self._scaler.state_dict()
        return {"schedule": self._schedule.state_dict(), "scaler": scaler}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go back to where :meth:`state_dict` was called."""
        self._schedule.load_state_dict(saved["schedule"])
        if self._scaler is not None:
            self._scaler.load_state_dict(saved["scaler"])


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, and at the end back into training mode, but for its frozen parts."""
    frozen = frozen_parts(model)
    model.eval()
    try:
        yield
    finally:
        to_training(model, frozen)


def frozen_parts(model: nn.Module) -> list[nn.Module]:
    """Return the modules of a model in training that are in evaluation mode, as its maker left them."""
    return [module for module in model.modules() if not module.training]


def to_training(model: nn.Module, frozen: Iterable[nn.Module]) -> None:
    """Put a model into training mode, but for its frozen parts. A ``train()`` of the model's own is called."""
    model.train()
    for module in frozen:
        module.training = False


def compiled(model: nn.Module, device: str) -> Callable[[Tensor], Tensor]:
    """Return what calls a model compiled, with its hooks. The model itself stays as it is.

    A batch of another size gets a graph of its own, so that a run that is resumed has the same sums. On the CPU the
    layout of images stays: torch 2.13 writes past its buffers when it changes that of fewer than 8 channels.
    """
    on_cpu = torch.device(device).type == "cpu"
    return torch.compile(model, dynamic=False, options={"layout_optimization": not on_cpu})


def make_schedule(optimizer: Optimizer, training: Training, steps: int) -> LambdaLR:
    """Return the schedule of a run of ``steps`` steps."""
    return LambdaLR(optimizer, lambda step: lr_factor(training, steps, step))


def lr_factor(training: Training, steps: int, step: int) -> float:
    """Return what the lr is multiplied by in a step, counted from 0, of a run of ``steps`` steps.

    The same as ``get_constant_schedule_with_warmup``, ``get_linear_schedule_with_warmup`` and
    ``get_cosine_schedule_with_warmup`` of transformers: the first step of a warm-up has lr 0, the one after it the
    whole lr, and 0 would be reached by the step after the last.

    >>> [lr_factor(Training(schedule="cosine", warmup_steps=2), 6, step) for step in (0, 1, 2, 4, 6)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    if step < training.warmup_steps:
        return step / training.warmup_steps
    done = (step - training.warmup_steps) / (steps - training.warmup_steps)
    if training.schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * done))
    return 1.0 - done if training.schedule == "linear" else 1.0


def training_loss(plain: Loss, training: Training, y: Tensor, classes: int, device: str) -> Loss:
    """Return the loss that is trained on; validation and test use the plain one, so that jobs can be compared.

    The class weights come from ``y``, the targets of the training part; ``device`` is where the outputs will be.
    """
    if not training.label_smoothing and training.class_weights is None:
        return plain
    weight = None
    if training.class_weights is not None:  # scikit-learn's "balanced"; a class without rows weighs nothing anyway
        weight = (len(y) / (classes * torch.bincount(y, minlength=classes).clamp(min=1))).to(device)
    return partial(functional.cross_entropy, weight=weight, label_smoothing=training.label_smoothing)
