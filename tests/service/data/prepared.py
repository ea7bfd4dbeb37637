# Prepared data of sources and bundled datasets, made as the worker makes it.
from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from service.data.prepare import write_split
from service.data.prepared import PreparedData
from service.data.prepared_files import SPLIT_ARRAYS, Array, load_arrays, pack_arrays
from service.data.sources import Source, bundled_source
from service.spec.models import MlpSpec, ModelSpec


@dataclass(frozen=True)
class Split:
    x_train: Array
    y_train: Array
    x_val: Array
    y_val: Array
    x_test: Array
    y_test: Array

    def arrays(self) -> dict[str, Array]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


def write_file(source: Source | str, seed: int, file: Path, model: ModelSpec | None = None) -> PreparedData:
    """Write the split of a source, or of a bundled dataset by its name, to a file."""
    opened = bundled_source(source) if isinstance(source, str) else source
    with tempfile.TemporaryDirectory() as folder:
        write_split(opened, model or MlpSpec(), seed, Path(folder))
        return PreparedData(f"file://{file}", pack_arrays(Path(folder), SPLIT_ARRAYS, file))


def read(data: PreparedData) -> Split:
    arrays: Mapping[str, Any] = load_arrays(data.url, data.sha256)
    return Split(**arrays)


def split_of(source: Source | str, seed: int = 0, model: ModelSpec | None = None) -> Split:
    """Return the split of a source, or of a bundled dataset by its name."""
    with tempfile.TemporaryDirectory() as folder:
        return read(write_file(source, seed, Path(folder) / "data.npz", model))
