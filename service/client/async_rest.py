"""The client of rest.py for asyncio, with the same methods.

async with AsyncClient("http://127.0.0.1:8000") as client:
job = await client.submit({"dataset": {"name": "wine"}, "model": {"name": "mlp"}})
await client.wait(job["id"])
print((await client.recommendation(job["id"])).reason)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

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

PIECE_BYTES: Final = 1 << 20
"""How much of a file is read at once, in a thread."""


class AsyncClient:
    """A connection to one service, for asyncio; :class:`service.client.rest.Client` explains its methods.

    Args:
        url: URL of the service, such as ``http://127.0.0.1:8000``.
        retry_s: Seconds for which a request is repeated; 0 sends it once.
        api_key: Key of the service; None takes that of ``WARPTUNE_API_KEY``, if there is one.
    """

    def __init__(self, url: str, retry_s: float = RETRY_S, api_key: str | None = None) -> None:
        self.url = without_password(url.rstrip("/"))
        self._retry_s = retry_s
        try:
            self._http = httpx2.AsyncClient(
                base_url=url.rstrip("/"),
                timeout=calls.TIMEOUT_S,
                headers=calls.key_header(api_key),
                transport=httpx2.AsyncHTTPTransport() if calls.is_here(url) else None,  # with one, it takes no proxy
            )
        except httpx2.InvalidURL as error:
            raise calls.unreachable(self.url, error) from error
        except (ImportError, ValueError, OSError) as error:
            raise calls.not_set_up(self.url, error) from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection."""
        await self._http.aclose()

    async def submit(self, spec: Mapping[str, object], idempotency_key: str | None = None) -> Job:
        """Queue a job and return it."""
        return await self._send(calls.submit(spec, idempotency_key))

    async def estimate(self, spec: Mapping[str, object]) -> Estimate:
        """Return what a job would do and cost, without queueing it."""
        return await self._send(calls.estimate(spec))

    async def extend(self, job_id: str, more: Mapping[str, object], idempotency_key: str | None = None) -> Job:
        """Add ``trials``, ``seeds`` or ``max_seconds`` to a job that has succeeded, and return it."""
        return await self._send(calls.extend(job_id, more, idempotency_key))

    async def job(self, job_id: str) -> Job:
        """Return a job with its arms."""
        return await self._send(calls.job(job_id))

    def jobs(
        self, state: str | None = None, name: str | None = None, tags: Sequence[str] = ()
    ) -> AsyncIterator[JobSummary]:
        """Yield the jobs, newest first: all of them, or those in one state, with one name, with every tag."""
        return self._items(calls.jobs(state, name, tags))

    def trials(self, job_id: str) -> AsyncIterator[Trial]:
        """Yield the trials of a job in the order of their numbers."""
        return self._items(calls.trials(job_id))

    async def trial(self, job_id: str, number: int) -> TrialDetail:
        """Return a trial with its learning curve."""
        return await self._send(calls.trial(job_id, number))

    def events(self, job_id: str) -> AsyncIterator[Event]:
        """Yield what has happened to a job until now, the oldest first."""
        return self._items(calls.events(job_id))

    async def follow(self, job_id: str, after: int | None = None) -> AsyncIterator[Event]:
        """Yield what happens to a job, as it happens, until it has ended. A service that restarts is waited for."""
        async with aclosing(self._batches(EventStream(job_id, after))) as batches:
            async for events in batches:
                for event in events:
                    yield event

    async def watch(self, job_id: str) -> AsyncIterator[Job]:
        """Yield the job whenever something has happened to it, until it has ended. Waits like :meth:`follow`."""
        stream = EventStream(job_id)
        while True:
            async with aclosing(self._batches(stream)) as batches:
                async for _ in batches:
                    job = await self._send(calls.job(job_id), calls.TIMEOUT_S)
                    yield job
                    if job["state"] in ENDED_JOB:
                        return
            stream.reopen()
            await asyncio.sleep(stream.pause(None))

    async def wait(self, job_id: str) -> Job:
        """Wait until a job has ended, and return it. Waits like :meth:`follow`."""
        return [job async for job in self.watch(job_id)][-1]

    async def delete(self, job_id: str) -> None:
        """Delete a job with its trials and files. A running job must be cancelled first."""
        await self._send(calls.delete(job_id))

    async def cancel(self, job_id: str) -> Job:
        """Cancel a job and return it. Its worker stops a moment later."""
        return await self._send(calls.cancel(job_id))

    async def stop(self, job_id: str) -> Job:
        """End the search of a job early; the trials so far are judged. Return the job."""
        return await self._send(calls.ask("stop", job_id))

    async def pause(self, job_id: str) -> Job:
        """Pause a job and return it. Its worker gives it back a moment later, and nothing is lost."""
        return await self._send(calls.ask("pause", job_id))

    async def resume(self, job_id: str) -> Job:
        """Go on with a paused job and return it."""
        return await self._send(calls.ask("resume", job_id))

    async def retry(self, job_id: str, idempotency_key: str | None = None) -> Job:
        """Run a failed or cancelled job again and return it. Its finished trials are kept."""
        return await self._send(calls.retry(job_id, idempotency_key))

    async def recommendation(self, job_id: str) -> JobResult:
        """Return the result of a job that has succeeded."""
        return await self._send(calls.recommendation(job_id))

    async def compare(self, job_ids: Sequence[str]) -> JobComparison:
        """Return two or more jobs side by side."""
        return await self._send(calls.compare(job_ids))

    async def export(self, job_id: str, fmt: str) -> bytes:
        """Return the recommendation of a job as a file. A zip with a large dataset takes minutes to pack."""
        return await self._send(calls.export(job_id, fmt))

    async def report(self, job_id: str) -> bytes:
        """Return the HTML report of a job that has succeeded."""
        return await self._send(calls.report(job_id))

    async def upload(
        self, file: str | Path, fmt: str | None = None, reading: Mapping[str, object] | None = None
    ) -> tuple[Dataset, bool]:
        """Upload a file as a dataset."""
        return await self._send(calls.upload(file, fmt, reading))

    def audit(
        self, who: str | None = None, project: str | None = None, operation: str | None = None, since: str | None = None
    ) -> AsyncIterator[AuditLine]:
        """Yield lines of the audit log, the newest first, back to the time ``since``. It needs the scope admin."""
        return self._items(calls.audit(who=who, project=project, operation=operation, since=since))

    def datasets(self) -> AsyncIterator[DatasetSummary]:
        """Yield the uploaded datasets, newest first."""
        return self._items(calls.datasets())

    async def dataset(self, dataset_id: str) -> Dataset:
        """Return an uploaded dataset with its columns."""
        return await self._send(calls.dataset(dataset_id))

    async def delete_dataset(self, dataset_id: str) -> None:
        """Delete an uploaded dataset. The service refuses if a job uses it."""
        await self._send(calls.delete_dataset(dataset_id))

    async def catalog(self) -> dict[str, Any]:
        """Return the names that a job may use: datasets, models, search spaces, optimizers, metrics, learners."""
        return await self._send(calls.catalog())

    async def is_up(self) -> bool:
        """Return whether the service answers."""
        try:
            await self._send(calls.health(), 0)
        except ApiError:
            return False
        return True

    async def _items(self, call: Call[ItemPage]) -> AsyncIterator[Any]:
        """Yield the items of a list, page by page."""
        following: Call[ItemPage] | None = call
        while following is not None:
            page = await self._send(following)
            for item in page["items"]:
                yield item
            following = calls.page_after(call, page)

    async def _batches(self, stream: EventStream) -> AsyncGenerator[list[Event]]:
        """Yield an empty list whenever the stream begins, then new events as they come, until there are no more."""
        while not stream.ended:
            lost: ApiError | None = None
            try:
                async with self._http.stream("GET", stream.path, **stream.options()) as response:
                    if not response.is_success:
                        await response.aread()
                    stream.open(response)
                    yield []
                    async for chunk in response.aiter_bytes():
                        if events := stream.feed(chunk):
                            yield events
            except httpx2.HTTPError as error:
                lost = calls.unreachable(self.url, error)
                lost.__cause__ = error
            except ApiError as error:
                lost = error
            if not stream.ended:
                await asyncio.sleep(stream.pause(lost))

    async def _send(self, call: Call[Answer], retry_s: float | None = None) -> Answer:
        """Send a request until it is answered; see the class for when it is repeated."""
        attempts = Attempts(call, self._retry_s if retry_s is None else retry_s)
        while True:
            try:
                return call.read(calls.checked(await self._send_once(call)))
            except ApiError as error:
                pause = attempts.pause_after(error)
            await asyncio.sleep(pause)

    async def _send_once(self, call: Call[Any]) -> httpx2.Response:
        try:
            content: dict[str, Any] = {} if call.file is None else {"content": _pieces(call.file)}
            return await self._http.request(call.method, call.path, **content, **call.options)
        except httpx2.HTTPError as error:
            raise calls.unreachable(self.url, error) from error


async def _pieces(file: Path) -> AsyncIterator[bytes]:
    with await asyncio.to_thread(file.open, "rb") as content:
        while piece := await asyncio.to_thread(content.read, PIECE_BYTES):
            yield piece
