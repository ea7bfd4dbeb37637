"""Which learning rates to try, which was best, and when a run reached the loss at which AdamW ends."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest

from benchmarks.gpu.jobs import Figures
from benchmarks.gpu.optimizers import ADAMW, TRAINED


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """The best run of one optimizer.

    Attributes:
        lr: Its learning rate.
        tried: Number of learning rates that were tried.
        at_end: Whether ``lr`` is the highest or lowest of them, so that another one may be better.
        loss: The last validation loss.
        seconds: Of the whole training.
        steps_to_target: Steps at the first validation with at most AdamW's last loss; None if there was none.
        seconds_to_target: The seconds of training until then.
        peak_gib: The most memory during training; None on the CPU.
    """

    lr: float
    tried: int
    at_end: bool
    loss: float
    seconds: float
    steps_to_target: int | None
    seconds_to_target: float | None
    peak_gib: float | None


def job_name(name: str, lr: float) -> str:
    """Return the job that trains with an optimizer at a learning rate."""
    return f"{name} @ {lr:g}"


def split_job(job: str) -> tuple[str, float]:
    """Return the optimizer and the learning rate of a job."""
    name, _, lr = job.rpartition(" @ ")
    return name, float(lr)


def first_jobs() -> list[str]:
    """Return the runs of all optimizers: each at its most likely lr first, then at the others."""
    columns = ([job_name(name, lr) for lr in contender.lrs] for name, contender in TRAINED.items())
    return [job for together in zip_longest(*columns) for job in together if job is not None]


def further_jobs(runs: Mapping[str, Figures]) -> list[str]:
    """Return one more run for every optimizer whose best lr is the highest or lowest of those tried.

    Args:
        runs: What ``training`` found, by job.
    """
    jobs = []
    for name in TRAINED:
        losses = _last_losses(name, runs)
        if len(losses) >= len(TRAINED[name].lrs):
            best = min(losses, key=losses.__getitem__)
            jobs += [job_name(name, best * 2)] if best == max(losses) else []
            jobs += [job_name(name, best / 2)] if best == min(losses) else []
    return jobs


def best_runs(runs: Mapping[str, Figures]) -> dict[str, Trained | str]:
    """Return the best run of every optimizer, or in words why there is none.

    Args:
        runs: What ``training`` found, by job.
    """
    target = min(_last_losses(ADAMW, runs).values(), default=-math.inf)
    return {name: _best(name, runs, target) for name in TRAINED}


def _last_losses(name: str, runs: Mapping[str, Figures]) -> dict[float, float]:
    """Return the last loss at each lr that was tried, infinite where the run diverged."""
    own = {lr: run for (found, lr), run in ((split_job(job), run) for job, run in runs.items()) if found == name}
    return {lr: math.inf if run["diverged"] else run["curve"][-1][2] for lr, run in own.items() if "error" not in run}


def _best(name: str, runs: Mapping[str, Figures], target: float) -> Trained | str:
    losses = _last_losses(name, runs)
    if not losses:
        return next(str(run["error"]) for job, run in runs.items() if split_job(job)[0] == name)
    lr = min(losses, key=losses.__getitem__)
    if losses[lr] == math.inf:
        return f"diverged at every lr: {', '.join(f'{lr:g}' for lr in losses)}"
    run = runs[job_name(name, lr)]
    steps, seconds = next(((steps, seconds) for steps, seconds, loss in run["curve"] if loss <= target), (None, None))
    return Trained(
        lr=lr,
        tried=len(losses),
        at_end=lr in (min(losses), max(losses)),
        loss=losses[lr],
        seconds=run["curve"][-1][1],
        steps_to_target=steps,
        seconds_to_target=seconds,
        peak_gib=run["peak_gib"],
    )
