# A plug-in as a user would write one, outside of the package: an optimizer, a model, a metric and a task.
# WARPTUNE_PLUGINS names this module. The API and the worker import it too, so torch is imported inside functions.
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from search_spaces import Float, Parameter, SearchSpace
from service.optimizers import OPTIMIZERS, OptimizerEntry
from service.spec.dataset_info import DatasetInfo
from service.spec.metrics import METRICS, MetricEntry
from service.spec.models import MODELS, ModelSpec
from service.spec.tasks import TASKS, Task, TaskEntry, Trivial

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

SMALLEST_STEP = 1e-6


def build_rprop(model: nn.Module, config: Mapping[str, Any]) -> Optimizer:
    """Return the toy optimizer."""
    import torch

    return torch.optim.Rprop(model.parameters(), lr=config["lr"], step_sizes=(SMALLEST_STEP, 1.0))


def build_scaled_linear(spec: Mapping[str, Any], shape: tuple[int, ...], sizes: Sequence[int]) -> nn.Module:
    """Return the toy model."""
    from torch import nn

    layer = nn.Linear(sizes[0], sizes[-1])
    nn.init.uniform_(layer.weight, -spec["spread"], spec["spread"])
    return layer


class ScaledLinearSpec(ModelSpec):
    """One linear layer. It predicts medians, which is the toy task, instead of means."""

    build: ClassVar = f"{__name__}:build_scaled_linear"

    name: Literal["scaled_linear"] = "scaled_linear"
    spread: float = Field(0.1, gt=0, description="Bound of the initial weights.")

    def task(self, data: DatasetInfo) -> str:
        return "median_regression" if data.task == Task.REGRESSION else data.task

    def tensor_shapes(self, data: DatasetInfo) -> list[tuple[int, ...]]:
        return [(data.outputs, data.features), (data.outputs,)]


def median_target(y: Tensor, outputs: int) -> Tensor:
    """Return the toy trivial predictor: no other constant has a lower absolute error."""
    return y.median(0).values


class MeanAbsoluteError:
    """The toy metric; lower is better."""

    def sums(self, output: Tensor, y: Tensor) -> Tensor:
        import torch

        error = (output - y).abs().sum()
        return torch.stack([error, torch.tensor(float(y.numel()))]).double()

    def from_sums(self, sums: Tensor) -> Tensor:
        return sums[0] / sums[1]


MEAN_ABSOLUTE_ERROR = MeanAbsoluteError()

OPTIMIZERS.register(
    OptimizerEntry(
        name="rprop",
        build=f"{__name__}:build_rprop",
        config=dict,
        library="torch.optim.Rprop",
        space=SearchSpace(
            name="rprop",
            parameters=(Parameter(name="lr", domain=Float(low=1e-3, high=0.1, log=True)),),
            first_trials=({"lr": 0.01},),
        ),
    )
)
MODELS.register(ScaledLinearSpec)
TASKS.register(
    TaskEntry(
        name="median_regression",
        loss="torch.nn.functional:l1_loss",
        metric="mae",
        example="service.training.tasks:example_numbers",
        trivial=Trivial(
            output=f"{__name__}:median_target",
            predicts="the median of the target",
            predicts_for_loss="the median of the target",
        ),
    )
)
METRICS.register(
    MetricEntry(
        name="mae",
        tasks=("median_regression",),
        score=f"{__name__}:MEAN_ABSOLUTE_ERROR",
        noun="absolute error",
        compared_as="test_mae",
        best=0.0,
        higher_is_better=False,
    )
)
