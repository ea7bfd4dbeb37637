# What has been run, one JSON line a run and one file for each task and arm: whoever is killed loses the run that was
# going on and no other. A line belongs to a digest of the task, the arm and its space; those of another are not read.
"""Finished runs on disk."""

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
    """What a run was for: ``tune`` a trial, ``confirm`` the best values on a fresh seed, ``sweep`` another lr."""

    TUNE = "tune"
    CONFIRM = "confirm"
    SWEEP = "sweep"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One finished run.

    Attributes:
        stage: What it was for.
        number: Trial (``tune``) or place in the sweep (``sweep``); 0 for ``confirm``.
        seed: Decides initial weights and batches.
        values: The arm's values.
        curve: What came out.
    """

    stage: Stage
    number: int
    seed: int
    values: Mapping[str, Scalar]
    curve: Curve


class Records:
    """The runs of one task and arm.

    Args:
        folder: Where the file is, or will be.
        task: The task.
        arm: The arm.

    Attributes:
        runs: The valid runs, in the order in which they ended.
        stale: Number of lines that belong to another definition.
    """

    def __init__(self, folder: Path, task: Task, arm: Arm) -> None:
        self.path = folder / f"{task.name}--{arm.name}.jsonl"
        self.digest = hashlib.sha256(f"{task.definition}\n{arm.definition}".encode()).hexdigest()[:12]
        self.runs: list[Record] = []
        self.stale = 0
        for line in self.path.read_text().splitlines() if self.path.exists() else []:
            self._read(line)

    def find(self, stage: Stage, number: int, seed: int, values: Mapping[str, Scalar]) -> Record | None:
        """Return the run that was this one; with other values it was not."""
        for record in self.runs:
            if (record.stage, record.number, record.seed) == (stage, number, seed) and record.values == values:
                return record
        return None

    def of(self, stage: Stage) -> Sequence[Record]:
        """Return the runs of a stage."""
        return [record for record in self.runs if record.stage == stage]

    def add(self, record: Record) -> None:
        """Append a run, on a line of its own even behind one that was cut off."""
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
            return  # empty, or cut off when the process was killed
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
