# Prepared data of the bundled datasets, made as the worker makes it.
from __future__ import annotations

import tempfile
from pathlib import Path

from service.data.prepared import PreparedData
from service.data.prepared_files import Split, load_split, pack_arrays
from service.data.sources import Source, bundled_source
from service.data.split import write_split
from service.spec.model import AnyModel, MlpSpec


def write_file(dataset: str, seed: int, file: Path) -> PreparedData:
    """Write the split of a bundled dataset to a file."""
    return _write(bundled_source(dataset), seed, MlpSpec(), file)


def _write(source: Source, seed: int, model: AnyModel, file: Path) -> PreparedData:
    with tempfile.TemporaryDirectory() as folder:
        write_split(source, model, seed, Path(folder))
        return PreparedData(f"file://{file}", pack_arrays(Path(folder), Split, file))


def split_of(source: Source | str, seed: int = 0, model: AnyModel | None = None) -> Split:
    """Return the split of a source, or of a bundled dataset by its name."""
    opened = bundled_source(source) if isinstance(source, str) else source
    with tempfile.TemporaryDirectory() as folder:
        data = _write(opened, seed, model or MlpSpec(), Path(folder) / "data.npz")
        return load_split(data.url, data.sha256)
