# The recommended config as a file: plain data for other programs, or a script that trains the job's model with it and
# holds the loss it gets against the one that was recorded.
"""Exports of a recommendation."""

from __future__ import annotations

import json
import pprint
from enum import StrEnum
from itertools import pairwise
from string import Template
from typing import Any, Final

import yaml

from service.arms import Role
from service.db.models import Job, RecommendationRow
from service.errors import ConflictError
from service.plan import JobPlan, make_plan
from service.schemas import JobSpec
from service.training.catalog import Task
from service.version import VERSION


class ExportFormat(StrEnum):
    """Form of an export."""

    JSON = "json"
    YAML = "yaml"
    PYTHON = "python"

    @property
    def suffix(self) -> str:
        """Ending of the file's name."""
        return "py" if self is ExportFormat.PYTHON else str(self)

    @property
    def media_type(self) -> str:
        """MIME type of the file."""
        return "text/x-python" if self is ExportFormat.PYTHON else f"application/{self}"


OPTIMIZERS: Final = {
    "warpadam": ("warpadam", "WarpAdam", "WarpAdam(model.named_parameters(), **CONFIG)"),
    "adamw": ("torch.optim", "AdamW", "AdamW(model.parameters(), **CONFIG)"),
    **{
        name: ("service.training.optimizers", "build_optimizer", f'build_optimizer("{name}", model, CONFIG)')
        for name in ("muon", "soap", "sgd")
    },
}
"""Optimizer -> where it comes from, what is imported, and the call that makes it."""

MODULES: Final = {"relu": "ReLU", "tanh": "Tanh", "gelu": "GELU", "silu": "SiLU"}
LOSSES: Final = {
    Task.CLASSIFICATION: "cross_entropy",
    Task.REGRESSION: "mse_loss",
    Task.AUTOENCODING: "mse_loss",
}

SCRIPT: Final = Template('''\
"""Recommended optimizer of $job_id: $arm, verdict $verdict.

Import make_optimizer to use it on your own model. Run as a script, this trains the model of the job on its data, split
and first confirmation seed, and prints the test loss that it reaches beside the one that was recorded. Made by
warptune $version, which it needs installed.
"""

import torch
from torch import nn
from torch.nn import functional

from service.training.datasets import prepare
from $module import $optimizer

CONFIG = $config
STEPS, BATCH_SIZE, SEED = $steps, $batch_size, $seed


def make_model() -> nn.Module:
    """Return the model of the job with fresh weights."""
    return nn.Sequential(
$layers
    )


def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """Return the recommended optimizer for the parameters of a model."""
    return $call


def main() -> None:
    """Train as the job did."""
    torch.set_num_threads($threads)
    split = prepare("$dataset", seed=$data_seed)
    x, x_test = torch.from_numpy(split.x_train), torch.from_numpy(split.x_test)
    y, y_test = $targets
    torch.manual_seed(SEED)
    model = make_model()
    optimizer = make_optimizer(model)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: $factor)
    order, batch_size, step = torch.Generator().manual_seed(SEED), min(BATCH_SIZE, len(x)), 0
    while step < STEPS:
        for rows in torch.split(torch.randperm(len(x), generator=order), batch_size):
            if len(rows) < batch_size or step == STEPS:
                break
            loss = functional.$loss(model(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            step += 1
    with torch.no_grad():
        test_loss = functional.$loss(model(x_test), y_test).item()
    print(f"test loss {test_loss:.8f}, recorded $recorded")


if __name__ == "__main__":
    main()
''')


def render(job: Job, row: RecommendationRow, fmt: ExportFormat) -> str:
    """Return the text of an export.

    Args:
        job: The job.
        row: Its recommendation.
        fmt: Form of the text.

    Raises:
        ConflictError: A script of a job on a family of tasks.
    """
    if fmt is ExportFormat.PYTHON:
        plan = make_plan(JobSpec.model_validate(job.spec))
        if plan.spec.family is not None:
            raise ConflictError("a job on a family of tasks has no script; json and yaml have its config")
        return _script(plan, row)
    document = _document(job, row)
    if fmt is ExportFormat.YAML:
        return str(yaml.safe_dump(document, sort_keys=False))
    return json.dumps(document, indent=2) + "\n"


def _document(job: Job, row: RecommendationRow) -> dict[str, Any]:
    module, optimizer, _ = OPTIMIZERS[make_plan(JobSpec.model_validate(job.spec)).arm(row.arm).optimizer]
    return {
        "job": job.id,
        "name": job.name,
        "verdict": row.verdict,
        "reason": row.data["reason"],
        "optimizer": f"{module}.{optimizer}",
        "config": row.data["config"],
        "trial": row.data["trial"],
        "statistics": row.data["statistics"],
        "spec": job.spec,
        "data_sha256": job.data_sha256,
        "warptune": VERSION,
    }


def _script(plan: JobPlan, row: RecommendationRow) -> str:
    arm = plan.arm(row.arm)
    module, optimizer, call = OPTIMIZERS[arm.optimizer]
    role = "warpadam" if arm.role is Role.WARPADAM else "baseline"
    pair = next((pair for pair in row.data["pairs"] if pair[f"{role}_test_loss"] is not None), None)
    seed, recorded = (pair["seed"], f"{pair[f'{role}_test_loss']:.8f}") if pair else (plan.spec.seed, "none")
    layers = [f"nn.Linear({fan_in}, {fan_out})" for fan_in, fan_out in pairwise(plan.sizes)]
    between = f"nn.{MODULES[plan.spec.model.activation]}()"
    lines = [line for layer in layers for line in (layer, between)][:-1]
    autoencodes = plan.task is Task.AUTOENCODING
    return SCRIPT.substitute(
        job_id=row.job_id,
        arm=row.arm,
        verdict=row.verdict,
        version=VERSION,
        module=module,
        optimizer=optimizer,
        call=call,
        config=pprint.pformat(row.data["config"], sort_dicts=False),
        steps=plan.spec.budget.steps,
        batch_size=plan.spec.budget.batch_size,
        seed=seed,
        data_seed=plan.spec.seed,
        dataset=plan.spec.dataset.name,
        threads=plan.spec.resources.cpus_per_trial,
        layers="\n".join(f"        {line}," for line in lines),
        targets="x, x_test" if autoencodes else "torch.from_numpy(split.y_train), torch.from_numpy(split.y_test)",
        factor="1.0 - step / STEPS" if plan.spec.training.schedule == "linear" else "1.0",
        loss=LOSSES[plan.task],
        recorded=recorded,
    )
