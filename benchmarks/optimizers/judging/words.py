"""The task ``word_transformer``: a causal transformer that predicts the next word of mathematical documentation.

The text ships with scipy: the docstrings of its functions. The output layer has one row for each of 640 words, more
than the longest axis that WarpAdam's P mixes as a whole.
"""

from __future__ import annotations

import inspect
import re
from collections import Counter
from functools import lru_cache
from types import ModuleType
from typing import Final

import scipy.integrate
import scipy.interpolate
import scipy.linalg
import scipy.optimize
import scipy.signal
import scipy.stats
import torch
from torch import Tensor

from benchmarks.optimizers.training import GradientTask, Problem
from benchmarks.optimizers.transformer import CausalTransformer, next_token

MODULES: Final[tuple[ModuleType, ...]] = (
    scipy.integrate,
    scipy.interpolate,
    scipy.linalg,
    scipy.optimize,
    scipy.signal,
    scipy.stats,
)
VOCABULARY: Final = 640
"""The most frequent words and signs, and one entry for all others."""

CONTEXT: Final = 32
HELD_OUT_EVERY: Final = 10
"""Every tenth docstring is held out."""

WINDOWS: Final = 64


_CHANGING: Final = re.compile(r"^.*(?:# may vary|Use of argument).*$", re.MULTILINE)
"""Lines that scipy makes when it is imported, with random numbers or in random order."""


@lru_cache
def text() -> tuple[Tensor, Tensor]:
    """Return the words to train on, and the held-out windows (WINDOWS, CONTEXT + 1)."""
    found = {inspect.getdoc(getattr(module, name)) or "" for module in MODULES for name in module.__all__}
    documents = [re.findall(r"\w+|[^\w\s]|\n", _CHANGING.sub("", document)) for document in sorted(found)]
    counts = Counter(word for document in documents for word in document)
    code = {word: index for index, (word, _) in enumerate(counts.most_common(VOCABULARY - 1), start=1)}

    def encode(part: list[list[str]]) -> Tensor:
        return torch.tensor([code.get(word, 0) for document in part for word in document])

    train = encode([document for number, document in enumerate(documents) if number % HELD_OUT_EVERY])
    held_out = encode(documents[::HELD_OUT_EVERY])
    starts = torch.linspace(0, len(held_out) - CONTEXT - 1, WINDOWS).long()
    return train, held_out[starts[:, None] + torch.arange(CONTEXT + 1)]


def _word_transformer(seed: int) -> Problem:
    return next_token(CausalTransformer(VOCABULARY, CONTEXT, output_bias=False), *text(), seed)


TASKS: Final = (
    GradientTask(name="word_transformer", version="1", steps=300, warm_up=20, cost=8.0, problem=_word_transformer),
)
