# What becomes of a file that takes too much memory or time, or crashes its reader, and of readers nobody waits for.
from __future__ import annotations

import errno
import gzip
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

from benchmarks.reading import bombs
from service.data.facts import DatasetFacts
from service.data.reader import MAX_ANSWER_BYTES, Readers
from service.data.upload import FileFormat, Upload, format_of
from service.errors import InvalidFileError, UnavailableError
from service.processes import memory_bytes
from service.settings import Settings
from tests.service.data import files


def read(name: str, content: bytes, **settings: float) -> DatasetFacts:
    """Read a file in a child process."""
    fmt = format_of(name)
    assert fmt is not None
    readers = Readers(Settings(**settings))  # type: ignore[arg-type]
    with Upload(fmt, 1 << 30) as upload:
        upload.write(content)
        return upload.unpack(partial(readers.read, stop=lambda: False))[0]


def test_a_child_finds_what_this_process_would() -> None:
    with Upload(FileFormat.CSV, 1 << 20) as upload:
        upload.write(files.csv())
        here, _ = upload.unpack()
    assert read("a.csv", files.csv()) == here
    assert not multiprocessing.active_children()


def test_a_wrong_file_is_refused_as_in_this_process() -> None:
    with pytest.raises(InvalidFileError, match="the table has 1 rows below the header; at least 10 are needed"):
        read("a.csv", b"a,b\n1,2\n")


def test_a_file_that_takes_too_much_memory_ends_its_reader() -> None:
    with pytest.raises(InvalidFileError, match=r"takes over 256 MiB of memory.*WARPTUNE_READER_MEMORY_BYTES"):
        read("a.parquet", bombs.many_rows(60), reader_memory_bytes=256 << 20, reader_limit_s=600)
    assert not multiprocessing.active_children()


def test_a_file_that_takes_too_long_ends_its_reader() -> None:
    with pytest.raises(InvalidFileError, match=r"reading the file takes over .* seconds.*WARPTUNE_READER_LIMIT_S"):
        read("a.csv.gz", gzip.compress(bombs.empty_cells(5000)), reader_limit_s=0.001)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_a_text_that_is_too_long_is_refused_by_the_name_of_its_column(name: str) -> None:
    texts = ["x" * (1 << 20) + "y", *"abcdefghijklmnopqrst"]
    content = "text,label\n" + "\n".join(f"{text},{index % 2}" for index, text in enumerate(texts))
    with pytest.raises(InvalidFileError, match="column 'text' has a text of 1048577 bytes; at most 1048576 are"):
        read(name, content.encode() if name == "a.csv" else files.table(text=texts, label=[0, 1, 0] * 7))


def test_facts_that_are_too_long_to_keep_are_refused() -> None:
    texts = {f"c{column}": [f"{row % 5}" * 800_000 for row in range(20)] for column in range(5)}
    with pytest.raises(
        InvalidFileError, match=f"what its columns hold takes .* bytes to describe; at most {MAX_ANSWER_BYTES}"
    ):
        read("a.parquet", files.table(**texts))


def test_a_reader_that_nobody_waits_for_ends() -> None:
    read_here = partial(Readers(Settings()).read, stop=lambda: True)
    with Upload(FileFormat.CSV, 1 << 30) as upload:
        upload.write(bombs.empty_cells(5000))
        with pytest.raises(UnavailableError, match="client"):
            upload.unpack(read_here)
    assert not multiprocessing.active_children()


def fails(error: BaseException) -> DatasetFacts:
    raise error


def dies() -> DatasetFacts:
    os.kill(os.getpid(), signal.SIGSEGV)
    raise AssertionError("it is dead")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (KeyError("nothing"), (RuntimeError, "a reader failed")),
        (OSError(errno.ENOSPC, "No space left on device"), (OSError, "No space left")),
        (MemoryError(), (InvalidFileError, "more memory than the machine has")),
    ],
)
def test_an_error_in_a_child_is_one_here(error: BaseException, expected: tuple[type[Exception], str]) -> None:
    with pytest.raises(expected[0], match=f"(?s){expected[1]}"):
        Readers(Settings())._ask(fails, (error,), 600, lambda: False)


def test_a_reader_that_crashes_is_told_by_its_signal() -> None:
    with pytest.raises(InvalidFileError, match=r"its reader was killed \(signal 11, SIGSEGV\)"):
        Readers(Settings())._ask(dies, (), 600, lambda: False)


def sleeps(pid_file: str) -> DatasetFacts:
    Path(pid_file).write_text(str(os.getpid()))
    time.sleep(600)
    raise AssertionError("it slept")


@pytest.mark.kills
def test_a_reader_ends_with_the_process_that_waits_for_it(tmp_path: Path) -> None:
    code = (
        "from service.data.reader import Readers; from service.settings import Settings\n"
        "from tests.service.data.test_reader import sleeps\n"
        f"Readers(Settings())._ask(sleeps, ({str(tmp_path / 'pid')!r},), 600, lambda: False)"
    )
    api = subprocess.Popen([sys.executable, "-c", code])
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert api.poll() is None
        time.sleep(0.02)
    reader = psutil.Process(int((tmp_path / "pid").read_text()))
    api.kill()
    api.wait()
    psutil.wait_procs([reader], timeout=60)
    assert not reader.is_running() or reader.status() == psutil.STATUS_ZOMBIE


@pytest.mark.kills
def test_a_fork_server_that_dies_at_a_start_is_replaced() -> None:
    read("a.csv", files.csv())
    (server,) = (child for child in psutil.Process().children() if "forkserver" in " ".join(child.cmdline()))
    server.suspend()
    killer = threading.Timer(0.5, server.kill)  # while the start waits for it
    killer.start()
    assert read("a.csv", files.csv()).rows == 40
    killer.join()


SMALL = [
    "a text of two megabytes in each of 4,000 rows",
    "lists within lists",
    "a type that is nested 5,000 deep",
    "a CSV file of 300,000 columns",
    "a CSV file of one line",
    "a CSV file of one cell",
    "a CSV file of quotes",
    "gzip in gzip",
    "a sheet with its last cell",
    "an array with a shape of terabytes",
    "an array of objects",
    "a zip of 4,000 images",
    "a zip of zips",
]
"""Bombs that take little time to make."""


@pytest.mark.parametrize("what", SMALL)
def test_a_bomb_is_refused_and_leaves_the_memory_of_this_process_as_it_was(what: str) -> None:
    name, make = bombs.BOMBS[what]
    content = make()
    before = memory_bytes(os.getpid())
    with pytest.raises(InvalidFileError) as refused:
        read(name, content, reader_limit_s=100)
    assert len(str(refused.value)) < 500
    assert memory_bytes(os.getpid()) < before + (64 << 20)
