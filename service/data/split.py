"""Decides which rows of a source are trained on, validated on and tested on, and writes the arrays of the parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.model_selection import train_test_split

from service.data.arrays import AnyArray
from service.data.catalog import HELD_OUT
from service.data.equations import collocation
from service.data.prepared_files import Array, Rows, save_arrays
from service.data.sources import Arrays, Equation, RowSource, Source, Text
from service.data.text_windows import text_windows
from service.spec.model import AnyModel, TransformerSpec


def hold_out(rows: Rows, share: float, seed: int, strata: AnyArray | None) -> tuple[Rows, Rows]:
    """Return the rows that are left and those that are held out, in the order in which they were drawn.

    Args:
        rows: The rows.
        share: Share of them to hold out.
        seed: Seed of the draw.
        strata: Group of each row of the source; the same share of each is held out. None draws without groups.
    """
    left, held_out = train_test_split(
        rows, test_size=share, random_state=seed, stratify=None if strata is None else strata[rows]
    )
    return left, held_out


def split_rows(rows: int, seed: int, classes: AnyArray | None, *, keeps_draw_order: bool = False) -> dict[str, Rows]:
    """Return which rows go into which part: 60 / 20 / 20, the same share of each class if there are ``classes``."""
    rest, test = hold_out(np.arange(rows), HELD_OUT, seed, classes)
    train, val = hold_out(rest, HELD_OUT / (1 - HELD_OUT), seed, classes)
    parts = {"train": train, "val": val, "test": test}
    return parts if keeps_draw_order else {part: np.sort(drawn) for part, drawn in parts.items()}


def write_split(source: Source, model: AnyModel, seed: int, folder: Path) -> None:
    """Write the arrays of a split as .npy files.

    Args:
        source: The data.
        model: Tells how a text becomes windows of tokens.
        seed: Decides the split. The parts of a text do not depend on it.
        folder: Where to write.

    Cost: of ``Arrays`` and of the features of a ``Table``, a piece is in memory at once.
    """
    if isinstance(source, Text):
        assert isinstance(model, TransformerSpec), "only a transformer takes a text"
        save_arrays(text_windows(source.content, model), folder)
    elif isinstance(source, Equation):
        save_arrays(collocation(source.name, seed), folder)
    else:
        _write_rows(source, seed, folder)


def _write_rows(source: RowSource, seed: int, folder: Path) -> None:
    in_drawn_order = isinstance(source, Arrays) and source.keeps_draw_order
    target = source.target
    parts = split_rows(source.rows, seed, target.classes, keeps_draw_order=in_drawn_order)
    encoder = source.encoder(parts["train"])
    for part, rows in parts.items():
        shape = (len(rows), encoder.width)
        x = np.lib.format.open_memmap(folder / f"x_{part}.npy", "w+", np.float32, shape)
        encoder.write(rows, x)
        x.flush()
    if target.values is None:
        none: Array = np.zeros(0, dtype=np.float32)
        save_arrays({f"y_{part}": none for part in parts}, folder)
    else:
        y = target.encode(parts["train"])
        save_arrays({f"y_{part}": y[rows] for part, rows in parts.items()}, folder)
