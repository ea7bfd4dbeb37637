# Zips of images of different sizes and colours: what they become, and what is said about that.
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

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
