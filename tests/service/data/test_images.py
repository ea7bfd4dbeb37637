# Zips of images of different sizes and colours: what they become, and what is said about that.
from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

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
    kept = np.load(tmp_path / "kept" / X_FILE)
    order = sorted(range(20), key=lambda index: f"{'ab'[index % 2]}/{index}.png")
    assert facts.shape == (1, 5, 6)
    assert kept.dtype == np.float32
    assert (kept == np.array([WIDE[index].reshape(-1) for index in order])).all()
    assert facts.warnings == ("pixels have more than 8 bits and keep their values: give new images with the same ones",)


def test_pixels_of_more_than_8_bits_are_scaled_to_another_size(tmp_path: Path) -> None:
    facts = opened([stored(pixels.astype("uint16"), "png") for pixels in WIDE], tmp_path, image_size=3)
    kept = np.load(tmp_path / "kept" / X_FILE)
    assert (facts.shape, kept.shape) == ((1, 3, 3), (20, 9))
    assert 20_000 < kept.mean() < 45_000


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
