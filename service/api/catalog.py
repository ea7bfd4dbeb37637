"""The names that a job may use, over HTTP: datasets, models, presets and baselines."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from pydantic import Field

from search_spaces import describe, get_preset
from service.api.views import View
from service.data.catalog import BUNDLED
from service.optimizers import baselines
from service.planning.plan import WARP_PRESETS
from service.spec.models import MODELS
from service.spec.tasks import TaskName

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


class Catalog(View):
    """The names that a job may use."""

    datasets: list[DatasetView]
    models: dict[str, dict[str, Any]] = Field(description="Model name -> JSON schema of its spec.")
    presets: dict[str, dict[str, Any]] = Field(description="Search spaces of the warpadam arm.")
    baselines: dict[str, dict[str, Any]] = Field(description="Search spaces of the baselines.")


@router.get("/v1/models")
def models() -> dict[str, dict[str, Any]]:
    """List the models that a job may name, each with the JSON schema of its spec."""
    return {name: model.model_json_schema() for name, model in MODELS.items()}


@router.get("/v1/catalog")
def catalog() -> Catalog:
    """List the datasets, models, search space presets and baselines that a job may name."""
    return Catalog(
        datasets=[DatasetView(name=name, **asdict(dataset.info)) for name, dataset in BUNDLED.items()],
        models=models(),
        presets={name: describe(get_preset(name)) for name in WARP_PRESETS},
        baselines={name: describe(space) for name, space in baselines().items()},
    )
