# Files as users send them: good ones of every kind, made from real data where it matters, and bad ones.
from __future__ import annotations

import io
import zipfile
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from PIL import Image
from sklearn import datasets


def csv(rows: int = 40, **more: list[Any]) -> bytes:
    """A table with a number with gaps, a category with gaps, a free text and a class, and more columns."""
    lines = [",".join([*more, "age,city,note,label"])]
    for row in range(rows):
        age = "" if row % 7 == 3 else str(20 + row)
        city = "" if row % 11 == 5 else ("Köln", "Rome", "Oslo")[row % 3]
        others = "".join(f"{values[row]}," for values in more.values())
        lines.append(f'{others}{age},{city},"note {row}, with words{row % 5}",{"yes" if row % 2 else "no"}')
    return "\n".join(lines).encode()


def parquet(**changes: Any) -> bytes:
    """The diabetes table, with its target in the column ``y``."""
    bunch = datasets.load_diabetes()
    columns = dict(zip(bunch.feature_names, bunch.data.T, strict=True)) | {"y": bunch.target} | changes
    return table(**columns)


def table(**columns: Any) -> bytes:
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def digits_npz() -> bytes:
    bunch = datasets.load_digits()
    return npz(x=bunch.images.astype(np.uint8), y=bunch.target)


def archive(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in files.items():
            zipped.writestr(name, content)
    return buffer.getvalue()


def png(pixels: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(buffer, "png")
    return buffer.getvalue()


def images(count: int = 60) -> dict[str, bytes]:
    """Real digits as PNG files, the digit being the folder."""
    bunch = datasets.load_digits(n_class=3)
    pairs = zip(bunch.images[:count], bunch.target[:count], strict=True)
    return {f"digits/{label}/{index}.png": png(image * 15) for index, (image, label) in enumerate(pairs)}


def text() -> bytes:
    from pydoc_data import topics

    return "\n".join(topics.topics.values()).encode()[:60_000]
