"""The scenarios: for each axis, a few tasks on which only this axis changes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from benchmarks.atlas.data import CONDITION

DATA: Final = "benchmarks.atlas.data"

BUDGET: Final = {"trials_per_arm": 8, "steps": 300, "batch_size": 64}
CONFIRM: Final = {"top_k": 3, "seeds": 6}
MLP: Final = {"name": "mlp", "hidden": [64, 64], "activation": "relu"}


@dataclass(frozen=True)
class Scenario:
    """One job.

    Attributes:
        axis: What changes between the scenarios of a group.
        task: What stays: the data and the model, in a few words.
        value: The value on the axis.
        fields: The spec, without its name.
        text: Whether the dataset is the text of Python's help pages, which is uploaded first.
        carried_from: Name of the scenario whose P this one starts from.
    """

    axis: str
    task: str
    value: str
    fields: Mapping[str, Any]
    text: bool = False
    carried_from: str | None = None

    @property
    def name(self) -> str:
        """Name of the scenario, and of its job."""
        return f"{self.axis}: {self.task}, {self.value}"

    @property
    def group(self) -> str:
        """Scenarios that differ in the value only."""
        return f"{self.axis}: {self.task}"

    @property
    def data(self) -> str:
        """What it is trained on."""
        dataset = self.fields["dataset"]
        function = str(dataset.get("entrypoint", "help pages")).rpartition(":")[2]
        named = dataset.get("name") or dataset.get("config", {}).get("name")
        return str(named or {"teacher": "made", "noisy_digits": "digits"}.get(function, function))

    @cached_property
    def key(self) -> str:
        """What its result is stored under: it changes when the spec does. Equal jobs on two axes run once."""
        content = json.dumps([self.fields, self.text, self.carried_from], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]


def made(**config: Any) -> dict[str, Any]:
    """Return the dataset of the teacher."""
    return {"entrypoint": f"{DATA}:teacher", "config": config}


def table(name: str, **config: Any) -> dict[str, Any]:
    """Return a public table."""
    return {"entrypoint": f"{DATA}:public_table", "config": {"name": name, **config}}


def digits(**config: Any) -> dict[str, Any]:
    """Return the digits as rows of 64 numbers."""
    return {"entrypoint": f"{DATA}:noisy_digits", "config": {"images": False, **config}}


def mlp(*hidden: int, activation: str = "relu") -> dict[str, Any]:
    """Return a multi-layer perceptron."""
    return {"name": "mlp", "hidden": list(hidden), "activation": activation}


def job(dataset: Mapping[str, Any], model: Mapping[str, Any] = MLP, **budget: int) -> dict[str, Any]:
    """Return the fields of a spec."""
    return {"dataset": dict(dataset), "model": dict(model), "budget": {**BUDGET, **budget}, "confirm": dict(CONFIRM)}


def _noise() -> Iterator[Scenario]:
    for size in (4, 16, 64, 256):
        yield Scenario("batch size", "made regression", str(size), job(made(), batch_size=size))
        yield Scenario("batch size", "digits", str(size), job(digits(), batch_size=size))
        yield Scenario("batch size", "diamond prices", str(size), job(table("diamonds"), batch_size=size))
    for noise in (0.0, 0.3, 1.0, 3.0):
        yield Scenario("noise in the target", "made regression", str(noise), job(made(noise=noise)))
    for share in (0.0, 0.1, 0.3):
        yield Scenario("wrong labels", "digits", f"{share:.0%}", job(digits(flipped=share)))


def _shapes() -> Iterator[Scenario]:
    for condition in (1.0, 10.0, 100.0, 1_000.0, 10_000.0):
        dataset = made() if condition == CONDITION else made(condition=condition)
        yield Scenario("conditioning", "made regression", f"{condition:g}", job(dataset))
    for layers in (1, 2, 4, 8):
        model = mlp(*[32] * layers, activation="tanh")
        yield Scenario("depth", "made regression", str(layers), job(made(), model))
        yield Scenario("depth", "digits", str(layers), job(digits(), model))
    for width in (8, 32, 128, 256):
        yield Scenario("width", "made regression", str(width), job(made(), mlp(width, width)))
        yield Scenario("width", "digits", str(width), job(digits(), mlp(width, width)))


def _amounts() -> Iterator[Scenario]:
    for rows in (100, 400, 1600, 6000):
        yield Scenario("rows", "made regression", str(rows), job(made(rows=rows)))
        yield Scenario("rows", "gamma rays", str(rows), job(table("magic", rows=rows)))
    for steps in (50, 200, 800, 2400):
        yield Scenario("length of training", "made regression", str(steps), job(made(), steps=steps))
        yield Scenario("length of training", "diamond prices", str(steps), job(table("diamonds"), steps=steps))


def _networks() -> Iterator[Scenario]:
    for activation in ("relu", "tanh", "gelu", "silu"):
        yield Scenario("activation", "made regression", activation, job(made(), mlp(64, 64, activation=activation)))
        autoencoder = {"name": "autoencoder", "activation": activation}
        yield Scenario("activation", "autoencoder of digits", activation, job({"name": "digits"}, autoencoder))
    for norm in ("none", "layer", "batch"):
        model = {"name": "entrypoint", "entrypoint": "benchmarks.atlas.models:normed_mlp", "config": {"norm": norm}}
        yield Scenario("normalisation", "made regression", norm, job(made(), model))
        yield Scenario("normalisation", "digits", norm, job(digits(), model))
    yield Scenario("architecture", "digits", "convnet", job({"name": "digits"}, {"name": "convnet"}))
    yield Scenario("architecture", "digits", "resnet", job({"name": "digits"}, {"name": "resnet", "width": 8}))
    for equation in ("poisson_2d", "burgers"):
        pinn = {"name": "pinn", "equation": equation}
        yield Scenario("architecture", "equations", equation, job({"name": equation}, pinn))
    transformer = {"name": "transformer", "width": 32, "context": 32}
    yield Scenario("architecture", "help pages", "transformer", job({}, transformer, batch_size=16), text=True)


def _tables() -> Iterator[Scenario]:
    for name in ("wine", "breast_cancer", "diabetes"):
        yield Scenario("table", "bundled", name, job({"name": name}))
    for name in ("vehicle", "satimage", "phoneme", "german", "penbased", "houses", "deliveries", "wage", "churn"):
        yield Scenario("table", "public", name, job(table(name)))


def _carried() -> Iterator[Scenario]:
    """A P that was learned on one task and starts another one, which is more and more unlike it."""
    learns = {"overrides": {"structure": "kronecker", "learner": "whitening"}}
    source = Scenario("carried P", "made regression", "source", job(made()) | {"search_space": learns})
    yield source
    for turn in (0.0, 30.0, 60.0, 90.0):
        fields = job(made(turn=turn))
        yield Scenario("carried P", "made regression", f"{turn:.0f} degrees", fields, carried_from=source.name)


SCENARIOS: Final = (*_noise(), *_shapes(), *_amounts(), *_networks(), *_tables(), *_carried())
"""All of them; a source comes before what is carried from it."""
