"""From the names that a run carries to torch: its model, its loss and its score."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from service.registry import import_object
from service.spec.metrics import METRICS
from service.spec.models import MODELS
from service.spec.tasks import TASKS
from service.training.metrics import Score
from service.training.networks import Spec, linear_layers

Loss = Callable[[Tensor, Tensor], Tensor]


def build_network(spec: Spec | None, shape: tuple[int, ...], sizes: Sequence[int], activation: str) -> nn.Module:
    """Return the model of a run, freshly initialised.

    Args:
        spec: Spec of the model; None for a chain of linear layers.
        shape: Channels, height and width of an image.
        sizes: Widths of the layers of a chain; of another model, those of its input and its output.
        activation: Name of the activation of a chain without a spec.
    """
    if spec is None:
        return linear_layers(sizes, activation)
    model: nn.Module = import_object(MODELS[spec["name"]].build)(spec, shape, sizes)
    return model


def loss_of(task: str) -> Loss:
    """Return the loss of a task, a mean over the rows."""
    loss: Loss = import_object(TASKS[task].loss)
    return loss


def score_of(task: str, metric: str | None = None) -> Score:
    """Return the score that a run computes: of the named metric, or of the one that the task has by default."""
    score: Score = import_object(METRICS[metric or TASKS[task].metric].score)
    return score
