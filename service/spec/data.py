"""The data of a job: one dataset, or a family of tasks made from datasets. Fields and ranges only."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from annotated_types import Ge, Le, Len
from pydantic import Field

from service.spec.base import ID, ColumnName, Entrypoint, Name, SpecModel, UserConfig

ColumnChoice = Literal["number", "category", "merged_category", "boolean", "date", "day_first_date", "text", "ignore"]
"""What a job may take a column for. Only in a date such as 03/04/2025 it matters whether the day comes first.

The case, accents, spaces and dashes of a ``merged_category`` do not matter."""


PART_NAMES: Final = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval"), "val"),
    **dict.fromkeys(("test", "testing", "holdout", "hold-out"), "test"),
}
"""What a column of parts may hold, in lower case -> the part."""


class SplitSpec(SpecModel):
    """Which rows of an uploaded table are for training, validation and test: 60 / 20 / 20 %."""

    by: Literal["random", "group", "time", "column"] = "random"
    """`random`: any row anywhere, with the same share of each class. `group`: rows with the same value in the column,
    such as a patient, stay together. `time`: the oldest rows train, the newest test. `column`: the column says the
    part: train, val or test."""
    column: ColumnName | None = None
    """Column of the groups, times or parts; null for random. A column of groups or parts is not used as a feature; a
    column of times is, unless it is excluded."""


class DatasetSpec(SpecModel):
    """Which data to train on: a bundled dataset by ``name``, an uploaded one by ``id``, or what a function makes."""

    name: Name | None = None
    """Name of a bundled dataset; `GET /v1/catalog` lists them."""
    id: str | None = Field(None, max_length=40, pattern=ID)
    """Id of an uploaded dataset; `GET /v1/datasets` lists them."""
    target: ColumnName | None = None
    """Column of an uploaded dataset to predict; arrays have one at most."""
    task: Literal["classification", "regression", "autoencoding", "language"] | None = None
    """What to train an uploaded dataset for; null lets the target decide."""
    exclude: Annotated[list[ColumnName], Len(max_length=4096)] = Field([])
    """Columns of an uploaded table that are no features, such as an id."""
    columns: dict[ColumnName, ColumnChoice] = Field(
        default={}, max_length=4096, examples=[{"zip": "category", "customer": "ignore"}]
    )
    """Column of an uploaded table -> what to take it for; the dataset says what the others are taken for."""
    split: SplitSpec = SplitSpec()
    target_transform: Literal["standardise", "log1p", "quantile"] = "standardise"
    """How the target of a regression is scaled before training, fitted on the training rows: by its mean and spread;
    the same of log(1 + target); or by its rank, to a normal distribution. Scores are in the units of the target."""
    entrypoint: Entrypoint | None = None
    config: UserConfig = Field(default={})

    @property
    def label(self) -> str:
        """What a job's dataset is called."""
        return self.name or self.id or self.entrypoint or ""


class ClassSubsetsSpec(SpecModel):
    """A task for each subset of the classes, relabelled 0 to ``ways`` - 1."""

    ways: Annotated[int, Ge(2), Le(100)] = 5
    """Classes of a task; fewer than the dataset has."""
    tasks: Annotated[int, Ge(3), Le(1000)] = 200
    """Subsets at most; drawn if there are more."""


class FamilySpec(SpecModel):
    """Many related tasks, out of one dataset or one each: P is learned on some of them and judged on others."""

    class_subsets: ClassSubsetsSpec | None = None
    """Each subset of the classes is a task."""
    group_by: ColumnName | None = None
    """Column whose values make the tasks; a number with more than 20 values by quantile bins."""
    bins: Annotated[int, Ge(0), Le(100)] = 10
    """Quantile bins of such a number; 0 makes a task of every value, as of an id."""
    datasets: Annotated[list[DatasetSpec], Len(3, 100)] | None = None
    """Each of these datasets is a task; the field dataset of the job is left out."""
    learn_tasks: Annotated[int, Ge(1), Le(10_000)] = 60
    """Tasks that P is learned on, one by one."""
    learn_steps: Annotated[int, Ge(2), Le(100_000)] = 50
    """Steps on each of them."""
    evaluate_tasks: Annotated[int, Ge(1), Le(100)] = 10
    """Tasks at most of meta-validation, and of meta-test: a fifth of all each."""
