"""Checks whether the parts of a spec fit together and fit the data.

Families are checked in ``family.py``, and what only one model asks for in the models. ``plan.py`` runs them all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import Final

from search_spaces.errors import must_be_one_of
from service.data.catalog import BUNDLED
from service.errors import FieldError, conflict
from service.optimizers import OPTIMIZERS, baselines
from service.planning.arms import MORE_STEPS, REFERENCE
from service.planning.family import check_family
from service.planning.objective import TIMED
from service.spec.data import DatasetSpec
from service.spec.dataset_info import DatasetInfo
from service.spec.job import JobSpec, RangeOverride, TrainingSpec
from service.spec.metrics import METRICS, MetricEntry, metric_of
from service.spec.models import MODELS, EntrypointSpec
from service.spec.tasks import TASKS, Task

RAY: Final = ("ray", "pip install '.[ray]' in your clone")
"""The module that the engine ray needs, and how to install it."""

RAY_RESOURCES: Final = {
    "CPU": "cpus_per_trial",
    "GPU": "gpus_per_trial",
    "memory": "memory_bytes",
    "object_store_memory": "memory_bytes",
}
"""Resources that every Ray node has -> the field of a spec that asks for them."""


def _check_dataset(spec: JobSpec, _info: DatasetInfo | None) -> Iterable[FieldError]:
    """Yield what is wrong with the choice of the data, except that an uploaded dataset does not exist."""
    chosen = spec.datasets
    if "dataset" not in chosen and spec.dataset != DatasetSpec():
        why = "a training loop has its own data" if spec.family is None else "family.datasets has one for each task"
        yield conflict("dataset", spec.dataset.label, f"must be left out: {why}")
    for place, given in chosen.items():
        if given.name is None and given.id is None and given.entrypoint is None:
            is_whole = place == "dataset" and place not in spec.model_fields_set
            hint = "Give a name for a bundled dataset, an id for an uploaded one, or an entrypoint for your own code."
            if isinstance(spec.model, EntrypointSpec):
                hint += " A training loop of your own needs none: set model.name to loop."
            yield FieldError(place if is_whole else f"{place}.name", None, "is required", hint, "missing")
        yield from _check_choice(place, given)
        if given.entrypoint is not None and spec.family is not None:
            yield conflict("family", given.entrypoint, "cannot be used with a dataset of your own code")


def _check_choice(place: str, given: DatasetSpec) -> Iterable[FieldError]:
    if given.name is not None and given.id is not None:
        yield conflict(f"{place}.id", given.id, f"cannot be used together with {place}.name")
    elif given.name is not None and given.name not in BUNDLED:
        yield FieldError(f"{place}.name", given.name, *must_be_one_of(given.name, BUNDLED), "unknown_name")
    if given.entrypoint is not None and (given.name or given.id) is not None:
        both = f"cannot be used together with {place}.name or {place}.id"
        yield conflict(f"{place}.entrypoint", given.entrypoint, both)
    if given.config and given.entrypoint is None:
        yield conflict(f"{place}.config", given.config, f"needs {place}.entrypoint, whose arguments it holds")
    owner = "the function says it" if given.entrypoint else "a bundled dataset has its own"
    for field in ("target", "task"):
        if given.id is None and getattr(given, field) is not None:
            yield conflict(f"{place}.{field}", getattr(given, field), f"must be null: {owner}")
    for field in ("exclude", "columns"):
        if given.id is None and getattr(given, field):
            only = "must be empty: only an uploaded table has columns to choose"
            yield conflict(f"{place}.{field}", getattr(given, field), only)
    yield from _check_split(place, given)


def _check_split(place: str, given: DatasetSpec) -> Iterable[FieldError]:
    by, column = given.split.by, given.split.column
    if by != "random" and (given.id is None or place != "dataset"):
        only = "a family splits the rows of each task at random" if given.id else "only an uploaded table has columns"
        yield conflict(f"{place}.split.by", by, f"must be random: {only}")
    elif by == "random" and column is not None:
        yield conflict(f"{place}.split.column", column, "must be null if the split is random", "Set split.by.")
    elif by != "random" and column is None:
        hint = "Name the column of the table that the rows are split by."
        yield FieldError(f"{place}.split.column", None, f"is required with split.by {by}", hint, "missing")


def _check_target_transform(spec: JobSpec, info: DatasetInfo | None) -> Iterable[FieldError]:
    for place, given in spec.datasets.items():
        field, chosen = f"{place}.target_transform", given.target_transform
        if chosen == "standardise":
            continue
        low = None if info is None else info.target_low
        if spec.family is not None:
            hint = "The tasks of a family share the scale of their targets."
            yield conflict(field, chosen, "must be standardise with a family", hint)
        elif info is not None and info.task != Task.REGRESSION:
            hint = "Only the target of a regression is transformed."
            yield conflict(field, chosen, f"must be standardise for {info.task}", hint)
        elif chosen == "log1p" and low is not None and low <= -1:
            hint = "Use quantile, which takes any numbers, or standardise."
            yield conflict(field, chosen, f"needs targets above -1; the smallest is {low:g}", hint)


def _check_model(spec: JobSpec, info: DatasetInfo | None) -> Iterable[FieldError]:
    if info is None:
        return
    if info.task in spec.model.tasks:
        yield from spec.model.check(spec, info)
        return
    fitting = [name for name, model in MODELS.items() if info.task in model.tasks]
    hint = f"A {spec.model.name} is trained for {' or '.join(spec.model.tasks)}."
    message = f"must be one of {', '.join(fitting)} for {info.task}"
    yield FieldError("model.name", spec.model.name, message, hint, "conflict")


def _check_objective(spec: JobSpec, info: DatasetInfo | None) -> Iterable[FieldError]:
    metric, target, trade_off = spec.objective.metric, spec.objective.target, spec.objective.trade_off
    timed = metric in TIMED
    if timed and target is None:
        hint = "Give a validation loss to reach, or baseline."
        yield FieldError("objective.target", None, f"is required with the metric {metric}", hint, "missing")
    if not timed and target is not None:
        hint = f"Only {' and '.join(TIMED)} have a target."
        yield conflict("objective.target", target, f"must be null with the metric {metric}", hint)
    positive = info is not None and not TASKS[spec.model.task(info)].negative_loss
    if isinstance(target, float) and target <= 0 and positive:
        hint = "The loss of this task is never below 0."
        yield FieldError("objective.target", target, "must be above 0", hint, "out_of_range")
    if target == "baseline" and REFERENCE not in spec.baselines:
        hint = f"The target is the loss that {REFERENCE} ends with."
        yield conflict("objective.target", target, f"needs {REFERENCE} in baselines", hint)
    if trade_off and metric != "val_loss":
        yield conflict("objective.trade_off", trade_off, f"needs the metric val_loss, not {metric}")
    if trade_off and spec.search.pruner != "none":
        hint = "A pruner cannot weigh two objectives."
        yield conflict("search.pruner", spec.search.pruner, "must be none with objective.trade_off", hint)
    score = metric_of(metric)
    if info is not None and score is not None and not _has(score, task := spec.model.task(info), info):
        fitting = ["val_loss", *(other.field for other in METRICS.values() if _has(other, task, info))]
        yield conflict("objective.metric", metric, f"must be one of {', '.join(fitting)} for {task}")
    elif spec.family is not None and score is not None and score.unit == "target":
        hint = "Use val_loss or val_r2: the targets of a family stay standardised."
        yield conflict("objective.metric", metric, "cannot be used with a family", hint)


def _has(metric: MetricEntry, task: str, info: DatasetInfo) -> bool:
    return metric.name in info.loop_scores if task == Task.LOOP else task in metric.tasks


def _check_baselines(spec: JobSpec, _info: DatasetInfo | None) -> Iterable[FieldError]:
    known = baselines()
    for index, name in enumerate(spec.baselines):
        field = f"baselines[{index}]"
        if name not in known:
            yield FieldError(field, name, *must_be_one_of(name, known), "unknown_name")
        elif name in spec.baselines[:index]:
            yield conflict(field, name, "must not be named twice")
        elif (requires := OPTIMIZERS[name].requires) and not _is_installed(requires[0]):
            yield _missing(field, name, requires)
    for index, name in enumerate(spec.controls):
        field = f"controls[{index}]"
        if name in spec.controls[:index]:
            yield conflict(field, name, "must not be named twice")
        elif name == MORE_STEPS and REFERENCE not in spec.baselines:
            yield conflict(field, name, f"needs {REFERENCE} in baselines", f"It gives {REFERENCE} more steps.")


def _is_installed(module: str) -> bool:
    return find_spec(module) is not None


def _missing(field: str, value: str, requires: tuple[str, str]) -> FieldError:
    """Return the error of a value that needs a package which is not installed here."""
    module, command = requires
    hint = f"Install it for the API and every worker: {command}."
    return FieldError(field, value, f"needs the package {module}, which is not installed here", hint, "not_allowed")


def _check_search(spec: JobSpec, _info: DatasetInfo | None) -> Iterable[FieldError]:
    if spec.search.sampler == "gp" and spec.search.pruner != "none":
        hint = "The sampler gp learns from completed trials only."
        yield conflict("search.pruner", spec.search.pruner, "must be none with the sampler gp", hint)


def _check_resources(spec: JobSpec, _info: DatasetInfo | None) -> Iterable[FieldError]:
    """Yield the resources that the engine would ignore, and those that Ray could not place anywhere."""
    given = spec.resources
    if spec.engine.name != "ray":
        for field, default in (("max_concurrent", None), ("memory_bytes", None), ("custom", {})):
            if getattr(given, field) != default:
                message = f"must be {json.dumps(default)} without engine.name ray"
                yield conflict(f"resources.{field}", getattr(given, field), message, "Only the engine ray uses it.")
        return
    if given.slots != 1:
        hint = "With the engine ray, resources.max_concurrent limits how many trials run at once."
        yield conflict("resources.slots", given.slots, "must be 1 with the engine ray", hint)
    if given.gpus_per_trial > 1 and given.gpus_per_trial != int(given.gpus_per_trial):
        message = "must be a whole number above 1 with the engine ray"
        yield conflict("resources.gpus_per_trial", given.gpus_per_trial, message)
    for name in given.custom.keys() & RAY_RESOURCES.keys():
        hint = f"Set resources.{RAY_RESOURCES[name]} instead."
        yield FieldError(f"resources.custom.{name}", given.custom[name], "is not allowed here", hint, "not_allowed")


def _check_confirm(spec: JobSpec, _info: DatasetInfo | None) -> Iterable[FieldError]:
    if (spec.confirm.top_k or 1) > spec.budget.trials_per_arm:
        message = f"must be at most budget.trials_per_arm, which is {spec.budget.trials_per_arm}"
        yield conflict("confirm.top_k", spec.confirm.top_k, message)


def _check_training(spec: JobSpec, info: DatasetInfo | None) -> Iterable[FieldError]:
    """Yield what of the training does not fit the task, the budget or the resources, or would be ignored."""
    given, steps = spec.training, spec.budget.steps
    if given.warmup_steps >= steps:
        message = f"must be less than budget.steps, which is {steps}"
        yield conflict("training.warmup_steps", given.warmup_steps, message)
    if given.precision == "float16" and not spec.resources.gpus_per_trial:
        hint = "Ask for a GPU in resources.gpus_per_trial."
        yield conflict("training.precision", "float16", "must be bfloat16 or float32 without a GPU", hint)
    if spec.family is not None:
        for field in ("max_grad_norm", "last_batch", "precision", "compile", "patience"):
            default = TrainingSpec.model_fields[field].default
            if getattr(given, field) != default:
                hint = "Runs on a family of tasks do not support it."
                message = f"must be {json.dumps(default)} with a family"
                yield conflict(f"training.{field}", getattr(given, field), message, hint)
    if info is None:
        return
    task = TASKS[spec.model.task(info)]
    if given.label_smoothing and not task.has_classes:
        hint = f"The task {task.name} has no classes."
        yield conflict("training.label_smoothing", given.label_smoothing, f"must be 0 for {task.name}", hint)
    if given.class_weights and not task.weighs_classes:
        hint = "Only a classification has class weights."
        yield conflict("training.class_weights", given.class_weights, f"must be null for {task.name}", hint)


def _check_patience(spec: JobSpec, info: DatasetInfo | None) -> Iterable[FieldError]:
    """Yield why runs cannot have patience: those whose last step is judged always run to their end."""
    patience = spec.training.patience
    if patience is None:
        return
    if spec.objective.at == "last":
        yield conflict("training.patience", patience, "must be null with objective.at last")
    elif info is not None and not (task := TASKS[spec.model.task(info)]).can_overfit:
        hint = f"Runs of the task {task.name} are judged at their last step."
        yield conflict("training.patience", patience, f"must be null for {task.name}", hint)


CHECKS: Final[Sequence[Callable[[JobSpec, DatasetInfo | None], Iterable[FieldError]]]] = (
    _check_dataset,
    _check_target_transform,
    _check_model,
    check_family,
    _check_objective,
    _check_baselines,
    _check_search,
    _check_resources,
    _check_confirm,
    _check_training,
    _check_patience,
)
"""The checks of a spec, in the order in which errors are listed. Without facts about the data they check less."""


def check_engine(spec: JobSpec) -> Iterable[FieldError]:
    """Refuse a new job whose engine is not installed here. Stored ones can still be read."""
    if spec.engine.name == "ray" and not _is_installed(RAY[0]):
        yield _missing("engine.name", "ray", RAY)


def check_rank(spec: JobSpec, info: DatasetInfo) -> Iterable[FieldError]:
    """Refuse a rank that the user asked for and no tensor has: it would silently mean a smaller one."""
    shapes = spec.model.tensor_shapes(info)
    rows = max((shape[0] for shape in shapes if len(shape) > 1), default=1)
    wished = spec.search_space.overrides.get("rank")
    places: Mapping[str, object] = {"": wished}
    if isinstance(wished, RangeOverride):
        places = {".high": wished.high}
    elif isinstance(wished, list):
        places = {f"[{index}]": value for index, value in enumerate(wished)}
    for place, value in places.items():
        if isinstance(value, int) and value > rows:
            message = f"must be at most {rows}, the rows of the largest tensor"
            yield FieldError(f"search_space.overrides.rank{place}", value, message, code="out_of_range")
