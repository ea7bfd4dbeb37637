from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from service.data.facts import dataset_info
from service.data.leaks import notes_about_rows
from service.data.sources import Table, Target, stored_source
from service.data.splits import RowSplit, copies, identical_rows
from service.errors import InvalidSpecError, JobFailedError
from service.planning.checks import CHECKS
from service.spec.data import DatasetSpec, SplitSpec
from service.spec.job import JobSpec
from service.spec.tasks import Task
from tests.service.data.test_reading import read

RNG = np.random.default_rng(0)
ROWS = 240
PATIENTS = np.arange(ROWS) // 8
LABELS = RNG.integers(0, 2, ROWS)
"""A label for each row; a third of the rows of each patient are the same."""

MEASURED = RNG.normal(size=(ROWS, 3)).round(4)


def csv(**columns: Any) -> bytes:
    lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    return "\n".join(lines).encode()


def visits(**more: Any) -> bytes:
    measured = {name: MEASURED[:, index].tolist() for index, name in enumerate("abc")}
    return csv(**measured, **more, y=[f"class {label}" for label in LABELS])


def opened(content: bytes, folder: Path, *, task: str = "classification", **split: Any) -> Table:
    read(content, folder)
    source = stored_source(folder / "kept", DatasetSpec(id="ds-1", target="y", split=SplitSpec(**split)), task)
    assert isinstance(source, Table)
    return source


def parts_of(table: Table, seed: int = 0) -> dict[str, Any]:
    return table.split.parts(table.rows, seed, table.target.classes, table.target.labels)


@given(st.lists(st.integers(0, 30), min_size=40, max_size=200), st.integers(0, 2**20), st.booleans())
def test_every_row_is_in_one_part_and_every_group_too(groups: list[int], seed: int, labelled: bool) -> None:
    if len(set(groups)) < 6:
        return
    classes = np.arange(len(groups)) % 2 if labelled else None
    try:
        parts = RowSplit("group", np.array(groups)).parts(len(groups), seed, classes)
    except JobFailedError:
        return  # a few large groups can leave a part empty, or without a class
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(len(groups)))
    found = [{groups[row] for row in rows} for rows in parts.values()]
    assert sum(map(len, found)) == len(set().union(*found))


def test_parts_of_groups_are_as_large_as_those_of_rows(tmp_path: Path) -> None:
    table = opened(visits(patient=PATIENTS), tmp_path, by="group", column="patient")
    for seed in range(5):
        parts = parts_of(table, seed)
        assert [len(parts[part]) / ROWS for part in ("train", "val", "test")] == pytest.approx(
            [0.6, 0.2, 0.2], abs=0.04
        )
        assert [LABELS[rows].mean() for rows in parts.values()] == pytest.approx([LABELS.mean()] * 3, abs=0.15)
    assert parts_of(table, 0)["test"].tolist() != parts_of(table, 1)["test"].tolist()


def test_many_groups_stay_together_as_well() -> None:
    groups = np.repeat(np.arange(3000), 2)
    parts = RowSplit("group", groups).parts(6000, 0, np.tile([0, 1], 3000))
    assert sum(len(set(groups[rows])) for rows in parts.values()) == 3000
    assert len(parts["train"]) == pytest.approx(3600, abs=50)


def test_the_newest_rows_are_tested_whatever_the_seed(tmp_path: Path) -> None:
    days = RNG.permutation(np.repeat(np.arange(ROWS // 4), 4))
    dates = [str(np.datetime64("2024-01-01") + day) for day in days.tolist()]
    table = opened(visits(day=dates), tmp_path, by="time", column="day")
    parts = parts_of(table)
    assert days[parts["train"]].max() < days[parts["val"]].min()
    assert days[parts["val"]].max() < days[parts["test"]].min()
    assert len(parts["train"]) / ROWS == pytest.approx(0.6, abs=0.03)
    assert parts_of(table, 1)["test"].tolist() == parts["test"].tolist()
    assert "day" in [column.name for column in table.columns]


def test_a_column_says_the_part_of_each_row(tmp_path: Path) -> None:
    names = RNG.choice(["Training", "valid", "holdout"], ROWS, p=[0.5, 0.3, 0.2])
    table = opened(visits(part=names), tmp_path, by="column", column="part")
    assert {part: set(names[rows]) for part, rows in parts_of(table).items()} == {
        "train": {"Training"},
        "val": {"valid"},
        "test": {"holdout"},
    }
    assert "part" not in [column.name for column in table.columns]


def test_a_class_that_the_training_part_lacks_is_an_error(tmp_path: Path) -> None:
    parts = np.where(LABELS == 1, "test", RNG.choice(["train", "val"], ROWS))
    table = opened(visits(part=parts), tmp_path, by="column", column="part")
    with pytest.raises(JobFailedError, match="leaves no training row of the class 'class 1'"):
        parts_of(table)


UNEVEN: dict[str, tuple[RowSplit, Any]] = {
    "copies of one row are a class": (
        RowSplit(together=np.append(np.repeat(np.arange(100), 2), [100] * 6)),
        np.append(np.repeat(np.arange(100) % 2, 2), [2] * 6),
    ),
    "six groups of one class each": (RowSplit("group", np.repeat(np.arange(6), 20)), np.repeat(np.arange(6) % 3, 20)),
    "a class in 3 of 2,500 groups": (
        RowSplit("group", np.repeat(np.arange(2500), 2)),
        np.append([2] * 6, np.tile([0, 1], 2497)),
    ),
}
"""Splits that cannot give every part its share of each class, and the classes."""


@pytest.mark.parametrize(("split", "classes"), UNEVEN.values(), ids=UNEVEN)
def test_training_has_every_class_whatever_the_seed(split: RowSplit, classes: Any) -> None:
    for seed in range(40):
        parts, again = (split.parts(len(classes), seed, classes) for _ in range(2))
        assert set(classes[parts["train"]]) == {0, 1, 2}
        assert {part: rows.tolist() for part, rows in parts.items()} == {p: rows.tolist() for p, rows in again.items()}
        assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(len(classes)))


def test_only_a_draw_that_leaves_a_class_out_is_drawn_again() -> None:
    split, classes = UNEVEN["six groups of one class each"]
    kept = 0
    for seed in range(40):
        folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed).split(classes, classes, split.values)
        test, val = (held_out.tolist() for _, held_out in list(folds)[:2])
        parts = split.parts(len(classes), seed, classes)
        was_fine = set(np.delete(classes, [*test, *val])) == {0, 1, 2}
        assert ((parts["test"].tolist(), parts["val"].tolist()) == (test, val)) is was_fine
        kept += was_fine
    assert 0 < kept < 40


def test_a_split_that_no_draw_can_make_is_an_error() -> None:
    groups = np.repeat(np.arange(3), 20)
    with pytest.raises(JobFailedError, match=r"by group in 100 draws leaves no training row of the class '[abc]'"):
        RowSplit("group", groups).parts(60, 0, groups, ("a", "b", "c"))


def test_copies_of_rows_stay_in_one_part_and_are_counted(tmp_path: Path) -> None:
    copied = np.concatenate([MEASURED, MEASURED[:50], MEASURED[:50]])
    labels = RNG.integers(0, 2, len(copied))
    table = opened(
        csv(**{n: copied[:, i].tolist() for i, n in enumerate("abc")}, y=[f"c{k}" for k in labels]), tmp_path
    )
    original = np.concatenate([np.arange(ROWS), np.arange(50), np.arange(50)])
    for seed in range(3):
        parts = parts_of(table, seed)
        assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(len(copied)))
        assert sum(len(set(original[rows])) for rows in parts.values()) == ROWS
    assert list(notes_about_rows(table, 0)) == [
        "150 of 340 rows have another row with the same features; such rows are kept in one part"
    ]


@pytest.mark.parametrize("by", ["time", "column"])
def test_copies_of_training_rows_in_other_parts_of_a_given_split_are_counted(
    tmp_path: Path, by: Literal["time", "column"]
) -> None:
    names = {n: np.tile(MEASURED[:120, i], 2).tolist() for i, n in enumerate("abc")}
    part = ["train"] * 150 + ["val"] * 40 + ["test"] * 50 if by == "column" else [row // 10 for row in range(ROWS)]
    content = csv(**names, part=part, y=[f"class {label}" for label in LABELS])
    read(content, tmp_path)
    exclude = ["part"] if by == "time" else []
    chosen = DatasetSpec(id="ds-1", target="y", exclude=exclude, split=SplitSpec(by=by, column="part"))
    table = stored_source(tmp_path / "kept", chosen, "classification")
    assert isinstance(table, Table)
    count = 90 if by == "column" else 100
    assert list(notes_about_rows(table, 0))[1:] == [
        f"{count} of {count} rows for validation and test have the same features as a training row, so a model that "
        "remembers it looks better than it is"
    ]


def test_copies_in_two_groups_join_the_groups(tmp_path: Path) -> None:
    measured = MEASURED.copy()
    measured[8] = measured[0]  # of the next patient
    measured[16:24] = measured[24:32]
    content = csv(
        **{n: measured[:, i].tolist() for i, n in enumerate("abc")}, patient=PATIENTS, y=[f"c{k}" for k in LABELS]
    )
    table = opened(content, tmp_path, by="group", column="patient")
    for seed in range(5):
        together = [set(PATIENTS[rows]) for rows in parts_of(table, seed).values()]
        assert all(({0, 1} <= part or not {0, 1} & part) for part in together)
        assert all(({2, 3} <= part or not {2, 3} & part) for part in together)


def test_copies_of_one_row_that_are_many_do_not_decide_how_large_the_parts_are(tmp_path: Path) -> None:
    measured = RNG.normal(size=(1000, 3)).round(4)
    measured[:500], measured[500:520] = measured[0], measured[520:540]
    table = opened(
        csv(**{n: measured[:, i].tolist() for i, n in enumerate("abc")}, y=RNG.normal(size=1000).tolist()),
        tmp_path,
        task="regression",
    )
    for seed in range(5):
        parts = parts_of(table, seed)
        assert [len(rows) for rows in parts.values()] == pytest.approx([600, 200, 200], abs=20)
        part_of = np.empty(1000)
        for index, rows in enumerate(parts.values()):
            part_of[rows] = index
        assert (part_of[500:520] == part_of[520:540]).all()
    assert list(notes_about_rows(table, 0)) == [
        "540 of 1,000 rows have another row with the same features; such rows are kept in one part, but for 500 that "
        "would make a part too large"
    ]


def test_parts_that_copies_make_uneven_are_noted(tmp_path: Path) -> None:
    measured = np.repeat(RNG.normal(size=(40, 3)).round(4), np.repeat([24, 1], [20, 20]), axis=0)
    columns = {name: measured[:, index].tolist() for index, name in enumerate("abc")}
    table = opened(csv(**columns, y=RNG.normal(size=500).tolist()), tmp_path, task="regression")
    notes, sizes = [], []
    for seed in range(5):
        parts = parts_of(table, seed)
        sizes.append([len(parts[part]) for part in ("train", "val", "test")])
        notes.append(list(notes_about_rows(table, seed))[1:])
    uneven = [any(abs(size - 100) > 15 for size in held_out) for _, *held_out in sizes]
    assert any(uneven)
    for (train, val, test), expected, found in zip(sizes, uneven, notes, strict=True):
        text = f"training has {train} rows, validation has {val} rows, test has {test} rows"
        assert found == ([f"rows with the same features make the parts uneven: {text}"] if expected else [])


def test_copies_do_not_join_so_many_groups_that_a_part_gets_too_large(tmp_path: Path) -> None:
    measured, patients = RNG.normal(size=(2000, 3)).round(4), np.arange(2000) % 50
    measured[:45] = measured[0]  # a row of 45 of the 50 patients
    measured[45] = measured[46]  # of the other five, two share a row
    columns = {name: measured[:, index].tolist() for index, name in enumerate("abc")}
    content = csv(**columns, patient=patients, y=RNG.normal(size=2000).tolist())
    table = opened(content, tmp_path, task="regression", by="group", column="patient")
    for seed in range(5):
        parts = parts_of(table, seed)
        assert [len(rows) for rows in parts.values()] == pytest.approx([1200, 400, 400], abs=80)
        together = [set(patients[rows].tolist()) for rows in parts.values()]
        assert sum(map(len, together)) == 50
        assert all(len({45, 46} & part) != 1 for part in together)
    assert "but for 45 that would make a part too large" in list(notes_about_rows(table, 0))[1]


PRINTED_SPLIT = """
import numpy as np
from service.data.splits import RowSplit, identical_arrays
x = np.random.default_rng(0).random((200, 100), np.float32)
x[7] = x[3]
parts = RowSplit(together=identical_arrays(x)).parts(200, 0, None)
print({part: rows.tolist() for part, rows in parts.items()})
"""


def test_every_process_draws_the_same_split_of_wide_rows_with_copies() -> None:
    found = [
        subprocess.run(
            [sys.executable, "-c", PRINTED_SPLIT],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert found[0] == found[1]
    parts = ast.literal_eval(found[0].decode())
    assert sorted(row for rows in parts.values() for row in rows) == list(range(200))
    assert sum({3, 7} <= set(rows) for rows in parts.values()) == 1


def test_rows_that_are_the_same_by_chance_are_no_copies() -> None:
    ages, sexes, classes = (RNG.integers(0, high, 1000) for high in (12, 2, 3))
    assert identical_rows([ages, sexes, classes]) is None
    exact = RNG.normal(size=1000)
    assert identical_rows([ages, sexes, exact]) is None
    twice = identical_rows([np.tile(ages, 2), np.tile(sexes, 2), np.tile(exact, 2)])
    assert twice is not None
    assert copies(twice) == 2000


def test_a_table_without_copies_is_split_as_it_always_was(tmp_path: Path) -> None:
    table = opened(visits(), tmp_path)
    assert table.split.together is None
    found, before = parts_of(table, 3), RowSplit().parts(ROWS, 3, table.target.classes)
    assert {part: rows.tolist() for part, rows in found.items()} == {p: rows.tolist() for p, rows in before.items()}


def test_a_column_that_holds_the_answer_is_named(tmp_path: Path) -> None:
    told = [f"{'ab'[label]}{row % 3}" for row, label in enumerate(LABELS.tolist())]
    notes = list(notes_about_rows(opened(visits(told=told), tmp_path), 0))
    assert len(notes) == 1
    assert notes[0].startswith("column 'told' alone tells the target nearly perfectly")


def test_an_outlier_in_training_makes_no_column_suspect(tmp_path: Path) -> None:
    target = RNG.normal(size=ROWS)
    content = csv(**{n: MEASURED[:, i].tolist() for i, n in enumerate("abc")}, y=target.round(4).tolist())
    source = opened(content, tmp_path, task="regression")
    source = replace(source, target=Target.of(target, Task.REGRESSION))
    target[source.split.parts(ROWS, 0, None)["train"][5]] = 1e5
    assert list(notes_about_rows(source, 0)) == []


@pytest.mark.parametrize("load", ["load_iris", "load_wine", "load_breast_cancer"])
def test_ordinary_tables_are_not_suspected(tmp_path: Path, load: str) -> None:
    from sklearn import datasets

    x, y = getattr(datasets, load)(return_X_y=True)
    content = csv(**{f"x{i}": x[:, i].tolist() for i in range(x.shape[1])}, y=[f"class {label}" for label in y])
    assert not [note for note in notes_about_rows(opened(content, tmp_path), 0) if "alone tells" in note]


WRONG: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "an unknown column": ({}, {"by": "group", "column": "patiant"}, "must be one of"),
    "the target": ({}, {"by": "group", "column": "y"}, "must be another column than the target"),
    "two groups": (
        {"site": ["x", "y"] * (ROWS // 2)},
        {"by": "group", "column": "site"},
        "at least 3 different values",
    ),
    "times that are words": (
        {"day": ["soon", "late", "now"] * 80},
        {"by": "time", "column": "day"},
        "dates or numbers",
    ),
    "a missing time": (
        {"day": ["", *range(1, ROWS)]},
        {"by": "time", "column": "day"},
        "must have a value in every row",
    ),
    "odd parts": ({"part": ["train", "other"] * 120}, {"by": "column", "column": "part"}, "not 'other'"),
    "no test part": ({"part": ["train", "val"] * 120}, {"by": "column", "column": "part"}, "none is for test"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_split_that_cannot_be_made_is_refused(tmp_path: Path, case: str) -> None:
    more, split, message = WRONG[case]
    facts = read(visits(**({"patient": PATIENTS} | more)), tmp_path)
    with pytest.raises(InvalidSpecError) as caught:
        dataset_info(facts, DatasetSpec(id="ds-1", target="y", split=SplitSpec(**split)))
    (error,) = caught.value.errors
    assert (error.field, message in error.message) == ("dataset.split.column", True), error


@pytest.mark.parametrize(
    ("dataset", "path"),
    [
        ({"name": "digits", "split": {"by": "group", "column": "a"}}, "dataset.split.by"),
        ({"id": "ds-1", "target": "y", "split": {"by": "time"}}, "dataset.split.column"),
        ({"id": "ds-1", "target": "y", "split": {"column": "a"}}, "dataset.split.column"),
    ],
)
def test_fields_of_a_split_that_do_not_go_together_are_refused(dataset: dict[str, Any], path: str) -> None:
    spec = JobSpec.model_validate({"dataset": dataset, "model": {"name": "mlp"}})
    checks: list[Callable[..., Any]] = list(CHECKS)
    assert path in [error.field for check in checks for error in check(spec, None)]
