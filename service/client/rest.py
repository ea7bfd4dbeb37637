"""A thin client of the REST API, for the command line, for :func:`warptune.tune` and for scripts.

    with Client("http://127.0.0.1:8000") as client:
        job = client.submit({"dataset": {"name": "wine"}, "model": {"name": "mlp"}})
        client.wait(job["id"])
        print(client.recommendation(job["id"]).reason)

Methods return the JSON that the API answers with; answers.py has its types. When the API refuses a request or cannot be
reached, they raise :class:`ApiError`, whose text can be shown to a person. async_rest.py has the same client for
asyncio, and calls.py what both share.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import httpx2

from service.client import calls
from service.client.answers import (
    AuditLine,
    Dataset,
    DatasetSummary,
    Estimate,
    Event,
    Job,
    JobSummary,
    Trial,
    TrialDetail,
)
from service.client.calls import RETRY_S, Answer, ApiError, Attempts, Call, ItemPage, without_password
from service.client.stream import EventStream
from service.states import ENDED_JOB

if TYPE_CHECKING:
    from service.result.compared import JobComparison
    from service.result.job_result import JobResult

__all__ = ["ApiError", "Client", "without_password"]


class Client:
    """A connection to one service. Every method may raise :class:`ApiError`.

    A request that did not reach the service, or that it cannot answer now (status 503 or 429), is sent again with
    growing pauses. If the answer says when (``Retry-After``), it is sent again then, for up to a minute. A request
    whose answer was lost is sent again if that has no second effect.

    The proxies of the environment (``HTTPS_PROXY`` and its like) are used, but not for a service on this machine.

    Args:
        url: URL of the service, such as ``http://127.0.0.1:8000``.
        retry_s: Seconds for which a request is repeated; 0 sends it once.
        api_key: Key of the service; None takes that of ``WARPTUNE_API_KEY``, if there is one.
    """

    def __init__(self, url: str, retry_s: float = RETRY_S, api_key: str | None = None) -> None:
        self.url = without_password(url.rstrip("/"))
        self._retry_s = retry_s
        try:
            self._http = httpx2.Client(
                base_url=url.rstrip("/"),
                timeout=calls.TIMEOUT_S,
                headers=calls.key_header(api_key),
                transport=httpx2.HTTPTransport() if calls.is_here(url) else None,  # with one, it takes no proxy
            )
        except httpx2.InvalidURL as error:
            raise calls.unreachable(self.url, error) from error
        except (ImportError, ValueError, OSError) as error:
            raise calls.not_set_up(self.url, error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def submit(self, spec: Mapping[str, object], idempotency_key: str | None = None) -> Job:
        """Queue a job and return it.

        Args:
            spec: The spec; docs/jobs.md has its fields.
            idempotency_key: Sending the same spec again with the same key returns the same job. None makes a key for
                this call.
        """
        return self._send(calls.submit(spec, idempotency_key))

    def estimate(self, spec: Mapping[str, object]) -> Estimate:
        """Return what a job would do and cost, without queueing it."""
        return self._send(calls.estimate(spec))

    def extend(self, job_id: str, more: Mapping[str, object], idempotency_key: str | None = None) -> Job:
        """Add ``trials``, ``seeds`` or ``max_seconds`` to a job that has succeeded, and return it."""
        return self._send(calls.extend(job_id, more, idempotency_key))

    def job(self, job_id: str) -> Job:
        """Return a job with its arms."""
        return self._send(calls.job(job_id))

    def jobs(self, state: str | None = None, name: str | None = None, tags: Sequence[str] = ()) -> Iterator[JobSummary]:
        """Yield the jobs, newest first: all of them, or those in one state, with one name, with every tag."""
        return self._items(calls.jobs(state, name, tags))

    def trials(self, job_id: str) -> Iterator[Trial]:
        """Yield the trials of a job in the order of their numbers."""
        return self._items(calls.trials(job_id))

    def trial(self, job_id: str, number: int) -> TrialDetail:
        """Return a trial with its learning curve."""
        return self._send(calls.trial(job_id, number))

    def events(self, job_id: str) -> Iterator[Event]:
        """Yield what has happened to a job until now, the oldest first."""
        return self._items(calls.events(job_id))

    def follow(self, job_id: str, after: int | None = None) -> Iterator[Event]:
        """Yield what happens to a job, as it happens, until it has ended. A service that restarts is waited for.

        Args:
            job_id: The job.
            after: Id of the last event that you have seen; None for all of them.
        """
        for events in self._batches(EventStream(job_id, after)):
            yield from events

    def watch(self, job_id: str) -> Iterator[Job]:
        """Yield the job whenever something has happened to it, until it has ended. Waits like :meth:`follow`."""
        stream = EventStream(job_id)
        while True:
            for _ in self._batches(stream):
                job = self._send(calls.job(job_id), calls.TIMEOUT_S)
                yield job
                if job["state"] in ENDED_JOB:
                    return
            stream.reopen()
            time.sleep(stream.pause(None))

    def wait(self, job_id: str) -> Job:
        """Wait until a job has ended, and return it. Waits like :meth:`follow`."""
        *_, job = self.watch(job_id)
        return job

    def delete(self, job_id: str) -> None:
        """Delete a job with its trials and files. A running job must be cancelled first."""
        self._send(calls.delete(job_id))

    def cancel(self, job_id: str) -> Job:
        """Cancel a job and return it. Its worker stops a moment later."""
        return self._send(calls.cancel(job_id))

    def stop(self, job_id: str) -> Job:
        """End the search of a job early; the trials so far are judged. Return the job."""
        return self._send(calls.ask("stop", job_id))

    def pause(self, job_id: str) -> Job:
        """Pause a job and return it. Its worker gives it back a moment later, and nothing is lost."""
        return self._send(calls.ask("pause", job_id))

    def resume(self, job_id: str) -> Job:
        """Go on with a paused job and return it."""
        return self._send(calls.ask("resume", job_id))

    def retry(self, job_id: str, idempotency_key: str | None = None) -> Job:
        """Run a failed or cancelled job again and return it. Its finished trials are kept."""
        return self._send(calls.retry(job_id, idempotency_key))

    def recommendation(self, job_id: str) -> JobResult:
        """Return the result of a job that has succeeded.

        Raises:
            OtherVersionError: The service has a version whose answer this one cannot read.
        """
        return self._send(calls.recommendation(job_id))

    def compare(self, job_ids: Sequence[str]) -> JobComparison:
        """Return two or more jobs side by side."""
        return self._send(calls.compare(job_ids))

    def export(self, job_id: str, fmt: str) -> bytes:
        """Return the recommendation of a job as a file. A zip with a large dataset takes minutes to pack."""
        return self._send(calls.export(job_id, fmt))

    def report(self, job_id: str) -> bytes:
        """Return the HTML report of a job that has succeeded."""
        return self._send(calls.report(job_id))

    def upload(
        self, file: str | Path, fmt: str | None = None, reading: Mapping[str, object] | None = None
    ) -> tuple[Dataset, bool]:
        """Upload a file as a dataset.

        Args:
            file: A path. Or a URL with ``://``: the service then reads the file itself.
            fmt: Format of the file; None to tell it from the name's ending.
            reading: How to read a table, such as ``{"decimal": ","}``; what is left out is found by the service.

        Returns:
            The dataset, and whether it is new.

        Raises:
            OSError: The file cannot be read.
        """
        return self._send(calls.upload(file, fmt, reading))

    def audit(
        self, who: str | None = None, project: str | None = None, operation: str | None = None, since: str | None = None
    ) -> Iterator[AuditLine]:
        """Yield lines of the audit log, the newest first, back to the time ``since``. It needs the scope admin."""
        return self._items(calls.audit(who=who, project=project, operation=operation, since=since))

    def datasets(self) -> Iterator[DatasetSummary]:
        """Yield the uploaded datasets, newest first."""
        return self._items(calls.datasets())

    def dataset(self, dataset_id: str) -> Dataset:
        """Return an uploaded dataset with its columns."""
        return self._send(calls.dataset(dataset_id))

    def delete_dataset(self, dataset_id: str) -> None:
        """Delete an uploaded dataset. The service refuses if a job uses it."""
        self._send(calls.delete_dataset(dataset_id))

    def catalog(self) -> dict[str, Any]:
        """Return the names that a job may use: datasets, models, search spaces, optimizers, metrics, learners."""
        return self._send(calls.catalog())

    def is_up(self) -> bool:
        """Return whether the service answers."""
        try:
            self._send(calls.health(), 0)
        except ApiError:
            return False
        return True

    def _items(self, call: Call[ItemPage]) -> Iterator[Any]:
        """Yield the items of a list, page by page."""
        following: Call[ItemPage] | None = call
        while following is not None:
            page = self._send(following)
            yield from page["items"]
            following = calls.page_after(call, page)

    def _batches(self, stream: EventStream) -> Iterator[list[Event]]:
        """Yield an empty list whenever the stream begins, then new events as they come, until there are no more."""
        while not stream.ended:
            lost: ApiError | None = None
            try:
                with self._http.stream("GET", stream.path, **stream.options()) as response:
                    if not response.is_success:
                        response.read()
                    stream.open(response)
                    yield []
                    for chunk in response.iter_bytes():
                        if events := stream.feed(chunk):
                            yield events
            except httpx2.HTTPError as error:
                lost = calls.unreachable(self.url, error)
                lost.__cause__ = error
            except ApiError as error:
                lost = error
            if not stream.ended:
                time.sleep(stream.pause(lost))

    def _send(self, call: Call[Answer], retry_s: float | None = None) -> Answer:
        """Send a request until it is answered; see the class for when it is repeated."""
        attempts = Attempts(call, self._retry_s if retry_s is None else retry_s)
        while True:
            try:
                return call.read(calls.checked(self._send_once(call)))
            except ApiError as error:
                pause = attempts.pause_after(error)
            time.sleep(pause)

    def _send_once(self, call: Call[Any]) -> httpx2.Response:
        try:
            if call.file is None:
                return self._http.request(call.method, call.path, **call.options)
            with call.file.open("rb") as content:
                return self._http.request(call.method, call.path, content=content, **call.options)
        except httpx2.HTTPError as error:
            raise calls.unreachable(self.url, error) from error
