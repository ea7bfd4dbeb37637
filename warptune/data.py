"""Turns the data of a caller into a file that can be uploaded, or scored."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from service.errors import FieldError, InvalidSpecError

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

KINDS: Final = (
    "must be a file, a URL, a table of pandas, polars or pyarrow, an array of numbers with rows first, or a torch "
    "Dataset with a length, whose items have numbers"
)

NEW_KINDS: Final = "must be a file, a table of pandas, polars or pyarrow, or an array of numbers with rows first"

UNREADABLE: Final = (TypeError, ValueError, NotImplementedError, OverflowError)
"""What Arrow raises for values that it cannot take; its own errors are among them."""

PLAIN: Final = "columns of numbers, texts, booleans or times"

TARGET: Final = "target"
"""Name of the column that ``y`` becomes if it has none."""


def as_upload(data: object, y: object, target: object, folder: Path) -> tuple[str | Path, str | None]:
    """Return a file or URL with the data, and the column to predict.

    Args:
        data: A path, a URL, a table, an array, or a torch ``Dataset`` with a length, of rows or of pairs of a row and a
            target.
        y: One target for each row of a table or array; None if ``data`` has it, or if there is none.
        target: Column of a table or file to predict: its name, or a key that names one column of a pandas table.
        folder: Where to write.

    Raises:
        InvalidSpecError: The data is of another kind, or the arguments do not fit together. It names the argument.
    """
    if y is not None and target is not None:
        raise _wrong("target", target, "must be left out if y is given")
    if isinstance(data, str | Path):
        if y is not None:
            raise _wrong("y", type(y).__name__, "must be left out for a file", "Name the column to predict: target=...")
        return _existing(data), None if target is None else str(target)
    if is_table(data):
        return _write_table(data, y, target, folder)
    _refuse_other(data, "data")
    if target is not None:
        raise _wrong("target", target, "must be left out for arrays, whose columns have no names", "Give y instead.")
    return _write_arrays(data, y, folder), None


def as_rows(rows: object, folder: Path) -> Path:
    """Return a file with new rows: CSV for a table, ``.npy`` for an array, or the file that was given.

    Raises:
        InvalidSpecError: The rows are of another kind.
    """
    if isinstance(rows, str | Path):
        return Path(_existing(rows, "new_rows"))
    if not is_table(rows):
        import numpy as np

        _refuse_other(rows, "new_rows")
        np.save(folder / "rows.npy", _array(rows, "new_rows"), allow_pickle=False)
        return folder / "rows.npy"
    import pyarrow as pa
    from pyarrow.csv import write_csv

    from service.data.read_table import INDEX_NAME, times_as_seconds

    table = _arrow(rows, "new_rows")
    table = table.rename_columns([name if name.strip() else INDEX_NAME for name in table.column_names])
    for index, column in enumerate(table.schema):
        cells = table.column(index)
        if pa.types.is_dictionary(column.type):
            table = table.set_column(index, column.name, cells.cast(column.type.value_type))
        elif pa.types.is_duration(column.type):
            table = table.set_column(index, column.name, times_as_seconds(cells.combine_chunks()))
    try:
        if table.num_columns == 1:  # a missing value would be an empty line, which other readers skip
            table = table.set_column(0, table.column_names[0], table.column(0).cast(pa.string()).fill_null(""))
        write_csv(table, folder / "rows.csv")
    except pa.ArrowException as error:
        raise _unusable(
            "new_rows", table, lambda name: write_csv(table.select([name]), pa.BufferOutputStream())
        ) from error
    return folder / "rows.csv"


def is_table(data: object) -> bool:
    """Return whether data has named columns: a frame of pandas or polars, or a table of pyarrow."""
    return _is_pandas(data) or (hasattr(data, "__arrow_c_stream__") and hasattr(data, "columns"))


def column_name(table: Any, key: object) -> str | None:
    """Return the name that a column of a table has in the file; None if the key names no column, or several.

    Args:
        table: A table of pandas, polars or pyarrow.
        key: A name, or a key by which pandas finds one column: a number, a tuple, or the first part of a tuple.
    """
    names = _names(table)
    if _is_pandas(table):
        import numpy as np
        from pandas.errors import InvalidIndexError

        try:
            found = np.array(names, object)[table.columns.get_loc(key)]
        except (KeyError, TypeError, InvalidIndexError):  # the last two: a list is no key
            found = ()
        if isinstance(found, str):
            return found
        if len(found) == 1:
            return str(found[0])
    return str(key) if str(key) in names else None


def _names(table: Any) -> list[str]:
    """Return the names of the columns as they are in the file."""
    names = table.columns if _is_pandas(table) else getattr(table, "column_names", table.columns)
    return [str(name) for name in names]


def index_of(rows: object) -> Any:
    """Return the index of a frame of pandas; None for other rows."""
    return getattr(rows, "index", None) if _is_pandas(rows) else None


def _existing(file: str | Path, argument: str = "data") -> str | Path:
    if isinstance(file, str) and "://" in file and argument == "data":
        return file
    try:
        path = Path(file).expanduser()
        exists = path.is_file()
    except (OSError, RuntimeError):  # the name is too long; nobody has this home folder
        exists = False
    if not exists:
        raise _wrong(argument, str(file), "must be a file that exists")
    return path


def _refuse_other(data: object, argument: str) -> None:
    """Refuse what is neither a table nor an array nor a Dataset, with the way to make it one if there is one.

    Raises:
        InvalidSpecError: As said.
    """
    hint = None
    if hasattr(data, "collect"):  # a LazyFrame of polars
        hint = f"Give a table: {argument}.collect()."
    elif hasattr(data, "toarray"):  # a sparse matrix of scipy
        hint = f"Give an array: {argument}.toarray()."
    elif isinstance(data, Mapping) or getattr(getattr(data, "dtype", None), "names", None) or _has_mappings(data):
        hint = f"Give a table: pandas.DataFrame({argument})."
    elif hasattr(data, "__array__") or isinstance(data, Sequence) or (argument == "data" and _is_dataset(data)):
        return
    raise _wrong(argument, type(data).__name__, _kinds(argument), hint)


def _kinds(argument: str) -> str:
    return NEW_KINDS if argument == "new_rows" else KINDS


def _has_mappings(data: object) -> bool:
    return isinstance(data, Sequence) and len(data) > 0 and isinstance(data[0], Mapping)


def _write_table(data: object, y: object, target: object, folder: Path) -> tuple[Path, str]:
    import pyarrow as pa
    import pyarrow.parquet

    table = _arrow(data, "data")
    if isinstance(y, str):
        hint = f"To predict the column {y!r}, give target={y!r}."
        raise _wrong("y", y, "must be one value for each row", hint if y in table.column_names else None)
    if y is not None:
        named = str((None if is_table(y) else getattr(y, "name", None)) or TARGET)
        if named in table.column_names:
            hint = f"Leave y out and give target={named!r}, or give y another name."
            raise _wrong("y", named, "must have a name that is not that of a column", hint)
        try:
            table = table.append_column(named, [_targets(y, len(table)).tolist()])
        except (OverflowError, UnicodeEncodeError) as error:
            raise _wrong("y", None, f"must have whole numbers below 2**63, or texts of Unicode: {error}") from error
    elif target is None:
        raise _wrong("target", None, "must name the column to predict", f"The columns are {_list(table.column_names)}.")
    elif (found := column_name(data, target)) is None:
        raise _wrong("target", target, f"must be one of {_list(table.column_names)}")
    else:
        named = found
    try:
        pyarrow.parquet.write_table(table, folder / "data.parquet")
    except pa.ArrowException as error:
        raise _unusable(
            "data", table, lambda name: pyarrow.parquet.write_table(table.select([name]), pa.BufferOutputStream())
        ) from error
    return folder / "data.parquet", named


def _write_arrays(data: object, y: object, folder: Path) -> Path:
    import numpy as np

    if _is_dataset(data):
        if y is not None:
            raise _wrong("y", type(y).__name__, "must be left out for a Dataset, which has the targets itself")
        data, y = _columns(data)
    x = _array(data, "data")
    if x.ndim < 2:
        raise _wrong("data", x.shape, "must have two axes or more, rows first")
    arrays = {"x": x} if y is None else {"x": x, "y": _targets(y, len(x))}
    np.savez(folder / "data.npz", allow_pickle=False, **arrays)
    return folder / "data.npz"


def _arrow(data: Any, argument: str) -> pa.Table:
    """Return a table as Arrow has it, without the index of pandas. Sparse columns of pandas become dense."""
    import pyarrow as pa

    names = _names(data)
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise _wrong(argument, None, f"must have columns with different names; several are called {_list(twice)}")
    if not _is_pandas(data):
        return pa.table(data.to_arrow() if hasattr(data, "to_arrow") else data)  # polars: texts as files have them
    named = _plain_columns(data.set_axis(names, axis=1))
    try:
        return pa.Table.from_pandas(named, preserve_index=False).replace_schema_metadata()
    except UNREADABLE as error:
        raise _unusable(
            argument, data, lambda name: pa.Table.from_pandas(named[[name]], preserve_index=False)
        ) from error


def _plain_columns(frame: Any) -> Any:
    """Return a frame of pandas whose sparse columns are dense, and whose periods and intervals are texts."""
    from pandas import IntervalDtype, PeriodDtype, SparseDtype

    plain = frame.copy(deep=False)
    for name, column in frame.items():
        kind = getattr(getattr(column.dtype, "categories", None), "dtype", column.dtype)
        if isinstance(kind, SparseDtype):
            plain[name] = column.sparse.to_dense()
        elif isinstance(kind, PeriodDtype | IntervalDtype):
            plain[name] = column.map(str, na_action="ignore")
    return plain


def _unusable(argument: str, data: object, read: Callable[[str], object]) -> InvalidSpecError:
    """Return the refusal of the first column of a table that ``read`` cannot use."""
    for name in _names(data):
        try:
            read(name)
        except UNREADABLE as error:
            reason = str(error.args[0]).partition("\n")[0]
            convert = f" with {argument}[{name!r}].astype(str)" if _is_pandas(data) else ""
            hint = f"Convert the column {name!r}, for example to texts{convert}, or leave it out."
            return _wrong(argument, None, f"must have {PLAIN}, of one kind each: {reason}", hint)
    raise AssertionError("one column of a table that cannot be read cannot be read")


def _is_dataset(data: object) -> bool:
    """Return whether data is a ``torch.utils.data.Dataset`` with a length, whose items have numbers."""
    datasets = sys.modules.get("torch.utils.data")
    if datasets is None or isinstance(data, datasets.IterableDataset):
        return False
    return isinstance(data, datasets.Dataset) and hasattr(data, "__len__")


def _columns(dataset: Any) -> tuple[object, object]:
    """Return all rows of a ``Dataset``, and all targets; None if it has none."""
    from torch.utils.data import TensorDataset

    if type(dataset) is TensorDataset:
        fields: list[object] = list(dataset.tensors)
    else:
        # Each is asked for by its number, because nothing says where a Dataset ends that is only iterated.
        items = [dataset[index] for index in range(len(dataset))]
        try:
            cells = zip(*(item if isinstance(item, tuple | list) else (item,) for item in items), strict=True)
            fields = [_stacked(field) for field in cells]
        except (TypeError, ValueError, RuntimeError) as error:
            raise _wrong("data", type(dataset).__name__, f"must have items of one shape: {error}") from error
        if items and isinstance(items[0], Mapping):
            raise _wrong(
                "data", type(dataset).__name__, "must have items that are rows, or pairs of a row and a target"
            )
    if not 1 <= len(fields) <= 2:
        raise _wrong("data", len(fields), "must be a Dataset of rows, or of pairs of a row and a target")
    rows, *targets = fields
    return rows, targets[0] if targets else None


def _stacked(cells: Sequence[Any]) -> object:
    """Return the cells of all items as one array; texts as they are, because numpy would make a text of each."""
    import numpy as np

    if any(isinstance(cell, str) for cell in cells):
        return cells
    return np.stack([np.asarray(cell.detach().cpu() if hasattr(cell, "detach") else cell) for cell in cells])


def _targets(y: object, rows: int) -> npt.NDArray[Any]:
    found = _array(y, "y", texts=True)
    if found.shape not in ((rows,), (rows, 1)):
        raise _wrong("y", found.shape, f"must have one value for each of the {rows} rows")
    return found.reshape(rows)


def _array(values: Any, argument: str, *, texts: bool = False) -> npt.NDArray[Any]:
    """Return an array of numbers, or of texts if these are allowed. It never holds Python objects.

    What a masked array masks is missing.
    """
    import numpy as np

    if not (hasattr(values, "__array__") or isinstance(values, Sequence)):
        # numpy would ask it for items, if need be for ever
        raise _wrong(argument, type(values).__name__, _kinds(argument))
    try:
        if hasattr(values, "detach"):  # a tensor of torch
            values = values.detach().cpu()
        if np.ma.is_masked(values):
            values = values.astype(np.float64).filled(np.nan)
        found = np.asarray(values)
        if found.dtype.kind == "U" and isinstance(values, Sequence):
            found = np.asarray(values, object)  # otherwise numpy makes a text of each: "nan" of a missing value
    except (TypeError, ValueError, RuntimeError) as error:  # the last: of torch
        raise _wrong(argument, type(values).__name__, f"cannot be read as an array: {error}") from error
    if found.dtype.kind in "OT" and texts:
        found = _of_one_kind(found, argument)
    if found.dtype.kind not in ("buifU" if texts else "buif") or not found.ndim:
        kinds = "must be numbers or texts, one for each row" if texts else _kinds(argument)
        hint = "Give one row as a table: rows.iloc[[0]]." if hasattr(values, "to_frame") and not texts else None
        raise _wrong(argument, f"{type(values).__name__} of {found.dtype}", kinds, hint)
    return found


def _of_one_kind(found: npt.NDArray[Any], argument: str) -> npt.NDArray[Any]:
    """Return an array of objects as numbers or as texts.

    Raises:
        InvalidSpecError: One is missing, or they are of several kinds, or of another one.
    """
    import numpy as np

    for place, value in enumerate(found.flat):
        is_nan = isinstance(value, float) and math.isnan(value)
        if value is None or is_nan or type(value).__name__ in ("NAType", "NaTType"):  # the last two: of pandas
            hint = f"Leave out the rows without one, which pandas.isna({argument}) finds."
            raise _wrong(argument, None, f"must have a value for each row; {argument}[{place}] has none", hint)
    kinds = {next((kind for kind in (str, Real) if isinstance(value, kind)), object) for value in found.flat}
    if kinds <= {str}:
        return found.astype(str)
    if kinds == {Real}:
        return np.array(found.tolist()).reshape(found.shape)
    raise _wrong(argument, sorted({type(value).__name__ for value in found.flat}), "must be all numbers or all texts")


def _is_pandas(data: object) -> bool:
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(data, pandas.DataFrame)


def _list(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:20])) + (", ..." if len(names) > 20 else "")


def _wrong(argument: str, value: object, message: str, hint: str | None = None) -> InvalidSpecError:
    return InvalidSpecError(FieldError(argument, value, message, hint))
