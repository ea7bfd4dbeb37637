# Families made of the bundled datasets: what a task is, and that nothing of the tasks that judge is seen before.
from __future__ import annotations

import hashlib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from service.data.catalog import BUNDLED
from service.data.facts import Column, ColumnKind
from service.data.families import FamilySummary, prepare_datasets, prepare_family
from service.data.prepared_files import FAMILY_PARTS, Family, load_family
from service.data.sources import Arrays, Table, Target, bundled_source
from service.data.splits import RowSplit, identical_rows
from service.errors import JobFailedError
from service.spec.data import FamilySpec
from service.spec.tasks import Task


def bundled(name: str) -> Arrays:
    source = bundled_source(name)
    assert isinstance(source, Arrays)
    return source


def values_of(name: str) -> Any:
    return bundled(name).target.values


def prepared(dataset: str, seed: int = 0, **fields: Any) -> tuple[Family, FamilySummary]:
    return prepare_family(bundled(dataset), FamilySpec.model_validate(fields), seed)


@pytest.mark.parametrize("name", [name for name, dataset in BUNDLED.items() if dataset.info.task != Task.PHYSICS])
def test_the_catalogue_names_the_columns_as_the_library_does(name: str) -> None:
    from sklearn import datasets

    columns = getattr(datasets, f"load_{name}")().feature_names
    assert BUNDLED[name].info.columns == tuple(map(str, columns))


def test_a_class_subset_has_the_rows_of_its_classes_relabelled_in_order() -> None:
    family, summary = prepared("digits", class_subsets={"ways": 3, "tasks": 20})
    assert [len(summary.tasks[part]) for part in FAMILY_PARTS] == [12, 4, 4]
    assert len({name for names in summary.tasks.values() for name in names}) == 20
    assert summary.made_by == "20 of the 120 subsets of 3 of 10 classes"
    y = values_of("digits")
    for part in FAMILY_PARTS:
        for name, member in zip(summary.tasks[part], family.tasks(part), strict=True):
            classes = [int(digit) for digit in name.removeprefix("classes ").split(", ")]
            counts = np.bincount(np.concatenate([member.y_train, member.y_held_out]), minlength=3)
            assert counts.tolist() == [(y == digit).sum() for digit in classes]


def test_labels_of_a_subset_stand_for_the_images_that_they_stood_for() -> None:
    family, summary = prepared("digits", class_subsets={"ways": 2, "tasks": 45})
    images = {row.tobytes(): int(digit) for row, digit in zip(family.x, values_of("digits"), strict=True)}
    for name, member in zip(summary.tasks["meta_test"], family.tasks("meta_test"), strict=True):
        classes = [int(digit) for digit in name.removeprefix("classes ").split(", ")]
        found = [images[row.tobytes()] for row in member.x_held_out]
        assert [classes[label] for label in member.y_held_out] == found


def test_all_subsets_are_tasks_when_they_are_few() -> None:
    _, summary = prepared("wine", class_subsets={"ways": 2})
    assert sorted(name for names in summary.tasks.values() for name in names) == [
        "classes 0, 1",
        "classes 0, 2",
        "classes 1, 2",
    ]


def test_a_column_of_few_values_makes_a_group_of_each_and_is_no_feature() -> None:
    family, summary = prepared("digits", group_by="pixel_2_3")
    assert "by its values" in summary.made_by
    assert family.x.shape[1] == 63
    values = bundled("digits").column("pixel_2_3")
    for name, member in zip(summary.tasks["meta_test"], family.tasks("meta_test"), strict=True):
        rows = len(member.x_train) + len(member.x_held_out)
        assert rows == (values == float(name.removeprefix("pixel_2_3 = "))).sum()


def test_a_column_of_many_values_is_cut_into_quantile_bins_and_says_so() -> None:
    family, summary = prepared("diabetes", group_by="bmi")
    assert "10 quantile bins, as it has 163 values" in summary.made_by
    assert family.sizes.sum() == 442
    assert family.sizes.min() >= 40
    assert family.y.shape == (442, 1)


def test_groups_of_few_rows_are_left_out_and_named() -> None:
    _, summary = prepared("digits", group_by="pixel_1_6")
    assert summary.left_out
    assert all(int(name.split("(")[1].split()[0]) < 10 for name in summary.left_out)


def test_fewer_than_three_groups_are_refused() -> None:
    with pytest.raises(JobFailedError, match="has 2 tasks of at least 10 rows, but needs 3"):
        prepared("diabetes", group_by="sex")


def test_held_out_rows_are_the_same_for_all_tasks_and_the_scale_comes_from_meta_training() -> None:
    family, _ = prepared("diabetes", group_by="age")
    assert family.held_out.mean() == pytest.approx(0.2, abs=0.01)
    members = family.tasks("meta_train")
    rows = np.concatenate([member.x_train for member in members])
    assert np.allclose(rows.mean(0), 0, atol=1e-5)
    assert np.allclose(rows.std(0), 1, atol=1e-5)
    assert not np.allclose(family.x.mean(0), 0, atol=1e-3)
    every = np.concatenate([x for part in FAMILY_PARTS for m in family.tasks(part) for x in (m.x_train, m.x_held_out)])
    assert len(every) == 442  # a row is in one group


@pytest.mark.parametrize("tasks", [3, 20])
def test_held_out_rows_are_the_test_part_whatever_subsets_are_drawn(tasks: int) -> None:
    family, _ = prepared("digits", class_subsets={"ways": 2, "tasks": tasks})
    y = values_of("digits")
    assert np.flatnonzero(family.held_out).tolist() == RowSplit().parts(len(y), 0, y)["test"].tolist()


@pytest.mark.parametrize("fields", [{"group_by": "group"}, {"class_subsets": {"ways": 2}}], ids=str)
def test_no_task_holds_out_a_copy_of_a_row_that_it_trains_on(fields: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    x = np.repeat(np.column_stack([np.arange(90) % 3, rng.normal(size=(90, 2))]), 4, axis=0)
    source = Arrays(
        x,
        Target.of(np.repeat(np.arange(90) // 3 % 3, 4), Task.CLASSIFICATION),
        is_pixels=False,
        names=("group", "a", "b"),
        split=RowSplit(together=identical_rows(x.T)),
    )
    for seed in range(5):
        family, _ = prepare_family(source, FamilySpec.model_validate(fields), seed)
        for task in (task for part in FAMILY_PARTS for task in family.tasks(part)):
            assert len(task.x_held_out) == pytest.approx(len(task.x_train) / 4, abs=4)
            assert not {row.tobytes() for row in task.x_train} & {row.tobytes() for row in task.x_held_out}


def test_a_row_that_is_most_of_a_task_is_held_out_like_any_other() -> None:
    x = np.column_stack([np.arange(300) % 3, np.random.default_rng(0).normal(size=(300, 2))])
    x[x[:, 0] == 0, 1:] = np.where(np.arange(100) < 70, 0.5, np.arange(100))[:, None]
    target = Target.of(np.arange(300.0), Task.REGRESSION)
    source = Arrays(x, target, False, ("group", "a", "b"), split=RowSplit(together=identical_rows(x.T)))
    family, _ = prepare_family(source, FamilySpec(group_by="group"), 0)
    assert [len(task.x_held_out) for part in FAMILY_PARTS for task in family.tasks(part)] == [20, 20, 20]


def test_datasets_as_tasks_hold_out_no_copy_of_a_training_row() -> None:
    x = np.repeat(np.random.default_rng(0).normal(size=(60, 2)), 4, axis=0)
    target = Target.of(np.arange(240.0), Task.REGRESSION)
    source = Arrays(x, target, is_pixels=False, split=RowSplit(together=identical_rows(x.T)))
    family, _ = prepare_datasets(dict.fromkeys(("a", "b", "c"), source), FamilySpec(evaluate_tasks=1), 0)
    for task in (task for part in FAMILY_PARTS for task in family.tasks(part)):
        assert len(task.x_held_out) == 48
        assert not {row.tobytes() for row in task.x_train} & {row.tobytes() for row in task.x_held_out}


def test_the_seed_decides_which_tasks_judge() -> None:
    first, again, other = (prepared("digits", seed, class_subsets={}) for seed in (1, 1, 2))
    assert all(np.array_equal(array, getattr(again[0], name)) for name, array in asdict(first[0]).items())
    assert first[1].tasks["meta_test"] != other[1].tasks["meta_test"]


def test_a_stored_family_comes_back_and_a_changed_file_is_refused(tmp_path: Path) -> None:
    family, _ = prepared("wine", class_subsets={"ways": 2})
    file = tmp_path / "data.npz"
    digest = family.pack(tmp_path, file)
    assert digest == hashlib.sha256(file.read_bytes()).hexdigest()
    back = asdict(load_family(f"file://{file}", digest))
    for name, array in asdict(family).items():
        assert np.array_equal(back[name], array)
        assert back[name].dtype == array.dtype
    with pytest.raises(ValueError, match="the prepared data has changed"):
        load_family(f"file://{file}", "0" * 64)


def numbers(count: int, rows: int = 120) -> Table:
    """Rows with an id in a column of ``count`` whole numbers, a category with gaps, and a feature."""
    ids = 7_000_000.0 + np.arange(rows) % count
    city = [("Rome", None, "Oslo", "Bonn")[row % 4] for row in range(rows)]
    cities = dict.fromkeys(("Bonn", "Oslo", "Rome"), rows // 4)
    number, category = ColumnKind.NUMBER, ColumnKind.CATEGORY
    columns = [
        Column(name="id", kind=number, type="int64", distinct=count),
        Column(name="city", kind=category, type="string", distinct=3, missing=rows // 4, levels=cities),
        Column(name="x", kind=number, type="double", distinct=rows),
    ]
    values = {"id": ids, "city": city, "x": np.arange(rows) * 1.0}
    return Table(columns, pa.table(values), Target.of(np.arange(rows) * 1.0, Task.REGRESSION))


def test_a_number_without_bins_makes_a_task_of_every_value() -> None:
    family, summary = prepare_family(numbers(40, 400), FamilySpec(group_by="id", bins=0), 0)
    assert len(family.sizes) == 40
    assert "id = 7000039" in {name for names in summary.tasks.values() for name in names}
    binned, summary = prepare_family(numbers(40, 400), FamilySpec(group_by="id", bins=4), 0)
    assert len(binned.sizes) == 4
    assert "by 4 quantile bins, as it has 40 values" in summary.made_by


def test_rows_without_a_value_are_in_no_task_and_are_counted() -> None:
    family, summary = prepare_family(numbers(3), FamilySpec(group_by="city"), 0)
    assert sorted(name for names in summary.tasks.values() for name in names) == [
        "city = Bonn",
        "city = Oslo",
        "city = Rome",
    ]
    assert summary.left_out == ["no city (30 rows)"]
    assert family.sizes.tolist() == [30, 30, 30]


def test_datasets_as_tasks_are_standardised_each_by_its_own_rows() -> None:
    tables = {name: bundled("diabetes") for name in ("a", "b", "c")}
    shifted = replace(tables["b"], target=Target.of(values_of("diabetes") * 100.0 + 5.0, Task.REGRESSION))
    family, summary = prepare_datasets(tables | {"b": shifted}, FamilySpec(evaluate_tasks=1), 0)
    assert sorted(name for names in summary.tasks.values() for name in names) == ["a", "b", "c"]
    assert summary.made_by == "3 datasets, a task each"
    for part in FAMILY_PARTS:
        (member,) = family.tasks(part)
        assert np.allclose(member.x_train.mean(0), 0, atol=1e-5)
        assert float(member.y_train.std()) == pytest.approx(1, abs=1e-5)
        assert len(member.y_held_out) == pytest.approx(442 / 5, abs=1)


@pytest.mark.parametrize("name", ["diabetes", "wine"])
def test_what_a_dataset_of_a_family_holds_out_is_the_test_part_of_a_job_on_it_alone(name: str) -> None:
    source = bundled(name)
    family, _ = prepare_datasets(dict.fromkeys(("a", "b", "c"), source), FamilySpec(evaluate_tasks=1), 3)
    alone = RowSplit().parts(source.rows, 3, source.target.classes)
    assert np.flatnonzero(family.held_out[: source.rows]).tolist() == alone["test"].tolist()
