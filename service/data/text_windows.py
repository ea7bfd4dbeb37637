"""Cuts a text into windows of tokens for a language model."""

from __future__ import annotations

import numpy as np

from service.data.catalog import part_bounds
from service.data.prepared_files import SPLIT_PARTS, Array
from service.errors import JobFailedError
from service.spec.model import TransformerSpec


def text_windows(text: bytes, model: TransformerSpec) -> dict[str, Array]:
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
