"""A training run as data: what to do, the points it reaches, how it ended.

These values pass between the worker and a slot process. They load neither torch nor SQL.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, NamedTuple

from service.data.prepared import PreparedData
from service.spec.metrics import METRICS
from service.spec.tasks import TASKS, TaskName
from service.states import TrialState

_NOT_IN_DIGEST: Final = (
    "threads",
    "device",
    "checkpoint_url",
    "checkpoint_every_s",
    "p_url",
    "weights_url",
    "from_p_url",
    "by_score",
)
"""Fields of a run that :meth:`Run.digest` leaves out."""

EVALUATED_ROWS: Final = 1024
"""Rows whose activations are in memory at once when a whole part is evaluated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How a run is trained, apart from its optimizer: the fields of ``training`` in the spec of a job."""

    schedule: Literal["constant", "linear", "cosine"] = "linear"
    warmup_steps: int = 0
    max_grad_norm: float | None = None
    label_smoothing: float = 0.0
    class_weights: Literal["balanced"] | None = None
    last_batch: Literal["drop", "keep"] = "drop"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    compile: bool = False
    patience: int | None = None


@dataclass(frozen=True, slots=True)
class FamilyTraining:
    """How a run on a family of tasks learns P before it trains.

    Attributes:
        learn_tasks: Tasks of meta-training that P is learned on, one after the other; 0 for a run that has no P.
        learn_steps: Steps on each of them.
    """

    learn_tasks: int
    learn_steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Everything that one training run depends on.

    Attributes:
        arm: Name of the optimizer, as in ``service.optimizers``; ``config`` has its hyper-parameters.
        sizes: Widths of the layers of a chain; of another model, those of its input and its output.
        activation: Name of the activation of a chain.
        data: The prepared split or family.
        batch_size: Rows of a batch; at most the training rows.
        seed: Initial weights and order of the batches, nothing else.
        metric: Name of the score beside the loss; None for the one that the task has by default.
        model: Spec of the model; None for a chain of linear layers.
        shape: Channels, height and width of an image; empty for other data.
        threads: CPU threads.
        best_by: What the best point of the run is chosen by, whose weights are tested: the validation loss or the
            score of the metric. None to test the weights of the last step.
        by_score: Whether the run is judged by the score of the metric, which a training loop of the user's then has to
            yield each time.
        test: Whether the last point carries the test loss; with a family, whether it trains on the meta-test tasks.
        checkpoint_url: Folder for the checkpoints of this run alone; None to make none.
        checkpoint_every_s: Seconds between two checkpoints.
        p_url: Where to write the learned P: at the end, or with a family before training; None to keep none.
        weights_url: Where to write the weights of the model at the end; None to keep none. Not with a family.
        from_p_url: The P that the run starts from; None for P = I. With a family, P is learned from there on.
        shuffle_seed: Seed to renumber the coordinates of that P with, for a control; None leaves them.
        family: How P is learned over a family of tasks, whose data is prepared; None for a run on one task.
    """

    arm: str
    config: Mapping[str, Any]
    sizes: tuple[int, ...]
    activation: str
    task: TaskName
    data: PreparedData
    steps: int
    batch_size: int
    seed: int
    training: Training = Training()
    metric: str | None = None
    model: Mapping[str, Any] | None = None
    shape: tuple[int, ...] = ()
    threads: int = 1
    device: str = "cpu"
    best_by: Literal["loss", "score"] | None = None
    by_score: bool = False
    test: bool = False
    checkpoint_url: str | None = None
    checkpoint_every_s: float = 30.0
    p_url: str | None = None
    weights_url: str | None = None
    from_p_url: str | None = None
    from_p_sha256: str | None = None
    shuffle_seed: int | None = None
    family: FamilyTraining | None = None

    def cost(self, point: CurvePoint) -> tuple[float, float]:
        """Return what the best point is chosen by, and the loss, which decides between equal costs; lower is better."""
        if self.best_by == "score" and point.val_score is not None:
            return METRICS[self.metric or TASKS[self.task].metric].cost(point.val_score), point.val_loss
        return point.val_loss, point.val_loss

    def digest(self) -> str:
        """Return a SHA-256 of what the result depends on: two runs with one digest may use each other's checkpoints.

        It leaves out the fields of the checkpoint, the URL of the data (its hash is in), threads and device, which only
        change the last bits and may differ from one attempt to the next, and what only matters to a training loop of
        the user's, which has no checkpoints.
        """
        fields = {name: value for name, value in asdict(self).items() if name not in _NOT_IN_DIGEST}
        fields["data"] = self.data.sha256
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


class TrivialScores(NamedTuple):
    """What always predicting the same gets on a split, as its losses and scores; a score that is not finite is None."""

    val_loss: float
    val_score: float | None
    test_loss: float
    test_score: float | None


class CurvePoint(NamedTuple):
    """One point of a learning curve.

    Attributes:
        train_loss: Mean over the batches since the last point, with the label smoothing and class weights of the run;
            with a training loop of the user's, which does not tell it, ``val_loss``.
        val_loss: Loss on the whole validation part; what a training loop of the user's yields.
        seconds: Training time so far, without the time spent on waiting and, but for such a loop, on validation.
        test_loss: Loss on the whole test part, of the weights of the best point or of the last step; only at the last
            point, and only where it was asked for.
        val_score: Score of the run's metric on the validation part; None if it is not finite.
        test_score: The same on the test part, where there is a test loss.
        learning_seconds: Time spent on learning P over other tasks before step 1, which ``seconds`` does not count.
        trivial: What always predicting the same gets, where there is a test loss; None if the task has no such thing.
    """

    step: int
    train_loss: float
    val_loss: float
    seconds: float
    test_loss: float | None = None
    val_score: float | None = None
    test_score: float | None = None
    learning_seconds: float = 0.0
    trivial: TrivialScores | None = None


class Ended(NamedTuple):
    """How a trial or a confirmation run ended.

    Attributes:
        val_loss: Validation loss at the last step reached, or of a complete trial at the point that is judged; None
            when there is none.
        test_loss: Test loss, where it was asked for; so is ``test_score``.
        seconds: Training time.
        cause: Why it did not complete.
        value: What the search minimises; None where that is the validation loss.
    """

    state: TrialState
    val_loss: float | None = None
    test_loss: float | None = None
    seconds: float = 0.0
    cause: str | None = None
    test_score: float | None = None
    value: float | None = None


class DivergedError(ArithmeticError):
    """A loss of a run is no longer finite."""
