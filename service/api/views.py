"""Response models of the API, made from rows. A job's result is answered as it is: ``JobResult``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Generic, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from service.db.models import Job, Trial
from service.db.studies import study_name
from service.errors import OtherVersionError
from service.ledger.queries import ArmSummary, ConfirmCounts
from service.planning.arms import ArmPlan
from service.planning.plan import JobPlan, plan_of
from service.settings import LOCAL_PROJECT
from service.spec.job import BudgetSpec, JobSpec
from service.states import ArmState, JobState, TrialState

Item = TypeVar("Item")
Row = TypeVar("Row")


class View(BaseModel):
    """Base of the answers."""

    model_config = ConfigDict(from_attributes=True, frozen=True)


class Page(View, Generic[Item]):
    """One page of a list; pass ``next_cursor`` as ``cursor`` for the next one."""

    items: list[Item]
    next_cursor: int | None = Field(description="null on the last page")

    @classmethod
    def of(cls, rows: Sequence[Row], limit: int, view: Callable[[Row], Item], cursor: Callable[[Row], int]) -> Self:
        """Return a page of ``limit`` rows; one row more than that says that there is another page."""
        shown = rows[:limit]
        more = len(rows) > limit
        return cls(items=[view(row) for row in shown], next_cursor=cursor(shown[-1]) if more else None)


class JobLinks(View):
    """Where the rest of a job is."""

    self: str
    trials: str
    events: str
    recommendation: str
    export: str
    report: str
    dashboard: str

    @classmethod
    def of(cls, job_id: str) -> JobLinks:
        """Return the links of a job."""
        job = f"/v1/jobs/{job_id}"
        parts = ("trials", "events", "recommendation", "export", "report")
        return cls(self=job, dashboard="/dashboard", **{part: f"{job}/{part}" for part in parts})


class JobSummary(View):
    """A job in a list."""

    id: str
    owner: str = Field(LOCAL_PROJECT, description="The project that it belongs to.")
    name: str
    dataset: str
    tags: list[str] = []
    state: JobState
    cause: str | None = Field(description="Why it failed.")
    priority: int = 0
    queue_position: int | None = Field(None, description="Place in the queue, 1 for the next; null unless queued.")
    needs_module: str | None = Field(
        None,
        description="Module that a worker must allow to take the job, which came from a Python call with code of its "
        "own; null lets any worker take it.",
    )
    cancel_requested: bool
    pause_requested: bool = False
    stop_requested: bool = Field(False, description="The search ends early, and the trials so far are judged.")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @classmethod
    def of(cls, job: Job, places: Mapping[str, int]) -> JobSummary:
        """Return the summary of a job; ``places`` are those of waiting jobs in the queue, by their ids."""
        return cls.model_validate(job).model_copy(update={"queue_position": places.get(job.id)})


class BestTrial(View):
    """The completed trial that is best so far."""

    number: int
    value: float
    params: dict[str, JsonValue]


class ArmView(View):
    """How far an arm is."""

    name: str
    state: ArmState
    trials: dict[TrialState, int] = Field(description="Number of trials by state.")
    trials_cap: int
    seconds_used: float
    seconds_cap: float
    best: BestTrial | None
    study: str = Field(description="Name of the arm's study in the Optuna dashboard.")

    @classmethod
    def of(cls, summary: ArmSummary, spec: Mapping[str, Any], trials: Mapping[str, int]) -> ArmView:
        """Return the view of an arm of a job with this stored spec; ``trials`` has the caps of its arms, if known."""
        arm, counts, best = summary
        caps = BudgetSpec().model_dump() | spec.get("budget", {})
        return cls(
            name=arm.name,
            state=arm.state,
            trials=counts,
            trials_cap=trials.get(arm.name, caps["trials_per_arm"]),
            seconds_used=arm.seconds_used,
            seconds_cap=caps["max_seconds"],
            best=best if best and best.value is not None else None,
            study=study_name(arm.job_id, arm.name),
        )


class ConfirmView(View):
    """How far the confirmation runs are."""

    done: int
    planned: int


class JobView(JobSummary):
    """A job with its arms."""

    spec: JobSpec | dict[str, JsonValue] = Field(
        union_mode="left_to_right",
        description="The spec with every default written out. If another version of the service stored it: as stored.",
    )
    data_sha256: str | None = Field(description="Hash of the prepared split.")
    arms: list[ArmView]
    confirm: ConfirmView
    links: JobLinks

    @classmethod
    def with_arms(
        cls, job: Job, places: Mapping[str, int], arms: Sequence[ArmSummary], confirm: ConfirmCounts
    ) -> JobView:
        """Return the view of a job with its arms."""
        try:
            plan = plan_of(job.spec, job.dataset_info)
        except OtherVersionError:  # the job is shown all the same
            trials = {}
        else:
            trials = {arm.name: plan.trials(arm) for arm in plan.arms}
        return cls(
            **JobSummary.of(job, places).model_dump(),
            spec=job.spec,
            data_sha256=job.data_sha256,
            arms=[ArmView.of(arm, job.spec, trials) for arm in arms],
            confirm=confirm,
            links=JobLinks.of(job.id),
        )


class TrialView(View):
    """A trial."""

    number: int
    arm: str
    state: TrialState
    params: dict[str, JsonValue] = Field(description="What the search chose.")
    config: dict[str, JsonValue] = Field(
        description="The optimizer's hyper-parameters. If another version of the service stored params that this one's "
        "optimizer refuses: the params."
    )
    value: float | None = Field(
        description="What the search minimises: the validation loss, or the cost of the score that is judged, such as "
        "1 - accuracy, or the time to the target. A miss costs the cap plus the loss that was left."
    )
    last_step: int
    seconds: float = Field(description="Training time.")
    attempts: int
    cause: str | None = Field(description="Why it did not complete.")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @classmethod
    def of(cls, row: Trial, plan: JobPlan) -> TrialView:
        """Return the view of a trial."""
        arm: ArmPlan = plan.arm(row.arm)
        try:
            config = arm.config(row.params)
        except (LookupError, TypeError, ValueError):  # the trial is shown all the same
            config = dict(row.params)
        names = set(cls.model_fields) - {"config"}
        return cls(**{name: getattr(row, name) for name in names}, config=config)


class PointView(View):
    """One point of a learning curve."""

    step: int
    train_loss: float
    val_loss: float
    seconds: float
    val_score: float | None = Field(
        description="Score on the validation part, such as the accuracy; null where it is not defined."
    )


class TrialDetail(TrialView):
    """A trial with its learning curve."""

    curve: list[PointView]


class EventView(View):
    """Something that happened to a job."""

    id: int
    at: datetime
    kind: str
    data: dict[str, JsonValue]


class Health(View):
    """The process answers."""

    status: Literal["ok"] = "ok"
    version: str


class Ready(View):
    """The process can serve requests: the database and the artifact store answer."""

    status: Literal["ready"] = "ready"
