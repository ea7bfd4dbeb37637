"""Compares how tables are read: by the service, pandas, DuckDB, and AutoGluon's type inference.

Run::

    python -m venv /tmp/readers && /tmp/readers/bin/pip install pandas pyarrow openpyxl duckdb autogluon.features
    python -m benchmarks.reading --python /tmp/readers/bin/python

The files are those of ``tests/service/data/tables.py``, which says what is right. Every reader gets a file's name and
nothing else. A column counts as right if kind, first value and missing cells are right; a category may be read as a
text, and a boolean as a category, since nothing is lost. Ids, row numbers and constants are counted on their own: right
is to leave them out, which pandas and DuckDB never do.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet

from benchmarks.reading.readers import READERS
from service.data.columns import TABLE_FILE, values_of
from service.data.facts import ColumnRole, column_uses
from service.data.upload import Upload, format_of
from service.spec.data import DatasetSpec
from tests.service.data.tables import TABLES, Right, Table

RESULTS: Final = Path(__file__).parent / "results.json"
LEFT_OUT: Final = ("id", "index", "constant")
SERVICE: Final = "warptune"

Found = dict[str, Any]


def read_here(table: Table) -> Found:
    """Read a file as the service does."""
    fmt = format_of(table.filename)
    assert fmt is not None
    with Upload(fmt, 1 << 24) as upload:
        upload.write(table.content)
        facts, folder = upload.unpack()
        stored = pyarrow.parquet.read_table(folder / TABLE_FILE)
    found: Found = {}
    for column, use in zip(facts.columns, column_uses(facts, DatasetSpec()), strict=True):
        first = values_of(column, stored.column(column.name).combine_chunks())[0].as_py()
        left_out = use.role is ColumnRole.LEFT_OUT
        found[column.name] = {"kind": column.kind, "first": first, "missing": column.missing, "left_out": left_out}
    return found


def is_right(right: Right, found: Found | None) -> bool:
    """Return whether a column was read rightly."""
    if found is None:
        return False
    if right.kind in LEFT_OUT:
        return bool(found.get("left_out"))
    kind, first = found["kind"], found["first"]
    if found.get("left_out") or found["missing"] != right.missing:
        return False
    if right.kind == "boolean":
        return kind in ("boolean", "category", "text", "number")
    if right.kind in ("number", "date"):
        is_close = isinstance(first, int | float) and abs(first - right.first) < 1e-6 * max(1, abs(right.first))
        return kind == right.kind and is_close
    return kind in ("category", "text") and str(first) == str(right.first)


def counts(read: dict[str, Found]) -> tuple[int, int, list[str]]:
    """Return how many columns of data, and how many to leave out, are right; and the wrong ones."""
    data = left_out = 0
    wrong = []
    for table in TABLES:
        for name, right in table.columns.items():
            found = read[table.name].get(name) or (read[table.name].get("") if name == "Unnamed: 0" else None)
            good = is_right(right, found)
            data += good and right.kind not in LEFT_OUT
            left_out += good and right.kind in LEFT_OUT
            if not good:
                wrong.append(f"{table.name}: {name}")
    return data, left_out, wrong


def main() -> None:
    """Read all files with all readers and print how many columns each reads rightly."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reading", description=__doc__)
    parser.add_argument("--python", default=sys.executable, help="interpreter with the other readers (default: this)")
    given = parser.parse_args()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        names = {}
        for index, table in enumerate(TABLES):
            names[table.name] = f"{index:03d}{''.join(Path(table.filename).suffixes)}"
            (Path(folder) / names[table.name]).write_bytes(table.content)
        reads = {SERVICE: {table.name: read_here(table) for table in TABLES}}
        for reader in READERS:
            command = [given.python, str(Path(__file__).with_name("readers.py")), reader, folder]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"{reader}: not run: {done.stderr.strip().splitlines()[-1]}")
                continue
            by_file = json.loads(done.stdout.splitlines()[-1])
            reads[reader] = {name: by_file[file] for name, file in names.items()}
    rights = [right for table in TABLES for right in table.columns.values()]
    to_leave_out = sum(right.kind in LEFT_OUT for right in rights)
    print(f"{len(TABLES)} files, {len(rights)} columns")
    print(f"{'reader':18} {'data right':>12} {'left out':>10}")
    for reader, read in reads.items():
        data, left_out, wrong = counts(read)
        results[reader] = {"data_right": data, "left_out": left_out, "wrong": wrong}
        print(f"{reader:18} {data:>5} of {len(rights) - to_leave_out:<4} {left_out:>4} of {to_leave_out}")
    columns = {"data": len(rights) - to_leave_out, "to_leave_out": to_leave_out}
    RESULTS.write_text(json.dumps({"files": len(TABLES), **columns, "readers": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
