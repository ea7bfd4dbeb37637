# Spellings of one value: booleans are merged and it is said; other texts are kept apart, named, and merged on request.
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.data.columns import retyped
from service.data.facts import ColumnKind, DatasetFacts, column_uses, dataset_info
from service.data.sources import Table, stored_source
from service.errors import InvalidSpecError
from service.spec.data import DatasetSpec
from tests.service.data.tables import ROWS, written
from tests.service.data.test_reading import read


def table(cells: Sequence[str]) -> bytes:
    """A column in question, and a number, in ``ROWS`` rows."""
    words = [cells[row % len(cells)] for row in range(ROWS)]
    return written(["x", "z"], [words, [row * 0.37 % 5 for row in range(ROWS)]]).encode()


def taken(folder: Path, facts: DatasetFacts, kind: str | None = None) -> DatasetFacts:
    facts.save(folder / "kept")
    return retyped(facts, {"x": kind} if kind else {}, folder / "kept")


BOOLEAN = {
    "words and letters": (["yes", "Yes", "Y", "no", "No", "N"], {"no": 30, "yes": 30}),
    "what programs write": (["TRUE", "True", "t", "1", "f", "FALSE", "0", "F"], {"false": 28, "true": 32}),
    "blanks around": (["  yes", "yes ", "\tYES", " no "], {"no": 15, "yes": 45}),
    "letters and digits": (["y", "n", "1", "0"], {"n": 30, "y": 30}),
    "two pairs of words": (["true", "true", "yes", "no"], {"false": 15, "true": 45}),
    "German": (["Ja", "j", "Nein", "n", "JA"], {"ja": 36, "nein": 24}),
    "a German Excel": (["WAHR", "FALSCH"], {"falsch": 30, "wahr": 30}),
    "accents": (["sí", "Si", "no", "No", "si", "no"], {"no": 30, "si": 30}),
    "a mark of a missing value": (["yes", "Y", "no", "?"], {"no": 15, "yes": 30}),
}  # fmt: skip


@pytest.mark.parametrize("case", BOOLEAN)
def test_spellings_of_true_and_false_are_two_values_and_it_is_said(tmp_path: Path, case: str) -> None:
    cells, levels = BOOLEAN[case]
    column = read(table(cells), tmp_path).columns[0]
    assert (column.kind, column.levels) == (ColumnKind.BOOLEAN, levels)
    several = len({cell.strip() for cell in cells} - {"?"}) > 2
    assert ("read as one value: " in " ".join(column.warnings)) == several
    assert ("(" in " ".join(column.warnings)) == several


@pytest.mark.parametrize(
    "cells",
    [["n", "t"], ["n", "s"], ["f", "m"], ["yes", "no", "maybe"], ["yes", "no", "t"], ["o", "x"], ["a", "b", "1"]],
)
def test_what_only_looks_like_true_and_false_stays_apart(tmp_path: Path, cells: list[str]) -> None:
    column = read(table(cells), tmp_path).columns[0]
    assert (column.kind, column.distinct) == (ColumnKind.CATEGORY, len(cells))


def test_a_job_can_keep_the_words_apart_that_are_merged(tmp_path: Path) -> None:
    facts = read(table(["yes", "Yes", "no"]), tmp_path)
    column = taken(tmp_path, facts, "category").columns[0]
    assert (column.levels, column.warnings) == ({"Yes": 20, "no": 20, "yes": 20}, ())


def test_numbers_and_words_can_be_taken_for_booleans(tmp_path: Path) -> None:
    stored = DatasetFacts.from_json(read(table(["yes", "1", "no", "0", "Y"]), tmp_path).to_json())
    column = taken(tmp_path, stored, "boolean").columns[0]
    assert column.levels == {"no": 24, "yes": 36}


CATEGORY = {
    "case": (["Setosa", "setosa", "SETOSA", "Virginica"], "'Setosa' (15), 'setosa' (15) and 'SETOSA' (15)", 2),
    "spaces within": (["New York", "New  York", "Rome"], "'New York' (20) and 'New  York' (20)", 2),
    "other spaces": (["New York", "New\u00a0York", "Rome"], r"'New York' (20) and 'New\xa0York' (20)", 2),
    "dashes": (["New-York", "New York", "New_York", "New\u2013York", "Rome"], "'New-York' (12), 'New York' (12)", 2),
    "accents": (["Köln", "Koln", "Café", "CAFE\u0301"], "'Köln' (15) and 'Koln' (15); 'Café'", 2),
    "words next to booleans": (["yes", "no", "Maybe", "maybe"], "'Maybe' (15) and 'maybe' (15)", 3),
}


@pytest.mark.parametrize("case", CATEGORY)
def test_spellings_of_a_category_are_named_and_can_be_merged(tmp_path: Path, case: str) -> None:
    cells, named, distinct = CATEGORY[case]
    facts = read(table(cells), tmp_path)
    apart = facts.columns[0]
    assert (apart.kind, apart.distinct) == (ColumnKind.CATEGORY, len(cells))
    assert named in apart.warnings[0]
    assert apart.warnings[0].endswith("say merged_category in dataset.columns to make them one")
    one = taken(tmp_path, facts, "merged_category").columns[0]
    assert (one.kind, one.distinct, one.warnings) == (ColumnKind.CATEGORY, distinct, ())
    assert taken(tmp_path, facts, "category").columns[0] == apart


def test_many_spellings_of_few_values_are_named_though_they_are_texts(tmp_path: Path) -> None:
    cells = [f"{name.upper() if row % 2 else name} {row // 4 % 16}" for row, name in enumerate(["ab", "cd", "ef"] * 20)]
    column = read(table(cells), tmp_path).columns[0]
    assert column.kind is ColumnKind.TEXT
    assert "say merged_category" in column.warnings[0]


@pytest.mark.parametrize(
    "cells",
    [["A1", "A2"], ["a-1", "a1"], ["1-2", "12", "x"], ["A+", "A-"], ["Rome", "Oslo", "yes"]],
    ids=" ".join,
)
def test_different_values_are_not_named(tmp_path: Path, cells: list[str]) -> None:
    assert read(table(cells), tmp_path).columns[0].warnings == ()


def test_a_letter_next_to_the_word_that_it_begins_is_named(tmp_path: Path) -> None:
    column = read(table(["yes", "Y", "no", "maybe"]), tmp_path).columns[0]
    assert column.kind is ColumnKind.CATEGORY
    assert column.warnings == ("may have 'y' for 'yes': write one value in one way in the file",)


@pytest.mark.parametrize(("kind", "classes"), [("merged_category", ("rome", "oslo")), ("category", None)])
def test_a_job_trains_on_the_merged_classes_and_features(
    tmp_path: Path, kind: str, classes: tuple[str, ...] | None
) -> None:
    facts = read(table(["Rome", "rome", "ROME", "Oslo", "oslo"]), tmp_path)
    facts.save(tmp_path / "kept")
    spec = DatasetSpec.model_validate({"id": "ds-1", "target": "x", "columns": {"x": kind}})
    info = dataset_info(retyped(facts, spec.columns, tmp_path / "kept"), spec)
    source = stored_source(tmp_path / "kept", spec, info.task)
    assert isinstance(source, Table)
    assert set(source.target.labels) == set(classes or ("Rome", "rome", "ROME", "Oslo", "oslo"))
    assert info.outputs == len(source.target.labels)
    as_feature = DatasetSpec.model_validate({"id": "ds-1", "target": "z", "columns": {"x": kind}})
    rows = stored_source(tmp_path / "kept", as_feature, "regression")
    assert isinstance(rows, Table)
    x = rows.encoder(np.arange(ROWS)).transform(np.arange(ROWS))
    assert (x.sum(1) == 1).all()
    assert x.shape == (ROWS, len(classes or "....."))


def test_a_class_of_few_rows_that_is_a_spelling_of_another_says_so(tmp_path: Path) -> None:
    cells = ["Rome", "Oslo"] * 29 + ["rome", "Rome"]
    facts = read(table(cells), tmp_path)
    with pytest.raises(InvalidSpecError) as caught:
        dataset_info(facts, DatasetSpec(id="ds-1", target="x"))
    (error,) = caught.value.errors
    assert "'rome' has 1" in error.message
    assert "say merged_category" in str(error.hint)


def test_the_uses_of_a_merged_column_say_that_it_is_merged(tmp_path: Path) -> None:
    facts = taken(tmp_path, read(table(["Rome", "rome", "Oslo"]), tmp_path), "merged_category")
    chosen: dict[str, Any] = {"id": "ds-1", "columns": {"x": "merged_category"}}
    use = next(iter(column_uses(facts, DatasetSpec.model_validate(chosen))))
    assert (use.kind, use.read_as, use.features) == ("category", "spellings merged", 2)
