"""Which structure a tensor gets: the fallbacks, the limits and the flattening."""

from __future__ import annotations

import pytest

from warpadam.structures import (
    DiagonalDistortion,
    Distortion,
    FullDistortion,
    KroneckerDistortion,
    LowRankDistortion,
    make_distortion,
    make_kronecker,
)

CASES: list[tuple[str, tuple[int, ...], Distortion]] = [
    ("diagonal", (6, 5), DiagonalDistortion((6, 5))),
    ("diagonal", (6, 2, 3), DiagonalDistortion((6, 6))),
    ("diagonal", (), DiagonalDistortion((1,))),
    ("low_rank", (6, 5), LowRankDistortion(6, 5, 4)),
    ("low_rank", (2, 5), LowRankDistortion(2, 5, 2)),
    ("low_rank", (6, 2, 3, 3), LowRankDistortion(6, 18, 4)),
    ("low_rank", (6,), DiagonalDistortion((6,))),
    ("low_rank", (0, 3), DiagonalDistortion((0, 3))),
    ("kronecker", (6, 5), KroneckerDistortion((6, 5), row_blocks=1, column_blocks=1)),
    ("kronecker", (8, 8), KroneckerDistortion((8, 8), row_blocks=1, column_blocks=1)),
    ("kronecker", (9, 5), KroneckerDistortion((9, 5), row_blocks=2, column_blocks=1)),
    ("kronecker", (6, 3, 3, 3), KroneckerDistortion((6, 27), row_blocks=1, column_blocks=4)),
    ("kronecker", (9, 9), KroneckerDistortion((9, 9), row_blocks=2, column_blocks=2)),
    ("kronecker", (17, 9), KroneckerDistortion((17, 9), row_blocks=3, column_blocks=2)),
    ("kronecker", (8, 9), KroneckerDistortion((8, 9), row_blocks=1, column_blocks=2)),
    ("kronecker", (8, 128), KroneckerDistortion((8, 128), row_blocks=1, column_blocks=16)),
    ("kronecker", (8, 129), KroneckerDistortion((8, 129), row_blocks=1, column_blocks=0)),
    ("kronecker", (200, 9), KroneckerDistortion((200, 9), row_blocks=0, column_blocks=2)),
    ("kronecker", (200, 300), KroneckerDistortion((200, 300), row_blocks=25, column_blocks=0)),
    ("kronecker", (6,), DiagonalDistortion((6,))),
    ("kronecker", (), DiagonalDistortion((1,))),
    ("full", (6, 5), FullDistortion(30, 16)),
    ("full", (6,), FullDistortion(6, 16)),
    ("full", (), FullDistortion(1, 16)),
    ("full", (0,), DiagonalDistortion((0,))),
]


@pytest.mark.parametrize(("structure", "shape", "expected"), CASES, ids=str)
def test_each_shape_gets_its_structure(structure: str, shape: tuple[int, ...], expected: Distortion) -> None:
    assert make_distortion(structure, shape, rank=4, block_size=16, max_dim=8) == expected


@pytest.mark.parametrize(
    ("elements", "layout"), [(1, (1, 1)), (16, (1, 16)), (17, (2, 9)), (30, (2, 15)), (100, (7, 15))]
)
def test_full_blocks_are_as_equal_as_possible(elements: int, layout: tuple[int, int]) -> None:
    assert FullDistortion(elements, 16).layout == layout


@pytest.mark.parametrize("shape", [(6,), (), (0, 3)])
def test_a_kronecker_that_mixes_nothing_has_no_factors(shape: tuple[int, ...]) -> None:
    kronecker = make_kronecker(shape, max_dim=8)
    assert (kronecker.row_blocks, kronecker.column_blocks) == (0, 0)


@pytest.mark.parametrize(
    ("shape", "row_blocks", "column_blocks"),
    [
        ((512, 512), 1, 1),
        ((1024, 256), 4, 1),  # as long as the columns
        ((784, 96), 7, 1),  # 112 each
        ((96, 784), 1, 7),
        ((2048, 512), 4, 1),
        ((4096, 64), 16, 1),
        ((9000, 64), 0, 1),
        ((1024, 2048), 2, 4),
    ],
)
def test_blocks_of_a_long_axis_are_about_as_long_as_the_other(
    shape: tuple[int, int], row_blocks: int, column_blocks: int
) -> None:
    expected = KroneckerDistortion(shape, row_blocks=row_blocks, column_blocks=column_blocks)
    assert make_kronecker(shape, max_dim=512) == expected
