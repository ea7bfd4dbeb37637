"""Facts about the content of an uploaded dataset: columns, types, missing values, classes.

A reader finds them once, at upload, and they are stored as JSON. ``dataset_info`` makes of them, with the target and
the task that a job chooses, what a plan needs to know.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from search_spaces.errors import must_be_one_of
from service.errors import FieldError, InvalidSpecError
from service.spec.base import read_stored
from service.spec.data import DatasetSpec
from service.spec.dataset_info import DatasetInfo
from service.spec.tasks import Task

FACTS_FILE: Final = "facts.json"
"""File of a dataset folder that the facts are kept in."""

MAX_LEVELS: Final = 50
"""Most distinct values of a column of categories, and of a column of class labels."""

FEW_NUMBERS: Final = 20
"""Most distinct values of a target of whole numbers that is taken for class labels."""

TEXT_FEATURES: Final = 64
"""Features that the words of a column of texts are hashed into."""

MIN_ROWS: Final = 10
"""Fewest rows of a dataset, which is split into three parts."""

MIN_CLASS_ROWS: Final = 5
"""Fewest rows of a class, so that each part has some."""

LARGEST: Final = 3.4028234663852886e38
"""Largest float of 32 bits. Features and targets are of this type."""

EXACT: Final = 2**53
"""Up to here, a float of 64 bits tells any two whole numbers apart."""


class Layout(StrEnum):
    """How the data of a dataset folder is kept."""

    TABLE = "table"
    ARRAYS = "arrays"
    TEXT = "text"


class ColumnKind(StrEnum):
    """What a column holds. It decides how the column becomes numbers."""

    NUMBER = "number"
    CATEGORY = "category"
    TEXT = "text"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column.

    Attributes:
        type: Its type in the file.
        missing: Rows without a value.
        first_missing: The first of them, counted from 1; None if there is none.
        distinct: Distinct values, without the missing one.
        whole: Whether it holds whole numbers only.
        levels: Value -> rows, if there are at most ``MAX_LEVELS`` values. The class balance of a target.
        low: Smallest number, and ``high`` the largest; None without numbers.
    """

    name: str
    kind: ColumnKind
    type: str
    missing: int = 0
    first_missing: int | None = None
    distinct: int
    whole: bool = False
    levels: Mapping[str, int] | None = None
    low: float | None = None
    high: float | None = None

    @property
    def width(self) -> int:
        """Number of features that it becomes. A column that is the same in every row becomes none."""
        if self.distinct + (self.missing > 0) < 2:
            return 0
        if self.kind is ColumnKind.NUMBER:
            return 1 + (self.missing > 0)
        return TEXT_FEATURES if self.kind is ColumnKind.TEXT else self.distinct


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetFacts:
    """The content of an uploaded dataset.

    Attributes:
        rows: Rows, images, or bytes of a text.
        columns: Columns of a table. Arrays and images have the labels as the only column, if they have any.
        shape: Shape of one row of ``x``, channels first; empty for a table and a text.
        characters: Distinct characters of a text.
        length: Characters of a text.
    """

    layout: Layout
    rows: int
    columns: tuple[Column, ...] = ()
    shape: tuple[int, ...] = ()
    characters: int = 0
    length: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> DatasetFacts:
        """Read what :meth:`to_json` wrote. Facts that only another version knows are left out.

        Raises:
            OtherVersionError: A fact is missing or cannot be read.
        """
        return read_stored(cls, stored, "the facts about the dataset")

    def save(self, folder: Path) -> None:
        """Write the facts to a dataset folder."""
        (folder / FACTS_FILE).write_text(json.dumps(self.to_json()), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> DatasetFacts:
        """Read the facts of a dataset folder.

        Raises:
            OtherVersionError: A fact is missing or cannot be read.
        """
        return cls.from_json(json.loads((folder / FACTS_FILE).read_text(encoding="utf-8")))

    def target(self, name: str | None) -> Column | None:
        """Return the column of that name, or without a name the labels of arrays; None if there is none."""
        if name is None and self.layout is Layout.ARRAYS and self.columns:
            return self.columns[0]
        return next((column for column in self.columns if column.name == name), None)

    def without(self, names: Sequence[str], target: str | None = None) -> DatasetFacts:
        """Return the facts about a table without some of its columns.

        Raises:
            InvalidSpecError: The dataset has no such column, or it is the target.
        """
        known = [column.name for column in self.columns if column.name != target]
        for index, name in enumerate(names):
            if self.layout is not Layout.TABLE:
                wrong = "must be empty: this dataset is not a table"
                raise InvalidSpecError(FieldError("dataset.exclude", list(names), wrong, code="not_allowed"))
            field = f"dataset.exclude[{index}]"
            if name == target:
                wrong = "must be a feature: this column is the target"
                raise InvalidSpecError(FieldError(field, name, wrong, code="conflict"))
            if name not in known:
                raise InvalidSpecError(FieldError(field, name, *must_be_one_of(name, known), "unknown_name"))
        return replace(self, columns=tuple(column for column in self.columns if column.name not in names))

    def features(self, target: Column | None) -> list[Column]:
        """Return the columns that are not the target."""
        return [column for column in self.columns if target is None or column.name != target.name]

    def suggested_task(self, target: Column | None) -> str:
        """Return the task that a target asks for, or that data without a target does."""
        if self.layout is Layout.TEXT:
            return Task.LANGUAGE
        if target is None:
            return Task.AUTOENCODING
        labels = target.kind is not ColumnKind.NUMBER or (target.whole and target.distinct <= FEW_NUMBERS)
        return Task.CLASSIFICATION if labels else Task.REGRESSION


def dataset_info(facts: DatasetFacts, spec: DatasetSpec) -> DatasetInfo:
    """Return what a plan needs to know about a dataset, with the target and the task of a job.

    Raises:
        InvalidSpecError: The dataset does not have the target or an excluded column, or they do not fit the task.
    """
    facts = facts.without(spec.exclude, spec.target)
    target = facts.target(spec.target)
    if target is None and spec.target is not None:
        names = [column.name for column in facts.columns]
        none = ("must be null: this dataset has no target column", None)
        message, hint = must_be_one_of(spec.target, names) if names else none
        raise InvalidSpecError(FieldError("dataset.target", spec.target, message, hint, "unknown_name"))
    task = Task(spec.task) if spec.task else facts.suggested_task(target)
    if task == Task.AUTOENCODING:
        target = None
    _check_task(facts, task, target)
    inputs = facts.features(target) if facts.layout is Layout.TABLE else []
    if task == Task.LANGUAGE:
        features = 1
    else:
        features = math.prod(facts.shape) if facts.shape else sum(column.width for column in inputs)
    if not features:
        wrong = "must leave at least one other column that is not the same in every row"
        raise InvalidSpecError(FieldError("dataset.target", spec.target, wrong, code="conflict"))
    numbers: dict[str, int] = {Task.LANGUAGE: 256, Task.AUTOENCODING: features, Task.REGRESSION: 1}
    outputs = numbers.get(task) or (target.distinct if target else 1)
    images = len(facts.shape) == 3
    return DatasetInfo(
        rows=facts.rows,
        features=features,
        task=task,
        outputs=outputs,
        images=images,
        source="upload",
        shape=facts.shape if images else (),
        characters=facts.characters,
        length=facts.length,
        columns=tuple(column.name for column in inputs),
        widths=tuple(column.width for column in inputs),
    )


def _check_task(facts: DatasetFacts, task: str, target: Column | None) -> None:
    possible = [Task.LANGUAGE] if facts.layout is Layout.TEXT else [Task.AUTOENCODING]
    if target is not None:
        possible = [Task.CLASSIFICATION, Task.REGRESSION]
    if task not in possible:
        needs_target = target is None and facts.layout is not Layout.TEXT
        hint = "Classification and regression need a target: set dataset.target." if needs_target else None
        wrong = f"must be {' or '.join(possible)} for this dataset"
        raise InvalidSpecError(FieldError("dataset.task", str(task), wrong, hint, "conflict"))
    if target is not None and (problem := _problem_with_target(task, target)) is not None:
        raise InvalidSpecError(FieldError("dataset.target", target.name, *problem))


def _problem_with_target(task: str, target: Column) -> tuple[str, str | None] | None:
    """Return message and hint if a column cannot be the target of a task."""
    if target.missing:
        first = f"the first is row {target.first_missing}, not counting the header"
        return f"must have a value in every row; {target.missing} rows have none, {first}", "Remove or fill these rows."
    if target.distinct < 2:
        return "must have at least two values; it is the same in every row", None
    if task == Task.REGRESSION:
        is_number = target.kind is ColumnKind.NUMBER
        return None if is_number else (f"must be a column of numbers for a regression, not of kind {target.kind}", None)
    if target.levels is None:
        hint = None if target.kind is not ColumnKind.NUMBER else "Set dataset.task to regression to predict a number."
        return f"must have at most {MAX_LEVELS} classes, not {target.distinct}", hint
    level, count = min(target.levels.items(), key=lambda item: item[1])
    if count < MIN_CLASS_ROWS:
        return f"must have at least {MIN_CLASS_ROWS} rows of every class; {level!r} has {count}", None
    return None
