"""Try changes of WarpAdam's update on the design part of the benchmark, with paired seeds.

Run::

    python -m benchmarks.optimizers.ideas [--out FILE] [--seeds 3] [--ideas NAME ...]
    python -m benchmarks.optimizers.ideas --report

An idea changes what a step does to the weights, by hooks around ``optimizer.step()``; the optimizer itself stays as it
is. Every idea, and WarpAdam as it is, trains with the tuned values of ``results/optimizers.json`` and with its lr at
0.7, 1 and 1.4 times the tuned one, so that a longer or shorter step is not mistaken for a better one. The figure of a
task is the best of the three mean log losses, over that of WarpAdam as it is. A finished run is a line of the results
file, so the same command continues after Ctrl-C.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor
from torch.linalg import vector_norm
from torch.optim import Optimizer

from benchmarks.optimizers.arms import WARPADAM
from benchmarks.optimizers.physics import TASKS as PHYSICS
from benchmarks.optimizers.tabular import TASKS as TABULAR
from benchmarks.optimizers.training import GradientTask, Problem, train
from benchmarks.optimizers.transformer import TASKS as TRANSFORMER
from service.recommend.verdict import compare
from service.running.arm_study import NO_LOSS

RESULTS: Final = Path(__file__).parent / "results"

LR_FACTORS: Final = (0.7, 1.0, 1.4)

FIRST_SEED: Final = 7_000

TASKS: Final = (*TABULAR, *PHYSICS, *(replace(task, steps=100) for task in TRANSFORMER))
"""Few-shot digits are left out, because P is learned on other tasks there. The transformer trains for a third of its
steps."""

_WHITENING: Final = {
    "strategy": "kronecker/pre/whitening",
    "beta1": 0.9,
    "beta2": 0.95,
    "cov_beta": 0.95,
    "meta_every": 2,
}

WHITENED: Final[dict[str, dict[str, Any]]] = {
    "breast_cancer": {**_WHITENING, "lr": 0.02, "weight_decay": 0.1, "p_lr": 0.0, "p_decay": 0.0},
    "diabetes": {**_WHITENING, "lr": 0.008, "weight_decay": 0.01, "p_lr": 0.0, "p_decay": 0.0},
}
"""Values for the tasks on which another learner was the best: the ideas are about whitening."""

Idea: TypeAlias = Callable[[Problem, Optimizer], Problem]
"""Registers hooks with the optimizer. Returns the problem, or one whose losses it watches or changes."""

Reshape: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Takes the move of a matrix, without decay, and its gradient, both rows x columns. Returns another move."""


def as_it_is(problem: Problem, _optimizer: Optimizer) -> Problem:
    """Change nothing."""
    return problem


def reshaped(reshape: Reshape) -> Idea:
    """Return the idea that changes the move of every matrix that has a P."""

    def register(problem: Problem, optimizer: Optimizer) -> Problem:
        before: dict[Tensor, Tensor] = {}
        optimizer.register_step_pre_hook(lambda *_: before.update(_copies(optimizer)))

        @torch.no_grad()
        def change(*_: Any) -> None:
            for param, lr, decay in _parameters(optimizer):
                if param.grad is not None and _has_p(optimizer, param):
                    start = before[param] * (1 - lr * decay)
                    move = reshape((param - start).flatten(1), param.grad.flatten(1))
                    param.copy_(start + move.view_as(param))

        optimizer.register_step_post_hook(change)
        return problem

    return register


def polar(move: Tensor, _grad: Tensor) -> Tensor:
    """Give the move its polar factor, whose singular values are all alike, and leave its length."""
    if move.norm() == 0:
        return move
    left, _, right = torch.linalg.svd(move, full_matrices=False)
    factor: Tensor = left @ right
    scale: Tensor = vector_norm(move) / vector_norm(factor)
    return factor * scale


def half_polar(move: Tensor, grad: Tensor) -> Tensor:
    """Go half of the way to the polar factor."""
    return (move + polar(move, grad)) / 2


def equal_rows(move: Tensor, _grad: Tensor) -> Tensor:
    """Give every row of the move the same length."""
    rows = move.norm(dim=1, keepdim=True)
    equal: Tensor = torch.where(rows > 0, move / rows, 0.0)
    scale: Tensor = (vector_norm(move) / vector_norm(equal)).nan_to_num_(0.0)
    return equal * scale


def row_floor(move: Tensor, _grad: Tensor) -> Tensor:
    """Lengthen rows that are shorter than half of the mean, and leave the length of the move."""
    rows = move.norm(dim=1, keepdim=True)
    floor = 0.5 * rows.mean()
    lifted: Tensor = torch.where(rows > 0, move * (torch.maximum(rows, floor) / rows), 0.0)
    scale: Tensor = (vector_norm(move) / vector_norm(lifted)).nan_to_num_(0.0)
    return lifted * scale


def cautious(move: Tensor, grad: Tensor) -> Tensor:
    """Leave out elements that move uphill (Liang et al. 2024, arXiv 2411.16085)."""
    kept = (move * grad < 0).to(move.dtype)
    return move * kept / kept.mean().clamp_min(1e-3)


def cautious_decay(problem: Problem, optimizer: Optimizer) -> Problem:
    """Decay only weights that the move makes smaller (Chen et al. 2025, arXiv 2510.12402)."""
    before: dict[Tensor, Tensor] = {}
    optimizer.register_step_pre_hook(lambda *_: before.update(_copies(optimizer)))

    @torch.no_grad()
    def change(*_: Any) -> None:
        for param, lr, decay in _parameters(optimizer):
            start = before[param]
            move = param - start * (1 - lr * decay)
            param.copy_(start * (1 - lr * decay * (move * start < 0)) + move)

    optimizer.register_step_post_hook(change)
    return problem


def fixed_norm(problem: Problem, optimizer: Optimizer) -> Problem:
    """Keep the norm of every hidden matrix as it was at the start (Hyperball, arXiv 2606.16899)."""
    *hidden, _output = [param for param in problem.model.parameters() if param.ndim > 1]
    norms = {param: param.detach().norm() for param in hidden}

    @torch.no_grad()
    def change(*_: Any) -> None:
        for param, norm in norms.items():
            param.mul_((norm / param.norm()).nan_to_num_(1.0))

    optimizer.register_step_post_hook(change)
    return problem


def averaged(problem: Problem, optimizer: Optimizer) -> Problem:
    """Judge the running mean of the weights over about the last 20 steps."""
    means = {param: param.detach().clone() for param in problem.model.parameters()}

    @torch.no_grad()
    def follow(*_: Any) -> None:
        for param, mean in means.items():
            mean.lerp_(param, 0.1)

    @torch.no_grad()
    def loss_of_means() -> float:
        trained = {param: param.clone() for param in means}
        for param, mean in means.items():
            param.copy_(mean)
        loss = problem.validation_loss()
        for param, value in trained.items():
            param.copy_(value)
        return loss

    optimizer.register_step_post_hook(follow)
    return replace(problem, validation_loss=loss_of_means)


def corrected_gradient(problem: Problem, optimizer: Optimizer) -> Problem:
    """Add a part of the gradient's change, as MARS does (Yuan et al. 2024, arXiv 2411.10438, the cheap form)."""
    last: dict[Tensor, Tensor] = {}

    @torch.no_grad()
    def correct(*_: Any) -> None:
        for param, _lr, _decay in _parameters(optimizer):
            if param.grad is not None:
                grad = param.grad.clone()
                beta1 = optimizer.param_groups[0]["betas"][0]
                param.grad.add_(grad - last.get(param, grad), alpha=0.025 * beta1 / (1 - beta1))
                last[param] = grad

    optimizer.register_step_pre_hook(correct)
    return problem


def capped_by_loss(problem: Problem, optimizer: Optimizer) -> Problem:
    """Shorten a step that would lower the loss below zero if it were linear (after Momo, arXiv 2305.07583)."""
    before: dict[Tensor, Tensor] = {}
    last = torch.zeros(())

    def watched() -> Tensor:
        loss = problem.batch_loss()
        last.copy_(loss.detach())
        return loss

    optimizer.register_step_pre_hook(lambda *_: before.update(_copies(optimizer)))

    @torch.no_grad()
    def shorten(*_: Any) -> None:
        gain = -sum(((param - old) * param.grad).sum() for param, old in before.items() if param.grad is not None)
        share = float(last / gain) if gain > 0 else 1.0
        for param, old in before.items() if share < 1 else ():
            param.copy_(old + share * (param - old))

    optimizer.register_step_post_hook(shorten)
    return replace(problem, batch_loss=watched)


IDEAS: Final[dict[str, Idea]] = {
    "as it is": as_it_is,
    "polar factor": reshaped(polar),
    "half polar factor": reshaped(half_polar),
    "equal rows": reshaped(equal_rows),
    "row floor": reshaped(row_floor),
    "cautious update": reshaped(cautious),
    "cautious decay": cautious_decay,
    "fixed norm": fixed_norm,
    "averaged weights": averaged,
    "corrected gradient": corrected_gradient,
    "capped by loss": capped_by_loss,
}


def _copies(optimizer: Optimizer) -> dict[Tensor, Tensor]:
    return {param: param.detach().clone() for param, _lr, _decay in _parameters(optimizer)}


def _parameters(optimizer: Optimizer) -> Iterator[tuple[Tensor, float, float]]:
    """Yield every parameter with the lr and weight decay of its group."""
    for group in optimizer.param_groups:
        for param in group["params"]:
            yield param, float(group["lr"]), float(group["weight_decay"])


def _has_p(optimizer: Optimizer, param: Tensor) -> bool:
    return param.ndim > 1 and any(name.endswith("_factor") for name in optimizer.state[param])


def loss_of(task: GradientTask, values: dict[str, Any], idea: Idea, factor: float, seed: int) -> float:
    """Train once and return the validation loss at the last step; ``NO_LOSS`` if the run diverged."""
    torch.manual_seed(seed)
    problem = task.problem(seed)
    scaled = WARPADAM.scaled(values, factor)
    (optimizer,) = WARPADAM.optimizers(problem.model, scaled, task.steps, task.warm_up)
    problem = idea(problem, optimizer)
    curve = train(problem, [optimizer], task.steps, lambda step: WARPADAM.lr_factor(step, task.steps, task.warm_up))
    return min(curve.final, NO_LOSS)


def tuned_values() -> dict[str, dict[str, Any]]:
    """Return the values to train with, by task: the tuned ones, or those of ``WHITENED``."""
    tasks = json.loads((RESULTS / "optimizers.json").read_text())["tasks"]
    return {task.name: WHITENED.get(task.name) or tasks[task.name][WARPADAM.name]["best"] for task in TASKS}


def finished(path: Path) -> dict[tuple[str, str, float, int], float]:
    """Return the losses of the runs in a results file, by idea, task, lr factor and seed."""
    lines = map(json.loads, path.read_text().splitlines() if path.exists() else [])
    return {(line["idea"], line["task"], line["factor"], line["seed"]): line["loss"] for line in lines}


def run(path: Path, seeds: int, names: list[str]) -> None:
    """Train whatever the results file does not have yet, task by task within a seed."""
    done, values = finished(path), tuned_values()
    for seed, task, name in itertools.product(range(FIRST_SEED, FIRST_SEED + seeds), TASKS, names):
        for factor in LR_FACTORS:
            if (name, task.name, factor, seed) not in done:
                loss = loss_of(task, values[task.name], IDEAS[name], factor, seed)
                line = {"idea": name, "task": task.name, "factor": factor, "seed": seed, "loss": loss}
                with path.open("a") as file:
                    file.write(json.dumps(line) + "\n")


def report(path: Path) -> str:
    """Return the table: for each idea its ratio on every task, the geometric mean, and the p-value over tasks."""
    done = finished(path)
    seeds = sorted({seed for *_, seed in done})
    names = [task.name for task in TASKS]
    lines = ["| idea | " + " | ".join(names) + " | mean | p |", "|---" * (len(names) + 3) + "|"]
    for idea in IDEAS:
        ratios = {}
        for name in names:
            best = [_best_of_lrs(done, which, name, seeds) for which in (idea, "as it is")]
            if None not in best:
                ratios[name] = best[0] - best[1]  # type: ignore[operator]
        if idea != "as it is" and ratios:
            logs = list(ratios.values())
            # the exact sign-flip test over tasks: is the idea better?
            p_better = compare([0.0] * len(logs), logs, min_effect=0.0).p_helps if len(logs) > 1 else math.nan
            cells = [f"{math.exp(ratios[name]):.3f}" if name in ratios else "" for name in names]
            lines.append(
                f"| {idea} | " + " | ".join(cells) + f" | {math.exp(statistics.fmean(logs)):.3f} | {p_better:.2f} |"
            )
    return "\n".join(lines)


def _best_of_lrs(
    done: dict[tuple[str, str, float, int], float], idea: str, task: str, seeds: list[int]
) -> float | None:
    """Return the lowest mean log loss over the lrs, or None if a run is missing."""
    means = []
    for factor in LR_FACTORS:
        losses = [done.get((idea, task, factor, seed)) for seed in seeds]
        if None in losses:
            return None
        means.append(statistics.fmean(math.log(loss) for loss in losses if loss is not None))
    return min(means)


def main() -> None:
    """Run, or print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.optimizers.ideas",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "ideas.jsonl", help="results file")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each idea and lr (default: %(default)s)")
    parser.add_argument("--ideas", nargs="+", default=list(IDEAS), choices=list(IDEAS), metavar="NAME")
    parser.add_argument("--report", action="store_true", help="print the table and run nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if not args.report:
        run(args.out, args.seeds, args.ideas)
    print(report(args.out))


if __name__ == "__main__":
    main()
