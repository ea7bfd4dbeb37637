"""Keep finished runs on disk: one file for each task and arm, one JSON line for each run.

A killed process loses only the run it was working on. Each line carries a digest of the task, the arm and its search
space. Lines with another digest are ignored.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from benchmarks.optimizers.arms import Arm
from benchmarks.optimizers.training import Curve, Task
from search_spaces import Scalar


class Stage(StrEnum):
    """Purpose of a run: ``tune`` is a trial, ``confirm`` runs the best values on a fresh seed, ``sweep`` another lr."""

    TUNE = "tune"
    CONFIRM = "confirm"
    SWEEP = "sweep"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One finished run.

    Attributes:
        stage: Purpose of the run.
        number: Number of the trial (``tune``) or of the factor (``sweep``); 0 for ``confirm``.
        seed: Decides initial weights and batches.
        values: The values that the arm ran with.
        curve: The validation losses of the run.
    """

    stage: Stage
    number: int
    seed: int
    values: Mapping[str, Scalar]
    curve: Curve


class Records:
    """The recorded runs of one task and arm.

    Args:
        folder: Folder of the file.
        task: The task.
        arm: The arm.

    Attributes:
        runs: The valid runs, in the order in which they finished.
        stale: Number of lines with another digest.
    """

    def __init__(self, folder: Path, task: Task, arm: Arm) -> None:
        self.path = folder / f"{task.name}--{arm.name}.jsonl"
        self.digest = hashlib.sha256(f"{task.definition}\n{arm.definition}".encode()).hexdigest()[:12]
        self.runs: list[Record] = []
        self.stale = 0
        for line in self.path.read_text().splitlines() if self.path.exists() else []:
            self._read(line)

    def find(self, stage: Stage, number: int, seed: int, values: Mapping[str, Scalar]) -> Record | None:
        """Return the run with this stage, number, seed and values, or None."""
        for record in self.runs:
            if (record.stage, record.number, record.seed) == (stage, number, seed) and record.values == values:
                return record
        return None

    def of(self, stage: Stage) -> Sequence[Record]:
        """Return the runs of a stage."""
        return [record for record in self.runs if record.stage == stage]

    def add(self, record: Record) -> None:
        """Append a run. If the last line was cut off, start a new one."""
        self.runs.append(record)
        line = json.dumps(
            {
                "digest": self.digest,
                "stage": record.stage,
                "number": record.number,
                "seed": record.seed,
                "values": dict(record.values),
                "curve": record.curve.to_json(),
            }
        )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        cut_off = self.path.exists() and not self.path.read_bytes().endswith(b"\n")
        with self.path.open("a") as file:
            file.write(f"\n{line}\n" if cut_off else f"{line}\n")
            file.flush()
            os.fsync(file.fileno())

    def _read(self, line: str) -> None:
        try:
            stored = json.loads(line)
        except ValueError:
            return  # an empty line, or one that was cut off by a kill
        if stored["digest"] != self.digest:
            self.stale += 1
            return
        curve = Curve.from_json(stored["curve"])
        self.runs.append(
            Record(
                stage=Stage(stored["stage"]),
                number=stored["number"],
                seed=stored["seed"],
                values=stored["values"],
                curve=curve,
            )
        )
