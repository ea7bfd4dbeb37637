"""Scores rows with kept weights: the functions that the command ``predict`` and the exported ``predict.py`` share."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import nn

from service.data.arrays import AnyArray, channels_first, is_finite
from service.data.encoding import (
    FittedArrays,
    FittedTable,
    FittedTarget,
    Preprocessing,
    array_features,
    check_columns,
    new_values,
    table_features,
)
from service.data.forms import PLAIN, Numbers, read_texts
from service.spec.tasks import Task
from service.training.run import EVALUATED_ROWS
from service.training.tasks import in_units

Cells = Mapping[str, pa.Array]
"""The cells of a file of new rows by column: texts or numbers, null where there is none."""

Predictions = Mapping[str, Sequence[Any]]
"""The columns of the file that is written, with one value for each row."""


def score(
    model: nn.Module, fitted: Preprocessing, rows: Cells | AnyArray, shape: tuple[int, ...], task: str
) -> tuple[Predictions, list[str]]:
    """Return what a model predicts for new rows, and what a person should know about them.

    Args:
        model: The model with its trained weights.
        fitted: What lies between a row and the model.
        rows: The cells of a table, or an array with rows first.
        shape: Shape of an image; empty for other rows.
        task: What the model was trained for.

    Raises:
        ValueError: The rows are not like those that the model was trained on.
    """
    features, target = fitted["features"], fitted["target"]
    notes = list[str]()
    if "columns" in features:
        if isinstance(rows, np.ndarray):
            raise ValueError("the model was trained on a table with named columns; give a CSV file")
        values, notes = new_values(features, rows)
        notes = [*unused(rows, list(values), target), *notes]
        pieces = table_pieces(features, values)
    elif isinstance(rows, np.ndarray):
        pieces = array_pieces(features, flat_rows(rows, features, shape))
    else:
        pieces = array_pieces(features, numbers_of(rows, features))
        notes = unused(rows, features["names"], target)
    model.eval()
    found = [predictions(model, x.astype(np.float32), target, task) for x in pieces]
    return {name: [value for piece in found for value in piece[name]] for name in found[0]}, notes


def table_pieces(fitted: FittedTable, values: Cells) -> Iterator[Numbers]:
    """Yield the features of a table, piece by piece."""
    for start in range(0, len(next(iter(values.values()))), EVALUATED_ROWS):
        piece = {name: cells.slice(start, EVALUATED_ROWS) for name, cells in values.items()}
        yield table_features(fitted["columns"], piece)


def array_pieces(fitted: FittedArrays, x: AnyArray) -> Iterator[Numbers]:
    """Yield the features of an array, piece by piece."""
    for start in range(0, len(x), EVALUATED_ROWS):
        yield array_features(fitted, x[start : start + EVALUATED_ROWS])


def unused(rows: Cells, used: Sequence[str], target: FittedTarget) -> list[str]:
    """Return a note that names the columns of a file that are not used."""
    names = [f"{name!r} (the target)" if name == target["name"] else repr(name) for name in rows if name not in used]
    return [f"columns that are not used: {', '.join(names)}"] if names else []


def load_array(path: Path) -> AnyArray:
    """Return the array of a .npy file, or the array x of an .npz file.

    Raises:
        ValueError: There is none.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
    except (EOFError, ValueError, BadZipFile) as error:
        raise ValueError(f"it cannot be read as an array: {error}") from error
    if isinstance(loaded, np.ndarray):
        return loaded
    if "x" not in loaded.files:
        raise ValueError(f"it has the arrays {', '.join(loaded.files)}; expected x")
    found: AnyArray = loaded["x"]
    return found


def flat_rows(x: AnyArray, fitted: FittedArrays, shape: tuple[int, ...]) -> AnyArray:
    """Return an array as rows x features."""
    width = len(fitted["mean"])
    ordered = channels_first(x)
    known = {(width,), shape, shape[1:] if shape[:1] == (1,) else shape}
    if x.dtype.kind not in "buif" or x.ndim < 2 or not x.size or ordered.shape[1:] not in known:
        expected = " x ".join(map(str, shape or (width,)))
        raise ValueError(f"the array is of {x.dtype} with the shape {x.shape}; expected numbers, rows x {expected}")
    flat = ordered.reshape(len(x), width)
    odd = ~is_finite(flat)
    if odd.any():
        row, column = np.argwhere(odd)[0].tolist()
        raise ValueError(
            f"the array is {flat[row, column]} in row {row + 1}, column {column + 1}; expected finite numbers"
        )
    return flat


def numbers_of(rows: Cells, fitted: FittedArrays) -> Numbers:
    """Return the columns of a file as rows x features. The model was trained on rows without a gap."""
    if not fitted["names"]:
        raise ValueError("the model was trained on arrays, whose columns have no names; give a .npy or .npz file")
    check_columns(rows, fitted["names"])
    columns = list[Numbers]()
    for name in fitted["names"]:
        cells = rows[name]
        numbers = read_texts(cells, PLAIN) if pa.types.is_string(cells.type) else cells
        if numbers.null_count:
            row = pc.index(pc.is_null(numbers), True).as_py()
            raise ValueError(f"column {name!r} is {cells[row].as_py()!r} in row {row + 1}; expected a number")
        columns.append(numbers.cast(pa.float64()).to_numpy())
    return np.column_stack(columns)


def predictions(model: nn.Module, x: npt.NDArray[np.float32], target: FittedTarget, task: str) -> Predictions:
    """Return what a model predicts for features.

    For a classification that is a class and the probability of each, for a regression a number in the units of the
    target, and for an autoencoder the mean squared error of its copy of the standardised features.
    """
    rows = torch.from_numpy(x)
    with torch.no_grad():
        output = model(rows).double()
    if task == Task.CLASSIFICATION:
        classes, probabilities = target["classes"], output.softmax(1)
        chosen = [classes[index] for index in output.argmax(1).tolist()]
        columns = {f"probability_{name}": probabilities[:, index].tolist() for index, name in enumerate(classes)}
        return {"prediction": chosen, **columns}
    if task == Task.AUTOENCODING:
        return {"reconstruction_error": (output - rows).square().mean(1).tolist()}
    undo = {name: torch.tensor(values, dtype=torch.float64) for name, values in target["transform"].items()}
    return {"prediction": in_units(output, undo)[:, 0].tolist()}


def write_predictions(found: Predictions, target: IO[str]) -> None:
    """Write predictions as CSV, one line for each row."""
    writer = csv.writer(target, lineterminator="\n")
    writer.writerow(found)
    writer.writerows(zip(*found.values(), strict=True))
