"""Writes and finds the checkpoints of a run: files in its own folder of the artifact store, named by step.

Each is written whole and read back. Only then are older ones deleted, all but the one before it.
"""

from __future__ import annotations

import hashlib
import io
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import fsspec
import torch

from service.artifacts import checkpoint_steps, is_data_gone, read_artifact, write_artifact
from service.training.run import Run
from service.version import versions

log = logging.getLogger(__name__)

_DIGEST_BYTES: Final = 32

State = TypeVar("State")


class Checkpoints:
    """The checkpoints of one run; without a ``checkpoint_url`` it has none."""

    def __init__(self, run: Run) -> None:
        self._url, self._every_s = run.checkpoint_url, run.checkpoint_every_s
        self._owner = {"versions": versions(), "run": run.digest()}
        self._data_url = run.data.url
        self._proven: int | None = None
        self._last = time.monotonic()

    def due(self) -> bool:
        """Return whether it is time for the next one."""
        return self._url is not None and time.monotonic() - self._last >= self._every_s

    def resume(self, start: Callable[[Mapping[str, Any] | None], State]) -> State:
        """Return what ``start`` makes of the content of the newest checkpoint that can be used, or of None without one.

        Those that cannot be read, that belong to another run or to other versions, and those that ``start`` refuses
        are skipped with a warning in the log.

        Args:
            start: Makes the state of a run, on the CPU. It is called again if it raises.
        """
        if self._url is None:
            return start(None)
        steps: list[int] = []
        try:
            steps = sorted(self._steps(), reverse=True)
        except Exception:  # stores raise what they like
            log.warning("cannot list checkpoints, the run starts again", extra={"url": self._url}, exc_info=True)
        for step in steps:
            try:
                state = start(self._read(step))
            except Exception as error:  # noqa: BLE001 - whatever is wrong with the file, the one before it is next
                log.warning("unusable checkpoint", extra={"url": self._file(step), "cause": str(error)})
            else:
                self._proven = step
                log.info("run resumed", extra={"url": self._url, "step": step})
                return state
        if steps:
            log.warning("no usable checkpoint, the run starts again", extra={"url": self._url})
        return start(None)

    def save(self, step: int, content: Mapping[str, Any]) -> None:
        """Write a checkpoint, prove that it can be read, and delete all older ones but the last that was proven.

        If the store does not take it, a warning is logged and the run continues. Nothing is written once the data of
        the run is gone, as its job has been deleted.

        Cost: a copy of ``content`` in memory; it is sent to the store once and read back once.
        """
        assert self._url is not None, "only called when due"
        try:
            if not is_data_gone(self._data_url, "checkpoint"):
                write_artifact(self._file(step), self._encode(content))
                self._read(step)
                self._delete_older(step)
                self._proven = step
        except Exception:  # stores raise what they like
            log.warning("a checkpoint could not be written", extra={"url": self._file(step)}, exc_info=True)
        self._last = time.monotonic()

    def _file(self, step: int) -> str:
        return f"{self._url}/step-{step:09d}.ckpt"

    def _steps(self) -> list[int]:
        assert self._url is not None, "only called with a folder"
        return checkpoint_steps(self._url)

    def _delete_older(self, step: int) -> None:
        """Leave what is newer than ``step``: the same run, in an orphaned process, may be ahead of this one."""
        for older in self._steps():
            if older < step and older != self._proven:
                fs, path = fsspec.url_to_fs(self._file(older))
                fs.rm_file(path)

    def _encode(self, content: Mapping[str, Any]) -> bytes:
        buffer = io.BytesIO()
        torch.save({"owner": self._owner, "content": dict(content)}, buffer)
        payload = buffer.getvalue()
        return hashlib.sha256(payload).digest() + payload

    def _read(self, step: int) -> Mapping[str, Any]:
        stored = memoryview(read_artifact(self._file(step)))
        digest, payload = stored[:_DIGEST_BYTES], stored[_DIGEST_BYTES:]
        if hashlib.sha256(payload).digest() != digest:
            raise ValueError(f"its SHA-256 is not the one it was written with ({len(stored)} bytes)")
        loaded = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
        if loaded["owner"] != self._owner:
            raise ValueError(f"it belongs to {loaded['owner']}, not to {self._owner}")
        content: Mapping[str, Any] = loaded["content"]
        return content
