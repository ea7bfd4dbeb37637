"""Reads files of users in child processes, so that one that takes too much memory or time ends the child, not the API.

    Readers ──▶ a child of the fork server: reads the file, writes the dataset folder, answers in JSON
       └ meanwhile looks at the child's memory, at the clock, and whether the client is still there

The fork server starts with the first file and has the readers loaded, so that a child starts in some milliseconds. A
decoder that crashes ends its child, too.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from multiprocessing import connection as mp_connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Final

from service.data.facts import DatasetFacts, Reading
from service.data.upload import FORMATS, FileFormat, read_file
from service.errors import FieldError, InvalidFileError, InvalidSpecError, JobFailedError, UnavailableError
from service.processes import Turns, how_it_ended, memory_bytes, oom_kills
from service.settings import Settings
from service.spec.data import DatasetSpec
from service.spec.job import JobSpec

TICK_S: Final = 0.02
"""Pause between two looks at a child, in which it can take some 50 MB."""

STARTS: Final = 5
"""How often the start of a child is tried."""

BYTES_PER_S: Final = 1 << 20
"""A file of this many bytes may take a second longer."""

LOADING_S: Final = 30.0
"""Longest time to load scikit-learn and to draw a split, on a busy machine."""

LOOKING_S: Final = 30.0
"""Longest time to look for what may be wrong with the rows of a job, however many there are."""

KEPT_LOOKS: Final = 256
"""Newest looks at rows whose answers are kept, as a page asks again after each change of a form."""

THREADS: Final = 2
"""Most threads of a child. Each keeps memory of its own: with 64, a CSV file of 200 MB took 1.1 GB, with two 0.4 GB."""

MAX_ANSWER_BYTES: Final = 1 << 24
"""Most bytes of the facts about a dataset, which the database keeps and clients get."""

PRELOADED: Final = ("pandas", *sorted({known.reader.partition(":")[0] for known in FORMATS.values()}))
"""Modules that the fork server loads. pyarrow loads pandas when it first makes an array, if it is installed."""

ADVICE: Final = "Give a file with less in it, or ask the operator to raise"

Stop = Callable[[], bool]
"""Returns whether nobody waits for the answer any more."""


class Readers:
    """Reads files in child processes, within the limits of ``settings``. Any thread may call it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._context = multiprocessing.get_context("forkserver")
        self._turns = Turns(settings.readers)
        self._looked: dict[str, tuple[str, ...]] = {}
        self._context.set_forkserver_preload([__name__, *PRELOADED])

    def read(
        self, fmt: FileFormat, source: Path, folder: Path, max_bytes: int, reading: Reading, *, stop: Stop
    ) -> DatasetFacts:
        """Do ``upload.read_file`` in a child.

        Raises:
            InvalidFileError: The file cannot be used, or takes more memory or time than it may.
            UnavailableError: ``stop`` says that nobody waits for the answer.
            OSError: The disk is full.
            RuntimeError: The reader has a bug.
        """
        limit_s = self._settings.reader_limit_s + source.stat().st_size / BYTES_PER_S
        return DatasetFacts.from_json(self._ask(_read, (fmt, source, folder, max_bytes, reading), limit_s, stop))

    def retype(self, facts: DatasetFacts, wanted: Mapping[str, str], folder: Path) -> DatasetFacts:
        """Do ``columns.retyped`` in a child.

        Raises:
            InvalidSpecError: The values of a column do not have the kind.
            InvalidFileError: It takes more memory or time than it may.
            UnavailableError: Too many others wait for the same.
        """
        return DatasetFacts.from_json(self._look(_retyped, (facts, dict(wanted), folder), folder))

    def check_split(self, facts: DatasetFacts, chosen: DatasetSpec, folder: Path, seed: int) -> None:
        """Do ``sources.check_split`` in a child.

        Raises:
            InvalidSpecError: The rows cannot be split so.
            InvalidFileError: It takes more memory or time than it may.
            UnavailableError: Too many others wait for the same.
        """
        self._look(_split, (facts, chosen, folder, seed), folder, LOADING_S)

    def look_at_rows(self, spec: JobSpec, task: str, stored: AbstractContextManager[Path]) -> tuple[str, ...]:
        """Do ``prepare.look_at_rows`` in a child, or return what it found before.

        ``stored`` opens the folder of the dataset; it is entered only if nothing was found before.

        Raises:
            JobFailedError: The job would fail with this message.
            InvalidFileError: It takes more memory or time than it may.
            UnavailableError: Too many others wait for the same.
        """
        key = json.dumps([spec.dataset.model_dump(mode="json"), task, spec.seed])  # a dataset with an id never changes
        if key not in self._looked:
            with stored as folder:
                found = tuple(self._in_turn(_rows, (spec, task, folder), LOOKING_S))
            self._looked = dict([*self._looked.items(), (key, found)][-KEPT_LOOKS:])
        return self._looked[key]

    def _look(
        self, function: Callable[..., Any], arguments: tuple[object, ...], folder: Path, more_s: float = 0.0
    ) -> Any:
        """Look at stored columns in a child, which may take ``more_s`` seconds more than to read them."""
        size_bytes = sum(file.stat().st_size for file in folder.iterdir())
        return self._in_turn(function, arguments, self._settings.reader_limit_s + size_bytes / BYTES_PER_S + more_s)

    def _in_turn(self, function: Callable[..., Any], arguments: tuple[object, ...], limit_s: float) -> Any:
        with self._turns.take("columns of other jobs were read", limit_s):
            return self._ask(function, arguments, limit_s, lambda: False)

    def _ask(self, function: Callable[..., Any], arguments: tuple[object, ...], limit_s: float, stop: Stop) -> Any:
        """Run a function in a child and return its result, which must be JSON."""
        killed_before = oom_kills()
        ours, theirs = self._context.Pipe(duplex=False)
        child = self._context.Process(target=_answer, args=(theirs, function, arguments), daemon=True)
        _start(child)
        theirs.close()  # only the child holds that end now, so its death closes the pipe
        try:
            self._wait(child.pid, ours, limit_s, stop)
            answer: dict[str, Any] = json.loads(ours.recv_bytes())
        except EOFError:
            child.join()
            if child.exitcode == 1:
                raise RuntimeError("a reader failed; its traceback is on standard error") from None
            ending = how_it_ended(child.exitcode, killed_before)
            wrong = f"the file cannot be read: its reader {ending}. It is damaged, or has far more in it than it seems"
            raise InvalidFileError(wrong) from None
        finally:
            child.kill()
            child.join()
            ours.close()
        return _value(answer)

    def _wait(self, pid: int | None, answer: mp_connection.Connection, limit_s: float, stop: Stop) -> None:
        """Wait for the answer of a child."""
        memory, started = self._settings.reader_memory_bytes, time.monotonic()
        while not answer.poll(TICK_S):
            if stop():
                raise UnavailableError("the client has gone")
            if memory_bytes(pid) > memory:
                wrong = f"reading the file takes over {memory >> 20} MiB of memory, the most that is allowed"
                raise InvalidFileError(f"{wrong}. {ADVICE} WARPTUNE_READER_MEMORY_BYTES")
            if time.monotonic() - started > limit_s:
                wrong = f"reading the file takes over {limit_s:.0f} seconds, the limit for a file of its size"
                raise InvalidFileError(f"{wrong}. {ADVICE} WARPTUNE_READER_LIMIT_S")


def _start(child: ForkServerProcess) -> None:
    """Start a child. If the fork server died just now, which only a start finds out, the next one makes another."""
    for _ in range(STARTS - 1):
        try:
            return child.start()
        except (EOFError, ConnectionError):
            time.sleep(TICK_S)
    return child.start()


def _value(answer: dict[str, Any]) -> Any:
    """Return the value in an answer, or raise the error in it."""
    if "fields" in answer:
        raise InvalidSpecError(*(FieldError(**field) for field in answer["fields"]))
    if "file" in answer:
        raise InvalidFileError(answer["file"])
    if "job" in answer:
        raise JobFailedError(answer["job"])
    if "system" in answer:
        raise OSError(*answer["system"])
    return answer["value"]


def _answer(connection: mp_connection.Connection, function: Callable[..., Any], arguments: Any) -> None:
    """Call a function and send its answer: the main function of a child."""
    import pyarrow as pa  # the fork server has it loaded; the API does without it

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches it too, but the API decides when it ends
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    pa.set_cpu_count(min(THREADS, pa.cpu_count()))
    answer: dict[str, object]
    try:
        answer = {"value": function(*arguments)}
    except InvalidSpecError as error:
        answer = {"fields": [asdict(field) for field in error.errors]}
    except InvalidFileError as error:
        answer = {"file": str(error)}
    except JobFailedError as error:
        answer = {"job": str(error)}
    except MemoryError:
        answer = {"file": "reading the file takes more memory than the machine has. Give a file with less in it"}
    except OSError as error:
        answer = {"system": [error.errno, error.strerror]}
    content = json.dumps(answer).encode()
    if len(content) > MAX_ANSWER_BYTES:
        wrong = f"what its columns hold takes {len(content)} bytes to describe; at most {MAX_ANSWER_BYTES} are allowed"
        content = json.dumps({"file": f"{wrong}. Shorten the names and values, or leave columns out"}).encode()
    connection.send_bytes(content)


def _read(fmt: FileFormat, source: Path, folder: Path, max_bytes: int, reading: Reading) -> dict[str, Any]:
    return read_file(fmt, source, folder, max_bytes, reading).to_json()


def _retyped(facts: DatasetFacts, wanted: Mapping[str, str], folder: Path) -> dict[str, Any]:
    from service.data.columns import retyped  # it imports numpy, which the API does without

    return retyped(facts, wanted, folder).to_json()


def _split(facts: DatasetFacts, chosen: DatasetSpec, folder: Path, seed: int) -> None:
    from service.data.sources import check_split  # it imports scikit-learn, which other children do without

    check_split(facts, chosen, folder, seed)


def _rows(spec: JobSpec, task: str, folder: Path) -> tuple[str, ...]:
    from service.data.prepare import look_at_rows  # it imports scikit-learn

    return look_at_rows(spec, task, folder)


def _end_with_parent() -> None:
    """Run in a thread: end this process when the API has died."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
