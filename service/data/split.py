"""Decides which rows of a source are trained on, validated on and tested on, and writes the arrays of the parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.model_selection import train_test_split

from service.data.arrays import AnyArray
from service.data.equations import collocation
from service.data.prepared_files import SPLIT_PARTS, Array, Rows, save_arrays
from service.data.sources import Arrays, Equation, Source, Text
from service.errors import JobFailedError
from service.spec.dataset_info import HELD_OUT, part_bounds
from service.spec.models import ModelSpec, TransformerSpec


def hold_out(rows: Rows, share: float, seed: int, strata: AnyArray | None) -> tuple[Rows, Rows]:
    """Return the rows that are left and those that are held out, in the order in which they were drawn.

    ``strata`` has the group of each row of the source, of which the same share is held out; None draws without groups.
    """
    stratify = None if strata is None else strata[rows]
    left, held_out = train_test_split(rows, test_size=share, random_state=seed, stratify=stratify)
    return left, held_out


def split_rows(rows: int, seed: int, classes: AnyArray | None, *, keeps_draw_order: bool = False) -> dict[str, Rows]:
    """Return which rows go into which part: 60 / 20 / 20, the same share of each class if there are ``classes``."""
    rest, test = hold_out(np.arange(rows), HELD_OUT, seed, classes)
    train, val = hold_out(rest, HELD_OUT / (1 - HELD_OUT), seed, classes)
    parts = {"train": train, "val": val, "test": test}
    return parts if keeps_draw_order else {part: np.sort(drawn) for part, drawn in parts.items()}


def write_split(source: Source, model: ModelSpec, seed: int, folder: Path) -> None:
    """Write the arrays of a split as .npy files.

    ``model`` tells how a text becomes windows of tokens. The parts of a text do not depend on the seed.

    Cost: of ``Arrays`` and of the features of a ``Table``, a piece is in memory at once.
    """
    if isinstance(source, Text):
        assert isinstance(model, TransformerSpec), "only a transformer takes a text"
        save_arrays(_text_windows(source.content, model), folder)
    elif isinstance(source, Equation):
        save_arrays(collocation(source.name, seed), folder)
    else:
        in_drawn_order = isinstance(source, Arrays) and source.keeps_draw_order
        parts = split_rows(source.rows, seed, source.target.classes, keeps_draw_order=in_drawn_order)
        encoder = source.encoder(parts["train"])
        for part, rows in parts.items():
            shape = (len(rows), encoder.width)
            x = np.lib.format.open_memmap(folder / f"x_{part}.npy", "w+", np.float32, shape)
            encoder.write(rows, x)
            x.flush()
        if source.target.values is None:
            save_arrays({f"y_{part}": np.zeros(0, dtype=np.float32) for part in parts}, folder)
        else:
            y = source.target.encode(parts["train"])
            save_arrays({f"y_{part}": y[rows] for part, rows in parts.items()}, folder)


def _text_windows(text: bytes, model: TransformerSpec) -> dict[str, Array]:
    """Return the arrays of the split of a text: windows of tokens, and the next token of each.

    The parts are consecutive pieces of the text, as windows drawn at random would be neighbours of training windows.
    Every distinct character of the whole text is a token, if the tokens are characters.

    Raises:
        JobFailedError: A part is shorter than a window.
    """
    if model.tokens == "characters":
        codes = np.frombuffer(text.decode().encode("utf-32-le"), dtype=np.uint32)
        tokens = np.unique(codes, return_inverse=True)[1]
    else:
        tokens = np.frombuffer(text, dtype=np.uint8)
    arrays: dict[str, Array] = {}
    for part, piece in zip(SPLIT_PARTS, np.split(tokens.astype(np.int64), part_bounds(len(tokens))), strict=True):
        count = (len(piece) - 1) // model.context
        if not count:
            raise JobFailedError(
                f"the {part} part of the text has {len(piece)} tokens, fewer than a window of {model.context}; "
                "make model.context shorter"
            )
        length = count * model.context
        arrays[f"x_{part}"] = piece[:length].reshape(count, model.context)
        arrays[f"y_{part}"] = piece[1 : length + 1].reshape(count, model.context)
    return arrays
