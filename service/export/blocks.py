"""The functions of an exported script. ``script.py`` copies their source, and the source of what they use.

The constants, and the functions under ``TYPE_CHECKING``, differ from job to job: ``script.py`` writes those of a job.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from service.optimizers import Config
from service.training.best import BestWeights, Cost, is_out_of_patience
from service.training.loop import report_steps
from service.training.networks import Spec
from service.training.run import EVALUATED_ROWS, Training
from service.training.step import TrainingStep, evaluating, training_loss
from service.training.tasks import ACCURACY, Score, in_units

MODEL: Spec = {}
SHAPE: tuple[int, ...] = ()
SIZES: tuple[int, ...] = ()
CONFIG: Config = {}
TRAINING: Training = Training()
TARGET: str = "y"
STEPS: int = 0
BATCH_SIZE: int = 0
SEED: int = 0
RECORDED: float | None = None
METRIC: str = "accuracy"
RECORDED_SCORE: float | None = None
P_SHA256: str | None = None
P_SEED: int = 0
P_RECORDED: float | None = None
START_SHA256: str | None = None
DATA: str = ""
DATA_SHA256: str | None = None
DEVICE: str = "cpu"
THREADS: int = 1
BEST_BY: str | None = None
SCORE: Score = ACCURACY
BEST_SCORE: float = 1.0
HIGHER_IS_BETTER: bool = True

if TYPE_CHECKING:

    def build_model(spec: Spec, shape: tuple[int, ...], sizes: Sequence[int]) -> nn.Module:
        """Stands for the torch half of the model."""

    def build_optimizer(model: nn.Module, config: Config) -> Optimizer:
        """Stands for the torch half of the optimizer."""

    def plain_loss(output: Tensor, y: Tensor) -> Tensor:
        """Stands for the loss of the task."""

    def make_user_model(shape: tuple[int, ...], outputs: int, task: str, **config: object) -> nn.Module:
        """Stands for the factory of a user's model."""


def build_user_model(spec: Spec, shape: tuple[int, ...], sizes: Sequence[int]) -> nn.Module:
    """Return what your own factory makes, with flat rows brought into the shape of images before it."""
    shape = shape or (sizes[0],)
    model = make_user_model(shape, sizes[-1], spec["task"], **spec["config"])
    return nn.Sequential(nn.Unflatten(1, shape), model) if len(shape) > 1 else model


def make_model() -> nn.Module:
    """Return the model of the job with fresh weights."""
    return build_model(MODEL, SHAPE, SIZES)


def make_optimizer(model: nn.Module, p: Path | None = None) -> Optimizer:
    """Return the recommended optimizer for a model; `p` is a learned P for the same names and shapes, if it has one."""
    optimizer = build_optimizer(model, CONFIG)
    if p is not None:
        from warpadam import load_warp

        load_warp(p).apply(optimizer)  # type: ignore[arg-type]
    return optimizer


def read(content: bytes, sha256: str | None, name: str) -> bytes:
    """Return the content of a file if it belongs to the job."""
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        sys.exit(f"{name} is not the one of the job: its SHA-256 is {found}, expected {sha256}")
    return content


def load_data(folder: Path) -> dict[str, Tensor]:
    """Return the prepared split, from this script or from data.npz next to it."""
    path = folder / "data.npz"
    if DATA:
        content = zlib.decompress(base64.b64decode(DATA))
    elif path.exists():
        content = path.read_bytes()
    else:
        sys.exit(f"there is no {path}: the data of the job is in its zip export")
    with np.load(io.BytesIO(read(content, DATA_SHA256, "the data")), allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[name]).to(DEVICE) for name in arrays.files}


def train(data: dict[str, Tensor], seed: int, p: Path | None = None) -> tuple[float, float]:
    """Train as the job did and return the loss and the score on the test part."""
    torch.manual_seed(seed)
    model = make_model().to(DEVICE)
    optimizer = make_optimizer(model, p)
    x, y = data["x_train"], data[f"{TARGET}_train"]
    loss = training_loss(plain_loss, TRAINING, y, SIZES[-1], DEVICE)
    make_step = TrainingStep(model, optimizer, loss, TRAINING, STEPS, DEVICE)
    order, step, batch_size = torch.Generator().manual_seed(seed), 0, min(BATCH_SIZE, len(x))
    best, points, costs, ended = BestWeights(model), report_steps(STEPS), list[Cost](), False
    while not ended:
        for batch in torch.split(torch.randperm(len(x), generator=order).to(DEVICE), batch_size):
            if ended or (TRAINING.last_batch == "drop" and len(batch) < batch_size):
                break
            make_step(x[batch], y[batch])
            step += 1
            ended = step == STEPS
            if BEST_BY is not None and step == points[len(costs)]:
                costs.append(cost_on_validation(model, data))
                best.add(costs[-1])
                ended = ended or is_out_of_patience(TRAINING.patience, points[: len(costs)], costs)
    if BEST_BY is not None:
        best.restore()
    return evaluate(model, data, "test")


def cost_on_validation(model: nn.Module, data: dict[str, Tensor]) -> Cost:
    """Return what the best point is chosen by: the plain loss, or the distance of the score to a perfect one.

    The plain loss comes second and decides between equal scores.
    """
    loss, score = evaluate(model, data, "val")
    if BEST_BY == "loss" or not math.isfinite(score):
        return loss, loss
    return (BEST_SCORE - score if HIGHER_IS_BETTER else score - BEST_SCORE), loss


def evaluate(model: nn.Module, data: dict[str, Tensor], part: str) -> tuple[float, float]:
    """Return the plain loss and the score on a part of the data; a score that is not defined is NaN."""
    x, y = data[f"x_{part}"], data[f"{TARGET}_{part}"]
    targets = data.get(f"target_{part}", y)
    loss, collected = 0.0, []
    with torch.no_grad(), evaluating(model):
        for piece in torch.split(torch.arange(len(x), device=DEVICE), EVALUATED_ROWS):
            output = model(x[piece])
            loss += len(piece) / len(x) * plain_loss(output, y[piece]).item()
            collected.append(SCORE.collect(in_units(output, data), targets[piece]))
    return loss, SCORE.compute(collected) if math.isfinite(loss) else math.nan


def show(what: str, found: tuple[float, float], loss: float | None, score: float | None = None) -> None:
    """Print a loss and the one that was recorded, then the same of the score if one was."""
    print(f"{what} loss {found[0]:.8f}, recorded " + ("none" if loss is None else f"{loss:.8f}"))  # noqa: T201
    if score is not None:
        print(f"{what} {METRIC} {found[1]:.8f}, recorded {score:.8f}")  # noqa: T201


def main() -> None:
    """Train as the job did, and then from the learned P if there is one."""
    torch.set_num_threads(THREADS)
    folder = Path(__file__).resolve().parent
    data, p, start = load_data(folder), folder / "p.safetensors", folder / "start.safetensors"
    if START_SHA256 is None:
        show("test", train(data, SEED), RECORDED, RECORDED_SCORE)
    elif start.exists():
        read(start.read_bytes(), START_SHA256, "start.safetensors")
        show("test", train(data, SEED, start), RECORDED, RECORDED_SCORE)
    else:
        print(f"the recorded run starts from an earlier job's P: {start} is in the zip export")  # noqa: T201
    if P_SHA256 is not None and p.exists():
        read(p.read_bytes(), P_SHA256, "p.safetensors")
        show("from the learned P: test", train(data, P_SEED, p), P_RECORDED)
