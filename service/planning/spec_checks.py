# The checks of a spec that need no data: do the objective, the arms, the search and the resources fit together. Those
# for which one must know the data are in data_checks.py; plan.py runs them all.
"""Whether the parts of a spec fit together."""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib.util import find_spec
from typing import Final

from search_spaces.errors import one_of
from service.data.catalog import DatasetInfo, Task, task_of, training_rows
from service.errors import FieldError
from service.optimizers import OPTIMIZERS, baselines
from service.planning.arms import MORE_STEPS, REFERENCE
from service.planning.objective import TIMED
from service.spec.job import JobSpec, TrainingSpec
from service.spec.model import ResnetSpec

SCORE_METRICS: Final = {
    Task.CLASSIFICATION: "val_accuracy",
    Task.REGRESSION: "val_r2",
    Task.AUTOENCODING: "val_r2",
    Task.LANGUAGE: "val_accuracy",
    Task.PHYSICS: None,
}
"""Task -> the score, beside the loss, that a trial can be judged by."""

RAY_RESOURCES: Final = {
    "CPU": "cpus_per_trial",
    "GPU": "gpus_per_trial",
    "memory": "memory_bytes",
    "object_store_memory": "memory_bytes",
}
"""Resources of a Ray node that are no custom ones -> the field of a spec that asks for them."""


def check_objective(spec: JobSpec, info: DatasetInfo | None) -> Iterable[FieldError]:
    """Yield what is wrong with what trials are judged by."""
    metric, target, trade_off = spec.objective.metric, spec.objective.target, spec.objective.trade_off
    timed = metric in TIMED
    if timed and target is None:
        yield FieldError("objective.target", None, f"a validation loss or baseline, as the metric is {metric}")
    if not timed and target is not None:
        yield FieldError(
            "objective.target", target, f"nothing with the metric {metric}; {' and '.join(TIMED)} have one"
        )
    if isinstance(target, float) and target <= 0:
        yield FieldError("objective.target", target, "a number above 0, which no loss is below")
    if target == "baseline" and REFERENCE not in spec.baselines:
        yield FieldError("objective.target", target, f"{REFERENCE} among the baselines, whose final loss it stands for")
    if trade_off and metric != "val_loss":
        yield FieldError("objective.trade_off", trade_off, f"the metric val_loss beside it, not {metric}")
    if trade_off and spec.search.pruner != "none":
        yield FieldError("search.pruner", spec.search.pruner, "none with two objectives, which no pruner can weigh")
    if info is not None and metric in ("val_accuracy", "val_r2"):
        task = task_of(info, spec.model)
        if metric != SCORE_METRICS[task]:
            expected = f"{SCORE_METRICS[task] or 'val_loss'}, a metric of {task}"
            yield FieldError("objective.metric", metric, expected)


def check_baselines(spec: JobSpec, _info: DatasetInfo | None) -> Iterable[FieldError]:
    """Yield what is wrong with the baselines and the controls."""
    known = baselines()
    for index, name in enumerate(spec.baselines):
        field = f"baselines[{index}]"
        if name not in known:
            yield FieldError(field, name, f"must be {one_of(name, known)}", code="unknown_name")
        elif name in spec.baselines[:index]:
            yield FieldError(field, name, "must not be named twice", code="conflict")
        elif (requires := OPTIMIZERS[name].requires) and find_spec(requires[0]) is None:
            yield FieldError(
                field, name, f"needs the package {requires[0]}", f"Install it: {requires[1]}.", code="not_allowed"
            )
    for index, name in enumerate(spec.controls):
        if name in spec.controls[:index]:
            yield FieldError(f"controls[{index}]", name, "every control once")
        elif name == MORE_STEPS and REFERENCE not in spec.baselines:
            yield FieldError(f"controls[{index}]", name, f"{REFERENCE} among the baselines, whose steps it extends")


def check_search(spec: JobSpec, _info: DatasetInfo | None) -> Iterable[FieldError]:
    """Yield what is wrong with how the next trial is chosen."""
    if spec.search.sampler == "gp" and spec.search.pruner != "none":
        expected = "none with the sampler gp, which learns from completed trials only"
        yield FieldError("search.pruner", spec.search.pruner, expected)


def check_resources(spec: JobSpec, _info: DatasetInfo | None) -> Iterable[FieldError]:
    """Refuse what the chosen engine would ignore, and what Ray cannot place anywhere."""
    given = spec.resources
    if spec.engine.name != "ray":
        for field, default in (("max_concurrent", None), ("memory_bytes", None), ("custom", {})):
            if getattr(given, field) != default:
                expected = f"{json.dumps(default)}, its default: only the engine ray knows it"
                yield FieldError(f"resources.{field}", getattr(given, field), expected)
        return
    if given.slots != 1:
        expected = "1, its default: with the engine ray, resources.max_concurrent limits how many trials run at once"
        yield FieldError("resources.slots", given.slots, expected)
    if given.gpus_per_trial > 1 and given.gpus_per_trial != int(given.gpus_per_trial):
        yield FieldError("resources.gpus_per_trial", given.gpus_per_trial, "a whole number above 1 with the engine ray")
    for name in given.custom.keys() & RAY_RESOURCES.keys():
        expected = f"nothing: set resources.{RAY_RESOURCES[name]} instead"
        yield FieldError(f"resources.custom.{name}", given.custom[name], expected)


def check_confirm(spec: JobSpec, _info: DatasetInfo | None) -> Iterable[FieldError]:
    """Yield what is wrong with the final comparison."""
    if spec.confirm.top_k > spec.budget.trials_per_arm:
        limit = spec.budget.trials_per_arm
        yield FieldError("confirm.top_k", spec.confirm.top_k, f"at most budget.trials_per_arm, which is {limit}")


def check_training(spec: JobSpec, info: DatasetInfo | None) -> Iterable[FieldError]:
    """Yield what of the training does not go with the task, the budget or the resources, or would be ignored."""
    given, steps = spec.training, spec.budget.steps
    if given.warmup_steps >= steps:
        yield FieldError("training.warmup_steps", given.warmup_steps, f"fewer than budget.steps, which is {steps}")
    if given.precision == "float16" and not spec.resources.gpus_per_trial:
        yield FieldError(
            "training.precision", "float16", "bfloat16 or float32 without a GPU (resources.gpus_per_trial)"
        )
    if spec.family is not None:
        for field in ("max_grad_norm", "last_batch", "precision", "compile"):
            default = TrainingSpec.model_fields[field].default
            if getattr(given, field) != default:
                expected = f"{json.dumps(default)}, its default: runs on a family of tasks do not know it"
                yield FieldError(f"training.{field}", getattr(given, field), expected)
    if info is None:
        return
    task = task_of(info, spec.model)
    if given.label_smoothing and task not in (Task.CLASSIFICATION, Task.LANGUAGE):
        yield FieldError("training.label_smoothing", given.label_smoothing, f"0 with {task}, which has no classes")
    if given.class_weights and task is not Task.CLASSIFICATION:
        yield FieldError("training.class_weights", given.class_weights, f"null with {task}: a classification has them")
    rows = training_rows(info, spec.model)
    if isinstance(spec.model, ResnetSpec) and given.last_batch == "keep" and rows % spec.budget.batch_size == 1:
        expected = f"drop: of {rows} training rows one would be a batch alone, too few for resnet's batch norm"
        yield FieldError("training.last_batch", given.last_batch, expected)
