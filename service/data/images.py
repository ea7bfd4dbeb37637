# A zip of image folders: the folder is the class. Every image is decoded once, at upload, into the same two .npy files
# that an NPZ becomes (arrays.py); training never sees an image file.
"""Image folders: decoding, checking, describing."""

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
"""Pixels of the longest side of an image."""

FORMATS: Final = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
"""Pillow's names of the formats that are read; others are rare, and one of them would start Ghostscript."""

GREY: Final = ("1", "L", "I", "I;16", "F")
"""Pillow's modes of images with one channel; all others become RGB."""


def read_images(source: Path, folder: Path, max_bytes: int) -> DatasetFacts:
    """Decode a zip with a folder of images for each class, and keep them in ``folder``.

    Args:
        source: The file.
        folder: Where to keep them.
        max_bytes: Most bytes that the file, and its pixels, may have.

    Raises:
        InvalidFileError: It is no such archive, or an image is no image or has another size than the first.
    """
    with open_zip(source, max_bytes) as (archive, entries):
        files = [entry for entry in entries if not _hidden(entry.filename)]
        files.sort(key=lambda entry: entry.filename)
        classes = _classes([entry.filename for entry in files])
        if len(files) < MIN_ROWS:
            raise InvalidFileError(f"the archive has {len(files)} images; {MIN_ROWS} are the fewest")
        label = write_labels(np.array(classes), folder / Y_FILE, "class")
        first = _pixels(archive, files[0], None)
        if first.nbytes * len(files) > max_bytes:
            raise InvalidFileError(
                f"{len(files)} images of {first.nbytes} bytes are more than the {max_bytes} bytes that are allowed"
            )
        kept = np.lib.format.open_memmap(folder / X_FILE, mode="w+", dtype=np.uint8, shape=(len(files), first.size))
        for row, entry in enumerate(files):
            kept[row] = _pixels(archive, entry, first.shape).reshape(-1)
        kept.flush()
    return DatasetFacts(layout=Layout.ARRAYS, rows=len(files), columns=(label,), shape=first.shape)


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)


def _classes(names: Sequence[str]) -> list[str]:
    """Return the folder of each image."""
    classes = []
    for name in names:
        folder = PurePosixPath(name).parent
        if not folder.name:
            raise InvalidFileError(f"{name!r} is in no folder; the folder of an image is its class")
        classes.append(folder.name)
    return classes


def _pixels(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, shape: tuple[int, ...] | None) -> npt.NDArray[np.uint8]:
    """Return an image as channels x height x width; it must be of ``shape``, if there is one yet."""
    try:
        with warnings.catch_warnings(), archive.open(entry) as file:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(file, formats=FORMATS)
            if max(image.size) > MAX_SIDE:
                raise InvalidFileError(f"{entry.filename!r} is {image.size} pixels; {MAX_SIDE} are the most of a side")
            grey = image.mode in GREY if shape is None else shape[0] == 1
            pixels = np.asarray(image.convert("L" if grey else "RGB"), dtype=np.uint8)
    except InvalidFileError:
        raise
    except UnidentifiedImageError as error:
        known = ", ".join(FORMATS)
        raise InvalidFileError(f"{entry.filename!r} is no image that can be read; expected {known}") from error
    except Exception as error:  # decoders raise what they like
        raise InvalidFileError(f"{entry.filename!r} is no image that can be read: {error}") from error
    found = pixels[None] if grey else np.ascontiguousarray(pixels.transpose(2, 0, 1))
    if shape is not None and found.shape != shape:
        size, wanted = found.shape[:0:-1], shape[:0:-1]
        raise InvalidFileError(f"{entry.filename!r} is {size} pixels, the first image {wanted}; expected one size")
    return found
