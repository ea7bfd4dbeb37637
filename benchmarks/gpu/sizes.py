"""How large the check is: for a real device, and as a toy for the CPU (``WARPTUNE_FAKE=1``)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

import torch

FAKE: Final = os.environ.get("WARPTUNE_FAKE") == "1"
"""Whether this is a run at toy size on the CPU. It shows that the check works; its figures mean nothing."""

DEVICE: Final = torch.device("cpu" if FAKE else "cuda")


@dataclass(frozen=True, slots=True, kw_only=True)
class GptShape:
    """The shape of a GPT.

    Attributes:
        layers: Number of blocks.
        width: Length of the residual stream.
        heads: Attention heads of each block.
        vocabulary: Number of tokens.
        context: Most tokens of one text.
    """

    layers: int
    width: int
    heads: int
    vocabulary: int
    context: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How large each part is.

    Attributes:
        stepped: The GPT whose parameters are stepped with random gradients.
        warm_up: Steps before timing starts: all those after which P is updated early.
        steps: Steps of a round, with two updates of P.
        rounds: Most rounds.
        round_seconds: No further round starts after this time. There is always one.
        trained: The GPT that is trained.
        batch: Texts of a batch.
        training_steps: Steps of a training run.
        validate_every: Steps between two validations.
        windows: Texts for validation.
        text_bytes: Most bytes of text to train and validate on.
        seconds: The time limit of each part: tests, steps, training.
    """

    stepped: GptShape
    warm_up: int
    steps: int
    rounds: int
    round_seconds: float
    trained: GptShape
    batch: int
    training_steps: int
    validate_every: int
    windows: int
    text_bytes: int
    seconds: tuple[float, float, float]


REAL: Final = Sizes(
    stepped=GptShape(layers=12, width=768, heads=12, vocabulary=50_304, context=1_024),
    warm_up=8,
    steps=20,
    rounds=5,
    round_seconds=4.0,
    trained=GptShape(layers=6, width=384, heads=6, vocabulary=256, context=256),
    batch=64,
    training_steps=300,
    validate_every=15,
    windows=128,
    text_bytes=32_000_000,
    seconds=(90.0, 170.0, 250.0),
)

TOY: Final = Sizes(
    stepped=GptShape(layers=1, width=16, heads=2, vocabulary=32, context=8),
    warm_up=2,
    steps=2,
    rounds=2,
    round_seconds=0.0,
    trained=GptShape(layers=1, width=16, heads=2, vocabulary=256, context=8),
    batch=2,
    training_steps=4,
    validate_every=2,
    windows=2,
    text_bytes=50_000,
    seconds=(600.0, 600.0, 600.0),
)

SIZES: Final = TOY if FAKE else REAL
