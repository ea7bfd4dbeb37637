# Zips of images of different sizes and colours: what they become, and what is said about that.
from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import ExifTags, Image

from service.data.arrays import X_FILE
from service.data.facts import DatasetFacts
from service.errors import InvalidFileError
from tests.service.data import files
from tests.service.data.test_reading import read

RNG = np.random.default_rng(0)


def grey(height: int, width: int) -> bytes:
    return files.png(RNG.integers(0, 255, (height, width)))


def colour(height: int, width: int) -> bytes:
    return files.png(RNG.integers(0, 255, (height, width, 3)))


def stored(pixels: np.ndarray[Any, Any], fmt: str) -> bytes:
    """An image file that keeps the type of the pixels."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, fmt)
    return buffer.getvalue()


def opened(images: list[bytes], folder: Path, image_size: int | None = None) -> DatasetFacts:
    content = files.archive({f"{'ab'[index % 2]}/{index}.png": image for index, image in enumerate(images)})
    return read(content, folder, "t.zip", image_size=image_size)


def kept(folder: Path, facts: DatasetFacts) -> npt.NDArray[Any]:
    """The stored images as rows x channels x height x width, in the order of their files' numbers."""
    x: npt.NDArray[Any] = np.load(folder / "kept" / X_FILE).reshape(-1, *facts.shape)
    order = sorted(range(len(x)), key=lambda index: f"{'ab'[index % 2]}/{index}.png")
    return x[np.argsort(order)]


def test_images_of_one_size_stay_as_they_are(tmp_path: Path) -> None:
    facts = opened([grey(6, 8)] * 20, tmp_path)
    assert (facts.shape, facts.warnings) == ((1, 6, 8), ())


def test_images_of_different_sizes_are_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InvalidFileError) as caught:
        opened([grey(6, 8), *[grey(9, 9)] * 19], tmp_path)
    assert str(caught.value) == (
        "the images have 2 sizes, such as 8 x 6 pixels ('a/0.png') and 9 x 9 ('a/10.png'); "
        "give image_size to scale them all, such as 6"
    )


def test_they_are_scaled_to_the_size_that_is_given(tmp_path: Path) -> None:
    facts = opened([grey(6, 8), *[grey(9, 9)] * 19], tmp_path, image_size=6)
    assert facts.shape == (1, 6, 6)
    assert facts.warnings == ("images are scaled to 6 x 6 pixels, and cut at the edges to keep their proportions",)
    x = np.load(tmp_path / "kept" / X_FILE)
    assert x.shape == (20, 36)
    assert x.std() > 10


@pytest.mark.parametrize("first", [grey, colour], ids=["grey", "colour"])
def test_all_are_in_colour_if_one_is(tmp_path: Path, first: object) -> None:
    assert callable(first)
    facts = opened([first(5, 5), *[grey(5, 5)] * 9, *[colour(5, 5)] * 10], tmp_path)
    count = 10 if first is grey else 9
    assert facts.shape == (3, 5, 5)
    assert facts.warnings == (f"{count} of 20 images are grey and read as colour, because others have colours",)


WIDE = [RNG.integers(0, 4096, (5, 6)) * 16 for _ in range(20)]
"""Pixels of a microscope: 12 bits in the upper part of 16."""


@pytest.mark.parametrize(
    ("dtype", "fmt"),
    [("uint16", "png"), ("uint16", "tiff"), (">u2", "tiff"), ("uint16", "ppm"), ("int32", "tiff"), ("float32", "tiff")],
)
def test_pixels_of_more_than_8_bits_keep_their_values(tmp_path: Path, dtype: str, fmt: str) -> None:
    facts = opened([stored(pixels.astype(dtype), fmt) for pixels in WIDE], tmp_path)
    images = kept(tmp_path, facts)
    assert facts.shape == (1, 5, 6)
    assert images.dtype == np.float32
    assert (images[:, 0] == np.array(WIDE)).all()
    assert facts.warnings == ("pixels have more than 8 bits and keep their values: give new images with the same ones",)


def test_pixels_of_more_than_8_bits_are_scaled_to_another_size(tmp_path: Path) -> None:
    facts = opened([stored(pixels.astype("uint16"), "png") for pixels in WIDE], tmp_path, image_size=3)
    images = kept(tmp_path, facts)
    assert images.shape == (20, 1, 3, 3)
    assert 20_000 < images.mean() < 45_000


@pytest.mark.parametrize(
    ("other", "found"),
    [
        (grey(5, 6), "8 bits ('a/10.png')"),
        (colour(5, 6), "8 bits ('a/10.png')"),
        (stored(WIDE[0].astype("float32"), "tiff"), "floating-point numbers ('a/10.png')"),
    ],
    ids=["grey", "colour", "floats"],
)
def test_images_with_values_of_different_ranges_are_refused(tmp_path: Path, other: bytes, found: str) -> None:
    with pytest.raises(InvalidFileError) as caught:
        opened([stored(WIDE[0].astype("uint16"), "png"), *[other] * 19], tmp_path)
    expected = f"the images have pixels of different kinds: whole numbers over 8 bits ('a/0.png') and {found}"
    assert str(caught.value) == f"{expected}; convert them to one kind"


def test_a_pixel_that_is_not_a_number_is_refused_by_its_file(tmp_path: Path) -> None:
    images = [stored(pixels.astype("float32"), "tiff") for pixels in WIDE]
    images[0] = stored(np.full((5, 6), np.nan, np.float32), "tiff")
    with pytest.raises(InvalidFileError, match=r"'a/0\.png' has a pixel that is not a finite number"):
        opened(images, tmp_path)


SEEN = np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8)
"""How much one sees of each pixel of an icon: 0 is transparent."""
BLACK = np.zeros((8, 8), np.uint8)


def icon(mode: str) -> bytes:
    """A black icon that is seen only through its transparency."""
    image = Image.merge(mode, [Image.fromarray(band) for band in [BLACK] * (len(mode) - 1) + [SEEN]])
    buffer = io.BytesIO()
    image.save(buffer, "png")
    return buffer.getvalue()


def stencil(mode: str) -> bytes:
    """A picture whose darkest colour stands for no colour."""
    image = Image.fromarray(SEEN).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, "png", transparency=0)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_parts_are_read_as_white(tmp_path: Path, mode: str) -> None:
    facts = opened([icon(mode)] * 12 + [files.png(np.full((8, 8, 3), 9))] * 8, tmp_path)
    assert np.abs(kept(tmp_path, facts)[0].astype(int) - (255 - SEEN)).max() <= 1
    assert facts.warnings[-1] == (
        "12 of 20 images have transparent parts, which are read as white: put new images on white too"
    )


@pytest.mark.parametrize("mode", ["L", "P", "1"])
def test_a_colour_that_stands_for_none_is_read_as_white(tmp_path: Path, mode: str) -> None:
    facts = opened([stencil(mode)] * 20, tmp_path)
    plain = np.asarray(Image.open(io.BytesIO(stencil(mode))).convert("L"))
    assert (kept(tmp_path, facts)[0] == np.where(plain == 0, 255, plain)).all()
    assert "20 of 20 images have transparent parts" in facts.warnings[-1]


def test_an_image_that_could_be_transparent_and_is_not_is_read_as_it_is(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 255, (8, 8, 4)).astype(np.uint8)
    pixels[..., 3] = 255
    facts = opened([stored(pixels, "png")] * 20, tmp_path)
    assert (kept(tmp_path, facts)[0] == pixels[..., :3].transpose(2, 0, 1)).all()
    assert facts.warnings == ()


def turned(pixels: npt.NDArray[np.uint8], orientation: int, fmt: str) -> bytes:
    """An image file with an EXIF orientation."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    buffer = io.BytesIO()
    lossless = {"lossless": True} if fmt == "webp" else {}
    Image.fromarray(pixels).save(buffer, fmt, exif=exif, **lossless)
    return buffer.getvalue()


@pytest.mark.parametrize("fmt", ["png", "tiff", "webp"])
@pytest.mark.parametrize(("orientation", "quarters"), [(0, 0), (1, 0), (3, 2), (6, 3), (8, 1), (9, 0)])
def test_an_image_is_turned_by_its_exif_orientation(tmp_path: Path, fmt: str, orientation: int, quarters: int) -> None:
    upright = RNG.integers(0, 255, (6, 8, 3)).astype(np.uint8)
    as_stored = np.ascontiguousarray(np.rot90(upright, -quarters))
    facts = opened([turned(as_stored, orientation, fmt)] * 5 + [stored(upright, "png")] * 15, tmp_path)
    images = kept(tmp_path, facts)
    assert facts.shape == (3, 6, 8)
    assert (images == upright.transpose(2, 0, 1)).all()
    said = "5 of 20 images are turned by their EXIF orientation: turn new images too"
    assert facts.warnings == ((said,) if quarters and fmt != "tiff" else ())


def test_photos_that_were_taken_upright_are_of_another_size(tmp_path: Path) -> None:
    photo = RNG.integers(0, 255, (6, 8, 3)).astype(np.uint8)
    with pytest.raises(InvalidFileError, match=r"2 sizes, such as 6 x 8 pixels \('a/0.png'\) and 8 x 6"):
        opened([turned(photo, 6, "jpeg"), *[turned(photo, 1, "jpeg")] * 19], tmp_path)


def test_exif_data_behind_the_pixels_of_a_png_are_found_too(tmp_path: Path) -> None:
    before = turned(np.zeros((6, 8, 3), np.uint8), 6, "png")
    start = before.index(b"eXIf") - 4
    length = int.from_bytes(before[start : start + 4]) + 12
    behind = before[:start] + before[start + length : -12] + before[start : start + length] + before[-12:]
    with pytest.raises(InvalidFileError, match=r"'a/0.png' is 6 x 8 pixels .* give image_size"):
        opened([behind] * 20, tmp_path)
    assert opened([behind] * 20, tmp_path / "scaled", image_size=6).shape == (3, 6, 6)


def test_exif_data_that_cannot_be_read_say_nothing(tmp_path: Path) -> None:
    photo = RNG.integers(0, 255, (6, 8, 3)).astype(np.uint8)
    broken = turned(photo, 6, "webp")
    start = broken.index(b"EXIF") + 8
    broken = broken[:start] + b"nonsense" + broken[start + 8 :]
    assert opened([broken] * 20, tmp_path).shape == (3, 6, 8)


def test_names_with_backslashes_have_folders_too(tmp_path: Path) -> None:
    images = {name.replace("/", "\\"): image for name, image in files.images().items()}
    facts = read(files.archive({"digits\\": b"", **images}), tmp_path, "t.zip")
    assert facts.columns[0].levels == {"0": 21, "1": 19, "2": 20}


@pytest.mark.parametrize(
    ("others", "do"),
    [({"notes.txt": b""}, "unpack it, and give that file"), ({"a/0.PNG": grey(6, 6)}, "leave tables out of it")],
)
def test_a_table_in_a_zip_is_named_with_what_to_do(tmp_path: Path, others: dict[str, bytes], do: str) -> None:
    with pytest.raises(InvalidFileError) as caught:
        read(files.archive({"labels.csv": b"a,b", **others}), tmp_path, "t.zip")
    assert str(caught.value) == f"a zip is read as images, and this one has 'labels.csv'; {do}"
