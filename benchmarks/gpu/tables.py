"""Prints the results as plain tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import torch

from benchmarks.gpu.gpt import Gpt
from benchmarks.gpu.jobs import Figures
from benchmarks.gpu.optimizers import ADAMW, EVERY, FULL_BLOCK, HAS_PEERS
from benchmarks.gpu.sizes import SIZES, GptShape
from benchmarks.gpu.tuning import Trained

NO_PEERS: Final = "SOAP and Shampoo are left out: pytorch-optimizer is not installed. A rotation with p_lr 0 is SOAP."


def outcomes_table(files: Mapping[str, Figures]) -> str:
    """Return the outcomes of the tests, one line a file, then every failure."""
    lines = ["Tests"]
    for name, found in files.items():
        if "error" in found:
            lines.append(f"  {name}: {found['error']}")
            continue
        lines.append(f"  {name}: {found['passed']} passed, {found['failed']} failed, {found['skipped']} skipped")
        lines += [f"    {test}: {message.splitlines()[0]}" for test, message in found["failures"].items()]
    return "\n".join(lines)


def steps_table(found: Mapping[str, Figures]) -> str:
    """Return time and memory of a step of every optimizer."""
    rows: list[tuple[str, ...]] = [("", "mean ms", "x AdamW", "typical ms", "slowest ms", "state GiB", "peak GiB")]
    base = found[ADAMW].get("mean_ms")
    for name, own in found.items():
        if "error" in own:
            rows.append((name, own["error"], *[""] * 5))
            continue
        ratio = f"{own['mean_ms'] / base:.1f}" if base else "-"
        times = (f"{own[key]:.2f}" for key in ("typical_ms", "slowest_ms"))
        rows.append((name, f"{own['mean_ms']:.2f}", ratio, *times, _gib(own["state_gib"]), _gib(own["peak_gib"])))
    return "\n".join(
        [
            f"One step on the parameters of a GPT of {_described(SIZES.stepped)}, with random gradients",
            f"P is updated every {EVERY} steps; mean: with these updates; slowest: a step with one; full P: blocks of "
            f"{FULL_BLOCK}",
            *_aligned(rows),
            *([] if HAS_PEERS else [NO_PEERS]),
        ]
    )


def training_table(best: Mapping[str, Trained | str]) -> str:
    """Return how far every optimizer came, and when it reached AdamW's last loss."""
    rows: list[tuple[str, ...]] = [
        ("", "loss", "lr", "tried", "seconds", "steps to AdamW's loss", "seconds to it", "peak GiB")
    ]
    for name, run in best.items():
        if isinstance(run, str):
            rows.append((name, run, *[""] * 6))
            continue
        lr = f"{run.lr:g}{'*' if run.at_end else ''}"
        steps = "not reached" if run.steps_to_target is None else str(run.steps_to_target)
        seconds = "-" if run.seconds_to_target is None else f"{run.seconds_to_target:.1f}"
        whole = f"{run.seconds:.1f}"
        rows.append((name, f"{run.loss:.4f}", lr, str(run.tried), whole, steps, seconds, _gib(run.peak_gib)))
    return "\n".join(
        [
            f"A GPT of {_described(SIZES.trained)}, trained for {SIZES.training_steps} steps on Python's own texts",
            f"One seed, so small differences mean nothing; validated every {SIZES.validate_every} steps; tried: number "
            "of lrs; *: the best lr is the highest or lowest of them",
            *_aligned(rows),
            *([] if HAS_PEERS else [NO_PEERS]),
        ]
    )


def _described(shape: GptShape) -> str:
    with torch.device("meta"):
        count = sum(param.numel() for param in Gpt(shape).parameters())
    return f"{count:,} parameters (layers: {shape.layers}, width: {shape.width})"


def _gib(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _aligned(rows: Iterable[Sequence[str]]) -> list[str]:
    """Align the columns. A row whose cells after the second are empty is a message, and widens no column."""
    rows = list(rows)
    whole = [row for row in rows if row[2]]
    widths = [max(map(len, column)) for column in zip(*whole, strict=True)]
    names = max(len(row[0]) for row in rows)
    return [
        f"  {row[0]:{names}}  " + ("  ".join(map(str.rjust, row[1:], widths[1:])) if row[2] else row[1]) for row in rows
    ]
