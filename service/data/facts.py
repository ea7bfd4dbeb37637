# What is known about an uploaded dataset, without its data: columns, types, missing values, classes. Found once, at
# upload (service/data/), kept as JSON; from it and a job's choices come the facts that a plan needs.
"""Facts about uploaded datasets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from typing import Any, Final

from search_spaces.errors import one_of
from service.data.catalog import DatasetInfo, Task
from service.errors import FieldError, InvalidSpecError, OtherVersionError
from service.spec.data import DatasetSpec

FACTS_FILE: Final = "facts.json"
"""Name of the file with what an upload was found to hold, beside its data."""

MAX_LEVELS: Final = 50
"""Distinct values up to which text is a category, and up to which a column can be a class label."""

FEW_NUMBERS: Final = 20
"""Distinct whole numbers up to which a target is taken for class labels."""

TEXT_FEATURES: Final = 64
"""Columns that the words of a free-text column are hashed into."""

MIN_ROWS: Final = 10
"""Rows without which three parts make no sense."""

MIN_CLASS_ROWS: Final = 5
"""Rows of a class without which some part would have none."""

LARGEST: Final = 3.4028234663852886e38
"""Largest number of 32 bits, as features and targets are; the square of a much larger one is infinite in 64."""

EXACT: Final = 2**53
"""Whole numbers up to which every one has a floating-point number of 64 bits of its own."""


class Layout(StrEnum):
    """How the data of a dataset is kept."""

    TABLE = "table"
    ARRAYS = "arrays"
    TEXT = "text"


class ColumnKind(StrEnum):
    """What a column holds, and with it how it becomes numbers."""

    NUMBER = "number"
    CATEGORY = "category"
    TEXT = "text"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column.

    Attributes:
        name: Its name.
        kind: What it holds.
        type: Its type in the file.
        missing: Rows without a value.
        first_missing: The first of them, counted from 1; None if there is none.
        distinct: Distinct values, the missing one not counted.
        whole: Whether it holds whole numbers only.
        levels: Value -> rows, where there are at most ``MAX_LEVELS``; the class balance, if it is a target.
        low: Smallest number.
        high: Largest number.
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
        """Features that it becomes; a column that says nothing becomes none."""
        if self.distinct + (self.missing > 0) < 2:
            return 0
        if self.kind is ColumnKind.NUMBER:
            return 1 + (self.missing > 0)
        return TEXT_FEATURES if self.kind is ColumnKind.TEXT else self.distinct


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetFacts:
    """What an upload was found to hold.

    Attributes:
        layout: How it is kept.
        rows: Rows, images, or bytes of a text.
        columns: Columns of a table; of arrays and images, the labels, if there are any.
        shape: Shape of one row of ``x``, channels first; empty for a table and a text.
        characters: Distinct characters of a text.
        length: Characters of a text, all of them; 0 where that was not counted.
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
        """Read what :meth:`to_json` wrote; facts that only another version knows are left out.

        Raises:
            OtherVersionError: One is missing, or says what this version does not know.
        """
        try:
            columns = tuple(
                Column(**_known(Column, column) | {"kind": ColumnKind(column["kind"])}) for column in stored["columns"]
            )
            more = {"layout": Layout(stored["layout"]), "columns": columns, "shape": tuple(stored["shape"])}
            return cls(**{**_known(cls, stored), **more})
        except (KeyError, TypeError, ValueError) as error:
            raise OtherVersionError("the facts about the dataset", error) from error

    def target(self, name: str | None) -> Column | None:
        """Return the target column: the one of that name, or the only one of arrays; None if there is none."""
        if name is None and self.layout is Layout.ARRAYS and self.columns:
            return self.columns[0]
        return next((column for column in self.columns if column.name == name), None)

    def without(self, names: Sequence[str], target: str | None = None) -> DatasetFacts:
        """Return the facts about the same table without some of its columns.

        Raises:
            InvalidSpecError: There is no such column, or it is the target.
        """
        known = [column.name for column in self.columns if column.name != target]
        for index, name in enumerate(names):
            if self.layout is not Layout.TABLE:
                raise InvalidSpecError(FieldError("dataset.exclude", list(names), "nothing: this dataset is no table"))
            if name not in known:
                expected = "a feature: it is the target" if name == target else one_of(name, known)
                raise InvalidSpecError(FieldError(f"dataset.exclude[{index}]", name, expected))
        return replace(self, columns=tuple(column for column in self.columns if column.name not in names))

    def suggested_task(self, target: Column | None) -> Task:
        """Return what the target asks for."""
        if self.layout is Layout.TEXT:
            return Task.LANGUAGE
        if target is None:
            return Task.AUTOENCODING
        labels = target.kind is not ColumnKind.NUMBER or (target.whole and target.distinct <= FEW_NUMBERS)
        return Task.CLASSIFICATION if labels else Task.REGRESSION


def _known(kind: type[Column | DatasetFacts], stored: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in fields(kind)}
    return {name: value for name, value in stored.items() if name in names}


def dataset_info(facts: DatasetFacts, spec: DatasetSpec) -> DatasetInfo:
    """Return what a plan needs to know, with the target and the task of a job.

    Raises:
        InvalidSpecError: The dataset has no such target, or not for this task; or no such column to leave out.
    """
    facts = facts.without(spec.exclude, spec.target)
    target = facts.target(spec.target)
    if target is None and spec.target is not None:
        names = [column.name for column in facts.columns]
        expected = one_of(spec.target, names) if names else "none: this dataset has no target column"
        raise InvalidSpecError(FieldError("dataset.target", spec.target, expected))
    suggested = facts.suggested_task(target)
    task = Task(spec.task) if spec.task else suggested
    if task is Task.AUTOENCODING:
        target = None
    _check_task(facts, task, target)
    if task is Task.LANGUAGE:
        return DatasetInfo(
            rows=facts.rows,
            features=1,
            task=task,
            outputs=256,
            source="upload",
            characters=facts.characters,
            length=facts.length,
        )
    features = math.prod(facts.shape) if facts.shape else _width(facts, target)
    if not features:
        raise InvalidSpecError(FieldError("dataset.target", spec.target, "a table with a column that varies beside it"))
    outputs = {Task.AUTOENCODING: features, Task.REGRESSION: 1}.get(task) or (target.distinct if target else 1)
    images = len(facts.shape) == 3
    inputs = [c for c in facts.columns if facts.layout is Layout.TABLE and (target is None or c.name != target.name)]
    return DatasetInfo(
        rows=facts.rows,
        features=features,
        task=task,
        outputs=outputs,
        images=images,
        source="upload",
        shape=facts.shape if images else (),
        columns=tuple(column.name for column in inputs),
        widths=tuple(column.width for column in inputs),
    )


def _width(facts: DatasetFacts, target: Column | None) -> int:
    return sum(column.width for column in facts.columns if target is None or column.name != target.name)


def _check_task(facts: DatasetFacts, task: Task, target: Column | None) -> None:
    possible = [Task.LANGUAGE] if facts.layout is Layout.TEXT else [Task.AUTOENCODING]
    if target is not None:
        possible = [Task.CLASSIFICATION, Task.REGRESSION]
    if task not in possible:
        needs = (
            "" if target is not None or facts.layout is Layout.TEXT else "; classification and regression need a target"
        )
        raise InvalidSpecError(FieldError("dataset.task", str(task), ", ".join(possible) + needs))
    if target is not None:
        expected = _what_is_wrong(task, target)
        if expected is not None:
            raise InvalidSpecError(FieldError("dataset.target", target.name, expected))


def _what_is_wrong(task: Task, target: Column) -> str | None:
    """Return what the column would have to be, where it cannot be the target."""
    if target.missing:
        first = f"the first is row {target.first_missing}, the header not counted"
        return f"a column without missing values; {target.missing} rows have none, {first}"
    if target.distinct < 2:
        return "a column with two values at least; it is the same in every row"
    if task is Task.REGRESSION:
        return (
            None if target.kind is ColumnKind.NUMBER else f"a column of numbers for a regression, not of {target.kind}"
        )
    if target.levels is None:
        return f"at most {MAX_LEVELS} classes, not {target.distinct}"
    level, count = min(target.levels.items(), key=lambda item: item[1])
    return None if count >= MIN_CLASS_ROWS else f"at least {MIN_CLASS_ROWS} rows of every class; {level!r} has {count}"
