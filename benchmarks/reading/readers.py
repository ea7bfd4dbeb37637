"""Reads every file of a folder with one library, and prints as JSON what it makes of each column.

    PYTHON readers.py LIBRARY FOLDER

It imports that library only, so that it runs in an environment of its own. Each library finds out everything itself.
What it says of a column: kind, first value, missing cells; and whether it leaves the column out.
"""

from __future__ import annotations

import datetime as dt
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Columns = dict[str, dict[str, Any]]


def of_pandas(frame: Any) -> Columns:
    from pandas.api import types

    found: Columns = {}
    for name in frame.columns:
        values = frame[name]
        kind = "text"
        if types.is_bool_dtype(values):
            kind = "boolean"
        elif types.is_datetime64_any_dtype(values):
            kind = "date"
        elif types.is_numeric_dtype(values):
            kind = "number"
        first = values.iloc[0]
        if kind == "date":
            first = first.timestamp()
        found[str(name)] = {"kind": kind, "first": first, "missing": int(values.isna().sum())}
    return found


def frame_of(path: Path, **options: Any) -> Any:
    import pandas as pd

    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    if path.suffix == ".feather":
        return pd.read_feather(path)
    return pd.read_excel(path) if path.suffix == ".xlsx" else pd.read_csv(path, **options)


def read_pandas(path: Path) -> Columns:
    return of_pandas(frame_of(path))


def read_pandas_sniffing(path: Path) -> Columns:
    return of_pandas(frame_of(path, sep=None, engine="python"))


def read_autogluon(path: Path) -> Columns:
    """Read as AutoGluon-Tabular does: pandas, and then the types and the features that its generator finds."""
    from autogluon.features.generators import AutoMLPipelineFeatureGenerator

    frame = frame_of(path)
    found = of_pandas(frame)
    generator = AutoMLPipelineFeatureGenerator(verbosity=0)
    generator.fit_transform(frame.drop(columns=["label"], errors="ignore"))
    used = generator.feature_metadata_in
    for name, column in found.items():
        if name == "label":
            continue
        column["left_out"] = name not in used.get_features()
        if not column["left_out"] and "datetime_as_object" in used.get_feature_types_special(name):
            import pandas as pd

            values = pd.to_datetime(frame[name], errors="coerce")
            column.update(kind="date", first=values.iloc[0].timestamp(), missing=int(values.isna().sum()))
    return found


def read_duckdb(path: Path) -> Columns:
    import duckdb

    table = duckdb.read_parquet(str(path)) if path.suffix == ".parquet" else duckdb.read_csv(str(path))
    rows = table.fetchall()
    found: Columns = {}
    for index, (name, kind) in enumerate(zip(table.columns, map(str, table.types), strict=True)):
        cells = [row[index] for row in rows]
        said, first = "number", cells[0]
        if kind.startswith(("DATE", "TIMESTAMP")):
            day = first if isinstance(first, dt.datetime) else dt.datetime.combine(first, dt.time())
            said, first = "date", (day if day.tzinfo else day.replace(tzinfo=dt.UTC)).timestamp()
        elif kind == "TIME":
            first = first.hour * 3600 + first.minute * 60 + first.second
        elif kind in ("BOOLEAN", "VARCHAR") or kind.startswith("ENUM"):
            said = "boolean" if kind == "BOOLEAN" else "text"
        else:
            first = None if first is None else float(first)
        found[name] = {"kind": said, "first": first, "missing": cells.count(None)}
    return found


READERS: dict[str, Callable[[Path], Columns]] = {
    "pandas": read_pandas,
    "pandas, sep=None": read_pandas_sniffing,
    "DuckDB": read_duckdb,
    "AutoGluon": read_autogluon,
}


def main() -> None:
    read, folder = READERS[sys.argv[1]], Path(sys.argv[2])
    found: dict[str, Any] = {}
    for path in sorted(folder.iterdir()):
        try:
            found[path.name] = read(path)
        except Exception as error:  # noqa: BLE001 - a library raises what it likes, and the benchmark counts it
            found[path.name] = {"error": f"{type(error).__name__}: {error}"[:200]}
    print(json.dumps(found, default=lambda value: value.item() if hasattr(value, "item") else str(value)))


if __name__ == "__main__":
    main()
