"""The commands that need no running service: ``examples``, ``check``, ``replay`` and ``predict``.

``check`` tries a user's model, training loop or dataset in this process, as the service would. It also says whether the
service's settings allow that code. torch is loaded only when a command runs.
"""

from __future__ import annotations

import io
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from pydantic import TypeAdapter, ValidationError

from service.cli.console import check_output, failure, say, say_err, write_output
from service.cli.serve import read_settings
from service.spec.base import Entrypoint, UserConfig
from service.spec.tasks import Task

if TYPE_CHECKING:
    from torch import nn

    from service.spec.dataset_info import DatasetInfo


def examples(
    folder: Annotated[Path, typer.Argument(help="Folder to make.")] = Path("examples"),
) -> None:
    """Copy the examples of the documentation to a folder: specs, data, a model and a training loop of your own.

    Example: warptune examples
    """
    packed = files("warptune") / "examples"
    if not packed.is_dir():
        raise failure("this installation has no examples; they are in the folder examples of the source")
    try:
        with as_file(packed) as source:
            shutil.copytree(source, folder, ignore=shutil.ignore_patterns("__pycache__"))
    except FileExistsError:
        raise failure(f"{folder} exists; choose another folder: warptune examples my-examples", 2) from None
    except OSError as error:
        raise failure(f"cannot write {folder}: {error.strerror or error}", 2) from None
    for file in sorted(folder.iterdir()):
        say(f"{file}  {_first_line(file)}")
    say(f"next: python {folder}/make_churn.py, then warptune tune churn.csv --target churned")


def _first_line(file: Path) -> str:
    """Return what an example says about itself, without the command that runs it."""
    line = file.read_text(encoding="utf-8").partition("\n")[0].strip('#" ')
    return line.partition(": python ")[0].partition(": ``")[0].rstrip(".")


def check(
    entrypoint: Annotated[
        str, typer.Argument(metavar="MODULE:FUNCTION", help="The function, as package.module:function.")
    ],
    kind: Annotated[
        Literal["model", "dataset", "loop"], typer.Option(help="What the function makes, or loop for a training loop.")
    ] = "model",
    config: Annotated[str, typer.Option(help="Keyword arguments of the function, as a JSON object.")] = "{}",
    dataset: Annotated[
        str | None, typer.Option(help="Data that a model is for: a bundled dataset or a file. It gives shape and task.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="Column of that file to predict.")] = None,
    shape: Annotated[str, typer.Option(help="Shape of one input row of a model: 30, or 1,8,8 for images.")] = "1,8,8",
    outputs: Annotated[int, typer.Option(min=1, help="Outputs of a model: the number of classes, or of targets.")] = 10,
    task: Annotated[
        Task, typer.Option(metavar="classification|regression|autoencoding", help="What a model learns.")
    ] = Task.CLASSIFICATION,
    seed: Annotated[int, typer.Option(min=0, help="Seed that a dataset is made or a loop is run with.")] = 0,
) -> None:
    """Check a model, a dataset or a training loop of your own: import it, run it, and test what it does.

    Example: warptune check examples.gated_mlp:make_model --dataset digits
    """
    settings = read_settings()
    try:
        name, arguments = _parsed(entrypoint, config)
        if kind == "loop":
            lines = _loop(name, arguments, seed, settings.user_code_limit_s)
        elif kind == "dataset":
            lines = _dataset(name, arguments, seed)
        elif dataset is not None:
            info = _info(dataset, target, settings.max_dataset_bytes)
            lines = _model(name, arguments, info.row_shape, info.outputs, info.task)
        else:
            lines = _model(name, arguments, _shape(shape), outputs, task)
        for line in lines:
            say(line)
    except ValueError as error:
        raise failure(str(error)) from None
    refusal = settings.refusal(name)
    say("ready to use" + (f", but {refusal}" if refusal else ""))


def replay(bundle: Annotated[Path, typer.Argument(metavar="ZIP", help="A zip export.")]) -> None:
    """Check a zip export: verify its hashes, train its recommendation again and compare the losses."""
    from service.export.replay import TOLERANCE, BundleError, read_bundle, why_they_differ
    from service.export.replay import replay as train_again

    try:
        content = read_bundle(bundle)
        say(f"{len(content.files)} files, all hashes are right")
        done = []
        for run in train_again(content):
            done.append(run)
            say(f"{run.what} {run.found:.8f}, recorded {run.recorded:.8f}")
    except OSError as error:
        raise failure(f"cannot read {bundle}: {error.strerror}", 2) from None
    except BundleError as error:
        raise failure(str(error)) from None
    if not all(run.agrees for run in done):
        raise failure(f"the losses differ by more than {TOLERANCE:g}; {why_they_differ(content)}")
    say("replayed: the losses agree")


def predict(
    bundle: Annotated[Path, typer.Argument(metavar="ZIP", help="A zip export.")],
    file: Annotated[Path, typer.Argument(help="CSV file with the columns of the training data; or .npy, .npz.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="CSV file to write. Default: standard output.")
    ] = None,
) -> None:
    """Score new rows with the trained model of a zip export: one line of predictions for each row.

    Example: warptune predict job.zip new.csv -o predictions.csv
    """
    from service.export.predict import predict as score
    from service.export.replay import BundleError, read_bundle
    from service.export.scoring import write_predictions

    check_output(output)
    try:
        content = read_bundle(bundle)
        found, notes = score(content, file)
    except OSError as error:
        raise failure(f"cannot read {error.filename or bundle}: {error.strerror or error}", 2) from None
    except BundleError as error:
        raise failure(str(error)) from None
    except ValueError as error:
        raise failure(f"{file}: {error}") from None
    text = io.StringIO()
    write_predictions(found, text)
    write_output(text.getvalue().encode(), output)
    for note in (*notes, f"{len(next(iter(found.values()))):,} rows scored"):
        say_err(note)


def _parsed(entrypoint: str, config: str) -> tuple[str, Mapping[str, object]]:
    try:
        name = TypeAdapter(Entrypoint).validate_python(entrypoint)
    except ValidationError:
        hint = (
            "; warptune init FILE says what the columns of a table are taken for" if Path(entrypoint).exists() else ""
        )
        raise failure(f"{entrypoint!r} must have the form package.module:function{hint}", 2) from None
    try:
        return name, TypeAdapter(UserConfig).validate_json(config)
    except ValidationError as error:
        raise failure(f"--config must be a JSON object (got {config!r}): {error.errors()[0]['msg']}", 2) from None


def _shape(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if len(parts) not in (1, 3) or not all(part.isdecimal() and int(part) for part in parts):
        raise failure(f"--shape must be a number of features, or channels,height,width (got {text!r})", 2)
    return tuple(map(int, parts))


def _info(dataset: str, target: str | None, max_bytes: int) -> DatasetInfo:
    """Return the facts about a bundled dataset, or about a file as the service would read it."""
    from service.data.catalog import BUNDLED
    from service.data.facts import dataset_info
    from service.data.upload import Upload, format_of
    from service.spec.data import DatasetSpec

    if dataset in BUNDLED:
        return BUNDLED[dataset].info
    file, fmt = Path(dataset), format_of(dataset)
    if not file.is_file() or fmt is None:
        raise failure(f"--dataset must be a file, or one of {', '.join(BUNDLED)} (got {dataset!r})", 2)
    with Upload(fmt, max_bytes) as upload:
        upload.write(file.read_bytes())
        return dataset_info(upload.unpack()[0], DatasetSpec(target=target))


def _loop(entrypoint: str, config: Mapping[str, object], seed: int, limit_s: float) -> Iterator[str]:
    from service.training.entrypoints import load, loaded_sha256
    from service.user_code.contract import MOST_OF_THE_LIMIT, try_loop

    loop = load(entrypoint)
    yield f"imported {entrypoint}; the SHA-256 of its source is {loaded_sha256(entrypoint)}"
    info = try_loop(loop, seed, config, None, MOST_OF_THE_LIMIT * limit_s)
    yield f"a run with AdamW: {info.task_reason}"
    yield f"{sum(map(math.prod, info.tensors))} parameters in {len(info.tensors)} tensors"
    yield from _memory({str(index): shape for index, shape in enumerate(info.tensors)})


def _model(
    entrypoint: str, config: Mapping[str, object], shape: tuple[int, ...], outputs: int, task: str
) -> Iterator[str]:
    from service.training.entrypoints import EntrypointError, load, loaded_sha256
    from service.user_code.contract import TASKS, make_model

    if task not in TASKS:
        raise failure(f"the task must be one of {', '.join(TASKS)}, it is {task}", 2)
    if task == Task.AUTOENCODING:
        outputs = math.prod(shape)
    factory = load(entrypoint)
    yield f"imported {entrypoint}; the SHA-256 of its source is {loaded_sha256(entrypoint)}"
    first, again = (make_model(factory, shape, outputs, task, config) for _ in range(2))
    difference = _difference(first, again)
    if difference is not None:
        raise EntrypointError(
            f"two models made with the same seed differ in {difference}; draw only from torch's global generator"
        )
    yield f"a row of shape {shape} gives {outputs} outputs, for {task}; forward, backward and eval are finite"
    shapes = {name: tuple(parameter.shape) for name, parameter in first.named_parameters()}
    yield f"{sum(map(math.prod, shapes.values()))} parameters in {len(shapes)} tensors:"
    yield from (f"  {name} {' x '.join(map(str, size)) or 'a number'}" for name, size in shapes.items())
    yield from _memory(shapes)


def _difference(first: nn.Module, again: nn.Module) -> str | None:
    """Return the first tensor in which two models differ. What else they keep is not compared."""
    from torch import Tensor

    one, other = (
        {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
        for model in (first, again)
    )
    if one.keys() != other.keys():
        return next(iter(one.keys() ^ other.keys()))
    return next(
        (name for name in one if one[name].shape != other[name].shape or not one[name].equal(other[name])), None
    )


def _memory(shapes: Mapping[str, Sequence[int]]) -> Iterator[str]:
    from warpadam import WarpAdamConfig, estimate_memory
    from warpadam.config import Structure

    yield "memory of P (of everything that the optimizer keeps):"
    for structure in Structure:
        found = estimate_memory(shapes, WarpAdamConfig().changed(structure=structure))
        yield f"  {structure:<10} {found.p_bytes / 1024:>10.1f} KiB ({found.total_bytes / 1024:.1f} KiB)"


def _dataset(entrypoint: str, config: Mapping[str, object], seed: int) -> Iterator[str]:
    import tempfile

    from service.data.arrays import X_FILE, Y_FILE
    from service.training.entrypoints import EntrypointError, load, loaded_sha256
    from service.user_code.contract import make_dataset

    factory = load(entrypoint)
    yield f"imported {entrypoint}; the SHA-256 of its source is {loaded_sha256(entrypoint)}"
    with tempfile.TemporaryDirectory(prefix="warptune-check-") as folder:
        made = []
        for part in ("first", "again"):
            (target := Path(folder) / part).mkdir()
            facts, info = make_dataset(factory, seed, config, target)
            made.append({file.name: file.read_bytes() for file in sorted(target.iterdir())})
    if made[0] != made[1]:
        wrong = next(name for name in (X_FILE, Y_FILE) if made[0].get(name) != made[1].get(name))
        raise EntrypointError(
            f"two calls with the same seed differ in {wrong.removesuffix('.npy')}; use the seed for every random number"
        )
    yield f"{info.rows} rows of shape {info.row_shape}, {info.outputs} outputs, for {info.task}; all numbers are finite"
    for column in facts.columns:
        values = column.levels or f"{column.low:g} to {column.high:g}"
        yield f"y has type {column.type} and {column.distinct} distinct values: {values}"
