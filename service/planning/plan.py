"""Makes the plan of a job from its spec: which arms, over which spaces, on which tensors.

All that types and ranges cannot say about a spec is checked here, by checks.py and family.py.
Planning works with facts about the data and reads no tables. It loads neither torch nor Optuna.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from search_spaces import PRESETS, Scalar, SearchSpace, SearchSpaceError, apply_overrides, get_preset
from search_spaces.errors import must_be_one_of
from service.data.prepared import PreparedData
from service.errors import FieldError, InvalidSpecError, OtherVersionError
from service.optimizers import OPTIMIZERS
from service.planning.arms import (
    MORE_STEPS,
    REFERENCE,
    ArmPlan,
    Start,
    baseline_arm,
    control_arm,
    untuned_arm,
    warm_arms,
    warpadam_arms,
)
from service.planning.checks import CHECKS, check_rank
from service.planning.family import bundled_info, task_info
from service.spec.dataset_info import DatasetInfo
from service.spec.job import MAX_CONFIRM_SEEDS, MAX_TRIALS, JobSpec, RangeOverride
from service.spec.metrics import METRICS, MetricEntry, metric_of
from service.spec.models import UserCodeSpec
from service.spec.tasks import TASKS, Task
from service.training.run import FamilyTraining, Run, Training

MAX_FRESH_BYTES: Final = 64 << 20
"""Largest features, as 32-bit numbers, of which every confirmation seed gets a split of its own."""

WARP_PRESETS: Final = tuple(name for name, space in PRESETS.items() if "strategy" in space)
"""The presets that a job's ``search_space`` may name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPlan:
    """What a job will do.

    Attributes:
        arms: The arms in the order in which they run: warpadam, the baselines, the controls, the untuned one; AdamW
            first where the target of the others is what it reaches.
        sizes: Widths of the model's layers.
        start_url: The job's copy of the P that its warm start is from; the worker, which knows where it is, sets it.
    """

    spec: JobSpec
    info: DatasetInfo
    arms: tuple[ArmPlan, ...]
    task: str
    sizes: tuple[int, ...]
    start_url: str | None = None

    @property
    def network(self) -> Mapping[str, Any]:
        """Spec of the model, with what a run needs to know of a user's code."""
        model = self.spec.model
        if isinstance(model, UserCodeSpec):
            source = self.info.sources[model.entrypoint]
            return {**model.model_dump(mode="json"), "task": str(self.task), "sha256": source}
        return model.model_dump(mode="json")

    @property
    def best_by(self) -> Literal["loss", "score"] | None:
        """What the best point of a run is chosen by; None if runs are judged at their last step."""
        if self.spec.objective.at == "last" or self.spec.family is not None or not TASKS[self.task].can_overfit:
            return None
        return "score" if metric_of(self.spec.objective.metric) else "loss"

    @property
    def score(self) -> MetricEntry | None:
        """The score that runs have beside the loss; None for a training loop that yields none."""
        of_task = TASKS[self.task].metric or next(iter(self.info.loop_scores), "")
        return metric_of(self.spec.objective.metric) or METRICS.get(of_task)

    @property
    def fresh_splits(self) -> bool:
        """Whether confirmation runs use other splits than the search.

        Not with a warm start: its P was learned on rows that another split would test on.
        """
        spec, width = self.spec, sum(self.info.widths) or self.info.features
        fits = self.info.rows * width * 4 <= MAX_FRESH_BYTES
        by_seed = spec.dataset.split.by in ("random", "group")
        rows = TASKS[self.task].splits_rows and by_seed and spec.family is None
        return rows and fits and spec.confirm.splits != 1 and spec.warm_start is None

    def split_seed(self, seed: int) -> int:
        """Return the seed that draws the split of a run with ``seed``.

        The first confirmation run uses the split of the search, as its P may be used there by a later job.
        """
        number = (seed - self.spec.seed - 1) % (self.spec.confirm.splits or 2 * MAX_CONFIRM_SEEDS)
        is_trial = seed == self.spec.seed
        return self.spec.seed if is_trial or number == 0 or not self.fresh_splits else self.spec.seed + 1 + number

    def arm(self, name: str) -> ArmPlan:
        """Return the arm called ``name``."""
        found = next((arm for arm in self.arms if arm.name == name), None)
        if found is None:
            raise OtherVersionError("the job's arms", f"it has no arm {name}")
        return found

    def trials(self, arm: ArmPlan) -> int:
        """Return how many trials an arm has at most. A space with one point needs one."""
        return 1 if arm.space.has_one_point else self.spec.budget.trials_per_arm

    @property
    def may_have_more_trials(self) -> bool:
        """Whether trials can be added to the job once it has succeeded."""
        return self.spec.budget.trials_per_arm < MAX_TRIALS and what_depends_on_other_arms(self.spec) is None

    def race_rounds(self, arm: ArmPlan) -> list[int]:
        """Return how many trials of an arm run in each round of its race.

        There is no race where nothing is chosen by it: neither a trial of the arm, nor an arm among several in its
        role.
        """
        rivals = [other for other in self.arms if other.role is arm.role]
        if self.trials(arm) == 1 and len(rivals) == 1:
            return []
        return [min(size, self.trials(arm)) for size in self.spec.race_rounds]

    def run(
        self,
        arm: str,
        values: Mapping[str, Scalar],
        data: PreparedData,
        *,
        seed: int,
        test: bool,
        steps: int | None = None,
        checkpoint_url: str | None = None,
    ) -> Run:
        """Return one training run of this job.

        Args:
            arm: Name of the arm.
            values: An assignment of its space.
            data: The prepared data of the job.
            seed: Seed of the initial weights and of the order of the batches.
            test: Whether the run ends with the test loss.
            steps: Its steps, if they are not ``budget.steps``.
            checkpoint_url: Folder of its checkpoints; None for a run that makes none.
        """
        chosen = self.arm(arm)
        family = self.spec.family
        learn_tasks = family.learn_tasks if family and OPTIMIZERS[chosen.optimizer].learns_p else 0
        metric = self.score if self.task == Task.LOOP else metric_of(self.spec.objective.metric)
        warm = self.spec.warm_start if chosen.start is not Start.IDENTITY else None
        return Run(
            arm=chosen.optimizer,
            config=chosen.config(values),
            sizes=self.sizes,
            activation=self.spec.model.activation_name,
            model=self.network,
            shape=self.info.shape,
            task=self.task,
            metric=None if metric is None else metric.name,
            data=data,
            steps=steps or self.spec.budget.steps,
            batch_size=self.spec.budget.batch_size,
            seed=seed,
            training=Training(**self.spec.training.model_dump()),
            best_by=self.best_by,
            by_score=metric_of(self.spec.objective.metric) is not None,
            test=test,
            checkpoint_url=checkpoint_url,
            checkpoint_every_s=self.spec.resources.checkpoint_every_s,
            from_p_url=self.start_url if warm else None,
            from_p_sha256=warm.sha256 if warm else None,
            shuffle_seed=self.spec.seed if chosen.start is Start.SHUFFLED else None,
            family=FamilyTraining(learn_tasks, family.learn_steps) if family else None,
        )


def what_depends_on_other_arms(spec: JobSpec) -> str | None:
    """Return the part of a spec that depends on the best trials of other arms, so that none can be added; or None."""
    if spec.objective.target == "baseline":
        return "The target 'baseline'"
    return f"The control {MORE_STEPS}" if MORE_STEPS in spec.controls else None


def plan_of(stored: Mapping[str, object], info: Mapping[str, object] | None) -> JobPlan:
    """Return the plan of a job from what its row holds.

    Raises:
        OtherVersionError: Another version or installation of the service wrote something that this one cannot read.
    """
    spec, facts = JobSpec.from_json(stored), None if info is None else DatasetInfo.from_json(info)
    try:
        return make_plan(spec, facts)
    except InvalidSpecError as error:
        raise OtherVersionError("the job's spec", error) from error


def make_plan(spec: JobSpec, info: DatasetInfo | None = None) -> JobPlan:
    """Check that the parts of a spec exist and fit together, and return the plan.

    Args:
        spec: The spec.
        info: Facts about uploaded data and user code; None for a job on bundled data with a model of the service.

    Raises:
        InvalidSpecError: With every field that is wrong, not only the first.
    """
    errors: list[FieldError] = []
    space: SearchSpace | None = None
    try:
        info = info if info is not None else bundled_info(spec)
    except InvalidSpecError as error:
        errors += error.errors
    for check in CHECKS:
        errors += check(spec, info)
    try:
        space = warp_space(spec)
    except InvalidSpecError as error:
        errors += error.errors
    if space is not None and info is not None and not errors:
        errors += check_rank(spec, info)
    if errors or space is None or info is None:
        raise InvalidSpecError(*errors)
    info = task_info(info, spec.family)
    return JobPlan(
        spec=_with_own_steps(spec, info),
        info=info,
        arms=tuple(_arms(spec, space)),
        task=spec.model.task(info),
        sizes=tuple(spec.model.layer_sizes(info)),
    )


def _with_own_steps(spec: JobSpec, info: DatasetInfo) -> JobSpec:
    """Return the spec of a job with the steps that its training loop does, unless it is to end earlier."""
    budget, own = spec.budget, info.loop_steps
    if not own or ("steps" in budget.model_fields_set and budget.steps <= own):
        return spec
    return spec.model_copy(update={"budget": budget.model_copy(update={"steps": own})})


def _arms(spec: JobSpec, space: SearchSpace) -> list[ArmPlan]:
    learned = warpadam_arms(space, spec.arms == "per_structure")
    warm = warm_arms(learned) if spec.warm_start else learned
    arms = [
        *warm[: len(learned)],
        *map(baseline_arm, spec.baselines),
        *map(control_arm, spec.controls),
        *warm[len(learned) :],
        untuned_arm(),
    ]
    if spec.objective.target == "baseline":
        arms.sort(key=lambda arm: arm.name != REFERENCE)
    return arms


def warp_space(spec: JobSpec) -> SearchSpace:
    """Return the search space of the warpadam arm: the preset with the overrides.

    Raises:
        InvalidSpecError: An unknown preset, or an override that cannot be followed.
    """
    preset = spec.search_space.preset
    if preset not in WARP_PRESETS:
        message, hint = must_be_one_of(preset, WARP_PRESETS)
        raise InvalidSpecError(FieldError("search_space.preset", preset, message, hint, "unknown_name"))
    overrides = {
        name: value.model_dump(exclude_none=True) if isinstance(value, RangeOverride) else value
        for name, value in spec.search_space.overrides.items()
    }
    try:
        return apply_overrides(get_preset(preset), overrides)
    except SearchSpaceError as error:
        raise InvalidSpecError(
            FieldError(f"search_space.overrides.{error.path}", error.value, error.message, error.hint)
        ) from error
