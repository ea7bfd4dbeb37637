"""The task ``name_gru``: a recurrent network tells the language of a name from its letters.

The names of countries, languages, scripts and currencies ship with Babel. It reads how 20 languages in the Latin script
write them. A fifth of the names is held out: no form of such a name is trained on.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

import torch
from babel import Locale
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.optimizers.tabular import shuffled_batches
from benchmarks.optimizers.training import GradientTask, Problem

LANGUAGES: Final = (
    *("cs", "da", "de", "en", "es", "et", "fi", "fr", "hr", "hu"),
    *("it", "lt", "lv", "nl", "pl", "pt", "ro", "sk", "sv", "tr"),
)
LONGEST: Final = 16
"""Characters that are read. A longer name is cut."""

EMBEDDING: Final = 24
HIDDEN: Final = 64
BATCH: Final = 64
HELD_OUT_EVERY: Final = 5


class Names(NamedTuple):
    """Encoded names (n, LONGEST), padded with 0, and the index of the language of each."""

    letters: Tensor
    languages: Tensor


class Reader(nn.Module):
    """A GRU over the letters of a name, from its end to its start, so that padding comes first."""

    def __init__(self, characters: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, EMBEDDING)
        self.reader = nn.GRU(EMBEDDING, HIDDEN, batch_first=True)
        self.output = nn.Linear(HIDDEN, len(LANGUAGES))

    def forward(self, letters: Tensor) -> Tensor:
        """Map letters (n, LONGEST) to the logits of the languages."""
        states, _ = self.reader(self.embedding(letters.flip(1)))
        logits: Tensor = self.output(states[:, -1])
        return logits


@lru_cache
def names() -> tuple[Names, Names, int]:
    """Return the names to train on, the held-out names, and the number of characters."""
    written = {language: _names(language) for language in LANGUAGES}
    shared = sorted(set.intersection(*(set(found) for found in written.values())))
    alphabet = sorted({character for found in written.values() for key in shared for character in found[key]})
    code = {character: index for index, character in enumerate(alphabet, start=1)}

    def encode(keys: list[tuple[str, str]]) -> Names:
        rows = [(language, written[LANGUAGES[language]][key]) for key in keys for language in range(len(LANGUAGES))]
        letters = torch.zeros(len(rows), LONGEST, dtype=torch.int64)
        for row, (_, name) in zip(letters, rows, strict=True):
            row[: len(name)] = torch.tensor([code[character] for character in name])
        return Names(letters, torch.tensor([language for language, _ in rows]))

    train = [key for number, key in enumerate(shared) if number % HELD_OUT_EVERY]
    return encode(train), encode(shared[::HELD_OUT_EVERY]), len(alphabet) + 1


def _names(language: str) -> dict[tuple[str, str], str]:
    """Return the start of every name, by its kind and its code."""
    locale = Locale(language)
    kinds = {
        "territory": locale.territories,
        "language": locale.languages,
        "script": locale.scripts,
        "currency": locale.currencies,
    }
    return {(kind, code): name.lower()[:LONGEST] for kind, found in kinds.items() for code, name in found.items()}


def _name_gru(seed: int) -> Problem:
    train, held_out, characters = names()
    model = Reader(characters)
    batches = shuffled_batches(len(train.letters), BATCH, torch.Generator().manual_seed(seed))

    def loss(part: Names, rows: Tensor | slice) -> Tensor:
        return functional.cross_entropy(model(part.letters[rows]), part.languages[rows])

    return Problem(model, lambda: loss(train, next(batches)), lambda: loss(held_out, slice(None)).item())


TASKS: Final = (GradientTask(name="name_gru", version="1", steps=500, warm_up=20, cost=6.0, problem=_name_gru),)
