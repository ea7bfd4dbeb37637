"""The names that a job may use, over HTTP: datasets, models, search spaces, optimizers, metrics, learners."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from pydantic import Field

from search_spaces import describe, get_preset
from service.api.views import View
from service.data.catalog import BUNDLED
from service.optimizers import OPTIMIZERS, baselines
from service.planning.plan import WARP_PRESETS
from service.spec.metrics import METRICS
from service.spec.models import MODELS
from service.spec.tasks import TaskName
from warpadam import STRATEGIES, Learner

router = APIRouter(tags=["catalog"])


class DatasetView(View):
    """A bundled dataset."""

    name: str
    rows: int
    features: int
    task: TaskName
    outputs: int = Field(description="Classes, or columns of the target.")
    images: bool
    source: str


class MetricView(View):
    """What a job can be judged by."""

    name: str = Field(description="Its name in `objective.metric`.")
    label: str = Field(description="How people write it.")
    tasks: list[str] = Field(description="Tasks that have it; empty for all.")
    higher_is_better: bool


class OptimizerView(View):
    """An optimizer that arms train with."""

    name: str
    library: str = Field(
        description="Dotted name of its class, or of a function that takes the model and the config as one dict."
    )
    baseline: bool = Field(description="Whether `baselines` may name it.")


class Catalog(View):
    """The names that a job may use."""

    datasets: list[DatasetView]
    models: dict[str, dict[str, Any]] = Field(description="Model name -> JSON schema of its spec.")
    presets: dict[str, dict[str, Any]] = Field(description="Search spaces of the warpadam arm.")
    baselines: dict[str, dict[str, Any]] = Field(description="Search spaces of the baselines.")
    optimizers: list[OptimizerView]
    metrics: list[MetricView]
    learners: dict[str, list[str]] = Field(
        description="How P can be learned -> the structures and placements that it works with, as `kronecker/pre`."
    )


@router.get("/v1/models")
def models() -> dict[str, dict[str, Any]]:
    """List the models that a job may name, each with the JSON schema of its spec."""
    return {name: model.model_json_schema() for name, model in MODELS.items()}


@router.get("/v1/catalog")
def catalog() -> Catalog:
    """List the datasets, models, search spaces, optimizers, metrics and learners that a job may name."""
    return Catalog(
        datasets=[DatasetView(name=name, **asdict(dataset.info)) for name, dataset in BUNDLED.items()],
        models=models(),
        presets={name: describe(get_preset(name)) for name in WARP_PRESETS},
        baselines={name: describe(space) for name, space in baselines().items()},
        optimizers=[
            OptimizerView(name=name, library=entry.library, baseline=entry.space is not None)
            for name, entry in OPTIMIZERS.items()
        ],
        metrics=[
            MetricView(name="val_loss", label="loss", tasks=[], higher_is_better=False),
            *(
                MetricView(
                    name=entry.field,
                    label=entry.label,
                    tasks=list(entry.tasks),
                    higher_is_better=entry.higher_is_better,
                )
                for entry in METRICS.values()
            ),
        ],
        learners={
            learner: [f"{found.structure}/{found.placement}" for found in STRATEGIES if found.learner == learner]
            for learner in Learner
        },
    )
