"""What the API and the worker ask about user code: is it allowed, what does it make, its data.

The code itself runs in a child process (contract.py) with a time limit. It is never imported here.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final, TypedDict

from service.accounts import user_code_popen
from service.data.catalog import BUNDLED
from service.errors import FieldError, ForbiddenError, InvalidSpecError, JobFailedError
from service.processes import Turns, machine_memory_bytes, memory_bytes, process_group, require_cpus
from service.settings import Settings
from service.spec.dataset_info import DatasetInfo
from service.spec.job import JobSpec
from service.spec.models import LoopSpec, UserCodeSpec
from service.spec.tasks import TASKS

TICK_S: Final = 0.05
"""Pause between two looks at the memory of a child."""

MOST_OF_THE_MEMORY: Final = 0.75
"""Share of the machine's memory that user code may take while it is tried, unless the operator limits slots."""


class _Answer(TypedDict, total=False):
    """What the child process answers: ``info``, or the ``part`` of the spec that is wrong and an ``error``."""

    info: dict[str, object]
    part: str
    error: str


class UserCode:
    """Answers questions about user code; ``settings`` say which is allowed, and how long it may take.

    Raises:
        OSError: The machine does not have the CPUs that user code should run on.
    """

    def __init__(self, settings: Settings) -> None:
        require_cpus(settings.cpus_of_slots)
        self._settings = settings
        self._turns = Turns()  # each child has torch in its memory

    def info_for(self, spec: JobSpec, info: DatasetInfo | None) -> DatasetInfo | None:
        """Return what a plan needs to know about the data and the model of a job.

        Returns:
            ``info``, the facts about an uploaded dataset, with facts about the user code added; None for a bundled
            dataset with a model of the service.

        Raises:
            ForbiddenError: The operator has not allowed the code.
            InvalidSpecError: It raises, hangs, or does not keep to its contract.
            UnavailableError: Too many others are waiting to try their code.
        """
        named = [] if spec.dataset.entrypoint is None else [spec.dataset.entrypoint]
        if isinstance(spec.model, UserCodeSpec):
            named.append(spec.model.entrypoint)
        if not named:
            return info
        for entrypoint in named:
            refusal = self._settings.refusal(entrypoint)
            if refusal is not None:
                raise ForbiddenError(refusal)
        if info is None and spec.dataset.name is not None and spec.dataset.name in BUNDLED:
            info = BUNDLED[spec.dataset.name].info
        is_loop = isinstance(spec.model, LoopSpec)
        if spec.dataset.entrypoint is None and not is_loop and (info is None or not TASKS[info.task].user_models):
            return info  # the plan says what is wrong with that
        with tempfile.TemporaryDirectory(prefix="warptune-user-code-") as name:
            answer = self._ask(spec, info, Path(name), with_model=True)
        if "error" not in answer:
            return DatasetInfo.from_json(answer["info"])
        part = answer["part"]
        given = spec.dataset.entrypoint if part == "dataset" else named[-1]
        message = f"cannot be used: {answer['error']}"
        raise InvalidSpecError(FieldError(f"{part}.entrypoint", given, message, "Try it with: warptune check"))

    def write_dataset(self, spec: JobSpec, info: DatasetInfo, folder: Path) -> None:
        """Make the dataset of a job again and write its files to an empty folder.

        ``info`` are the facts about it from when the job was submitted.

        Raises:
            JobFailedError: The code fails now, or makes other data than it did.
        """
        entrypoint = spec.dataset.entrypoint
        assert entrypoint is not None, "asked for user code only"
        answer = self._ask(spec, None, folder, with_model=False)
        if "error" in answer:
            raise JobFailedError(f"dataset.entrypoint {entrypoint}: {answer['error']}")
        found, expected = DatasetInfo.from_json(answer["info"]), info.sources[entrypoint]
        if found.sources[entrypoint] != expected:
            raise JobFailedError(
                f"the source of {entrypoint} has changed since the job was submitted: its SHA-256 is "
                f"{found.sources[entrypoint]}, expected {expected}; submit the job again"
            )
        if replace(found, tensors=info.tensors, sources=info.sources) != info:
            raise JobFailedError(
                f"{entrypoint} made other data than when the job was submitted ({found.rows} rows of {found.features}, "
                f"it was {info.rows} of {info.features}); it may depend on its arguments only"
            )

    def _ask(self, spec: JobSpec, info: DatasetInfo | None, folder: Path, *, with_model: bool) -> _Answer:
        """Let a child process answer; ``contract.py`` describes question and answer."""
        data, model, limit_s = spec.dataset, spec.model, self._settings.user_code_limit_s
        asks_model = with_model and isinstance(model, UserCodeSpec)
        question = {
            "info": None if info is None or data.entrypoint is not None else asdict(info),
            "dataset": data.model_dump(include={"entrypoint", "config"}) if data.entrypoint is not None else None,
            "model": model.model_dump(include={"name", "entrypoint", "config"}) if asks_model else None,
            "seed": spec.seed,
            "steps": spec.budget.steps if "steps" in spec.budget.model_fields_set else None,
            "limit_s": limit_s,
        }
        with (
            self._turns.take("other jobs' code was tried", limit_s),
            tempfile.TemporaryDirectory(prefix="warptune-question-") as name,
        ):
            asked, answered = Path(name) / "question.json", Path(name) / "answer.json"
            asked.write_text(json.dumps(question), encoding="utf-8")
            wrong = _run([str(asked), str(answered), str(folder)], self._settings, (Path(name), folder))
            if links := [file.name for file in (answered, *folder.rglob("*")) if file.is_symlink()]:
                wrong = f"it left links in place of files: {', '.join(links)}"
            elif answered.exists():
                answer: _Answer = json.loads(answered.read_text(encoding="utf-8"))
                return answer
            part = "dataset" if question["dataset"] is not None else "model"
            return {"part": part, "error": wrong}


def _run(arguments: list[str], settings: Settings, folders: Iterable[Path]) -> str:
    """Run the child to its end or to the limit; return what went wrong, for a child that leaves no answer."""
    command = [sys.executable, "-P", "-m", "service.user_code.contract", *arguments]
    nothing = subprocess.DEVNULL
    limit_bytes = settings.slot_memory_bytes or machine_memory_bytes() * MOST_OF_THE_MEMORY
    popen = user_code_popen(settings, folders)
    with process_group(command, stdin=nothing, stdout=nothing, stderr=nothing, **popen) as process:
        deadline = time.monotonic() + settings.user_code_limit_s
        while time.monotonic() < deadline:
            with suppress(subprocess.TimeoutExpired):
                return f"its process ended with exit code {process.wait(TICK_S)} before it had an answer"
            if memory_bytes(process.pid) > limit_bytes:
                return f"it took more than {limit_bytes / 2**30:.1f} GiB of memory (WARPTUNE_SLOT_MEMORY_BYTES)"
        return f"it was not done within {settings.user_code_limit_s:g} seconds (WARPTUNE_USER_CODE_LIMIT_S)"
