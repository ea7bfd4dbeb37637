# The data of one job as six .npy files: split from the job's seed, numbers made of columns by scikit-learn pipelines
# that are fitted on the training part only. Bundled data is loaded by datasets.py; what was uploaded is read here.
"""From a dataset to the split of a job."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from service.artifacts import local_folder
from service.data.catalog import DatasetInfo, Task, part_bounds
from service.data.facts import FACTS_FILE, TEXT_FEATURES, Column, ColumnKind, DatasetFacts, Layout
from service.data.split import PARTS, Array, prepare, save_split, split_rows
from service.errors import JobFailedError
from service.spec.job import JobSpec
from service.spec.model import TransformerSpec

PIECE_BYTES: Final = 1 << 24
"""Bytes of an array that are in memory at once."""


def prepare_job(spec: JobSpec, info: DatasetInfo, dataset_url: str, folder: Path) -> None:
    """Write the split of a job.

    Args:
        spec: The job's spec.
        info: Facts about its dataset.
        dataset_url: Folder of the uploaded dataset; not used for a bundled one.
        folder: Where to write, an empty folder.

    Cost: a table is in memory as a whole, arrays and images piece by piece.
    """
    if spec.dataset.name is not None:
        save_split(prepare(spec.dataset.name, spec.seed).arrays(), folder)
        return
    with local_folder(dataset_url) as source:
        facts = DatasetFacts.from_json(json.loads((source / FACTS_FILE).read_text(encoding="utf-8")))
        if facts.layout is Layout.TABLE:
            _prepare_table(facts.without(spec.dataset.exclude), spec, info, source, folder)
        elif isinstance(spec.model, TransformerSpec):
            save_split(_windows((source / "text.txt").read_bytes(), spec.model), folder)
        else:
            _prepare_arrays(facts, spec, info, source, folder)


def _prepare_table(facts: DatasetFacts, spec: JobSpec, info: DatasetInfo, source: Path, folder: Path) -> None:
    table = pyarrow.parquet.read_table(source / "table.parquet")
    target = None if info.task is Task.AUTOENCODING else facts.target(spec.dataset.target)
    columns = [c for c in facts.columns if c.width and (target is None or c.name != target.name)]
    only_numbers = all(column.kind is ColumnKind.NUMBER for column in columns)
    x = np.empty(
        (table.num_rows, len(columns)), dtype=np.float64 if only_numbers else object
    )  # of 32 bytes each, not 8
    for index, column in enumerate(columns):
        x[:, index] = column_values(table.column(column.name), column)
    y = None if target is None else table.column(target.name).to_numpy()
    parts = split_rows(table.num_rows, spec.seed, y if info.task is Task.CLASSIFICATION else None)
    transform = column_transformer(columns).fit(x[parts["train"]])
    arrays: dict[str, Array] = {}
    for part, rows in parts.items():
        arrays[f"x_{part}"] = np.ascontiguousarray(transform.transform(x[rows]), dtype=np.float32)
    save_split(arrays | _targets(y, info.task, parts), folder)


def column_values(values: Any, column: Column) -> npt.NDArray[Any]:
    """Return a column as :func:`column_transformer` takes it: numbers, NaN where it is empty, or texts, "" there."""
    if column.kind is ColumnKind.NUMBER:
        numbers: npt.NDArray[Any] = values.cast(pa.float64(), safe=False).to_numpy()  # a missing one becomes NaN
        return numbers
    return np.array(["" if value is None else value for value in values.to_pylist()], dtype=object)


def column_transformer(columns: list[Column]) -> ColumnTransformer:
    """Return what makes features of columns; it makes as many as :attr:`Column.width` says, in whatever rows."""
    numbers = [i for i, column in enumerate(columns) if column.kind is ColumnKind.NUMBER]
    steps: list[tuple[str, Any, Any]] = []
    if numbers:
        scaled = make_pipeline(
            SimpleImputer(strategy="median", keep_empty_features=True),
            StandardScaler(),
        )
        steps.append(("numbers", scaled, numbers))
    holes = [i for i in numbers if columns[i].missing]
    if holes:
        steps.append(("missing", MissingIndicator(features="all"), holes))
    for i, column in enumerate(columns):
        if column.kind is ColumnKind.CATEGORY:
            levels = sorted(column.levels or {})
            coder = OneHotEncoder(categories=[levels], handle_unknown="ignore", sparse_output=False)
            steps.append((f"category {i}", coder, [i]))
        elif column.kind is ColumnKind.TEXT:
            words = HashingVectorizer(n_features=TEXT_FEATURES, alternate_sign=True)
            steps.append((f"text {i}", words, i))
    return ColumnTransformer(steps, sparse_threshold=0.0)


def _prepare_arrays(facts: DatasetFacts, spec: JobSpec, info: DatasetInfo, source: Path, folder: Path) -> None:
    x = np.load(source / "x.npy", mmap_mode="r", allow_pickle=False)
    y = None if info.task is Task.AUTOENCODING else np.load(source / "y.npy", allow_pickle=False)
    parts = split_rows(len(x), spec.seed, y if info.task is Task.CLASSIFICATION else None)
    count = max(1, PIECE_BYTES // (x.shape[1] * 8))
    scaler = StandardScaler()
    for start in range(0, len(parts["train"]), count):
        scaler.partial_fit(np.asarray(x[parts["train"][start : start + count]], dtype=np.float64))
    if info.images:
        scaler.scale_ = np.full_like(scaler.scale_, np.sqrt(max(scaler.var_.mean(), 1e-12)))
    for part, rows in parts.items():
        kept = np.lib.format.open_memmap(folder / f"x_{part}.npy", "w+", np.float32, (len(rows), x.shape[1]))
        for start in range(0, len(rows), count):
            kept[start : start + count] = scaler.transform(np.asarray(x[rows[start : start + count]], np.float64))
        kept.flush()
    del facts
    save_split(_targets(y, info.task, parts), folder)


def _targets(y: npt.NDArray[Any] | None, task: Task, parts: dict[str, npt.NDArray[np.int64]]) -> dict[str, Array]:
    """Return class indices, or numbers standardised on the training part; an autoencoder has no target."""
    if y is None:
        return {f"y_{part}": np.zeros(0, dtype=np.float32) for part in PARTS}
    if task is Task.CLASSIFICATION:
        classes = np.unique(y, return_inverse=True)[1].astype(np.int64)
        return {f"y_{part}": classes[rows] for part, rows in parts.items()}
    column = np.asarray(y, dtype=np.float64)[:, None]
    scaler = StandardScaler().fit(column[parts["train"]])
    return {f"y_{part}": scaler.transform(column[rows]).astype(np.float32) for part, rows in parts.items()}


def _windows(text: bytes, model: TransformerSpec) -> dict[str, Array]:
    """Cut each part of a text into windows; the target of a token is the next one.

    The parts are consecutive, as rows drawn at random would be neighbours of those that were trained on. The characters
    are those of the whole text: which there are is a fact of the dataset.
    """
    if model.tokens == "characters":
        codes = np.frombuffer(text.decode().encode("utf-32-le"), dtype=np.uint32)
        tokens = np.unique(codes, return_inverse=True)[1]
    else:
        tokens = np.frombuffer(text, dtype=np.uint8)
    ends = part_bounds(len(tokens))
    arrays: dict[str, Array] = {}
    for part, piece in zip(PARTS, np.split(tokens.astype(np.int64), ends), strict=True):
        count = (len(piece) - 1) // model.context
        if not count:
            raise JobFailedError(f"the {part} part of the text has {len(piece)} tokens: fewer than a window")
        length = count * model.context
        arrays[f"x_{part}"] = piece[:length].reshape(count, model.context)
        arrays[f"y_{part}"] = piece[1 : length + 1].reshape(count, model.context)
    return arrays
