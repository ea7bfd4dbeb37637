"""Reads a zip with a folder of images for each class.

Every image is decoded once, at upload, into the same arrays that an NPZ file becomes.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from service.data.archives import open_zip
from service.data.arrays import X_FILE, Y_FILE, write_labels
from service.data.facts import MIN_ROWS, DatasetFacts, Layout
from service.errors import InvalidFileError

MAX_SIDE: Final = 1024
"""Most pixels of a side of an image."""

FORMATS: Final = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
"""Pillow's names of the image formats that are read. The others are rare, and one of them starts Ghostscript."""

GREY: Final = ("1", "L", "I", "I;16", "F")
"""Pillow's modes of images with one channel. All others become RGB."""


def read_images(source: Path, folder: Path, max_bytes: int) -> DatasetFacts:
    """Read a zip of image folders; a reader of ``formats.py``."""
    with open_zip(source, max_bytes) as (archive, entries):
        files = [entry for entry in entries if not _hidden(entry.filename)]
        files.sort(key=lambda entry: entry.filename)
        classes = _classes([entry.filename for entry in files])
        if len(files) < MIN_ROWS:
            raise InvalidFileError(f"the archive has {len(files)} images; at least {MIN_ROWS} are needed")
        label = write_labels(np.array(classes), folder / Y_FILE, "class")
        first = _pixels(archive, files[0], None)
        if first.nbytes * len(files) > max_bytes:
            raise InvalidFileError(
                f"{len(files)} images of {first.nbytes} bytes each are too large; at most {max_bytes} bytes are allowed"
            )
        kept = np.lib.format.open_memmap(folder / X_FILE, mode="w+", dtype=np.uint8, shape=(len(files), first.size))
        for row, entry in enumerate(files):
            kept[row] = _pixels(archive, entry, first.shape).reshape(-1)
        kept.flush()
    return DatasetFacts(layout=Layout.ARRAYS, rows=len(files), columns=(label,), shape=first.shape)


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)


def _classes(names: Sequence[str]) -> list[str]:
    classes = []
    for name in names:
        folder = PurePosixPath(name).parent
        if not folder.name:
            raise InvalidFileError(f"{name!r} is not in a folder; put every image into a folder named after its class")
        classes.append(folder.name)
    return classes


def _pixels(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, shape: tuple[int, ...] | None) -> npt.NDArray[np.uint8]:
    """Return an image as channels x height x width. It must have ``shape``, that of the first image."""
    try:
        with warnings.catch_warnings(), archive.open(entry) as file:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(file, formats=FORMATS)
            if max(image.size) > MAX_SIDE:
                raise InvalidFileError(f"{entry.filename!r} is {image.size} pixels; a side may have at most {MAX_SIDE}")
            grey = image.mode in GREY if shape is None else shape[0] == 1
            pixels = np.asarray(image.convert("L" if grey else "RGB"), dtype=np.uint8)
    except InvalidFileError:
        raise
    except UnidentifiedImageError as error:
        known = ", ".join(FORMATS)
        raise InvalidFileError(f"{entry.filename!r} cannot be read as an image; expected {known}") from error
    except Exception as error:  # decoders raise what they like
        raise InvalidFileError(f"{entry.filename!r} cannot be read as an image: {error}") from error
    found = pixels[None] if grey else np.ascontiguousarray(pixels.transpose(2, 0, 1))
    if shape is not None and found.shape != shape:
        size, wanted = found.shape[:0:-1], shape[:0:-1]
        raise InvalidFileError(f"{entry.filename!r} is {size} pixels, but the first image is {wanted}; use one size")
    return found
