"""The functions that only an exported ``predict.py`` has. ``script.py`` copies their source."""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
from safetensors.torch import load

from service.data.encoding import FittedTable, Preprocessing, names_of_new
from service.data.header import title_rows
from service.data.read_csv import GZIP, header_names
from service.data.read_table import trimmed, with_index_name
from service.export.blocks import SHAPE, make_model, read
from service.export.scoring import Cells, load_array, score, write_predictions

WEIGHTS_SHA256: str = ""
PREPROCESSING_SHA256: str = ""
TASK: str = ""


def read_csv(path: Path, fitted: FittedTable | None) -> Cells:
    """Return the cells of a CSV file that is written as the training file was: same encoding, separator and marks."""
    encoding, delimiter = (fitted["encoding"], fitted["delimiter"]) if fitted else ("utf-8", ",")
    lines = read_lines(path, "utf-8-sig" if encoding == "utf-8" else encoding, delimiter)
    filled = [index for index, (_, row) in enumerate(lines) if any(cell.strip() for cell in row)]
    if not filled:
        raise ValueError(f"{path} has no rows below a header")
    has_header = fitted is None or "names" not in fitted
    titles = title_rows([lines[index][1] for index in filled]) if has_header else 0
    start = filled[titles]
    names: Sequence[str] = header_names([lines[index][1] for index in filled[titles:]])
    if fitted is not None and (called := names_of_new(fitted, names)) is not None:
        names = called
    else:
        start += 1
    rows = filled_rows(lines[start:], len(names))
    if not rows:
        raise ValueError(f"{path} has no rows below a header")
    for line, row in rows:
        if len(row) != len(names):
            raise ValueError(
                f"line {line} of {path} has {len(row)} cells, the header {len(names)}; separator: {delimiter!r}"
            )
    columns = zip(with_index_name(names), zip(*(row for _, row in rows), strict=True), strict=True)
    missing = fitted["missing"] if fitted else []
    return {name: trimmed(pa.array(cells, pa.string()), missing) for name, cells in columns if name}


def read_lines(path: Path, encoding: str, delimiter: str) -> list[tuple[int, list[str]]]:
    """Return the cells of each line of a file, which may be compressed, and the number of the line that ends it."""
    content = path.read_bytes()
    try:
        content = gzip.decompress(content) if content.startswith(GZIP) else content
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"it cannot be read as gzip: {error}") from error
    csv.field_size_limit(2**31 - 1)  # else a text of more than 131,072 characters is an error
    text = content.decode(encoding)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    lines = [(reader.line_num, row) for row in reader]
    if any("\n" in cell for _, row in lines for cell in row):
        strict, end = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True), 0
        try:
            for _ in strict:
                end = strict.line_num
        except csv.Error as error:
            raise ValueError(f"line {end + 1} opens a quote that is not closed; close or remove it") from error
    return lines


def filled_rows(rows: Sequence[tuple[int, list[str]]], width: int) -> list[tuple[int, list[str]]]:
    """Return rows without empty lines. In a file of one column these are missing values, but for those at its end."""
    if width > 1:
        return [(line, row) for line, row in rows if len(row) > 1 or any(cell.strip() for cell in row)]
    last = max((index for index, (_, row) in enumerate(rows) if row), default=-1)
    return [(line, row or [""]) for line, row in rows[: last + 1]]


def predict() -> None:
    """Score the rows of a file."""
    parser = argparse.ArgumentParser(description="Score new rows with the trained model of the job.")
    parser.add_argument("file", type=Path, help="CSV file with the columns of the training file; or .npy, .npz")
    parser.add_argument("-o", "--output", type=Path, help="CSV file to write (default: standard output)")
    given = parser.parse_args()
    folder = Path(__file__).resolve().parent
    weights, fitted = folder / "weights.safetensors", folder / "preprocessing.json"
    preprocessing: Preprocessing = json.loads(read(fitted.read_bytes(), PREPROCESSING_SHA256, fitted.name))
    model = make_model()
    model.load_state_dict(load(read(weights.read_bytes(), WEIGHTS_SHA256, weights.name)))
    features = preprocessing["features"]
    try:
        is_array = given.file.suffix in (".npy", ".npz")
        rows = load_array(given.file) if is_array else read_csv(given.file, features if "columns" in features else None)
        found, notes = score(model, preprocessing, rows, SHAPE, TASK)
    except (OSError, ValueError) as error:
        sys.exit(f"{given.file}: {error}")
    for note in notes:
        print(note, file=sys.stderr)  # noqa: T201
    if given.output is None:
        write_predictions(found, sys.stdout)
    else:
        with given.output.open("w", encoding="utf-8", newline="") as target:
            write_predictions(found, target)
