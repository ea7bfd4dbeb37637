"""Batches of a run, and its loss and score on whole parts.

A split may be larger than the memory. On the CPU its rows are read from the mapped file when they are needed.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor, nn

from service.data.prepared_files import SPLIT_PARTS, TARGET_TRANSFORMS, load_arrays
from service.spec.tasks import TASKS
from service.training.run import EVALUATED_ROWS, Run, TrivialScores
from service.training.step import evaluating
from service.training.tasks import in_units, loss_of, score_of, trivial_model

DEVICE_BYTES: Final = 1 << 30
"""Largest split that is copied to the memory of a GPU as a whole. A larger one might not fit; it goes there batch by
batch, which costs time."""


class Batches:
    """The split of a run.

    Attributes:
        epoch_rng: State of the generator before it shuffled the current epoch.
        taken: Batches taken from the current epoch.
    """

    def __init__(self, run: Run) -> None:
        self._device = torch.device(run.device)
        self._loss, self._score = loss_of(run.task), score_of(run.task, run.metric)
        self._task, self._metric, self._outputs = run.task, run.metric or TASKS[run.task].metric, run.sizes[-1]
        mapped = load_arrays(run.data.url, run.data.sha256)
        arrays = {name: torch.from_numpy(array) for name, array in mapped.items()}  # still the mapped file
        if sum(array.nbytes for array in arrays.values()) <= DEVICE_BYTES:
            arrays = {name: array.to(self._device) for name, array in arrays.items()}
        self._x = {part: arrays[f"x_{part}"] for part in SPLIT_PARTS}
        self._y = self._x if TASKS[run.task].reconstructs else {part: arrays[f"y_{part}"] for part in SPLIT_PARTS}
        self._in_units = {part: arrays[f"target_{part}"] for part in SPLIT_PARTS if f"target_{part}" in arrays}
        self._transform = {name: array for name, array in arrays.items() if name in TARGET_TRANSFORMS}
        rows = len(self._x["train"])
        self._batch_size = min(run.batch_size, rows)
        keep = run.training.last_batch == "keep"
        self._of_an_epoch = math.ceil(rows / self._batch_size) if keep else rows // self._batch_size
        self._generator = torch.Generator().manual_seed(run.seed)
        self._order = torch.empty(0, dtype=torch.int64)
        self.epoch_rng, self.taken = self._generator.get_state(), self._of_an_epoch

    @property
    def targets(self) -> Tensor:
        """Targets of the training part, on the device of the data."""
        return self._y["train"]

    def next_batch(self) -> tuple[Tensor, Tensor]:
        """Return the next batch. ``training.last_batch`` says whether an epoch ends with a smaller one."""
        if self.taken == self._of_an_epoch:
            self._shuffle()
        start = self.taken * self._batch_size
        self.taken += 1
        return self._rows("train", self._order[start : start + self._batch_size])

    def go_to(self, epoch_rng: Tensor, taken: int) -> None:
        """Continue after the first ``taken`` batches of an epoch."""
        self._generator.set_state(epoch_rng)
        self._shuffle()
        self.taken = taken

    def _shuffle(self) -> None:
        self.epoch_rng, self.taken = self._generator.get_state(), 0
        x = self._x["train"]
        self._order = torch.randperm(len(x), generator=self._generator).to(x.device)

    def _rows(self, part: str, rows: Tensor | slice) -> tuple[Tensor, Tensor]:
        x = self._x[part][rows].to(self._device)
        return x, x if self._y is self._x else self._y[part][rows].to(self._device)

    def trivial(self) -> TrivialScores | None:
        """Return what always predicting the same gets on this split; None if the task has no such thing."""
        of_loss = trivial_model(self._task, self.targets, self._outputs)
        of_score = trivial_model(self._task, self._in_units.get("train", self.targets), self._outputs, self._metric)
        if of_loss is None or of_score is None:
            return None
        return TrivialScores(*self.evaluate(of_loss, "val", of_score), *self.evaluate(of_loss, "test", of_score))

    @torch.no_grad()
    def evaluate(self, model: nn.Module, part: str, scored: nn.Module | None = None) -> tuple[float, float | None]:
        """Return the loss on a whole part, and the score of the run's metric in the units of the target.

        A score that is not defined is None: a part whose targets are all the same has no variance to explain.

        It is the plain loss in float32, whatever is trained on, so that the losses of jobs can be compared. The model
        is called with its hooks, as in training, but not compiled: pieces of other sizes would each be compiled again.

        Args:
            model: What the loss is measured of.
            part: Part of the split.
            scored: What the score is measured of, with outputs in the units of the target; None for ``model``.
        """
        loss, collected = torch.zeros((), dtype=torch.float64, device=self._device), list[Tensor]()
        with evaluating(model):
            for start in range(0, len(self._x[part]), EVALUATED_ROWS):
                piece = slice(start, start + EVALUATED_ROWS)
                x, y = self._rows(part, piece)
                output = model(x)
                loss += len(x) / len(self._x[part]) * self._loss(output, y).double()
                found = in_units(output, self._transform) if scored is None else scored(x)
                target = self._in_units[part][piece].to(self._device) if part in self._in_units else y
                collected.append(self._score.collect(found, target))
        score = self._score.compute(collected) if loss.isfinite() else math.nan
        return loss.item(), score if math.isfinite(score) else None
