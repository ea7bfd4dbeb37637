# A column that tells the target on its own is named, whatever it is called and however it is written; one that only
# helps a lot is not.
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.data.leaks import suspicions
from tests.service.data.test_splits import csv, opened

RNG = np.random.default_rng(1)
FEW, MANY = 300, 4000

TAILED = RNG.lognormal(10, 1.5, FEW).round(2)
NORMAL = RNG.normal(size=MANY).round(4)
CLASSES = RNG.permutation(np.repeat(np.arange(50), MANY // 50))
CODES = RNG.integers(0, 400, MANY)
DEFAULTED = RNG.random(400) < 0.5
"""Whether the rows with each code have the answer yes."""

CLAIMS = np.where(RNG.random(MANY) < 0.05, RNG.lognormal(7, 1, MANY), 0).round(2)


def words(numbers: Any) -> list[str]:
    return [f"k{number:03d}" for number in np.asarray(numbers).tolist()]


def without_some(values: Any, every: int) -> list[Any]:
    return ["" if row % every == 0 else value for row, value in enumerate(np.asarray(values).tolist())]


def notes(folder: Path, x: Any, y: Any, task: str) -> list[str]:
    more = {"a": RNG.normal(size=len(x)).round(4).tolist()}  # so that rows are not the same
    found = suspicions(opened(csv(**more, x=list(x), y=list(y)), folder, task=task), 0)
    return [note for note in found if "alone tells" in note]


ANSWERS: dict[str, tuple[Any, Any, str]] = {
    "each class under another number": (RNG.permutation(50)[CLASSES] + 500, words(CLASSES), "classification"),
    "each class under another word": (words(RNG.permutation(50)[CLASSES]), words(CLASSES), "classification"),
    "a range for each class": (CLASSES * 10 + RNG.integers(0, 9, MANY), words(CLASSES), "classification"),
    "a code of 400 words": (words(CODES), np.where(DEFAULTED[CODES], "yes", "no"), "classification"),
    "a code of 400 numbers": (CODES + 7000, np.where(DEFAULTED[CODES], "yes", "no"), "classification"),
    "a code that tells a number": (words(CODES), RNG.normal(size=400).round(4)[CODES], "regression"),
    "a code that is new in some rows": (words(CODES[:2000]), np.where(DEFAULTED, 1, 0)[CODES[:2000]], "classification"),
    "another unit": ((NORMAL * 3 + 1).round(4), NORMAL, "regression"),
    "another unit of a long tail": ((TAILED * 0.92).round(2), TAILED, "regression"),
    "the opposite of a long tail": (-TAILED, TAILED, "regression"),
    "another unit, mostly zero": ((CLAIMS * 0.92).round(2), CLAIMS, "regression"),
    "another unit with empty cells": (without_some((NORMAL * 3 + 1).round(4), 50), NORMAL, "regression"),
    "another unit of a long tail with empty cells": (without_some(TAILED / 12, 50), TAILED, "regression"),
    "a code with empty cells": (without_some(words(CODES), 50), np.where(DEFAULTED[CODES], 1, 0), "classification"),
    "cells that are empty for one class": (without_some(NORMAL, 3), words(np.arange(MANY) % 3 == 0), "classification"),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_a_column_that_tells_the_target_is_named(tmp_path: Path, case: str) -> None:
    (note,) = notes(tmp_path, *ANSWERS[case])
    assert note.startswith("column 'x' alone tells the target nearly perfectly")


HELPFUL: dict[str, tuple[Any, Any, str]] = {
    "one part of a sum": (NORMAL, (NORMAL + 0.2 * RNG.normal(size=MANY)).round(4), "regression"),
    "one part of a product": (TAILED, (TAILED * RNG.lognormal(0, 0.2, FEW)).round(2), "regression"),
    "whether there is a claim": ((CLAIMS > 0) * RNG.integers(1, 4, MANY), CLAIMS, "regression"),
    "the order of the claims": (np.where(CLAIMS > 0, CLAIMS, RNG.random(MANY) * 9000).round(2), CLAIMS, "regression"),
    "a code that is right in 19 of 20 rows": (
        words(CODES),
        np.where(DEFAULTED[CODES] ^ (RNG.random(MANY) < 0.05), "yes", "no"),
        "classification",
    ),
    "a code of one or two rows": (words(RNG.integers(0, MANY, MANY)), np.where(NORMAL > 0, "b", "a"), "classification"),
    "a code that is empty in a third of the rows": (
        without_some(words(CODES), 3),
        np.where(DEFAULTED[CODES], "yes", "no"),
        "classification",
    ),
    "something else of a few rows": (RNG.normal(size=30).round(3), np.arange(30) % 2, "classification"),
}


@pytest.mark.parametrize("case", HELPFUL)
def test_a_column_that_only_helps_is_not_named(tmp_path: Path, case: str) -> None:
    assert notes(tmp_path, *HELPFUL[case]) == []


@pytest.mark.parametrize(("rows", "expected"), [(100, []), (40, ["validation has 8 rows and test has 8: with so few"])])
def test_parts_of_a_few_rows_are_said(tmp_path: Path, rows: int, expected: list[str]) -> None:
    content = csv(x=RNG.normal(size=rows).round(4).tolist(), y=NORMAL[:rows].tolist())
    found = list(suspicions(opened(content, tmp_path, task="regression"), 0))
    assert [note[: len(text)] for note, text in zip(found, expected, strict=True)] == expected
