# How uploads and bundled datasets become sources and splits: large numbers, excluded columns, one way for all data.
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from service.data import sources
from service.data.facts import EXACT, TEXT_FEATURES, Column, ColumnKind, DatasetFacts, Reading, dataset_info
from service.data.families import prepare_family
from service.data.read_csv import read_csv
from service.data.read_zip import read_npz
from service.data.sources import Arrays, Table, Target, bundled_source, stored_source
from service.errors import InvalidFileError, InvalidSpecError, JobFailedError
from service.spec.data import DatasetSpec, FamilySpec
from service.spec.tasks import Task
from tests.service.data import files
from tests.service.data.prepared import split_of

FIRST_ID = 1_234_567_890_123_456_789
"""Over 2**53, as those of many databases are."""


def uploaded(tmp_path: Path, ids: list[int], name: str = "id") -> Path:
    folder = tmp_path / "dataset"
    folder.mkdir()
    source = tmp_path / "people.csv"
    rows = [f"{number},{index % 7},{index % 5}" for index, number in enumerate(ids)]
    source.write_text("\n".join([f"{name},x,y", *rows]))
    read_csv(source, folder, 1 << 20, Reading()).save(folder)
    return folder


def opened(folder: Path, task: str, **fields: Any) -> Table:
    source = stored_source(folder, DatasetSpec(id="ds-1", target="y", **fields), task)
    assert isinstance(source, Table)
    return source


def test_a_column_of_large_whole_numbers_is_a_feature_as_any_other(tmp_path: Path) -> None:
    folder = uploaded(tmp_path, [FIRST_ID + 10**17 * row for row in range(40)])
    x = split_of(opened(folder, Task.CLASSIFICATION, columns={"id": "number"})).x_train
    assert x.shape == (24, 2)
    assert np.isfinite(x).all()
    assert x[:, 0].std() == pytest.approx(1.0, abs=1e-5)


def test_a_task_of_every_value_is_one_of_every_value_of_sixteen_digits(tmp_path: Path) -> None:
    ids = [4_111_111_111_111_111 + row // 12 for row in range(72)]
    family, summary = prepare_family(
        opened(uploaded(tmp_path, ids), Task.REGRESSION), FamilySpec(group_by="id", bins=0), 0
    )
    assert family.sizes.tolist() == [12] * 6
    names = {name for names in summary.tasks.values() for name in names}
    assert names == {f"id = {number}" for number in ids}


@pytest.mark.parametrize("last", [FIRST_ID, EXACT + 1])  # of which the second becomes EXACT, as does the one before it
def test_values_that_floats_cannot_tell_apart_make_no_tasks(tmp_path: Path, last: int) -> None:
    folder = uploaded(tmp_path, [last - row // 12 for row in range(72)])
    with pytest.raises(JobFailedError, match=r"column id has numbers of 2\*\*53 or more"):
        prepare_family(opened(folder, Task.REGRESSION), FamilySpec(group_by="id", bins=0), 0)


def test_whole_numbers_that_no_float_is_equal_to_become_the_nearest_ones() -> None:
    column = Column(name="id", kind=ColumnKind.NUMBER, type="int64", distinct=2)
    table = Table([column], pa.table({"id": [2**60 + 1, 3]}), Target(Task.AUTOENCODING))
    assert table.column("id").tolist() == [2.0**60, 3.0]


def test_columns_that_are_excluded_are_no_features(tmp_path: Path) -> None:
    folder = uploaded(tmp_path, list(range(40)), name="n")
    shapes = []
    for exclude in ([], ["n"]):
        info = dataset_info(DatasetFacts.load(folder), DatasetSpec(id="ds-1", target="y", exclude=exclude))
        source = opened(folder, info.task, exclude=exclude)
        assert source.encoder(np.arange(40)).width == info.features
        shapes.append((info.features, split_of(source).x_train.shape[1], info.columns))
    assert shapes == [(2, 2, ("n", "x")), (1, 1, ("x",))]


@pytest.mark.parametrize(
    ("exclude", "field", "expected"),
    [
        (["idd"], "dataset.exclude[0]", "Did you mean 'id'?"),
        (["id", "y"], "dataset.exclude[1]", "must be a feature: this column is the target"),
        (["id", "x"], "dataset.target", "must leave at least one other column"),
    ],
)
def test_what_cannot_be_excluded_is_named(tmp_path: Path, exclude: list[str], field: str, expected: str) -> None:
    facts = DatasetFacts.load(uploaded(tmp_path, list(range(40))))
    with pytest.raises(InvalidSpecError) as caught:
        dataset_info(facts, DatasetSpec(id="ds-1", target="y", exclude=exclude))
    (error,) = caught.value.errors
    assert (error.field, expected in f"{error.message} {error.hint}") == (field, True), error


def test_a_bundled_dataset_is_split_and_scaled_as_its_upload_is(tmp_path: Path) -> None:
    (tmp_path / "digits.npz").write_bytes(files.digits_npz())
    read_npz(tmp_path / "digits.npz", tmp_path, 1 << 20).save(tmp_path)
    uploaded = split_of(stored_source(tmp_path, DatasetSpec(id="ds-1"), Task.CLASSIFICATION), seed=3).arrays()
    for name, array in split_of("digits", seed=3).arrays().items():
        found, expected = (np.sort(part, axis=0) for part in (uploaded[name], array))  # in another order
        assert found == pytest.approx(expected, abs=1e-6)


def bundled_arrays() -> Arrays:
    source = bundled_source("digits")
    assert isinstance(source, Arrays)
    return source


def mixed_table() -> Table:
    """Numbers with gaps, categories with gaps and texts."""
    rows = np.arange(90)
    columns = [
        Column(name="age", kind=ColumnKind.NUMBER, type="double", distinct=60, missing=30),
        Column(name="city", kind=ColumnKind.CATEGORY, type="string", distinct=2, missing=30, levels={"a": 30, "b": 30}),
        Column(name="note", kind=ColumnKind.TEXT, type="string", distinct=90),
        Column(name="same", kind=ColumnKind.NUMBER, type="int64", distinct=1),
    ]
    values = {
        "age": [None if row % 3 == 0 else row**1.5 for row in rows],
        "city": [("a", "b", None)[row % 3] for row in rows],
        "note": [f"note {row} of {row % 7}" for row in rows],
        "same": np.ones(90),
    }
    return Table(columns, pa.table(values), Target.of(rows * 2.5, Task.REGRESSION))


@pytest.mark.parametrize("make", [bundled_arrays, mixed_table])
def test_a_split_that_is_encoded_in_small_pieces_is_the_same(
    monkeypatch: pytest.MonkeyPatch, make: Callable[[], Arrays | Table]
) -> None:
    whole = split_of(make()).arrays()
    monkeypatch.setattr(sources, "PIECE_BYTES", 2000)
    for name, array in split_of(make()).arrays().items():
        assert array == pytest.approx(whole[name], abs=1e-6)


def test_only_the_training_part_decides_the_scale_of_a_column() -> None:
    split = split_of(mixed_table())
    assert split.x_train.shape == (54, 2 + 2 + TEXT_FEATURES)
    assert split.x_train[:, 0].mean() == pytest.approx(0, abs=1e-5)
    assert split.y_train.mean() == pytest.approx(0, abs=1e-5)
    assert abs(float(split.y_test.mean())) > 1e-3


@pytest.mark.parametrize(
    ("x", "kept"),
    [
        (1_700_000_000 + np.arange(120).reshape(60, 2), np.float64),
        (1_700_000_000.25 + np.arange(120).reshape(60, 2), np.float64),
        (np.arange(120).reshape(60, 2).astype(np.uint32), np.float32),
        (np.arange(120).reshape(60, 2) / 8, np.float32),
        ((np.arange(120).reshape(60, 2) / 7).astype(">f4"), np.float32),
        (np.arange(120).reshape(60, 2).astype(np.uint8), np.uint8),
    ],
    ids=["large", "exact to fractions", "small", "fractions", "32 bits", "8 bits"],
)
def test_an_array_keeps_every_value(tmp_path: Path, x: npt.NDArray[Any], kept: type) -> None:
    (tmp_path / "a.npz").write_bytes(files.npz(x=x, y=np.arange(60) % 2))
    read_npz(tmp_path / "a.npz", tmp_path, 1 << 20).save(tmp_path)
    source = stored_source(tmp_path, DatasetSpec(id="ds-1"), Task.CLASSIFICATION)
    assert isinstance(source, Arrays)
    assert source.x.dtype == kept
    assert (source.x == x).all()
    features = source.encoder(np.arange(40)).transform(np.arange(60)).astype(np.float32)
    assert [len(np.unique(column)) for column in features.T] == [60, 60]


def test_the_largest_number_of_an_array_is_one_of_32_bits(tmp_path: Path) -> None:
    x = np.linspace(0, 1, 60)[:, None].repeat(2, 1)
    x[6, 1] = 1e39
    (tmp_path / "a.npz").write_bytes(files.npz(x=x))
    with pytest.raises(InvalidFileError, match=r"x is 1e\+39 in row 7, column 2; expected a finite number of 32 bits"):
        read_npz(tmp_path / "a.npz", tmp_path, 1 << 20)
