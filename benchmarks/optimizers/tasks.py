"""The list of all tasks. To add one, write a module with a task and list it here."""

from __future__ import annotations

from typing import Final

from benchmarks.optimizers import few_shot_digits, physics, tabular, transformer
from benchmarks.optimizers.training import Task

TASKS: Final[tuple[Task, ...]] = (*tabular.TASKS, *physics.TASKS, *transformer.TASKS, *few_shot_digits.TASKS)
