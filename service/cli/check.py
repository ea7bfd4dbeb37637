# `warptune check`: the contract of user code, tried in this very process, for whoever writes the code. Whether the
# service would allow it is told, not asked. torch is loaded when the command runs.
"""The command that tries user code."""

from __future__ import annotations

import math
from collections.abc import Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError

from service.cli.console import failure, out
from service.data.catalog import DATASETS, Task
from service.settings import Settings
from service.spec.model import Entrypoint, UserConfig

if TYPE_CHECKING:
    from torch import nn


class Kind(StrEnum):
    """What a factory makes."""

    MODEL = "model"
    DATASET = "dataset"


def check(
    entrypoint: Annotated[str, typer.Argument(metavar="MODULE:FACTORY", help="Such as examples.gated_mlp:make_model.")],
    kind: Annotated[Kind, typer.Option(help="What the factory makes.")] = Kind.MODEL,
    config: Annotated[str, typer.Option(help="Its keyword arguments, as JSON.")] = "{}",
    shape: Annotated[str, typer.Option(help="Of a row that a model gets: 30, or 1,8,8 for images.")] = "1,8,8",
    outputs: Annotated[int, typer.Option(min=1, help="Columns that a model returns: classes, or numbers.")] = 10,
    task: Annotated[
        Task, typer.Option(metavar="classification|regression|autoencoding", help="What a model is for.")
    ] = DATASETS["digits"].task,
    seed: Annotated[int, typer.Option(min=0, help="Seed of a dataset.")] = 0,
) -> None:
    """Try a model or a dataset of your own: import it, make it twice, and look at what it is."""
    try:
        name, arguments = _parsed(entrypoint, config)
        lines = (
            _model(name, arguments, _shape(shape), outputs, task)
            if kind is Kind.MODEL
            else _dataset(name, arguments, seed)
        )
        for line in lines:
            out.print(line, highlight=False, markup=False, soft_wrap=True)
    except ValueError as error:
        raise failure(str(error)) from None
    refusal = Settings().refusal(name)
    out.print("it keeps to the contract" + (f"; but {refusal}" if refusal else ""), highlight=False, soft_wrap=True)


def _parsed(entrypoint: str, config: str) -> tuple[str, dict[str, Any]]:
    try:
        name = TypeAdapter(Entrypoint).validate_python(entrypoint)
    except ValidationError:
        raise ValueError(f"{entrypoint!r} is no entrypoint; expected package.module:factory") from None
    try:
        return name, TypeAdapter(UserConfig).validate_json(config)
    except ValidationError as error:
        raise ValueError(f"--config: got {config!r}, expected a JSON object ({error.errors()[0]['msg']})") from None


def _shape(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if len(parts) not in (1, 3) or not all(part.isdecimal() and int(part) for part in parts):
        raise ValueError(f"--shape: got {text!r}, expected a number of features, or channels,height,width")
    return tuple(map(int, parts))


def _model(entrypoint: str, config: dict[str, Any], shape: tuple[int, ...], outputs: int, task: Task) -> Iterator[str]:
    from service.training.entrypoints import EntrypointError, load, loaded_sha256
    from service.user_code.contract import TASKS, make_model

    if task not in TASKS:
        raise ValueError(f"--task: got {str(task)!r}, expected one of {', '.join(TASKS)}")
    if task is Task.AUTOENCODING:
        outputs = math.prod(shape)
    factory = load(entrypoint)
    yield f"{entrypoint} is imported; SHA-256 of its source {loaded_sha256(entrypoint)}"
    first, again = (make_model(factory, shape, outputs, task, config) for _ in range(2))
    difference = _difference(first, again)
    if difference is not None:
        raise EntrypointError(
            f"two models with one seed differ in {difference}; draw from torch's global generator only"
        )
    yield f"rows of shape {shape} become {outputs} outputs, for {task}; forward, backward and eval are finite"
    shapes = {name: tuple(parameter.shape) for name, parameter in first.named_parameters()}
    yield f"{sum(map(math.prod, shapes.values()))} parameters in {len(shapes)} tensors:"
    yield from (f"  {name} {' x '.join(map(str, size)) or 'a number'}" for name, size in shapes.items())
    yield from _memory(first)


def _difference(first: nn.Module, again: nn.Module) -> str | None:
    """Return the first tensor in which two models differ."""
    one, other = first.state_dict(), again.state_dict()
    if one.keys() != other.keys():
        return next(iter(one.keys() ^ other.keys()))
    return next(
        (name for name in one if one[name].shape != other[name].shape or not one[name].equal(other[name])), None
    )


def _memory(model: nn.Module) -> Iterator[str]:
    from warpadam import WarpAdamConfig, estimate_memory
    from warpadam.config import Structure

    yield "memory of P (of P with everything that the optimizer keeps):"
    for structure in Structure:
        found = estimate_memory(model, WarpAdamConfig().changed(structure=structure))
        yield f"  {structure:<10} {found.p_bytes / 1024:>10.1f} KiB ({found.total_bytes / 1024:.1f} KiB)"


def _dataset(entrypoint: str, config: dict[str, Any], seed: int) -> Iterator[str]:
    import tempfile
    from pathlib import Path

    from service.data.arrays import X_FILE, Y_FILE
    from service.training.entrypoints import EntrypointError, load, loaded_sha256
    from service.user_code.contract import make_dataset

    factory = load(entrypoint)
    yield f"{entrypoint} is imported; SHA-256 of its source {loaded_sha256(entrypoint)}"
    with tempfile.TemporaryDirectory(prefix="warptune-check-") as folder:
        made = []
        for part in ("first", "again"):
            (target := Path(folder) / part).mkdir()
            facts, info = make_dataset(factory, seed, config, target)
            made.append({file.name: file.read_bytes() for file in sorted(target.iterdir())})
    if made[0] != made[1]:
        wrong = next(name for name in (X_FILE, Y_FILE) if made[0].get(name) != made[1].get(name))
        raise EntrypointError(
            f"two calls with one seed differ in {wrong.removesuffix('.npy')}; draw from the seed only"
        )
    yield f"{info.rows} rows of shape {info.row_shape}, {info.outputs} outputs, for {info.task}; all numbers are finite"
    for column in facts.columns:
        values = column.levels or f"{column.low:g} to {column.high:g}"
        yield f"y is of {column.type}, {column.distinct} distinct values: {values}"
