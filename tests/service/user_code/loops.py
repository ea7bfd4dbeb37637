# Training loops, good ones and one for each way to break the contract.
from __future__ import annotations

import atexit
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

Make = Callable[..., torch.optim.Optimizer]

X = torch.linspace(-1, 1, 48).reshape(12, 4)


def fit(make_optimizer: Make, seed: int, *, steps: int = 12, every: int = 2, name: str = "loss") -> Iterator[Any]:
    """Fit a line; the losses depend on the seed and on the optimizer alone."""
    model = nn.Linear(4, 2)
    optimizer = make_optimizer(model)
    for step in range(1, steps + 1):
        step_on(model, optimizer)
        if step % every == 0:
            loss = loss_of(model)
            yield {name: loss, "accuracy": torch.exp(-loss.detach())} if name != "plain" else loss


def loss_of(model: nn.Module) -> torch.Tensor:
    loss: torch.Tensor = (model(X) - X[:, :2]).square().mean()
    return loss


def step_on(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    loss_of(model).backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def started(make: Make) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Linear(4, 2)
    optimizer = make(model)
    step_on(model, optimizer)
    return model, optimizer


def prints(make_optimizer: Make, seed: int) -> Iterator[Any]:
    """Tell the terminal how it goes, as most loops do, also past Python and at the end of the process."""
    atexit.register(print, "done")
    for step, loss in enumerate(fit(make_optimizer, seed)):
        print("epoch", step)
        os.write(1, b"from a library in C\n")
        yield loss


def yields(make_optimizer: Make, seed: int, *, what: str) -> Iterator[Any]:
    started(make_optimizer)
    yield {
        "nan": float("nan"),
        "a text": "0.3",
        "nothing": None,
        "true": True,
        "many": np.ones(2),
        "no loss": {"accuracy": 0.5},
        "a typo": {"loss": 0.5, "acuracy": 0.5},
        "a text in a dict": {"loss": 0.5, "accuracy": "high"},
        "a list": [0.1],
        "too large": -(10**5000),
    }[what]


def yields_score(make_optimizer: Make, seed: int, *, metric: str, score: object) -> Iterator[Any]:
    """Yield a score as it is given, beside a loss."""
    started(make_optimizer)
    yield {"loss": 0.5, metric: score}


def yields_score_once(make_optimizer: Make, seed: int) -> Iterator[Any]:
    """Yield an accuracy, and later a loss alone."""
    model, optimizer = started(make_optimizer)
    yield {"loss": 0.5, "accuracy": 0.5}
    step_on(model, optimizer)
    yield {"loss": 0.25}


def yields_numbers_of_other_libraries(make_optimizer: Make, seed: int) -> Iterator[Any]:
    model, optimizer = started(make_optimizer)
    for value in (np.float32(0.5), np.array([0.25]), torch.tensor(0.125, requires_grad=True), 1):
        yield value
        step_on(model, optimizer)


def never_yields(make_optimizer: Make, seed: int) -> Iterator[float]:
    started(make_optimizer)
    yield from ()


def returns_nothing(make_optimizer: Make, seed: int) -> None:
    started(make_optimizer)


def returns_a_number(make_optimizer: Make, seed: int) -> float:
    return loss_of(started(make_optimizer)[0]).item()


def returns_a_list(make_optimizer: Make, seed: int) -> list[float]:
    return [loss.item() for loss in fit(make_optimizer, seed, name="plain")]


def returns_an_array(make_optimizer: Make, seed: int, *, kind: str) -> Any:
    found = returns_a_list(make_optimizer, seed)
    return {"numpy": np.array, "torch": torch.tensor, "pandas": pd.Series}[kind](found)


def returns_many(make_optimizer: Make, seed: int, *, steps: int, count: int) -> list[float]:
    model, optimizer = started(make_optimizer)
    for _ in range(steps - 1):
        step_on(model, optimizer)
    return [0.5] * count


def returns_other(make_optimizer: Make, seed: int) -> Iterable[torch.Tensor]:
    return map(torch.Tensor.detach, fit(make_optimizer, seed, name="plain"))


def raises(make_optimizer: Make, seed: int) -> Iterator[float]:
    started(make_optimizer)
    raise RuntimeError("no such table")
    yield 0.5


def leaves(make_optimizer: Make, seed: int) -> Iterator[float]:
    sys.exit("gone")
    yield 0.5


def dies(make_optimizer: Make, seed: int) -> Iterator[float]:
    os._exit(7)
    yield 0.5


def takes_too_little(make_optimizer: Make) -> Iterator[float]:
    yield 0.5


def own_optimizer(make_optimizer: Make, seed: int) -> Iterator[float]:
    model = nn.Linear(4, 2)
    step_on(model, torch.optim.SGD(model.parameters()))
    yield loss_of(model).item()


def no_steps(make_optimizer: Make, seed: int) -> Iterator[float]:
    make_optimizer(nn.Linear(4, 2))
    while True:
        yield 0.5


def two_models(make_optimizer: Make, seed: int) -> Iterator[float]:
    started(make_optimizer)
    started(make_optimizer)
    yield 0.5


def optimizes(make_optimizer: Make, seed: int, *, what: str) -> Iterator[float]:
    model = nn.Linear(4, 2)
    parameters = {
        "a number": 3,
        "groups": [{"params": list(model.parameters())}],
        "nothing": nn.Flatten(),
        "frozen": model.requires_grad_(False).parameters(),
        "a name twice": [("a", model.weight), ("a", model.bias)],
    }[what]
    make_optimizer(parameters)
    yield 0.5


def evaluates_twice(make_optimizer: Make, seed: int) -> Iterator[float]:
    model, _ = started(make_optimizer)
    yield loss_of(model).item()
    yield loss_of(model).item()


def evaluates_first(make_optimizer: Make, seed: int) -> Iterator[float]:
    model = nn.Linear(4, 2)
    optimizer = make_optimizer(model.named_parameters())
    yield loss_of(model).item()
    step_on(model, optimizer)
    yield loss_of(model).item()


def unfreezes(make_optimizer: Make, seed: int, *, named: bool = False) -> Iterator[float]:
    """Train the head first and add the body later; yield how far the body has moved."""
    body, head = nn.Linear(4, 4), nn.Linear(4, 2)
    optimizer, model, start = make_optimizer(head), nn.Sequential(body, head), body.weight.detach().clone()
    step_on(model, optimizer)
    yield (body.weight - start).abs().sum().item()
    optimizer.add_param_group({"params": body.named_parameters() if named else body.parameters()})
    for _ in range(3):
        step_on(model, optimizer)
    yield (body.weight - start).abs().sum().item()


def has_complex_parameters(make_optimizer: Make, seed: int) -> Iterator[float]:
    """AdamW takes them, WarpAdam does not."""
    scale = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    optimizer = make_optimizer([scale])
    (scale * scale.conj()).real.sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    yield 0.5


def is_endless(make_optimizer: Make, seed: int) -> Iterator[float]:
    model, optimizer = started(make_optimizer)
    while True:
        try:
            step_on(model, optimizer)
        except Exception:  # noqa: BLE001 - such loops exist, and are stopped all the same
            time.sleep(0.1)
        yield loss_of(model).item()


def evaluates_late(make_optimizer: Make, seed: int) -> Iterator[float]:
    model, optimizer = started(make_optimizer)
    while True:
        step_on(model, optimizer)
    yield 0.5


def loads_in_processes(make_optimizer: Make, seed: int) -> Iterator[float]:
    """A DataLoader with a process of its own."""
    model = nn.Linear(4, 2)
    optimizer = make_optimizer(model)
    for (_rows,) in DataLoader(TensorDataset(X), batch_size=6, num_workers=1):
        step_on(model, optimizer)
        yield loss_of(model).item()


def forks(make_optimizer: Make, seed: int, *, how: str) -> Iterator[float]:
    """Fork a process that leaves in some way, and yield its exit code."""
    started(make_optimizer)
    child = os.fork()
    if child:
        yield os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    elif how == "raises":
        raise RuntimeError("it is broken")
    elif how == "yields":
        yield -1.0
    elif how != "returns":
        sys.exit({"done": None, "failed": 3, "says why": "it is broken"}[how])


def changes_modes(make_optimizer: Make, seed: int) -> Iterator[float]:
    """Change what holds for the whole process, and change it back when it goes on."""
    model, optimizer = started(make_optimizer)
    here = Path.cwd()
    while True:
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        torch.use_deterministic_algorithms(True)
        torch.autograd.set_detect_anomaly(True)
        os.chdir("/")
        yield 0.5
        os.chdir(here)
        torch.autograd.set_detect_anomaly(False)
        torch.use_deterministic_algorithms(False)
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
        torch.set_grad_enabled(True)
        step_on(model, optimizer)
