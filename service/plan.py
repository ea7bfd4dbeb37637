# From a spec to what a job will do: which arms, over which spaces, on which tensors. Everything about a spec that types
# and ranges cannot say is checked here, once, before a row is written. Loads neither torch nor Optuna.
"""The plan of a job."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from search_spaces import (
    PRESETS,
    Scalar,
    SearchSpace,
    SearchSpaceError,
    adamw_config,
    apply_overrides,
    get_preset,
    warpadam_config,
)
from search_spaces.errors import one_of
from service.errors import FieldError, InvalidSpecError
from service.schemas import AutoencoderSpec, JobSpec, RangeOverride
from service.training.catalog import DATASETS, Task, layer_sizes, task_of, tensor_shapes
from service.training.run import Run

WARPADAM: Final = "warpadam"
"""Name of the arm that learns P; the others are baselines."""

BASELINES: Final[Mapping[str, Callable[[Mapping[str, Scalar]], Mapping[str, Any]]]] = {
    "adamw": lambda values: adamw_config(values).to_dict(),
}
"""Baseline -> from the values of its search space (the preset of its name) to its optimizer's arguments."""

RAY_RESOURCES: Final = {
    "CPU": "cpus_per_trial",
    "GPU": "gpus_per_trial",
    "memory": "memory_bytes",
    "object_store_memory": "memory_bytes",
}
"""Resources of a Ray node that are no custom ones -> the field of a spec that asks for them."""

WARP_PRESETS: Final = tuple(name for name, space in PRESETS.items() if "strategy" in space)
"""The presets that a job's ``search_space`` may name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmPlan:
    """One arm: its name and what it tunes."""

    name: str
    space: SearchSpace

    def config(self, values: Mapping[str, Scalar]) -> dict[str, Any]:
        """Return the optimizer configuration that an assignment of the space stands for, as plain JSON values."""
        if self.name == WARPADAM:
            return warpadam_config(values).to_dict()
        return dict(BASELINES[self.name](values))


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPlan:
    """What a job will do.

    Attributes:
        spec: The spec it was made from.
        arms: The arms in the order in which they run: warpadam, then the baselines.
        task: What is trained.
        sizes: Widths of the model's layers.
    """

    spec: JobSpec
    arms: tuple[ArmPlan, ...]
    task: Task
    sizes: tuple[int, ...]

    def arm(self, name: str) -> ArmPlan:
        """Return the arm called ``name``."""
        return next(arm for arm in self.arms if arm.name == name)

    def run(
        self,
        arm: str,
        values: Mapping[str, Scalar],
        data: tuple[str, str],
        *,
        seed: int,
        test: bool,
        checkpoint_url: str | None = None,
    ) -> Run:
        """Return one training run of this job.

        Args:
            arm: Name of the arm.
            values: An assignment of its space.
            data: URL and SHA-256 of the prepared split.
            seed: Seed of the initial weights and of the order of the batches.
            test: Whether the run ends with the test loss.
            checkpoint_url: Folder of its checkpoints; None for a run that makes none.
        """
        return Run(
            arm=arm,
            config=self.arm(arm).config(values),
            sizes=self.sizes,
            activation=self.spec.model.activation,
            task=self.task,
            data_url=data[0],
            data_sha256=data[1],
            steps=self.spec.budget.steps,
            batch_size=self.spec.budget.batch_size,
            schedule=self.spec.training.schedule,
            seed=seed,
            test=test,
            checkpoint_url=checkpoint_url,
            checkpoint_every_s=self.spec.resources.checkpoint_every_s,
        )


def make_plan(spec: JobSpec) -> JobPlan:
    """Check that the parts of a spec exist and fit together.

    Raises:
        InvalidSpecError: With every field that is wrong, not only the first.
    """
    checks = (_check_data, _check_baselines, _check_search, _check_resources, _check_confirm)
    errors = [error for check in checks for error in check(spec)]
    space: SearchSpace | None = None
    try:
        space = warp_space(spec)
    except InvalidSpecError as error:
        errors += error.errors
    if space is not None and spec.dataset.name in DATASETS:
        errors += _check_rank(spec)
    if errors or space is None:
        raise InvalidSpecError(*errors)
    info = DATASETS[spec.dataset.name]
    return JobPlan(
        spec=spec,
        arms=(
            ArmPlan(name=WARPADAM, space=space),
            *(ArmPlan(name=name, space=get_preset(name)) for name in spec.baselines),
        ),
        task=task_of(info, spec.model),
        sizes=tuple(layer_sizes(info, spec.model)),
    )


def warp_space(spec: JobSpec) -> SearchSpace:
    """Return the search space of the warpadam arm: the preset with the overrides.

    Raises:
        InvalidSpecError: An unknown preset, or an override that cannot be followed.
    """
    preset = spec.search_space.preset
    if preset not in WARP_PRESETS:
        raise InvalidSpecError(FieldError("search_space.preset", preset, one_of(preset, WARP_PRESETS)))
    overrides = {
        name: value.model_dump(exclude_none=True) if isinstance(value, RangeOverride) else value
        for name, value in spec.search_space.overrides.items()
    }
    try:
        return apply_overrides(get_preset(preset), overrides)
    except SearchSpaceError as error:
        raise InvalidSpecError(
            FieldError(f"search_space.overrides.{error.path}", error.value, error.expected)
        ) from error


def _check_data(spec: JobSpec) -> Iterable[FieldError]:
    name = spec.dataset.name
    if name not in DATASETS:
        yield FieldError("dataset.name", name, one_of(name, DATASETS))
    elif isinstance(spec.model, AutoencoderSpec) and not DATASETS[name].images:
        images = [other for other, info in DATASETS.items() if info.images]
        yield FieldError("model.name", spec.model.name, f"mlp for dataset {name!r}; an autoencoder takes {images}")


def _check_baselines(spec: JobSpec) -> Iterable[FieldError]:
    for index, name in enumerate(spec.baselines):
        if name not in BASELINES:
            yield FieldError(f"baselines[{index}]", name, one_of(name, BASELINES))
        elif name in spec.baselines[:index]:
            yield FieldError(f"baselines[{index}]", name, "every baseline once")


def _check_search(spec: JobSpec) -> Iterable[FieldError]:
    if spec.search.sampler == "gp" and spec.search.pruner != "none":
        expected = "none with the sampler gp, which learns from completed trials only"
        yield FieldError("search.pruner", spec.search.pruner, expected)


def _check_resources(spec: JobSpec) -> Iterable[FieldError]:
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


def _check_confirm(spec: JobSpec) -> Iterable[FieldError]:
    if spec.confirm.top_k > spec.budget.trials_per_arm:
        limit = spec.budget.trials_per_arm
        yield FieldError("confirm.top_k", spec.confirm.top_k, f"at most budget.trials_per_arm, which is {limit}")


def _check_rank(spec: JobSpec) -> Iterable[FieldError]:
    """Refuse a rank that the user asked for and no tensor has: it would silently mean a smaller one."""
    shapes = tensor_shapes(DATASETS[spec.dataset.name], spec.model)
    rows = max(shape[0] for shape in shapes if len(shape) > 1)
    wished = spec.search_space.overrides.get("rank")
    places: Mapping[str, object] = {"": wished}
    if isinstance(wished, RangeOverride):
        places = {".high": wished.high}
    elif isinstance(wished, list):
        places = {f"[{index}]": value for index, value in enumerate(wished)}
    for place, value in places.items():
        if isinstance(value, int) and value > rows:
            path = f"search_space.overrides.rank{place}"
            yield FieldError(path, value, f"at most {rows}, the rows of the largest tensor")
