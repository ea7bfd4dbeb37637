"""What :func:`warptune.tune` returns: the verdict, the optimizer to use, the trials, and the trained model."""

from __future__ import annotations

import html
import json
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from http import HTTPStatus
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from service.client.answers import EXPORTS, Job, Trial
from service.client.calls import without_password
from service.client.quick_spec import STARTING, describe_earlier
from service.client.rest import ApiError, Client
from service.errors import ConflictError, FieldError, InvalidSpecError, JobFailedError
from service.result.effects import search_figure
from service.result.job_result import ANSWERS, JobResult, Word
from service.states import ENDED_JOB, count_ended
from warptune.connection import Connection
from warptune.data import as_rows, index_of
from warptune.progress import CARD, Clock, Progress, make_progress
from warptune.training_loop import also_allowed, is_temporary

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from service.export.replay import Bundle

COLUMNS: Final = ("number", "arm", "state", "value", "seconds", "last_step", "cause")
"""What the table of trials has besides the settings."""


LOST_LOOP: Final = (
    "the code of its training loop was deleted when tune ended. A loop in a module, tuned with a service of yours, can "
    "go on (docs/own-loop.md)"
)


@dataclass(frozen=True, repr=False, eq=False)
class Result:
    """The result of a job; of one that was stopped, its trials.

    Attributes:
        job: The job as it ended, as the API shows it.
        recommendation: Everything that was found; None if the job was stopped.
        optimizer: Class of the recommended optimizer, such as ``warpadam.WarpAdam``; None if the job was stopped.
    """

    job: Job
    recommendation: JobResult | None
    optimizer: str | None
    _trials: Sequence[Trial]
    _connection: Connection

    @classmethod
    def load(cls, job_id: str, url: str | None = None) -> Result:
        """Return the result of an earlier job, from a service or from the jobs of this folder.

        Raises:
            ApiError: There is no such job, or the service cannot be reached.
            ConflictError: The job has not ended.
            JobFailedError: The job failed.
        """
        connection = Connection.to(url)
        with connection.open() as client:
            return cls.read(client, client.job(job_id), connection)

    @classmethod
    def read(cls, client: Client, job: Job, connection: Connection) -> Result:
        """Read the result of a job that has ended.

        Raises:
            ConflictError: The job has not ended.
            JobFailedError: The job failed.
        """
        job_id, state = job["id"], job["state"]
        if state == "failed":
            raise JobFailedError(f"the job {job_id} failed: {job['cause']}")
        if state not in ("succeeded", "cancelled"):
            raise ConflictError(f"the job {job_id} has not ended: it is {state}")
        trials = list(client.trials(job_id))
        if state == "cancelled":
            return cls(job, None, None, trials, connection)
        optimizer = json.loads(client.export(job_id, "json"))["optimizer"]
        return cls(job, client.recommendation(job_id), str(optimizer), trials, connection)

    @property
    def job_id(self) -> str:
        """Id of the job."""
        return self.job["id"]

    @property
    def verdict(self) -> Word | None:
        """Whether P helps: helps, hurts, no_difference or inconclusive; None if the job was stopped."""
        return None if self.recommendation is None else self.recommendation.verdict

    @property
    def reason(self) -> str:
        """The verdict in one sentence; of a stopped job, what it leaves."""
        return self._stopped() if self.recommendation is None else self.recommendation.reason

    @property
    def config(self) -> dict[str, Any] | None:
        """Settings of the recommended optimizer; None if the job was stopped."""
        return None if self.recommendation is None else dict(self.recommendation.config)

    @property
    def trials(self) -> Any:
        """The trials, one row each: a pandas DataFrame, or a list of dicts if pandas is not installed.

        ``value`` is the cost on the validation part, where lower is better. What the search chose has names that begin
        with ``params_``.
        """
        rows = [
            {name: trial[name] for name in COLUMNS}
            | {f"params_{name}": value for name, value in trial["params"].items()}
            for trial in self._trials
        ]
        return _frame(rows)

    def make_optimizer(self, model: nn.Module) -> Optimizer:
        """Return the recommended optimizer for a model of yours: WarpAdam if P helps, otherwise the best baseline.

        Raises:
            ConflictError: The job was stopped, so nothing is recommended.
        """
        from service.optimizers import OPTIMIZERS, build_optimizer

        found = self._complete()
        name = next(name for name, entry in OPTIMIZERS.items() if entry.library == self.optimizer)
        return build_optimizer(name, model, found.config)

    def predict(self, new_rows: object) -> Any:
        """Score new rows with the model that was trained with the recommended optimizer.

        Args:
            new_rows: A table with the columns of the training data, an array, a CSV file, or a ``.npy`` file.

        Returns:
            One row for each: the prediction and, for classes, the probability of each class. A pandas DataFrame with
            the index that ``new_rows`` has, or a dict of lists if pandas is not installed. What a person should know
            of the rows is a warning.

        Raises:
            ConflictError: The job was stopped.
            BundleError: There is no model that scores rows, as for a family of tasks.
            ValueError: The rows are not like those of training.
        """
        from service.export.predict import predict

        self._complete()
        with tempfile.TemporaryDirectory(prefix="warptune-predict-") as folder:
            found, notes = predict(self._bundle, as_rows(new_rows, Path(folder)))
        for note in notes:
            warnings.warn(note, stacklevel=2)
        return _frame({name: list(values) for name, values in found.items()}, index_of(new_rows))

    def report(self, path: str | Path) -> Path:
        """Save a page with figures that works offline, and return where it is.

        Raises:
            ConflictError: The job was stopped.
        """
        self._complete()
        with self._connection.open() as client:
            Path(path).write_bytes(client.report(self.job_id))
        return Path(path)

    def export(self, path: str | Path) -> Path:
        """Save the recommendation; the ending says as what. Return where it is.

        ``.py`` is a script; ``.json``, ``.yaml`` and ``.toml`` hold the settings; ``.zip`` has everything, with the
        trained model and the data.

        Raises:
            InvalidSpecError: The ending is another one.
            ConflictError: The job was stopped.
        """
        form = EXPORTS.get(Path(path).suffix)
        if form is None:
            raise InvalidSpecError(FieldError("path", str(path), f"must end in one of {', '.join(EXPORTS)}"))
        self._complete()
        with self._connection.open() as client:
            Path(path).write_bytes(client.export(self.job_id, form))
        return Path(path)

    def resume(self, *, quiet: bool = False) -> Result:
        """Go on with a job that was stopped, and return its result. Its trials are kept. An interrupt stops it again.

        In another session: ``Result.load(job_id).resume()``, in the same folder. A training loop that was given to
        ``tune`` without a service of yours cannot go on, as its code is deleted when the call ends.

        Args:
            quiet: Whether to show nothing.

        Raises:
            ConflictError: The job was not stopped, or is on such a training loop.
            ApiError: The service refused it, for instance because the dataset was deleted.
            JobFailedError: The job failed.
            NotStartedError: The service of this call did not start.

        Cost: what is left of the job.
        """
        if self.recommendation is not None:
            raise ConflictError(f"the job {self.job_id} has its result; only a job that was stopped can go on")
        if self._has_lost_its_loop:
            raise ConflictError(f"the job {self.job_id} cannot go on: {LOST_LOOP}")
        spec, connection = self.job["spec"], self._connection
        if entrypoint := spec["model"].get("entrypoint"):
            allowed = {"WARPTUNE_ALLOWED_MODULES": also_allowed(entrypoint.partition(":")[0])}
            connection = replace(connection, settings={**connection.settings, **allowed})
        progress = make_progress(quiet=quiet)
        progress.update(STARTING)
        with connection.open(worker=True) as client:
            clock = Clock(client.estimate(spec))
            for line in describe_earlier(client, spec, is_private=connection.url is None):
                progress.say(line)
            return follow(client, client.retry(self.job_id), clock, progress, connection)

    def __repr__(self) -> str:
        found = self.recommendation
        if found is None:
            return f"Result of {self.job_id}: {self.reason}"
        has_rows = self.job["spec"]["model"]["name"] != "loop"
        predict = ".predict(new_rows), " if has_rows else ""
        return (
            f"Result of {self.job_id}: {ANSWERS[found.verdict]} ({found.verdict})\n"
            f"  {found.reason}\n"
            f"  Use {self.optimizer}: {json.dumps(found.config)}\n"
            f"  Go on with .make_optimizer(model), {predict}.trials, .report(path) or .export(path)"
        )

    def _repr_html_(self) -> str:
        found = self.recommendation
        if found is None:
            return CARD.format(html.escape(self.reason))
        rows = [
            (arm.arm, arm.trial, search_figure(found.metric, arm.value), arm.mean_test_loss, arm.runs)
            for arm in found.finalists
        ]
        head = "".join(f"<th>{name}</th>" for name in ("arm", "trial", "value in search", "mean test loss", "runs"))
        body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
        return CARD.format(
            f"<b>{ANSWERS[found.verdict]}</b> ({found.verdict})<br>{html.escape(found.reason)}"
            f"<table><tr>{head}</tr>{body}</table>"
            f"Use <code>{html.escape(str(self.optimizer))}</code>: <code>{html.escape(json.dumps(found.config))}</code>"
        )

    def _stopped(self) -> str:
        best = [(arm["best"]["value"], arm["best"]["number"], arm["name"]) for arm in self.job["arms"] if arm["best"]]
        count = sum(count_ended(arm["trials"]) for arm in self.job["arms"])
        text = f"stopped before the verdict; {count} trials are kept"
        if best:
            value, number, arm = min(best)
            metric = str(self.job["spec"].get("objective", {}).get("metric", "val_loss"))
            text += f", the best is trial {number} of {arm} ({search_figure(metric, value, 4)})"
        if self._has_lost_its_loop:
            return f"{text}. The job cannot go on: {LOST_LOOP}"
        url = self._connection.url
        where = repr(self.job_id) if url is None else f"{self.job_id!r}, {without_password(url)!r}"
        return f"{text}. To go on: Result.load({where}).resume()"

    @property
    def _has_lost_its_loop(self) -> bool:
        """Whether the job is on a training loop whose code was deleted when the call of ``tune`` ended."""
        return is_temporary(str(self.job["spec"]["model"].get("entrypoint", "")))

    def _complete(self) -> JobResult:
        if self.recommendation is None:
            raise ConflictError(f"the job {self.job_id} has no recommendation: it was {self._stopped()}")
        return self.recommendation

    @cached_property
    def _bundle(self) -> Bundle:
        """The zip without the data."""
        from service.artifacts import DATA_FILE
        from service.export.replay import Bundle, read_bundle

        with tempfile.TemporaryDirectory(prefix="warptune-result-") as folder:
            bundle = read_bundle(self.export(Path(folder, "job.zip")))
        return Bundle(bundle.manifest, {name: content for name, content in bundle.files.items() if name != DATA_FILE})


def follow(client: Client, queued: Job, clock: Clock, progress: Progress, connection: Connection) -> Result:
    """Follow a job to its end, show how far it is, and return its result. An interrupt stops the job.

    Raises:
        JobFailedError: The job failed.
    """
    job = queued
    try:
        for job in client.watch(queued["id"]):
            if job["state"] not in ENDED_JOB:
                progress.update(clock.line(job))
    except KeyboardInterrupt:
        progress.update("stopping the job; its trials are kept")
        job = _stop(client, queued["id"])
    result = Result.read(client, job, connection)
    text = result.reason if result.verdict is None else f"{ANSWERS[result.verdict]} ({result.verdict}): {result.reason}"
    progress.end(text, result._repr_html_())
    return result


def _stop(client: Client, job_id: str) -> Job:
    """Cancel a job and return it when it has ended."""
    try:
        client.cancel(job_id)
    except ApiError as error:
        if error.status != HTTPStatus.CONFLICT:  # otherwise it ended at this moment
            raise
    *_, job = client.watch(job_id)
    return job


def _cell(value: object) -> str:
    shown = "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    return f"<td>{html.escape(shown)}</td>"


def _frame(rows: Any, index: Any = None) -> Any:
    if find_spec("pandas") is None:
        return rows
    import pandas as pd

    return pd.DataFrame(rows or {name: [] for name in COLUMNS}, index=index)
