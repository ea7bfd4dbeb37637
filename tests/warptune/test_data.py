# From what a caller has in memory to a file for the service; and what is refused, by the name of the argument.
from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import scipy.sparse
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from service.errors import InvalidSpecError
from warptune.data import as_rows, as_upload

X = np.arange(12.0).reshape(4, 3)
FRAME = pd.DataFrame({"age": [1.5, 2.5, None], "city": pd.Categorical(["a", "b", "a"])}, index=[7, 8, 9])


def arrays(data: object, y: object, folder: Path) -> dict[str, Any]:
    file, target = as_upload(data, y, None, folder)
    assert target is None
    with np.load(file, allow_pickle=False) as found:
        return dict(found)


def table(data: object, y: object, target: object, folder: Path) -> tuple[dict[str, Any], str | None]:
    file, target = as_upload(data, y, target, folder)
    return pyarrow.parquet.read_table(file).to_pydict(), target


@pytest.mark.parametrize(
    "data",
    [X, X.tolist(), torch.tensor(X, requires_grad=True), TensorDataset(torch.tensor(X))],
    ids=["numpy", "lists", "tensor", "dataset"],
)
def test_rows_become_an_array(data: object, tmp_path: Path) -> None:
    found = arrays(data, None, tmp_path)
    assert found.keys() == {"x"}
    assert (found["x"] == X).all()


@pytest.mark.parametrize(
    "y",
    [
        [0, 1, 0, 1],
        np.array([[0], [1], [0], [1]]),
        torch.tensor([0, 1, 0, 1]),
        np.array(["a", "b", "a", "b"], dtype=object),
        pd.Series(["a", "b", "a", "b"]),
    ],
    ids=["list", "column", "tensor", "objects", "series"],
)
def test_targets_are_one_value_a_row(y: object, tmp_path: Path) -> None:
    found = arrays(X, y, tmp_path)["y"]
    assert found.shape == (4,)
    assert [value in (1, "b") for value in found.tolist()] == [False, True, False, True]


def test_a_dataset_of_torch_may_have_targets(tmp_path: Path) -> None:
    data = TensorDataset(torch.tensor(X, dtype=torch.float32), torch.tensor([0, 1, 1, 0]))
    found = arrays(data, None, tmp_path)
    assert found["x"].dtype == np.float32
    assert found["y"].tolist() == [0, 1, 1, 0]


class Own(Dataset[Any]):
    """A dataset as people write them: it knows its length, and never raises IndexError."""

    def __init__(self, *items: Any) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index % len(self)]


class Endless(IterableDataset[Any]):
    def __getitem__(self, index: int) -> Any:
        return torch.zeros(2), 0

    def __iter__(self) -> Iterator[Any]:
        return itertools.repeat(self[0])


def test_the_items_of_an_own_dataset_are_rows_or_rows_with_targets(tmp_path: Path) -> None:
    pairs = Own(*((torch.tensor(row), label) for row, label in zip(X, ["a", "b", "b", "a"], strict=True)))
    found = arrays(pairs, None, tmp_path)
    assert (found["x"] == X).all()
    assert found["y"].tolist() == ["a", "b", "b", "a"]
    part = arrays(Subset(pairs, [2, 0]), None, tmp_path)
    assert (part["x"] == X[[2, 0]]).all()
    assert part["y"].tolist() == ["b", "a"]
    images = arrays(Own(*np.ones((3, 5, 5), np.uint8)), None, tmp_path)
    assert images.keys() == {"x"}
    assert images["x"].shape == (3, 5, 5)
    assert images["x"].dtype == np.uint8
    changed = Own([torch.zeros(2), "a"], [torch.ones(2), "b"])
    changed.tensors = (torch.full((2, 2), 9.0),)  # type: ignore[attr-defined]
    assert arrays(changed, None, tmp_path)["x"].tolist() == [[0, 0], [1, 1]], "transforms are of the items"
    targets = arrays(Own(*((row, torch.tensor(0.5)) for row in X)), None, tmp_path)["y"]
    assert targets.tolist() == [0.5] * 4


def test_a_frame_becomes_a_table_without_its_index(tmp_path: Path) -> None:
    found, target = table(FRAME, None, "city", tmp_path)
    assert found == {"age": [1.5, 2.5, None], "city": ["a", "b", "a"]}
    assert target == "city"


@pytest.mark.parametrize(("y", "name"), [([1, 2, 3], "target"), (pd.Series([1, 2, 3], name="price"), "price")])
def test_targets_become_a_column_of_the_table(y: object, name: str, tmp_path: Path) -> None:
    found, target = table(FRAME, y, None, tmp_path)
    assert (target, found[name]) == (name, [1, 2, 3])


def test_a_column_may_have_the_name_of_an_attribute(tmp_path: Path) -> None:
    frame = pd.DataFrame({"column_names": ["p", "q"], "self": pd.arrays.SparseArray([0, 1]), "y": [1, 2]})
    found, target = table(frame, None, "y", tmp_path)
    assert (found, target) == ({"column_names": ["p", "q"], "self": [0, 1], "y": [1, 2]}, "y")
    assert pa.csv.read_csv(as_rows(frame, tmp_path)).to_pydict() == found


def test_a_table_of_targets_has_the_usual_name_whatever_its_column_is_called(tmp_path: Path) -> None:
    found, target = table(FRAME, pd.DataFrame({"name": [1, 2, 3]}), None, tmp_path)
    assert (target, found["target"]) == ("target", [1, 2, 3])


def test_what_a_masked_array_masks_is_missing(tmp_path: Path) -> None:
    x = np.ma.masked_equal(np.array([[1, -999], [-999, 2], [3, 4]]), -999)
    missing = [[False, True], [True, False], [False, False]]
    assert np.isnan(arrays(x, np.ma.masked_equal([1.0, -999.0, 2.0], -999.0), tmp_path)["x"]).tolist() == missing
    assert np.isnan(arrays(x, np.ma.masked_equal([1.0, -999.0, 2.0], -999.0), tmp_path)["y"]).tolist() == [0, 1, 0]
    assert np.isnan(np.load(as_rows(x, tmp_path))).tolist() == missing
    assert arrays(np.ma.masked_equal(np.eye(2, dtype=int), 7), None, tmp_path)["x"].dtype == int


def test_a_table_of_arrow_and_numbered_columns_are_read(tmp_path: Path) -> None:
    assert table(pa.table({"a": [1], "b": [2]}), None, "b", tmp_path)[0] == {"a": [1], "b": [2]}
    assert table(pd.DataFrame(X), None, "2", tmp_path)[0].keys() == {"0", "1", "2"}


TUPLES = pd.MultiIndex.from_tuples([("x", "mean"), ("x", "std"), ("y", "")])
DATES = pd.date_range("2024-01-01", periods=3)


@pytest.mark.parametrize(
    ("names", "key", "name"),
    [
        ([0, 1, 2], 2, "2"),
        ([0, 1, 2], np.int64(2), "2"),
        ([0, 1, 2], "2", "2"),
        ([0.5, 1.5, 2.5], 2.5, "2.5"),
        (TUPLES, ("y", ""), "('y', '')"),
        (TUPLES, ("x", "std"), "('x', 'std')"),
        (TUPLES, "y", "('y', '')"),
        (TUPLES, "('y', '')", "('y', '')"),
        (DATES, DATES[2], "2024-01-03 00:00:00"),
        (DATES, "2024-01-03", "2024-01-03 00:00:00"),
    ],
)
def test_a_target_is_what_pandas_finds_one_column_by(names: Any, key: object, name: str, tmp_path: Path) -> None:
    frame = pd.DataFrame(X, columns=names)
    found, target = table(frame, None, key, tmp_path)
    assert target == name
    assert found[name] == X[:, [str(column) for column in frame].index(name)].tolist()


@pytest.mark.parametrize("key", ["x", ("x",), ("x", "max"), ["y"], slice(1), {}, 2])
def test_a_target_that_names_no_column_or_several_is_refused(key: object, tmp_path: Path) -> None:
    with pytest.raises(InvalidSpecError, match="target: must be one of"):
        as_upload(pd.DataFrame(X, columns=TUPLES), None, key, tmp_path)


def test_what_pandas_makes_of_numbers_is_read_like_what_it_was_made_of(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "sparse": pd.arrays.SparseArray([0, 1, 0, 2]),
            "flag": pd.arrays.SparseArray([0.0, np.nan, 1.0, 0.0]),
            "band": pd.cut(pd.Series([1.0, 2.0, np.nan, 4.0]), [0, 2, 4]),
            "range": pd.arrays.IntervalArray.from_breaks(range(5)),
            "month": pd.period_range("2024-01", periods=4, freq="M"),
        }
    )
    expected: dict[str, list[Any]] = {
        "sparse": [0, 1, 0, 2],
        "flag": [0.0, None, 1.0, 0.0],
        "band": ["(0, 2]", "(0, 2]", None, "(2, 4]"],
        "range": ["(0, 1]", "(1, 2]", "(2, 3]", "(3, 4]"],
        "month": ["2024-01", "2024-02", "2024-03", "2024-04"],
    }
    assert table(frame, None, "sparse", tmp_path)[0] == expected
    found = pyarrow.parquet.read_schema(tmp_path / "data.parquet").field("band").type
    assert pa.types.is_dictionary(found), "a category stays one"
    assert pa.csv.read_csv(as_rows(frame.drop(columns="month"), tmp_path)).to_pydict() == {
        name: ["" if cell is None and name == "band" else cell for cell in cells]
        for name, cells in expected.items()
        if name != "month"
    }


def test_numbers_that_pandas_keeps_as_objects_are_numbers(tmp_path: Path) -> None:
    assert arrays(X, pd.Series([1, 2.5, True, np.int64(3)], dtype=object), tmp_path)["y"].tolist() == [1, 2.5, 1, 3]


def test_a_file_in_the_home_folder_may_begin_with_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "people.csv").touch()
    assert as_upload("~/people.csv", None, "age", tmp_path) == (tmp_path / "people.csv", "age")
    assert as_rows("~/people.csv", tmp_path) == tmp_path / "people.csv"


class Frame:
    """A table as polars has it, which tells Arrow of texts in a form that Parquet does not have."""

    columns = ("a", "b")

    def to_arrow(self) -> pa.Table:
        return pa.table({"a": pa.array(["x"], pa.large_string()), "b": [2]})

    def __arrow_c_stream__(self, schema: object = None) -> object:
        raise AssertionError


def test_a_table_that_makes_one_of_arrow_is_asked_for_it(tmp_path: Path) -> None:
    assert table(Frame(), None, "b", tmp_path)[0] == {"a": ["x"], "b": [2]}


def test_a_file_and_a_url_stay_where_they_are(tmp_path: Path) -> None:
    file = tmp_path / "people.csv"
    file.touch()
    assert as_upload(str(file), None, "age", tmp_path) == (file, "age")
    assert as_upload("s3://lake/people.csv", None, "age", tmp_path) == ("s3://lake/people.csv", "age")


class Lazy:
    """A table that polars has not made yet."""

    columns = ("a", "b")

    def collect(self) -> pa.Table:
        return pa.table({"a": [1], "b": [2]})


REFUSED: dict[str, tuple[object, object, str | None, str]] = {
    "no file": ("gone.csv", None, "age", r"data: must be a file that exists \(got 'gone.csv'\)"),
    "y of a file": (Path(__file__), [1], None, "y: must be left out for a file"),
    "y and target": (FRAME, [1, 2, 3], "city", "target: must be left out if y is given"),
    "no target": (FRAME, None, None, "target: must name the column to predict. The columns are 'age', 'city'"),
    "another target": (FRAME, None, "town", r"target: must be one of 'age', 'city' \(got 'town'\)"),
    "a target of arrays": (X, None, "age", "target: must be left out for arrays"),
    "a target with a taken name": (FRAME, pd.Series([1, 2, 3], name="age"), None, "y: must have a name that is not"),
    "too few targets": (X, [1, 2], None, r"y: must have one value for each of the 4 rows \(got .*2"),
    "targets with a gap": (
        X,
        ["a", None, "b", "a"],
        None,
        r"y: must have a value for each row; y\[1\] has none. Leave",
    ),
    "booleans with a gap": (X, pd.Series([True, pd.NA] * 2, dtype="boolean"), None, r"y: must have .* y\[1\] has none"),
    "texts with a gap of numpy": (X, ["a", "b", np.nan, "a"], None, r"y: must have .* y\[2\] has none"),
    "targets of two kinds": (X, pd.Series(["a", 1] * 2), None, r"y: must be all numbers .* \(got \['int', 'str'\]\)"),
    "times as targets": (X, pd.Series(pd.date_range("2024", periods=4)), None, "y: must be numbers or texts, one for"),
    "a name as y": (
        FRAME,
        "city",
        None,
        "y: must be one value for each row .* To predict the column 'city', give targ",
    ),
    "a text as y": (X, "city", None, "y: must be numbers or texts, one for each row"),
    "one row": (np.arange(3.0), None, None, "data: must have two axes or more"),
    "texts": (np.array([["a"], ["b"]]), None, None, "data: must be a file, a URL, a table"),
    "a huge number": (pd.DataFrame({"a": [2**70, 1], "c": [1, 2]}), None, "c", "data: must have columns of .* 'a'"),
    "a huge target": (FRAME, np.array([1, 2, 2**63], np.uint64), None, r"y: must have whole numbers below 2\*\*63"),
    "something else": (object(), None, None, "data: must be a file, a URL, a table"),
    "a name that is too long": (300 * "x", None, "a", r"data: must be a file that exists \(got 'xxx"),
    "a tensor without values": (torch.ones(3, 2, device="meta"), None, None, "data: cannot be read as an array"),
    "targets that are not text": (FRAME, ["\udcff", "a", "a"], None, "y: must have .* texts of Unicode: .* surrogates"),
    "rows of two lengths": ([[1], [1, 2]], None, None, "data: cannot be read as an array"),
    "a mixed column": (
        pd.DataFrame({"a": [1, "b"], "c": [1, 2]}),
        None,
        "c",
        r"data: must have columns of .* Convert the column 'a', for example to texts with data\['a'\].astype\(str\)",
    ),
    "two columns of one name": (pd.DataFrame(X, columns=["a", "a", "y"]), None, "y", "different names; several .* 'a'"),
    "a number and its text": (pd.DataFrame(X, columns=[1, "1", "y"]), None, "y", "different names; several are .* '1'"),
    "a dict of columns": ({"a": [1, 2]}, None, "a", r"data: must be a file, .* Give a table: pandas.DataFrame\(data\)"),
    "a list of dicts": ([{"a": 1}], None, "a", r"data: must be a file, .* Give a table: pandas.DataFrame\(data\)"),
    "a structured array": (
        np.zeros(2, [("a", "f4")]),
        None,
        "a",
        r"data: must be .* a table: pandas.DataFrame\(data\)",
    ),
    "what is not collected": (Lazy(), None, "a", r"data: must be a file, .* Give a table: data.collect\(\)"),
    "a sparse matrix": (
        scipy.sparse.eye(2, format="csr"),
        [1, 2],
        None,
        r"data: must be .* an array: data.toarray\(\)",
    ),
    "groups": (FRAME.groupby("city", observed=True), None, "age", "data: must be a file, a URL, a table"),
    "a column of structures": (pa.table({"a": [{}, {}], "b": [1, 2]}), None, "b", "data: must have columns of numbers"),
    "a dataset of three": (TensorDataset(*[torch.zeros(4, 1)] * 3), None, None, "data: must be a Dataset of rows"),
    "a dataset with targets and y": (
        TensorDataset(torch.ones(2, 1)),
        [1, 2],
        None,
        "y: must be left out for a Dataset",
    ),
    "a dataset without items": (Own(), None, None, "data: must be a Dataset of rows"),
    "a dataset of dicts": (Own({"x": 1}), None, None, "data: must have items that are rows, or pairs"),
    "a dataset with a gap": (Own(([1], "a"), ([2], float("nan"))), None, None, "y: must have a value for each row"),
    "a dataset with two kinds": (Own(([1], "a"), ([2], 3)), None, None, "y: must be all numbers or all texts"),
    "a dataset of rows of two lengths": (Own([1], [1, 2]), None, None, "data: must have items of one shape"),
    "a dataset with targets now and then": (Own(([1], 1), [1]), None, None, "data: must have items of one shape"),
    "a dataset without an end": (Endless(), None, None, "data: must be a file, a URL, a table"),
    "a loader": (DataLoader(Own(X)), None, None, "data: must be a file, a URL, a table"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_tuned_on_is_refused_by_the_name_of_the_argument(case: str, tmp_path: Path) -> None:
    data, y, target, message = REFUSED[case]
    with pytest.raises(InvalidSpecError, match=message):
        as_upload(data, y, target, tmp_path)


def test_durations_of_new_rows_are_seconds_as_in_training(tmp_path: Path) -> None:
    took = pd.to_timedelta([90, 0.5, None], unit="s")
    frames = (
        pd.DataFrame({"took": took, "x": [1, 2, 3]}),
        pa.table({"took": pa.array(took).cast(pa.duration("ms")), "x": [1, 2, 3]}),
    )
    for frame in frames:
        assert pa.csv.read_csv(as_rows(frame, tmp_path)).to_pydict() == {"took": [90, 0.5, None], "x": [1, 2, 3]}


@pytest.mark.parametrize("cells", [["a", None, "b"], [1.5, None, 2.5], [True, None, False]])
def test_a_missing_value_in_the_only_column_is_not_an_empty_line(cells: list[Any], tmp_path: Path) -> None:
    written = as_rows(pa.table({"a": cells}), tmp_path).read_text().splitlines()
    assert written == ['"a"', *(f'"{"" if cell is None else str(cell).lower()}"' for cell in cells)]


def test_new_rows_become_a_file_that_can_be_scored(tmp_path: Path) -> None:
    assert pa.csv.read_csv(as_rows(FRAME, tmp_path)).to_pydict() == {"age": [1.5, 2.5, None], "city": ["a", "b", "a"]}
    assert (np.load(as_rows(X, tmp_path)) == X).all()
    assert as_rows(__file__, tmp_path) == Path(__file__)
    with pytest.raises(InvalidSpecError, match="new_rows: must be a file that exists"):
        as_rows("gone.csv", tmp_path)
    with pytest.raises(InvalidSpecError, match=r"new_rows: must be a file, a table .* or an array"):
        as_rows(TensorDataset(torch.tensor(X)), tmp_path)
    with pytest.raises(InvalidSpecError, match=r"Give one row as a table: rows.iloc\[\[0\]\]"):
        as_rows(FRAME.iloc[0], tmp_path)
    with pytest.raises(InvalidSpecError, match="new_rows: must have columns of numbers"):
        as_rows(pa.table({"a": [{"b": 1}]}), tmp_path)
