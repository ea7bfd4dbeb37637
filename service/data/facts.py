"""Facts about the content of an uploaded dataset: columns, types, missing values, classes.

A reader finds them once, at upload, and they are stored as JSON. ``columns.retyped`` changes them as a job asks.
``dataset_info`` makes of them, with the target and the task that a job chooses, what a plan needs to know;
``column_uses`` says the same to a person, column by column.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, NamedTuple

from search_spaces.errors import must_be_one_of
from service.errors import FieldError, InvalidSpecError, shortened
from service.spec.base import read_stored
from service.spec.data import PART_NAMES, DatasetSpec
from service.spec.dataset_info import DatasetInfo, Outliers
from service.spec.tasks import Task

FACTS_FILE: Final = "facts.json"
"""File of a dataset folder that the facts are kept in."""

MAX_LEVELS: Final = 50
"""Most distinct values of a column of categories, and of a column of class labels."""

FEW_NUMBERS: Final = 20
"""Most distinct values of a target of whole numbers that is always taken for class labels."""

TEXT_FEATURES: Final = 64
"""Features that the words of a column of texts, or the values of a category with many, are hashed into."""

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
    BOOLEAN = "boolean"
    DATE = "date"
    TEXT = "text"


class Unused(StrEnum):
    """Why a column is not a feature unless a job gives it a kind."""

    ID = "id"
    INDEX = "index"

    @property
    def reason(self) -> str:
        """What tells so, for a person."""
        return "nearly every row has another value" if self is Unused.ID else "it only numbers the rows"


class ColumnRole(StrEnum):
    """What a job does with a column."""

    FEATURE = "feature"
    TARGET = "target"
    LEFT_OUT = "left out"


TIMES: Final = re.compile(
    r"(?i:(.*[^a-z])?(time|timestamp|datetime|date|ts|day|week|month|year|hour|epoch|tag|monat|jahr|woche|stunde|fecha"
    r"|(created|updated|recorded|measured)([^a-z]?(at|on))?|\w*(zeit|datum|zeitpunkt|zeitstempel)))"
    r"|(?i:t|(date|time)[^a-z]of[^a-z].*)|.*[a-z](Time|Date|Timestamp)"
)
"""Names of times of rows."""

BIRTHS: Final = re.compile(r"birth|born|dob|geburt", re.IGNORECASE)
"""Names of dates that are not times of rows."""

OWNERS: Final = re.compile(
    r"(?i:(.*[^a-z])?(uuid|guid|id|(?P<thing>patient|subject|person|participant|proband|user|customer|client|kunden?|member|student"
    r"|pupil|employee|household|family|session|visit|device|ger(ae|ä)t|machine|sensor|hospital|clinic|donor|animal|mouse)"
    r"(?P<number>[^a-z]*(id|nr|no|num|nummer|number|code|key|name))?))|.*[a-z](ID|Id)"
)
"""Names of what several rows may belong to."""

MIN_TIMES: Final = 10
"""Fewest distinct times that are worth a hint, and ``MIN_OWNERS`` the same for groups."""

MIN_OWNERS: Final = 5

SPLITS_ONLY: Final = ("group", "column")
"""Splits by a column that is not a feature."""

MIN_GROUPS: Final = 3
"""Groups or times that leave something for each of the three parts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How the file of a table, or a zip of images, is read. As a wish of the user, None leaves it to the reader.

    Attributes:
        header: Whether the first row of a CSV or Excel file has names (first) or data (none).
        na_values: Cells that have no value, besides empty ones. None stands for the usual ones, such as NA and null.
        image_size: Pixels of both sides that images are scaled to; None keeps them, if all have one size.
    """

    encoding: str | None = None
    delimiter: str | None = None
    decimal: str | None = None
    thousands: str | None = None
    header: str | None = None
    na_values: tuple[str, ...] | None = None
    image_size: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How the numbers or dates of a column of texts are written, or that spellings of its texts are merged.

    Attributes:
        decimal: The decimal mark.
        thousands: What separates groups of three digits; empty for nothing.
        unit: What stands before or after each number, such as $ or %; "$ k" for $ before it and k after it.
        date: Key of ``columns.DATES``; empty for numbers.
        spellings: ``merged`` for texts whose case, accents, spaces and dashes do not matter; empty for others.
        missing: Numbers that stand for no value, as the user says.
    """

    decimal: str = "."
    thousands: str = ""
    unit: str = ""
    date: str = ""
    spellings: str = ""
    missing: Sequence[float] = ()

    def __str__(self) -> str:
        marks = [f"decimal {self.decimal}"] if self.decimal != "." else []
        marks += [f"thousands {self.thousands!r}"] if self.thousands else []
        if self.spellings:
            return f"spellings {self.spellings}"
        return self.date or ", ".join([*marks, self.unit] if self.unit else marks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column.

    Attributes:
        type: Its type in the file.
        form: How its numbers or dates are written; None if they are stored as numbers.
        parts: What a date becomes: those of ``columns.DATE_PARTS`` that vary.
        unused: Why jobs leave it out unless they give it a kind.
        warnings: What a person may want to correct.
        missing: Rows without a value.
        first_missing: The first of them, counted from 1; None if there is none.
        distinct: Distinct values, without the missing one.
        whole: Whether it holds whole numbers only.
        levels: Value -> rows, if there are at most ``MAX_LEVELS`` values. The class balance of a target.
        low: Smallest number, and ``high`` the largest; None without numbers.
        outliers: The few rows that decide its variance; None without such rows.
        in_order: Whether its numbers or dates never fall from row to row, or never rise.
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
    outliers: Outliers | None = None
    in_order: bool = False
    form: Form | None = None
    parts: tuple[str, ...] = ()
    unused: Unused | None = None
    warnings: tuple[str, ...] = ()

    @property
    def is_numeric(self) -> bool:
        """Whether its values are numbers when features are made of them."""
        return self.kind in (ColumnKind.NUMBER, ColumnKind.BOOLEAN, ColumnKind.DATE)

    @property
    def width(self) -> int:
        """Number of features that it becomes. A column that is the same in every row becomes none."""
        if self.distinct + (self.missing > 0) < 2:
            return 0
        if self.is_numeric:
            return (len(self.parts) or 1) + (self.missing > 0)
        return TEXT_FEATURES if self.kind is ColumnKind.TEXT or self.levels is None else self.distinct


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnUse:
    """What a job does with a column.

    Attributes:
        kind: The kind of the column; or id, index or constant, the reason to leave it out.
        role: feature, target or left out.
        reason: Why it is left out; None for the others.
        features: Features that it becomes.
        read_as: How its numbers or dates are written, such as dd.mm.yyyy.
    """

    name: str
    kind: str
    role: ColumnRole
    reason: str | None
    features: int
    missing: int
    distinct: int
    read_as: str | None
    warnings: tuple[str, ...]


class SuggestedTask(NamedTuple):
    """The task that a target asks for, and why."""

    task: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetFacts:
    """The content of an uploaded dataset.

    Attributes:
        rows: Rows, images, or bytes of a text.
        columns: Columns of a table. Arrays and images have the labels as the only column, if they have any.
        shape: Shape of one row of ``x``, channels first; empty for a table and a text.
        characters: Distinct characters of a text.
        length: Characters of a text.
        reading: How the file of a table was read.
        warnings: What a person may want to correct in the file.
    """

    layout: Layout
    rows: int
    columns: tuple[Column, ...] = ()
    shape: tuple[int, ...] = ()
    characters: int = 0
    length: int = 0
    reading: Reading = Reading()
    warnings: tuple[str, ...] = ()

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

    def chosen(self, spec: DatasetSpec) -> DatasetFacts:
        """Return the facts about the columns that a job uses: its features and its target.

        Raises:
            InvalidSpecError: The job names a column that is not there, or leaves out its target.
        """
        self._check_names(spec)
        _check_split(self, spec)
        left_out = {*spec.exclude, *(name for name, kind in spec.columns.items() if kind == "ignore")}
        if spec.split.by in SPLITS_ONLY and spec.split.column is not None:
            left_out.add(spec.split.column)
        used = (
            column
            for column in self.columns
            if column.name not in left_out and (column.unused is None or column.name == spec.target)
        )
        return replace(self, columns=tuple(used))

    def _check_names(self, spec: DatasetSpec) -> None:
        known = [column.name for column in self.columns]
        named = [("exclude", f"exclude[{index}]", name, "ignore") for index, name in enumerate(spec.exclude)]
        named += [("columns", f"columns.{name}", name, kind) for name, kind in spec.columns.items()]
        for whole, field, name, kind in named:
            if self.layout is not Layout.TABLE:
                wrong = "must be empty: this dataset is not a table"
                raise InvalidSpecError(FieldError(f"dataset.{whole}", name, wrong, code="not_allowed"))
            if name not in known:
                raise InvalidSpecError(
                    FieldError(f"dataset.{field}", name, *must_be_one_of(name, known), "unknown_name")
                )
            if kind == "ignore" and name == spec.target:
                wrong = "must be a feature: this column is the target"
                raise InvalidSpecError(FieldError(f"dataset.{field}", name, wrong, code="conflict"))

    def features(self, target: Column | None) -> list[Column]:
        """Return the columns that are not the target."""
        return [column for column in self.columns if target is None or column.name != target.name]

    def suggested_task(self, target: Column | None) -> SuggestedTask:
        """Return the task that a target asks for, or that data without a target does."""
        if self.layout is Layout.TEXT:
            return SuggestedTask(Task.LANGUAGE, "the dataset is a text")
        if target is None:
            return SuggestedTask(Task.AUTOENCODING, "there is no target")
        values, numbers = f"in {self.rows:,} rows", "whole numbers" if target.whole else "numbers"
        if target.kind is ColumnKind.DATE:
            return SuggestedTask(Task.REGRESSION, f"{target.distinct:,} distinct dates {values}")
        if target.kind is not ColumnKind.NUMBER:
            kind = target.kind if target.kind is ColumnKind.BOOLEAN else "text"
            return SuggestedTask(Task.CLASSIFICATION, f"{target.distinct:,} distinct {kind} values {values}")
        reason = f"{target.distinct:,} distinct {numbers} {values}"
        is_labels = target.whole and (target.distinct <= FEW_NUMBERS or _are_class_numbers(target))
        return SuggestedTask(Task.CLASSIFICATION if is_labels else Task.REGRESSION, reason)


def _are_class_numbers(target: Column) -> bool:
    """Return whether whole numbers look like numbered classes: from 0 or 1, without a gap, each in some rows."""
    if target.levels is None or target.low not in (0, 1) or target.high is None:
        return False
    return target.high - target.low + 1 == target.distinct and min(target.levels.values()) >= MIN_CLASS_ROWS


def _split_hint(column: Column, rows: int) -> tuple[str, ...]:
    """Say if a column looks like what rows should be split by: their time, or what they belong to."""
    say, name = "say {{by: {}, column: {}}} in dataset.split", column.name
    if column.kind in (ColumnKind.DATE, ColumnKind.NUMBER) and not BIRTHS.search(name):
        is_date, named = column.kind is ColumnKind.DATE, TIMES.fullmatch(name) is not None
        if column.distinct >= MIN_TIMES and ((is_date and (named or column.in_order)) or (named and column.in_order)):
            what = (
                "the rows are in the order of this column"
                if column.in_order
                else "this looks like the time of each row"
            )
            return (f"{what}: {say.format('time', name)} to test on the newest, if that is what the model is for",)
    repeats = 2 * column.distinct <= rows - column.missing and column.distinct >= MIN_OWNERS
    is_whole = column.kind is not ColumnKind.NUMBER or column.whole
    owner = OWNERS.fullmatch(name)
    is_count = column.low == 0 and column.distinct <= FEW_NUMBERS and owner and owner["thing"] and not owner["number"]
    if owner and repeats and is_whole and column.kind is not ColumnKind.DATE and not is_count:
        what = f"{column.distinct:,} values in {rows:,} rows"
        return (f"{what}: {say.format('group', name)} to keep the rows of each together, as those of one patient",)
    return ()


def column_uses(facts: DatasetFacts, spec: DatasetSpec) -> tuple[ColumnUse, ...]:
    """Return what a job does with each column of a table, or with the labels of arrays.

    ``facts`` are those that ``columns.retyped`` made with the columns of the same spec.
    """
    chosen = {column.name for column in facts.chosen(spec).columns}
    target = facts.target(spec.target)
    uses = []
    for column in facts.columns:
        role, kind = ColumnRole.FEATURE, str(column.kind)
        reason: str | None = None
        if target is not None and column.name == target.name:
            role = ColumnRole.TARGET
        elif spec.split.by in SPLITS_ONLY and column.name == spec.split.column:
            role, reason = ColumnRole.LEFT_OUT, f"the rows are split by this {spec.split.by}"
        elif column.unused and column.name not in spec.exclude:
            role, reason, kind = ColumnRole.LEFT_OUT, column.unused.reason, str(column.unused)
        elif column.name not in chosen:
            role, reason = ColumnRole.LEFT_OUT, "the job leaves it out"
        elif not column.width:
            role, reason, kind = ColumnRole.LEFT_OUT, "it is the same in every row", "constant"
        is_open = spec.split.by == "random" and role is ColumnRole.FEATURE and facts.layout is Layout.TABLE
        uses.append(
            ColumnUse(
                name=column.name,
                kind=kind,
                role=role,
                reason=reason,
                features=column.width if role is ColumnRole.FEATURE else 0,
                missing=column.missing,
                distinct=column.distinct,
                read_as=str(column.form or "") or None,
                warnings=(*column.warnings, *(_split_hint(column, facts.rows) if is_open else ())),
            )
        )
    return tuple(uses)


def dataset_info(facts: DatasetFacts, spec: DatasetSpec) -> DatasetInfo:
    """Return what a plan needs to know about a dataset, with the target and the task of a job.

    ``facts`` are those that ``columns.retyped`` made with the columns of the same spec.

    Raises:
        InvalidSpecError: The dataset does not have the target or an excluded column, or they do not fit the task.
    """
    uses, facts = column_uses(facts, spec), facts.chosen(spec)
    target = facts.target(spec.target)
    if target is None and spec.target is not None:
        names = [column.name for column in facts.columns]
        none = ("must be null: this dataset has no target column", None)
        message, hint = must_be_one_of(spec.target, names) if names else none
        raise InvalidSpecError(FieldError("dataset.target", spec.target, message, hint, "unknown_name"))
    suggested = facts.suggested_task(target)
    if spec.columns.get(spec.target or "") == "number":
        suggested = SuggestedTask(Task.REGRESSION, "dataset.columns takes the target for a number")
    task: str = Task(spec.task) if spec.task else suggested.task
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
        left_out={use.name: use.reason or "" for use in uses if use.role is ColumnRole.LEFT_OUT},
        task_reason="dataset.task says so" if spec.task else suggested.reason,
        target_low=target.low if target and task == Task.REGRESSION else None,
        target_outliers=target.outliers if target and task == Task.REGRESSION else None,
    )


def _check_split(facts: DatasetFacts, spec: DatasetSpec) -> None:
    by, name = spec.split.by, spec.split.column
    if by == "random" or name is None:
        return
    if facts.layout is not Layout.TABLE:
        raise InvalidSpecError(
            FieldError("dataset.split.by", by, "must be random: this dataset is not a table", code="not_allowed")
        )
    column = next((column for column in facts.columns if column.name == name), None)
    if column is None:
        known = [column.name for column in facts.columns]
        raise InvalidSpecError(FieldError("dataset.split.column", name, *must_be_one_of(name, known), "unknown_name"))
    if name == spec.target:
        wrong = "must be another column than the target"
        raise InvalidSpecError(FieldError("dataset.split.column", name, wrong, code="conflict"))
    if (problem := _problem_with_split(by, column)) is not None:
        raise InvalidSpecError(FieldError("dataset.split.column", name, *problem, "conflict"))


def _problem_with_split(by: str, column: Column) -> tuple[str, str | None] | None:
    """Return message and hint if rows cannot be split by a column."""
    if column.missing:
        first = f"the first is row {column.first_missing}, not counting the header"
        return f"must have a value in every row; {column.missing} rows have none, {first}", None
    if by == "time" and column.kind not in (ColumnKind.NUMBER, ColumnKind.DATE):
        hint = "Say date or day_first_date in dataset.columns if it holds dates."
        return f"must be a column of dates or numbers to split by time, not of kind {column.kind}", hint
    if by == "column":
        found = {name.lower() for name in column.levels or ()}
        odd, parts = sorted(found - PART_NAMES.keys()), {PART_NAMES[name] for name in found & PART_NAMES.keys()}
        if odd or not found:
            seen = f"not {shortened(odd[0])!r}" if odd else f"not {column.distinct:,} different values"
            return f"must hold train, val or test in every row, {seen}", "Split by group if it holds groups."
        missing = [part for part in ("train", "val", "test") if part not in parts]
        return (f"must name rows for all three parts; none is for {missing[0]}", None) if missing else None
    if column.distinct < MIN_GROUPS:
        return f"must have at least {MIN_GROUPS} different values to split by {by}; it has {column.distinct}", None
    return None


def _check_task(facts: DatasetFacts, task: str, target: Column | None) -> None:
    possible = [Task.LANGUAGE] if facts.layout is Layout.TEXT else [Task.AUTOENCODING]
    if target is not None:
        possible = [Task.CLASSIFICATION, Task.REGRESSION]
    if task not in possible:
        needs_target = target is None and facts.layout is not Layout.TEXT
        hint = "Classification and regression need a target: set dataset.target." if needs_target else None
        wrong = f"must be {' or '.join(possible)} for this dataset"
        raise InvalidSpecError(FieldError("dataset.task", str(task), wrong, hint, "conflict"))
    if target is not None and (problem := _problem_with_target(task, target, facts.warnings)) is not None:
        raise InvalidSpecError(FieldError("dataset.target", target.name, *problem))


def _problem_with_target(task: str, target: Column, warnings: tuple[str, ...]) -> tuple[str, str | None] | None:
    """Return message and hint if a column cannot be the target of a task; ``warnings`` are those of the table."""
    if target.missing:
        first = f"the first is row {target.first_missing}, not counting the header"
        what_to_do = " ".join(["Remove or fill these rows.", *(f"{note}." for note in (*target.warnings, *warnings))])
        return f"must have a value in every row; {target.missing} rows have none, {first}", what_to_do
    if target.distinct < 2:
        return "must have at least two values; it is the same in every row", None
    if task == Task.REGRESSION:
        is_number = target.kind in (ColumnKind.NUMBER, ColumnKind.DATE)
        return None if is_number else (f"must be a column of numbers for a regression, not of kind {target.kind}", None)
    if target.levels is None:
        hint = None if target.kind is not ColumnKind.NUMBER else "Set dataset.task to regression to predict a number."
        return f"must have at most {MAX_LEVELS} classes, not {target.distinct}", hint
    level, count = min(target.levels.items(), key=lambda item: item[1])
    if count < MIN_CLASS_ROWS:
        hints = [f"{note}." for note in target.warnings]
        hints += ["Set dataset.task to regression to predict a number."] if target.kind is ColumnKind.NUMBER else []
        few = f"must have at least {MIN_CLASS_ROWS} rows of every class; {level!r} has {count}"
        return few, " ".join(hints) or None
    return None
