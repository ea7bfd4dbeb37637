"""Tries whether user code keeps its contract: runs a model or a training loop, makes a dataset and checks its arrays.

It imports user code, so it runs only under ``warptune check``, and as a child process that ``probe.py`` starts for the
API and the worker. The child writes what it found as JSON and ends; its output is discarded.
"""

from __future__ import annotations

import inspect
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from service.data.arrays import AnyArray, write_arrays
from service.data.facts import DatasetFacts, dataset_info
from service.errors import InvalidFileError, InvalidSpecError
from service.optimizers import OPTIMIZERS, build_optimizer
from service.processes import run_on
from service.settings import Settings
from service.spec.data import DatasetSpec
from service.spec.dataset_info import DatasetInfo
from service.spec.tasks import Task
from service.training.entrypoints import (
    EntrypointError,
    build_module,
    call,
    described,
    load,
    loaded_sha256,
    require_allowed,
)
from service.training.own_loop import WANTED, OwnLoop
from service.training.tasks import loss_of
from warpadam.config import WarpAdamConfig

ROWS: Final = 4
"""Rows of the batch that a model is tried on. Batch norm needs more than one."""

MOST_OF_THE_LIMIT: Final = 0.8
"""Share of the time limit that a training loop gets; the rest is for its end and the answer."""

TRY_S: Final = 10.0
"""Longest time that a loop is tried where it need not be run to its end."""

TASKS: Final = (Task.CLASSIFICATION, Task.REGRESSION, Task.AUTOENCODING)
"""Tasks that user code may be for."""


@contextmanager
def _in_a_sentence() -> Iterator[None]:
    """Turn every other error into an EntrypointError: what user code makes may raise wherever it is used."""
    try:
        yield
    except EntrypointError:
        raise
    except (Exception, SystemExit) as error:
        raise EntrypointError(f"trying it raised {described(error)}") from error


@_in_a_sentence()
def make_model(
    factory: Callable[..., object], shape: tuple[int, ...], outputs: int, task: str, config: Mapping[str, object]
) -> nn.Module:
    """Build a model and check that it keeps the contract.

    Args:
        factory: Makes the model.
        shape: Shape of one row.
        outputs: Number of outputs.
        task: What the model is trained for.
        config: More keyword arguments of the factory.

    Raises:
        EntrypointError: The model breaks the contract; the message says how.
    """
    _refuse_loop(factory)
    torch.manual_seed(0)
    model = build_module(factory, shape, outputs, str(task), config)
    parameters = dict(model.named_parameters())
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise EntrypointError("the module has no parameters to train; give it at least one with requires_grad")
    for name, parameter in parameters.items():
        if isinstance(parameter, UninitializedParameter):
            raise EntrypointError(f"parameter {name} has no shape yet; give lazy layers their sizes")
        if parameter.dtype != torch.float32:
            raise EntrypointError(f"parameter {name} is of {parameter.dtype}; expected torch.float32")
    x, y = _batch(math.prod(shape), outputs, task)
    loss = loss_of(task)(_output(model, x, outputs), y)
    if not loss.isfinite():
        raise EntrypointError(f"the loss of the untrained module is {loss.item()}; expected a finite number")
    try:
        loss.backward()  # type: ignore[no-untyped-call]
    except Exception as error:
        raise EntrypointError(f"the loss cannot be differentiated: {described(error)}") from error
    _check_gradients(parameters)
    model.eval()
    with torch.no_grad():
        _output(model, x, outputs)
    return model.train()


def _check_gradients(parameters: Mapping[str, nn.Parameter]) -> None:
    gradients = {name: parameter.grad for name, parameter in parameters.items() if parameter.grad is not None}
    if not gradients:
        raise EntrypointError("no parameter gets a gradient; the output must depend on them")
    for name, gradient in gradients.items():
        if gradient.layout != torch.strided:
            raise EntrypointError(f"the gradient of parameter {name} is sparse; make its layer with sparse=False")
        if not gradient.isfinite().all():
            raise EntrypointError(f"the gradient of parameter {name} is not finite")


def _refuse_loop(factory: Callable[..., object]) -> None:
    """Say how to use a training loop that was named as a factory."""
    try:
        arguments = inspect.signature(factory).parameters
    except (TypeError, ValueError):  # some functions that are not written in Python do not tell
        return
    if "make_optimizer" in arguments:
        raise EntrypointError(
            "the function takes make_optimizer, as a training loop does; set model.name to loop (warptune check --kind "
            "loop)"
        )


def _batch(features: int, outputs: int, task: str) -> tuple[Tensor, Tensor]:
    x = torch.randn(ROWS, features)
    if task == Task.CLASSIFICATION:
        return x, torch.arange(ROWS) % outputs
    return x, x if task == Task.AUTOENCODING else torch.randn(ROWS, outputs)


def _output(model: nn.Module, x: Tensor, outputs: int) -> Tensor:
    try:
        output = model(x)
    except Exception as error:
        raise EntrypointError(f"forward raised {described(error)}") from error
    if not isinstance(output, Tensor):
        raise EntrypointError(f"forward returned a {type(output).__name__}; expected a tensor")
    if output.layout != torch.strided:
        raise EntrypointError(f"forward returned a tensor of {output.layout}; expected torch.strided")
    if not output.is_floating_point():
        raise EntrypointError(f"forward returned a tensor of {output.dtype}; expected torch.float32")
    if output.shape != (ROWS, outputs):
        raise EntrypointError(
            f"forward made {tuple(output.shape)} of a batch of {ROWS} rows; expected {(ROWS, outputs)}, (rows, outputs)"
        )
    if not output.isfinite().all():
        raise EntrypointError("the output of the untrained module is not finite")
    return output


@_in_a_sentence()
def make_dataset(
    factory: Callable[..., object], seed: int, config: Mapping[str, object], folder: Path
) -> tuple[DatasetFacts, DatasetInfo]:
    """Make a dataset, check that it keeps the contract, and write its arrays to ``folder``; return the facts about it.

    ``config`` has more keyword arguments of the factory.

    Raises:
        EntrypointError: The dataset breaks the contract; the message says how.
    """
    torch.manual_seed(0)  # so that what is drawn without the seed is at least the same
    made = call(factory, seed, **config)
    if not isinstance(made, tuple | list) or len(made) != 3:
        raise EntrypointError(f"the function returned {_kind(made)}; expected three values: x, y and the task")
    x, y, task = made
    if not isinstance(task, str) or task not in TASKS:
        raise EntrypointError(f"the task is {task!r}; expected one of {', '.join(TASKS)}")
    if (y is None) != (task == Task.AUTOENCODING):
        wanted = "None for autoencoding" if y is not None else f"one value for each row for {task}"
        raise EntrypointError(f"y is {_kind(y)}; expected {wanted}")
    try:
        facts = write_arrays(_array(x, "x"), None if y is None else _array(y, "y"), folder)
        return facts, replace(dataset_info(facts, DatasetSpec.model_validate({"task": str(task)})), source="entrypoint")
    except InvalidFileError as error:
        raise EntrypointError(str(error)) from error
    except InvalidSpecError as error:
        wrong = error.errors[0]
        raise EntrypointError(f"y does not fit the task {task}: it {wrong.message}") from error


@_in_a_sentence()
def try_loop(
    function: Callable[..., object], seed: int, config: Mapping[str, object], steps: int | None, limit_s: float
) -> DatasetInfo:
    """Run a training loop once with AdamW as PyTorch ships it, and return the facts about it.

    If time is left, run it as far with WarpAdam: what raises there would fail every trial of the arm that learns P.

    Args:
        function: The loop.
        seed: Its seed.
        config: More keyword arguments of the loop.
        steps: Steps after which a job would end it; None to let it end by itself. Then how many it has is found out.
        limit_s: Seconds that it may take. With ``steps``, it is left after ``TRY_S`` once it has yielded a loss.

    Raises:
        EntrypointError: The loop breaks the contract, or does not end in time; the message says how.
    """
    started, scores, count = time.monotonic(), dict[str, float](), 0

    def is_late() -> bool:
        return time.monotonic() - started > (min(limit_s, TRY_S) if steps is not None and count else limit_s)

    adamw = OPTIMIZERS["adamw"]
    loop = OwnLoop(
        function,
        lambda model: build_optimizer(adamw.name, model, adamw.config({})),
        seed,
        config,
        stops=is_late,
    )
    ended = True
    for evaluation in loop:
        count += 1
        if not math.isfinite(evaluation.loss):
            raise EntrypointError(
                f"the training loop yielded a loss of {evaluation.loss} after {evaluation.step} steps of AdamW as "
                "PyTorch ships it; expected a finite number"
            )
        scores.update(evaluation.scores)
        if (steps is not None and evaluation.step >= steps) or is_late():
            ended = False
            break
    ended = ended and not loop.was_stopped
    raise_it = "raise WARPTUNE_USER_CODE_LIMIT_S"
    if not count and not ended:
        raise EntrypointError(
            f"the training loop yielded no loss in its first {loop.steps} steps and {limit_s:.0f} seconds; evaluate "
            f"more often, or {raise_it}"
        )
    if not count:
        raise EntrypointError(f"the training loop ended without a loss; {WANTED}")
    if not ended and steps is None:
        raise EntrypointError(
            f"the training loop did not end within {limit_s:.0f} seconds ({loop.steps} steps), so its length is not "
            f"known; give budget.steps, after which it is stopped, or {raise_it}"
        )
    assert loop.model is not None, "it was evaluated"
    info = DatasetInfo(
        rows=0,
        features=0,
        task=Task.LOOP,
        outputs=0,
        source="entrypoint",
        task_reason=f"{loop.steps if ended else steps} steps, yields {', '.join(('loss', *scores))}",
        tensors=tuple(tuple(parameter.shape) for parameter in loop.model.parameters()),
        loop_steps=loop.steps if ended else 0,
        loop_scores=tuple(scores),
    )
    took, done = time.monotonic() - started, loop.steps
    del loop  # the next one may need the memory
    if took < limit_s / 2:
        _try_warpadam(function, seed, config, done, min(limit_s - took, TRY_S))
    return info


def _try_warpadam(
    function: Callable[..., object], seed: int, config: Mapping[str, object], steps: int, limit_s: float
) -> None:
    """Run a training loop with WarpAdam as it ships for at most so many steps and seconds; its losses do not matter."""
    started = time.monotonic()
    loop = OwnLoop(
        function,
        lambda model: build_optimizer("warpadam", model, WarpAdamConfig().to_dict()),
        seed,
        config,
        stops=lambda: time.monotonic() - started > limit_s,
    )
    try:
        for evaluation in loop:
            if evaluation.step >= steps or not math.isfinite(evaluation.loss):
                break
    except EntrypointError as error:
        raise EntrypointError(f"with WarpAdam at its defaults, {error}; with AdamW it runs") from error


def _array(value: object, name: str) -> AnyArray:
    array = _numpy(value, name) if isinstance(value, Tensor) else value
    if not isinstance(array, np.ndarray):
        raise EntrypointError(f"{name} is {_kind(value)}; expected a numpy array")
    if np.ma.is_masked(array):
        raise EntrypointError(f"{name} has masked values; give them a value, such as {name}.filled(0)")
    return np.asarray(array)


def _numpy(tensor: Tensor, name: str) -> AnyArray:
    try:
        array: AnyArray = tensor.numpy(force=True)
    except TypeError as error:
        kind = tensor.dtype if tensor.layout == torch.strided else tensor.layout
        raise EntrypointError(
            f"{name} is a tensor of {kind}, which numpy cannot hold; expected for example torch.float32"
        ) from error
    return array


def _kind(value: object) -> str:
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return "None" if value is None else f"a {type(value).__name__}"


def main(question: Path, answer: Path, folder: Path) -> None:
    """Answer a question; both are JSON files.

    The question has ``info`` (facts about the dataset; null if user code makes it), ``dataset`` and ``model`` (each
    null, or with ``entrypoint`` and ``config``), ``seed``, and for a training loop ``steps`` (null for those of the
    loop) and ``limit_s``. The answer has ``info``, to which the dataset's source or the model's source and the shapes
    of its parameters are added, or ``error`` and the ``part`` that is wrong. The files of the dataset go to ``folder``.
    """
    started = time.monotonic()
    run_on(Settings().cpus_of_slots)
    torch.set_num_threads(1)
    request = json.loads(question.read_text(encoding="utf-8"))
    info = None if request["info"] is None else DatasetInfo.from_json(request["info"])
    content: dict[str, object] = {"part": "dataset"}
    try:
        if (data := request["dataset"]) is not None:
            require_allowed(data["entrypoint"])
            facts, made = make_dataset(load(data["entrypoint"]), request["seed"], data["config"], folder)
            facts.save(folder)
            info = replace(made, sources={data["entrypoint"]: loaded_sha256(data["entrypoint"])})
        content["part"] = "model"
        wanted = request["model"]
        if wanted is not None and (info is not None or wanted["name"] == Task.LOOP):
            require_allowed(wanted["entrypoint"])
            factory = load(wanted["entrypoint"])
        if wanted is not None and wanted["name"] == Task.LOOP:
            limit_s = MOST_OF_THE_LIMIT * request["limit_s"] - (time.monotonic() - started)
            info = try_loop(factory, request["seed"], wanted["config"], request["steps"], limit_s)
            info = replace(info, sources={wanted["entrypoint"]: loaded_sha256(wanted["entrypoint"])})
        elif wanted is not None and info is not None:
            model = make_model(factory, info.row_shape, info.outputs, info.task, wanted["config"])
            shapes = tuple(tuple(parameter.shape) for parameter in model.parameters())
            sources = {**info.sources, wanted["entrypoint"]: loaded_sha256(wanted["entrypoint"])}
            info = replace(info, tensors=shapes, sources=sources)
        content["info"] = None if info is None else asdict(info)
    except EntrypointError as error:
        content["error"] = str(error)
    part = answer.with_suffix(".part")
    part.write_text(json.dumps(content), encoding="utf-8")
    part.replace(answer)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
