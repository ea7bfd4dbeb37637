"""Scores the rows of a file with the model of a zip export; the command ``warptune predict``.

A CSV file is read as an uploaded one is: its encoding, separator and decimal mark are found. It runs no code from the
zip.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import TypeAdapter, ValidationError
from torch import nn

from service.artifacts import PREPROCESSING_FILE
from service.data.encoding import (
    FittedArrays,
    FittedTable,
    Preprocessing,
    names_of_new,
    note_about,
    value_of_new,
)
from service.data.facts import ColumnKind, Form, Reading
from service.data.forms import PLAIN, Texts, date_form, number_form, read_texts
from service.data.read_csv import read_columns
from service.data.read_table import RawColumn, with_index_name
from service.data.upload import FileFormat, format_of
from service.export.files import MANIFEST, WEIGHTS_FILE
from service.export.replay import MAX_BYTES, Bundle, BundleError
from service.export.scoring import Cells, Predictions, load_array, score
from service.training.networks import build_network
from service.training.weights import load_weights

ARRAYS: Final = (".npy", ".npz")
"""Endings of files with arrays."""

UNICODE: Final = ("utf-8", "utf-8-sig", "utf-16")
"""Encodings that are certain, as their bytes tell."""


def predict(bundle: Bundle, file: Path) -> tuple[Predictions, list[str]]:
    """Return what the model of a bundle predicts for the rows of a file, and what a person should know about them.

    Raises:
        OSError: The file cannot be read.
        BundleError: The bundle has no model to predict with, or it cannot be built here.
        ValueError: The rows are not like those that the model was trained on.
    """
    fitted, model = _preprocessing(bundle), _model(bundle)
    if file.suffix.lower() in ARRAYS:
        return score(model.module, fitted, load_array(file), model.shape, model.task)
    fmt = format_of(file.name)
    if fmt not in (FileFormat.CSV, None):
        raise ValueError(f"it is a file of format {fmt}; expected CSV, or an array as .npy or .npz")
    cells, notes = _read(file, fitted["features"])
    found, more = score(model.module, fitted, cells, model.shape, model.task)
    return found, [*notes, *more]


def _preprocessing(bundle: Bundle) -> Preprocessing:
    if WEIGHTS_FILE not in bundle.files:
        raise BundleError(
            "the bundle has no trained model: the job is on a family or a training loop, its first confirmation run "
            "did not complete, the disk had no room for the model, or an older version, which kept no models, ran it"
        )
    if PREPROCESSING_FILE not in bundle.files:
        raise BundleError("the model was trained on a text or an equation, which have no rows to predict for")
    try:
        return TypeAdapter(Preprocessing).validate_json(bundle.files[PREPROCESSING_FILE])
    except ValidationError as error:
        raise BundleError(f"{PREPROCESSING_FILE} cannot be read: {error}") from error


class _Model(NamedTuple):
    module: nn.Module
    shape: tuple[int, ...]
    task: str


def _model(bundle: Bundle) -> _Model:
    try:
        run = bundle.manifest["run"]
        model = _Model(
            build_network(run["model"], tuple(run["shape"]), run["sizes"], run["activation"]),
            tuple(run["shape"]),
            run["task"],
        )
        load_weights(model.module, bundle.files[WEIGHTS_FILE])
    except (ValueError, LookupError, TypeError, RuntimeError, ImportError) as error:
        wrong = f"{type(error).__name__}: {error}"
        raise BundleError(f"the model that {MANIFEST} describes cannot be built here: {wrong}") from error
    return model


def _read(file: Path, fitted: FittedTable | FittedArrays) -> tuple[Cells, list[str]]:
    """Return the cells of a CSV file, and what is read in another way than in training."""
    wanted, encoding = Reading(header="first"), None
    if "columns" in fitted:
        header = "none" if "names" in fitted else "first"
        wanted, encoding = Reading(header=header, na_values=tuple(fitted["missing"])), fitted["encoding"]
    with tempfile.TemporaryDirectory(prefix="warptune-predict-") as folder:
        source = Path(folder, "source")
        shutil.copyfile(file, source)  # what is unpacked from gzip is written next to it
        columns, reading, told = read_columns(source, MAX_BYTES, wanted, as_texts=True)
        if reading.encoding not in (encoding, *UNICODE) and encoding not in (None, *UNICODE):  # a guess on few letters
            columns, reading, told = read_columns(source, MAX_BYTES, replace(wanted, encoding=encoding), as_texts=True)
    if "columns" in fitted and "names" in fitted:
        columns = _named(columns, fitted)
    names = with_index_name([column.name for column in columns])
    cells = {
        name: pa.chunked_array(column.values).combine_chunks()
        for name, column in zip(names, columns, strict=True)
        if name  # one without a name is not from training
    }
    if not len(columns[0].values):
        raise ValueError("it has no rows below the header")
    notes = list(told)
    for name, kind, read in _numeric(fitted):
        other = _other_form(cells[name], kind, read, reading) if name in cells else None
        if other is not None:
            texts, cells[name] = cells[name], read_texts(cells[name], other)
            written = str(other) or "plain numbers"
            notes.append(f"column {name!r} is written in another way than in training: read as {written}")
            lost = pc.and_(pc.is_valid(texts), pc.is_null(cells[name]))
            notes += note_about(name, texts, lost, f"not {kind}s, so they count as missing")
    return cells, notes


def _named(columns: Sequence[RawColumn], fitted: FittedTable) -> list[RawColumn]:
    """Return columns that were read as those of a file without a header under the names that they have."""
    cells = [pa.chunked_array(column.values).combine_chunks() for column in columns]
    first = [(values[0].as_py() or "").strip() for values in cells]
    names = names_of_new(fitted, first)
    start = int(names is None)
    named = zip(columns, first if names is None else names, cells, strict=True)
    return [RawColumn(name, column.type, values[start:]) for column, name, values in named]


def _numeric(fitted: FittedTable | FittedArrays) -> Iterator[tuple[str, ColumnKind, Callable[[pa.Array], pa.Array]]]:
    """Yield the columns of numbers, dates and booleans as numbers, and what reads them as written in training."""
    if "columns" not in fitted:
        yield from ((name, ColumnKind.NUMBER, partial(read_texts, form=PLAIN)) for name in fitted["names"])
        return
    for column in fitted["columns"]:
        is_numeric = column["kind"] == ColumnKind.BOOLEAN and column["was_numeric"]
        if is_numeric or column["kind"] in (ColumnKind.NUMBER, ColumnKind.DATE):
            yield column["name"], ColumnKind(column["kind"]), partial(value_of_new, column)


def _other_form(
    cells: pa.Array, kind: ColumnKind, read: Callable[[pa.Array], pa.Array], reading: Reading
) -> Form | None:
    """Return the form that most cells have, if most do not have that of training; None to read them as in training."""
    texts = Texts.of(cells)
    if 2 * texts.count(pc.is_valid(read(texts.values))) >= texts.total:
        return None
    if kind is not ColumnKind.DATE:
        return number_form(texts, reading)[0]
    found, _, others = date_form(texts, day_first=None)
    return None if others else found
