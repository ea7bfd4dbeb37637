"""Trains an arm on the tasks that judge, at every lr of its own, and compares its losses with those of SOAP."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Final, NamedTuple

from benchmarks.few_shot.arms import SOAPS, Arm
from benchmarks.few_shot.families import FAMILIES
from benchmarks.few_shot.networks import MARKS, train_together

TUNING_SEED: Final = 7
SEEDS: Final = (0, 1)


class Row(NamedTuple):
    """Losses of an arm on a family: on the rows to train on after each mark, then on the rows held out.

    Attributes:
        lrs: The best lr of each column, by the tuning seed.
        losses: Means over the other seeds.
        lowest: Lowest of the other seeds.
        highest: Highest of the other seeds.
    """

    lrs: list[float]
    losses: list[float]
    lowest: list[float]
    highest: list[float]


def measure(path: Path, name: str, arm: Arm, family: str) -> None:
    """Append a line for every seed and lr that the file does not have yet. The tuning seed shares the P of seed 0."""
    done = {(line["arm"], line["family"], line["lr"], line["seed"]) for line in read(path)}
    for seed in (TUNING_SEED, *SEEDS):
        for lr in arm.lrs:
            if (name, family, lr, seed) in done:
                continue
            tasks, started = FAMILIES[family]().judged, time.perf_counter()
            warp = arm.learn(family, lr, 0 if seed == TUNING_SEED else seed)
            learned = time.perf_counter()
            losses = train_together(tasks, arm.make(warp, lr, len(tasks)), seed).mean(1).tolist()
            seconds = {"learn": round(learned - started, 2), "use": round(time.perf_counter() - learned, 2)}
            line = {"family": family, "arm": name, "lr": lr, "seed": seed, "fit": losses[0], "held_out": losses[1]}
            with path.open("a") as file:
                file.write(json.dumps({**line, "seconds": seconds}) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a file of results; none if there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def rows_of(lines: Iterable[Mapping[str, Any]], family: str) -> dict[str, Row]:
    """Return the row of every arm that was measured with all seeds on a family."""
    runs: dict[str, dict[float, dict[int, list[float]]]] = {}
    for line in lines:
        if line["family"] == family:
            own = runs.setdefault(line["arm"], {}).setdefault(line["lr"], {})
            own[line["seed"]] = [*line["fit"], *line["held_out"]]
    complete = {
        arm: by_lr for arm, by_lr in runs.items() if all({TUNING_SEED, *SEEDS} <= own.keys() for own in by_lr.values())
    }
    return {arm: _row(by_lr) for arm, by_lr in complete.items()}


def _row(by_lr: Mapping[float, Mapping[int, Sequence[float]]]) -> Row:
    columns = range(2 * len(MARKS))
    tuned = {lr: own[TUNING_SEED] for lr, own in by_lr.items()}
    best = [min((losses[column], lr) for lr, losses in tuned.items())[1] for column in columns]
    seen = [[by_lr[lr][seed][column] for seed in SEEDS] for column, lr in enumerate(best)]
    return Row(best, [fmean(one) for one in seen], [min(one) for one in seen], [max(one) for one in seen])


def ratios(rows: Mapping[str, Row]) -> dict[str, list[float]]:
    """Return the losses of every arm, each divided by that of the better SOAP."""
    best = [min(rows[soap].losses[column] for soap in SOAPS) for column in range(2 * len(MARKS))]
    return {arm: [ours / theirs for ours, theirs in zip(row.losses, best, strict=True)] for arm, row in rows.items()}
