"""Reads zip files: NPZ files, and zips with a folder of images for each class.

Names that lead out of the folder, sizes that explode and damaged streams are refused before anything is unpacked.
Nothing is ever unpickled. Every image is decoded once, at upload, into the same arrays that an NPZ file becomes.
"""

from __future__ import annotations

import math
import shutil
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple, TypeVar

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from service.data.arrays import PIECE_BYTES, X_FILE, Y_FILE, AnyArray, write_arrays, write_labels
from service.data.facts import MIN_ROWS, DatasetFacts, Layout, Reading
from service.errors import InvalidFileError, shortened

T = TypeVar("T")

MAX_ENTRIES: Final = 1_000_000
"""Most files in one archive."""

METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Compression methods that are read: what numpy and every zip program write by default."""

BAD_HEADER: Final = (ValueError, OSError, EOFError, TypeError, SyntaxError, tokenize.TokenError, RecursionError)
"""What numpy raises for a bad header, which it parses as Python."""

TABLES: Final = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".xlsx", ".parquet", ".feather", ".arrow", ".npz")
"""Endings of files that are data themselves, and that people pack into a zip."""

MAX_SIDE: Final = 1024
"""Most pixels of a side of an image."""

IMAGE_FORMATS: Final = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
"""Pillow's names of the image formats that are read. The others are rare, and one of them starts Ghostscript."""

OVER_8_BITS: Final = {
    **dict.fromkeys(("I", "I;16", "I;16L", "I;16B", "I;16N"), "whole numbers over 8 bits"),
    "F": "floating-point numbers",
}
"""Pillow's modes of images with more than 8 bits for a pixel -> what a pixel is."""

GREY: Final = ("1", "L", *OVER_8_BITS)
"""Pillow's modes of images with one channel. All others become RGB."""

ON_ITS_SIDE: Final = (5, 6, 7, 8)
"""EXIF orientations in which a camera was turned by a quarter, so that height and width change places."""

PNG_EXIF: Final = frozenset({"exif", "Raw profile type exif", "XML:com.adobe.xmp"})
"""Where Pillow has the EXIF data of a PNG, once it has read them."""

TRANSPARENT: Final = "have transparent parts, which are read as white: put new images on white too"
TURNED: Final = "are turned by their EXIF orientation: turn new images too"
"""What is done to some images before their pixels are kept, as a note says it."""


@contextmanager
def open_zip(source: Path, max_bytes: int) -> Iterator[tuple[zipfile.ZipFile, list[zipfile.ZipInfo]]]:
    """Open an archive and yield it with its files, which may have ``max_bytes`` together, unpacked."""
    try:
        with zipfile.ZipFile(source) as archive:
            entries = [entry for entry in archive.infolist() if not entry.filename.endswith(("/", "\\"))]
            _check_names(entries, max_bytes)
            yield archive, entries
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, RuntimeError, UnicodeDecodeError) as error:
        raise InvalidFileError(f"the file cannot be read as a zip file: {error}") from error


def _check_names(entries: list[zipfile.ZipInfo], max_bytes: int) -> None:
    if len(entries) > MAX_ENTRIES:
        raise InvalidFileError(f"the archive has {len(entries)} files; at most {MAX_ENTRIES} are allowed")
    total = 0
    seen: set[str] = set()
    for entry in entries:
        name = repr(shortened(entry.filename))
        path = _path(entry.filename)
        if not path.parts:
            raise InvalidFileError(f"a file in the archive has the name {name}; give it a name")
        if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
            raise InvalidFileError(f"the name {name} in the archive leads out of its folder; use relative names")
        if entry.filename in seen:
            raise InvalidFileError(f"the archive has two files with the name {name}; remove one")
        if entry.header_offset < 0:
            raise zipfile.BadZipFile(f"{name} is at {entry.header_offset}, before the archive begins")
        if entry.compress_type not in METHODS:
            raise InvalidFileError(
                f"{name} is compressed by the method {entry.compress_type}; only deflate and no compression are read"
            )
        seen.add(entry.filename)
        total += entry.file_size
        if total > max_bytes:
            raise InvalidFileError(
                f"the files up to {name} have {total} bytes unpacked; at most {max_bytes} are allowed"
            )


def read_npz(source: Path, folder: Path, max_bytes: int) -> DatasetFacts:
    """Read an NPZ file; a reader of ``upload.py``."""
    with open_zip(source, max_bytes) as (archive, entries):
        names = [entry.filename for entry in entries]
        if "x.npy" not in names or set(names) - {"x.npy", "y.npy"}:
            found = ", ".join(name.removesuffix(".npy") for name in names[:10]) or "nothing"
            raise InvalidFileError(f"it holds {found}; expected the array x and, for labels or numbers, the array y")
        unpacked = {name: folder / f"raw-{name}" for name in names}
        for name, path in unpacked.items():
            with archive.open(name) as packed, path.open("wb") as file:
                shutil.copyfileobj(packed, file, PIECE_BYTES)
    x = _map(unpacked["x.npy"], "x")
    y = _map(unpacked["y.npy"], "y") if "y.npy" in unpacked else None
    facts = write_arrays(x, y, folder)
    for path in unpacked.values():
        path.unlink()
    return facts


def _map(path: Path, name: str) -> AnyArray:
    try:
        mapped: AnyArray = np.lib.format.open_memmap(path, mode="r")  # never pickle
    except BAD_HEADER as error:
        if "object" in str(error).lower():
            raise InvalidFileError(f"the array {name} holds pickled Python objects, which are never loaded") from error
        raise InvalidFileError(f"the array {name} cannot be read: {error}") from error
    if mapped.ndim == 0:
        raise InvalidFileError(f"the array {name} is a single value; expected one value or row for each sample")
    return mapped


def read_images(source: Path, folder: Path, max_bytes: int, reading: Reading) -> DatasetFacts:
    """Read a zip of image folders; a reader of ``upload.py``. All are in colour if one is."""
    with open_zip(source, max_bytes) as (archive, entries):
        files = [entry for entry in entries if not _hidden(entry.filename)]
        files.sort(key=lambda entry: entry.filename)
        classes = _classes([entry.filename for entry in files])
        if len(files) < MIN_ROWS:
            raise InvalidFileError(f"the archive has {len(files)} images; at least {MIN_ROWS} are needed")
        label = write_labels(np.array(classes), folder / Y_FILE, "class")
        common = _common(archive, files, reading.image_size)
        width, pixel = math.prod(common.shape), np.dtype(np.float32 if common.mode == "F" else np.uint8)
        size = width * pixel.itemsize
        if size * len(files) > max_bytes:
            raise InvalidFileError(
                f"{len(files)} images of {size} bytes each are too large; at most {max_bytes} bytes are allowed"
            )
        kept = np.lib.format.open_memmap(folder / X_FILE, mode="w+", dtype=pixel, shape=(len(files), width))
        changed = Counter[str]()
        for row, entry in enumerate(files):
            pixels, changes = _use_image(archive, entry, partial(_pixels, entry.filename, common=common))
            kept[row] = pixels.reshape(-1)
            changed.update(changes)
            if not np.isfinite(kept[row]).all():
                raise InvalidFileError(f"{entry.filename!r} has a pixel that is not a finite number; replace it")
        kept.flush()
    return DatasetFacts(
        layout=Layout.ARRAYS,
        rows=len(files),
        columns=(label,),
        shape=common.shape,
        reading=reading,
        warnings=(*common.notes, *(f"{count:,} of {len(files):,} images {what}" for what, count in changed.items())),
    )


class _Common(NamedTuple):
    """What all images become.

    Attributes:
        mode: Pillow's mode: L, RGB, or F for pixels with more than 8 bits.
        shape: Channels, height and width.
        scaled: Whether images of another size are scaled to it.
        notes: What a person should know about that.
    """

    mode: str
    shape: tuple[int, int, int]
    scaled: bool
    notes: tuple[str, ...]


def _common(archive: zipfile.ZipFile, files: Sequence[zipfile.ZipInfo], side: int | None) -> _Common:
    """Return what all images become. Only the beginning of each is read.

    Args:
        archive: The images.
        files: Their names.
        side: The height and width that the user asks for.
    """
    sizes: dict[tuple[int, int], str] = {}
    pixels: dict[str, str] = {}
    grey = 0
    for entry in files:
        size, mode = _use_image(archive, entry, lambda image: (_seen_size(image), image.mode))
        sizes.setdefault(size, entry.filename)
        pixels.setdefault(OVER_8_BITS.get(mode, "8 bits"), entry.filename)
        grey += mode in GREY
    if len(pixels) > 1:
        (one_kind, first), (other_kind, second) = list(pixels.items())[:2]
        found = f"{one_kind} ({first!r}) and {other_kind} ({second!r})"
        raise InvalidFileError(f"the images have pixels of different kinds: {found}; convert them to one kind")
    if len(sizes) > 1 and side is None:
        (one, first), (other, second) = list(sizes.items())[:2]
        found = f"{one[0]} x {one[1]} pixels ({first!r}) and {other[0]} x {other[1]} ({second!r})"
        hint = f"give image_size to scale them all, such as {min(one + other)}"
        raise InvalidFileError(f"the images have {len(sizes)} sizes, such as {found}; {hint}")
    notes = []
    if 0 < grey < len(files):
        notes.append(f"{grey:,} of {len(files):,} images are grey and read as colour, because others have colours")
    width, height = next(iter(sizes)) if side is None else (side, side)
    if set(sizes) != {(width, height)}:
        notes.append(f"images are scaled to {width} x {height} pixels, and cut at the edges to keep their proportions")
    mode = "L" if grey == len(files) else "RGB"
    if "8 bits" not in pixels:
        mode = "F"
        notes.append("pixels have more than 8 bits and keep their values: give new images with the same ones")
    return _Common(mode, (3 if mode == "RGB" else 1, height, width), side is not None, tuple(notes))


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an image, 1 to 8; 1, for upright, if it has none or broken EXIF data."""
    try:
        found: object = image.getexif().get(ExifTags.Base.Orientation)
    except (SyntaxError, struct.error, ValueError):  # what Pillow raises for broken data
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _seen_size(image: Image.Image) -> tuple[int, int]:
    """Return the size of an image when it is upright, if its EXIF data are before the pixels."""
    width, height = image.size
    if image.format == "TIFF" or (image.format == "PNG" and not PNG_EXIF & image.info.keys()):
        return width, height  # Pillow has turned a TIFF, and would decode such a PNG to look behind its pixels
    return (height, width) if _orientation(image) in ON_ITS_SIDE else (width, height)


def _path(name: str) -> PurePosixPath:
    """Return the path of a file in an archive; some programs for Windows write backslashes."""
    return PurePosixPath(name.replace("\\", "/"))


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in _path(name).parts)


def _is_image(name: str) -> bool:
    """Return whether a file has the ending of an image that is read."""
    return Image.registered_extensions().get(_path(name).suffix.lower()) in IMAGE_FORMATS


def _classes(names: Sequence[str]) -> list[str]:
    if table := next((name for name in names if name.lower().endswith(TABLES)), None):
        do = "leave tables out of it" if any(map(_is_image, names)) else "unpack it, and give that file"
        raise InvalidFileError(f"a zip is read as images, and this one has {table!r}; {do}")
    classes = []
    for name in names:
        folder = _path(name).parent
        if not folder.name:
            raise InvalidFileError(f"{name!r} is not in a folder; put every image into a folder named after its class")
        classes.append(folder.name)
    return classes


def _pixels(name: str, image: Image.Image, common: _Common) -> tuple[AnyArray, list[str]]:
    """Return an image as viewers show it, as an array, channels x height x width, and what was done to it for that."""
    (channels, height, width), changes = common.shape, list[str]()
    image.load()
    if _orientation(image) != 1:
        image = ImageOps.exif_transpose(image)
        changes.append(TURNED)
    if image.has_transparency_data and common.mode != "F":
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            changes.append(TRANSPARENT)
    image = image.convert(common.mode)
    if image.size != (width, height):
        if not common.scaled:
            turned = f"{name!r} is {image.width} x {image.height} pixels when it is turned by its EXIF orientation"
            raise InvalidFileError(f"{turned}, not {width} x {height}; give image_size to scale all images")
        image = ImageOps.fit(image, (width, height))
    pixels = np.asarray(image)
    return (pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))), changes


def _use_image(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, use: Callable[[Image.Image], T]) -> T:
    """Open an image and return what ``use`` makes of it.

    Raises:
        InvalidFileError: The file is not an image that is read, or it is too large.
    """
    try:
        with warnings.catch_warnings(), archive.open(entry) as file:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(file, formats=IMAGE_FORMATS)
            if max(image.size) > MAX_SIDE:
                raise InvalidFileError(f"{entry.filename!r} is {image.size} pixels; a side may have at most {MAX_SIDE}")
            return use(image)
    except InvalidFileError:
        raise
    except UnidentifiedImageError as error:
        known = ", ".join(IMAGE_FORMATS)
        raise InvalidFileError(f"{entry.filename!r} cannot be read as an image; expected {known}") from error
    except Exception as error:  # decoders raise what they like
        raise InvalidFileError(f"{entry.filename!r} cannot be read as an image: {error}") from error
