"""What is known of jobs like this one: the atlas, which is a list of jobs that were run to find out when P helps.

``benchmarks/atlas`` runs these jobs and writes the list; docs/atlas.md shows it.
"""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from service.planning.plan import JobPlan
from service.spec.tasks import Task

FILE: Final = Path(__file__).with_name("atlas.json")

NEIGHBOURS: Final = 9
"""Jobs of the atlas that one is compared with. An odd number, so that one word can have the majority."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What two jobs are compared by. All of it is known before a job runs.

    Attributes:
        task: What the model is trained for.
        model: Name of the model.
        activation: Its activation; empty if it has its own.
        carried: Whether it starts from a P of an earlier job.
        layers: Parameters with at least two axes; a model of the user's may have none.
        parameters: Numbers in all parameters.
        rows: Rows to train on.
        batch_size: Rows of a batch.
        steps: Steps of a run.
    """

    task: str
    model: str
    activation: str
    carried: bool
    layers: int
    parameters: int
    rows: int
    batch_size: int
    steps: int

    @classmethod
    def of(cls, plan: JobPlan) -> Traits | None:
        """Return the traits of a job; None for a training loop of the user's, of which too little is known."""
        if plan.task == Task.LOOP:
            return None
        model, budget = plan.spec.model, plan.spec.budget
        rows = model.training_rows(plan.info)
        return cls(
            task=plan.task,
            model=model.name,
            activation=model.activation_name,
            carried=plan.spec.warm_start is not None,
            layers=sum(len(shape) > 1 for shape in model.tensor_shapes(plan.info)),
            parameters=model.parameter_count(plan.info),
            rows=rows,
            batch_size=min(budget.batch_size, rows),
            steps=budget.steps,
        )

    @property
    def numbers(self) -> tuple[float, ...]:
        """The amounts and their ratios, as powers of two; no layer counts as one."""
        amounts = (max(1, self.layers), self.parameters, self.rows, self.batch_size, self.steps)
        ratios = (self.rows / self.parameters, self.steps * self.batch_size / self.rows)
        return tuple(math.log2(number) for number in (*amounts, *ratios))

    @property
    def names(self) -> tuple[str | bool, ...]:
        """What is equal or not."""
        return self.task, self.model, self.activation, self.carried


@dataclass(frozen=True, slots=True, kw_only=True)
class AtlasJob(Traits):
    """A job of the atlas, and what it found.

    Attributes:
        name: Its name there.
        axis: What changes between it and its neighbours there, such as the batch size.
        data: What it was trained on.
        word: Its verdict at equal steps.
        effect: How much lower the loss is with P, as a share of AdamW's.
        strategy: Structure, placement and learner of its best WarpAdam, joined by slashes.
    """

    name: str
    axis: str
    data: str
    word: str
    effect: float
    strategy: str


class Similar(BaseModel, frozen=True, use_attribute_docstrings=True):
    """The jobs of the atlas that are most like one."""

    jobs: int
    """How many were looked at."""
    helped: int
    """In how many of these P helped."""
    hurt: int
    """In how many it made things worse."""
    nearest: tuple[str, ...]
    """Names of the jobs, the most similar first."""
    strategies: tuple[str, ...]
    """Their strategies, the most common first."""
    sentence: str
    """The counts as people say them."""


@cache
def atlas() -> tuple[AtlasJob, ...]:
    """Return the jobs of the atlas that this version ships with."""
    return tuple(read(json.loads(FILE.read_text())))


def read(stored: Iterable[dict[str, Any]]) -> list[AtlasJob]:
    """Return jobs from their JSON."""
    known = {field.name for field in fields(AtlasJob)}
    return [AtlasJob(**{name: value for name, value in job.items() if name in known}) for job in stored]


def to_json(job: AtlasJob) -> dict[str, Any]:
    """Return a job as JSON values."""
    return asdict(job)


def similar_to(plan: JobPlan) -> Similar | None:
    """Return what is known of the jobs of the atlas that are most like one; None where too little is known of it."""
    traits = Traits.of(plan)
    return None if traits is None else similar(traits, atlas())


def similar(job: Traits, jobs: Sequence[AtlasJob], count: int = NEIGHBOURS) -> Similar:
    """Return what is known of those among ``jobs`` that are most like ``job``.

    The distance of two jobs is Euclidean: each amount counts in standard deviations over the atlas, each name that
    differs as one such deviation.
    """
    columns = list(zip(*(known.numbers for known in jobs), strict=True))
    spreads = [statistics.pstdev(column) or 1.0 for column in columns]

    def distance(known: AtlasJob) -> float:
        amounts = ((a - b) / s for a, b, s in zip(job.numbers, known.numbers, spreads, strict=True))
        return math.hypot(*amounts, *map(_differ, job.names, known.names))

    nearest = sorted(jobs, key=distance)[:count]
    words = Counter(known.word for known in nearest)
    hurt = f" and hurt in {words['hurts']}" if words["hurts"] else ""
    return Similar(
        jobs=len(nearest),
        helped=words["helps"],
        hurt=words["hurts"],
        nearest=tuple(known.name for known in nearest),
        strategies=tuple(name for name, _ in Counter(known.strategy for known in nearest).most_common()),
        sentence=f"Of the {len(nearest)} jobs most like this one in the atlas, P helped in {words['helps']}{hurt}.",
    )


def _differ(a: str | bool, b: str | bool) -> float:
    return float(a != b)
