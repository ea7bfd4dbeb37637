"""The spec of a tuning job, from the request body to the worker: its fields, their ranges and defaults.

Whether names exist and parts fit together is checked in ``planning/``. Answers are in ``api/views.py``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Union

from annotated_types import Ge, Gt, Le, Len, Lt
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Discriminator, Field, Tag

from service.spec.base import ID, PRINTABLE, TAG, Name, SpecModel, read_stored
from service.spec.data import DatasetSpec, FamilySpec
from service.spec.metrics import METRICS
from service.spec.models import MODELS, LoopSpec, ModelSpec, UserCodeSpec

Scalar = Name | bool | int | float


PICKLED: Final = ("pickle", "pickled", "cloudpickle", "function")
"""Fields by which someone may try to send a function itself."""


def _as_model(value: object) -> object:
    """Let the name of a model be left out when there is an entrypoint, and refuse a function that is sent itself."""
    if not isinstance(value, dict) or value.get("name", "entrypoint") not in ("entrypoint", "loop"):
        return value
    if sent := [field for field in PICKLED if field in value]:
        raise ValueError(
            f"must not have {sent[0]}: a pickled function is never accepted, because reading it runs code. Put the "
            "function into a module that the operator allows, and name it in model.entrypoint"
        )
    return {"name": "entrypoint", **value} if "entrypoint" in value else value


if TYPE_CHECKING:
    MetricName = str
    AnyModel = ModelSpec
else:
    MetricName = Literal[
        ("val_loss", *(metric.field for metric in METRICS.values()), "seconds_to_target", "steps_to_target")
    ]
    AnyModel = Annotated[Union[tuple(MODELS.values())], Field(discriminator="name"), BeforeValidator(_as_model)]  # noqa: UP007

MAX_SEED = 2**31 - 1
"""Largest seed: torch, numpy and Optuna all take it, with room for the confirmation seeds above it."""


MAX_STEPS = 1_000_000
"""Steps of the longest run."""

MAX_TRIALS = 10_000
"""Trials of an arm."""

MAX_SECONDS = 604_800
"""Seconds of an arm: a week."""

CONTENDERS = 6
"""Trials of an arm that race each other by default: rounds of 6, 4, 3 and 2 runs."""

MIN_ROUNDS = 4
"""Rounds of the shortest race."""

MAX_CONFIRM_SEEDS = 64
"""Fresh seeds of a phase."""


MAX_PRIORITY = 5
"""Highest priority of a job in the queue; the lowest is minus that."""


class ObjectiveSpec(SpecModel):
    """What a trial is judged by, on the validation part."""

    metric: MetricName = "val_loss"
    """A loss or score, or the training seconds or steps until val_loss is at the target."""
    target: float | Literal["baseline"] | None = None
    """val_loss to reach, for *_to_target; `baseline` is the one that the tuned AdamW ends with."""
    at: Literal["best", "last"] = "best"
    """The point of a run that is judged, for every arm: where validation is best (each point counts with its
    neighbours), or the last step. Equations and families are always judged at the last step."""
    trade_off: Literal["seconds"] | None = None
    """A second objective beside val_loss: training seconds. The result has the Pareto front."""


class RangeOverride(SpecModel):
    """A narrower (or wider) range of one parameter."""

    low: int | float
    high: int | float
    log: bool | None = None
    """Search on a log scale; null keeps the preset's choice."""


def _override_kind(value: object) -> str:
    if isinstance(value, Mapping | RangeOverride):
        return "range"
    return "choices" if isinstance(value, list) else "value"


Override = Annotated[
    Annotated[RangeOverride, Tag("range")]
    | Annotated[list[Scalar], Len(1, 100), Tag("choices")]
    | Annotated[Scalar, Tag("value")],
    Discriminator(_override_kind),
]


class SearchSpaceSpec(SpecModel):
    """The search space of the warpadam arm: a preset, and what is changed in it."""

    preset: Name = "default"
    """Name of a preset; `GET /v1/catalog` lists them."""
    overrides: dict[Name, Override] = Field(
        default={}, max_length=50, examples=[{"structure": ["kronecker", "diagonal"], "meta_every": 10}]
    )
    """Parameter name -> a value (fixed), a list (choices), or {low, high, log} (range)."""


class EngineSpec(SpecModel):
    """What runs the trials: ``optuna`` uses slot processes on the worker's own machine, ``ray`` a Ray cluster."""

    name: Literal["optuna", "ray"] = "optuna"


class SearchSpec(SpecModel):
    """How the next trial is chosen (Optuna's sampler) and when a trial is stopped early (by the engine's pruner)."""

    sampler: Literal["tpe", "random", "gp", "qmc"] = "tpe"
    pruner: Literal["asha", "hyperband", "median", "none"] = "asha"
    refine: Annotated[float, Ge(0), Le(1)] = 0.25
    """Share of an arm's trials, its last ones, that try points next to the best so far; 0 leaves all to the sampler.
    Without effect if there are two objectives."""
    from_job: str | None = Field(None, max_length=40, pattern=ID)
    """An earlier job with the same arms and search spaces, whose completed trials the sampler knows."""


class WarmStartSpec(SpecModel):
    """The learned P of an earlier job, which the arms that learn P start from."""

    job: str = Field(max_length=40, pattern=ID)
    """A job that has succeeded and recommends a P that it learned."""
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    """Of the file of that P; null takes the one that the job has, and is filled in."""


class TrainingSpec(SpecModel):
    """How a run is trained, the same for every arm."""

    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """lr over the steps after the warm-up; `linear` and `cosine` (half a wave) end at 0."""
    warmup_steps: Annotated[int, Ge(0), Le(MAX_STEPS)] = 0
    """Steps in which the lr rises from 0 in a line; fewer than budget.steps."""
    max_grad_norm: Annotated[float, Gt(0), Le(1e9)] | None = None
    """Norm of all gradients together that they are clipped to before the optimizer sees them."""
    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of the target spread over all classes; training loss of classification and language."""
    class_weights: Literal["balanced"] | None = None
    """`balanced`: rows weigh n / (classes * rows of the class) in a classification's training loss."""
    last_batch: Literal["drop", "keep"] = "drop"
    """Rows of an epoch that fill no batch: left out, or a smaller batch."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the forward pass in training (torch.autocast); float16 needs a GPU."""
    compile: bool = False
    """Whether the model is compiled by torch.compile."""
    patience: Annotated[int, Ge(1), Le(MAX_STEPS)] | None = None
    """Stop a run when validation has not become better for this many steps; null never does."""


RECEIVER: Final = re.compile(r"https?://[A-Za-z0-9._-]+(:(?P<port>[0-9]{1,5}))?([/?][!-~]*)?")
"""URL of a web server: a host name or an IPv4 address, without user and password."""


def _as_receiver(url: str) -> str:
    found = RECEIVER.fullmatch(url)
    if not found or "#" in url:
        raise ValueError("must be a URL such as https://hooks.example.org/warptune, without a user and a fragment")
    if int(found["port"] or 0) > 65_535:
        raise ValueError("must have a port of at most 65535")
    return url


class NotifySpec(SpecModel):
    """Where the service tells that the job has ended."""

    url: Annotated[str, AfterValidator(_as_receiver)] = Field(
        max_length=500, pattern=PRINTABLE, examples=["https://hooks.example.org/warptune"]
    )
    """Gets a signed POST when the job has succeeded, failed or was cancelled; on a host that the operator allows."""


TagWord = Annotated[
    str,
    Field(
        max_length=30,
        pattern=TAG,
        description="A word of letters, digits, and . _ - in between.",
        examples=["churn"],
    ),
]

Tags = Annotated[list[TagWord], Len(0, 10)]


def _different(words: list[str]) -> list[str]:
    if len(set(words)) < len(words):
        raise ValueError("must not have a word twice")
    return words


Control = Literal["diagonal_pre", "random_p", "adamw_more_steps"]


class BudgetSpec(SpecModel):
    """Caps, the same for every arm; whichever is reached first ends the arm."""

    trials_per_arm: Annotated[int, Ge(1), Le(MAX_TRIALS)] = 20
    steps: Annotated[int, Ge(1), Le(MAX_STEPS)] = 400
    """Optimizer steps of one run. A training loop of your own stops there; left out, it does its own steps."""
    batch_size: Annotated[int, Ge(1), Le(65_536)] = 128
    """Rows; capped at the training rows."""
    max_seconds: Annotated[float, Gt(0), Le(MAX_SECONDS)] = 600.0
    """Wall-clock seconds of one arm."""


class ResourcesSpec(SpecModel):
    """What the trials may use: on the worker's machine (engine ``optuna``) or on a cluster (engine ``ray``)."""

    slots: Annotated[int, Ge(1), Le(64)] = 1
    """Engine optuna: trials that run at once. 1 makes a job repeatable."""
    max_concurrent: Annotated[int, Ge(1), Le(10_000)] | None = None
    """Engine ray: trials that run at once; null is as many as fit. 1 makes a job repeatable."""
    cpus_per_trial: Annotated[int, Ge(1), Le(256)] = 1
    """CPUs, and threads, of one trial."""
    gpus_per_trial: Annotated[float, Ge(0), Le(8)] = 0.0
    """CUDA devices of one trial; below 1, trials share a device."""
    memory_bytes: Annotated[int, Ge(1)] | None = None
    """Engine ray: memory that a node must have free for one trial; placed by it, not limited to it."""
    custom: dict[Annotated[Name, Len(1)], Annotated[float, Gt(0), Le(1_000_000)]] = Field(
        default={}, max_length=20, examples=[{"accelerator_type:A100": 1}]
    )
    """Engine ray: other resources of the nodes that one trial takes."""
    max_attempts: Annotated[int, Ge(1), Le(10)] = 2
    """Times a trial is started before it is failed, when its process dies. An attempt that came further than those
    before it does not count, nor does one that ended because its worker died."""
    checkpoint_every_s: Annotated[float, Gt(0), Le(86_400)] = 30.0
    """Seconds between two checkpoints of a run: what a run that is killed loses at most."""


class ConfirmSpec(SpecModel):
    """The final comparison of the arms' best configs on fresh paired seeds, judged on the test part."""

    top_k: Annotated[int, Ge(1), Le(10)] | None = None
    """Best trials of an arm that race each other on fresh seeds, on validation, before the winner is compared. null is
    6, or all trials if there are fewer; 1 takes the best trial of the search without a race."""
    seeds: Annotated[int, Ge(6), Le(MAX_CONFIRM_SEEDS)] = 8
    """Paired runs. Fewer than 6 prove nothing."""
    splits: Annotated[int, Ge(1), Le(MAX_CONFIRM_SEEDS)] | None = None
    """Random splits of the rows that these runs are spread over, the first of them the search's. null is one for each
    seed. 1 is always used for large data, splits by time or column, texts, equations, families and warm starts."""
    min_effect: Annotated[float, Ge(0), Le(1)] = 0.01
    """Smallest improvement that counts, relative to the baseline's mean test loss."""


class JobSpec(SpecModel):
    """A tuning job: what to train, how to search, how much to spend."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "digits-mlp",
                    "dataset": {"name": "digits"},
                    "model": {"name": "mlp", "hidden": [64, 64], "activation": "relu"},
                    "search_space": {"preset": "default", "overrides": {"meta_every": 10}},
                    "budget": {"trials_per_arm": 20, "steps": 400},
                    "seed": 0,
                }
            ]
        }
    )

    name: str = Field("untitled", min_length=1, max_length=100, pattern=PRINTABLE)
    tags: Annotated[Tags, AfterValidator(_different)] = Field([], examples=[["churn", "baseline"]])
    """Words to find the job by in lists."""
    priority: Annotated[int, Ge(-MAX_PRIORITY), Le(MAX_PRIORITY)] = 0
    """Jobs with a higher one are taken from the queue first; those with the same one in turn between their owners."""
    dataset: DatasetSpec = DatasetSpec()
    """Required, unless each task of a family has its own, or the model is a training loop."""
    model: AnyModel
    family: FamilySpec | None = None
    """Learn P over many tasks; null is one task."""
    warm_start: WarmStartSpec | None = None
    """Start from the P of an earlier job; null starts from P = I."""
    objective: ObjectiveSpec = ObjectiveSpec()
    search_space: SearchSpaceSpec = SearchSpaceSpec()
    arms: Literal["warpadam", "per_structure"] = "warpadam"
    """One arm that learns P, or one for each structure of P in the search space."""
    baselines: Annotated[list[Name], Len(1, 8)] = Field(["adamw"])
    """Arms to compare against."""
    controls: Annotated[list[Control], Len(0, 3)] = Field([])
    """Arms that show what P itself does. They are never recommended."""
    engine: EngineSpec = EngineSpec()
    search: SearchSpec = SearchSpec()
    training: TrainingSpec = TrainingSpec()
    budget: BudgetSpec = BudgetSpec()
    resources: ResourcesSpec = ResourcesSpec()
    confirm: ConfirmSpec = ConfirmSpec()
    notify: NotifySpec | None = None
    """Who is told when the job has ended; null is nobody."""
    seed: Annotated[int, Ge(0), Le(MAX_SEED)] = 0
    """Data split, trial seed and samplers."""

    @property
    def contenders(self) -> int:
        """Trials of an arm that race each other; 1 for no race."""
        return min(self.confirm.top_k or CONTENDERS, self.budget.trials_per_arm)

    @property
    def race_rounds(self) -> list[int]:
        """How many trials of an arm run in each round of the race, each round on one fresh seed.

        A third of them drop out after each round; at least ``MIN_ROUNDS`` rounds decide.
        """
        sizes, left = list[int](), self.contenders
        while left > 1:
            sizes.append(left)
            left = min(left - 1, math.ceil(left * 2 / 3))
        return sizes + [2] * (MIN_ROUNDS - len(sizes)) if sizes else []

    @property
    def user_module(self) -> str | None:
        """Module that the user's model or training loop is in; None for a model of the service."""
        return self.model.entrypoint.partition(":")[0] if isinstance(self.model, UserCodeSpec) else None

    @property
    def datasets(self) -> dict[str, DatasetSpec]:
        """The datasets of the job by the fields that name them: one, one for each task of a family, none for a loop."""
        if isinstance(self.model, LoopSpec):
            return {}
        if self.family is None or self.family.datasets is None:
            return {"dataset": self.dataset}
        return {f"family.datasets[{index}]": chosen for index, chosen in enumerate(self.family.datasets)}

    def to_json(self) -> dict[str, Any]:
        """Return the spec with every default written out, as plain JSON values."""
        return self.model_dump(mode="json")

    @classmethod
    def from_json(cls, stored: object) -> JobSpec:
        """Return a stored spec. It is checked again, as another version may know other fields or ranges.

        Raises:
            OtherVersionError: Another version of the service wrote something that this one cannot read.
        """
        return read_stored(cls, stored, "the job's spec")


class ExtendSpec(SpecModel):
    """What to add to a job that has succeeded."""

    trials: Annotated[int, Ge(0), Le(MAX_TRIALS)] = 0
    """More trials for each arm."""
    seeds: Annotated[int, Ge(0), Le(MAX_CONFIRM_SEEDS)] = 0
    """More fresh paired seeds."""
    max_seconds: Annotated[float, Ge(0), Le(MAX_SECONDS)] = 0.0
    """More seconds for each arm."""
