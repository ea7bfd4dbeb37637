from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import fsspec
import numpy as np
import pytest

from service.data.catalog import BUNDLED
from service.data.prepared import PreparedData
from service.data.prepared_files import SPLIT_ARRAYS, load_arrays, pack_arrays, save_arrays
from service.spec.tasks import Task
from tests.service.data.prepared import read, split_of


@pytest.mark.parametrize("name", [name for name, dataset in BUNDLED.items() if dataset.info.task != Task.PHYSICS])
def test_the_parts_hold_every_row_once_in_the_stated_shares(name: str) -> None:
    info, split = BUNDLED[name].info, split_of(name, 0)
    sizes = [len(part) for part in (split.x_train, split.x_val, split.x_test)]
    assert sum(sizes) == info.rows
    assert sizes == pytest.approx([0.6 * info.rows, 0.2 * info.rows, 0.2 * info.rows], abs=2)
    assert split.x_train.shape[1] == info.features
    assert all(x.dtype == np.float32 and np.isfinite(x).all() for x in (split.x_train, split.x_val, split.x_test))
    rows = np.concatenate([split.x_train, split.x_val, split.x_test])
    original = np.unique(prepare_raw(name), axis=0)
    assert len(np.unique(rows, axis=0)) == len(original)


def prepare_raw(name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    from sklearn import datasets

    return np.asarray(getattr(datasets, f"load_{name}")().data)


@pytest.mark.parametrize("name", BUNDLED)
def test_every_part_has_the_rows_and_columns_that_the_catalogue_says(name: str) -> None:
    info, split = BUNDLED[name].info, split_of(name, 0)
    assert len(split.x_train) == info.training_rows
    assert len(split.x_train) + len(split.x_val) + len(split.x_test) == info.rows
    assert split.x_test.shape[1] == info.features


@pytest.mark.parametrize(
    "name", [name for name, dataset in BUNDLED.items() if dataset.info.task == Task.CLASSIFICATION]
)
def test_every_part_of_a_classification_has_the_classes_in_equal_shares(name: str) -> None:
    split = split_of(name, 0)
    shares = [np.bincount(y) / len(y) for y in (split.y_train, split.y_val, split.y_test)]
    assert len(shares[0]) == BUNDLED[name].info.outputs
    assert np.allclose(shares[0], shares[1], atol=0.03)
    assert np.allclose(shares[0], shares[2], atol=0.03)


def test_only_the_training_part_decides_the_scale() -> None:
    split = split_of("wine", 0)
    assert np.allclose(split.x_train.mean(0), 0, atol=1e-5)
    assert np.allclose(split.x_train.std(0), 1, atol=1e-5)
    assert not np.allclose(split.x_val.mean(0), 0, atol=1e-3)
    regression = split_of("diabetes", 0)
    assert regression.y_train.shape[1] == 1
    assert regression.y_train.std() == pytest.approx(1, abs=1e-5)
    assert abs(float(regression.y_test.mean())) > 1e-3


def test_pixels_share_one_scale() -> None:
    split = split_of("digits", 0)
    deviations = split.x_train.std(0)
    assert np.sqrt((deviations**2).mean()) == pytest.approx(1, abs=1e-4)
    assert deviations.min() < 0.01
    assert deviations.max() > 1
    assert np.abs(split.x_val).max() < 10  # a rare pixel is not blown up


def test_the_seed_decides_the_split_and_nothing_else_does() -> None:
    first, again, other = (split_of("wine", seed) for seed in (1, 1, 2))
    assert all(np.array_equal(array, again.arrays()[name]) for name, array in first.arrays().items())
    assert not np.array_equal(first.x_train, other.x_train)


def test_a_stored_split_comes_back_and_a_changed_file_is_refused(tmp_path: Path) -> None:
    split = split_of("wine", 0)
    file = tmp_path / "data.npz"
    save_arrays(split.arrays(), tmp_path)
    digest = pack_arrays(tmp_path, SPLIT_ARRAYS, file)
    assert digest == hashlib.sha256(file.read_bytes()).hexdigest()
    back = read(PreparedData(f"file://{file}", digest))
    with np.load(file, allow_pickle=False) as arrays:
        assert all(np.array_equal(arrays[name], array) for name, array in split.arrays().items())
    assert all(isinstance(array, np.memmap) and array.flags.aligned for array in back.arrays().values())
    assert np.array_equal(back.x_test, split.x_test)
    with pytest.raises(ValueError, match="the prepared data has changed"):
        load_arrays(f"file://{file}", "0" * 64)


def test_a_split_of_a_remote_store_is_mapped_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split, file, copies = split_of("wine", 3), tmp_path / "data.npz", tmp_path / "tmp"
    copies.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(copies))
    save_arrays(split.arrays(), tmp_path)
    digest = pack_arrays(tmp_path, SPLIT_ARRAYS, file)
    fsspec.filesystem("memory").pipe_file("/splits/data.npz", file.read_bytes())
    back = read(PreparedData("memory://splits/data.npz", digest))
    assert isinstance(back.x_train, np.memmap)
    assert all(np.array_equal(back.arrays()[name], array) for name, array in split.arrays().items())
    assert list(copies.iterdir()) == []  # a slot is killed, and would never delete it
