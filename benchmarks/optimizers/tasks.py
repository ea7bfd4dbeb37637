"""The list of all tasks, in two parts. To add one, write a module with a task and list it here.

The design part was looked at while WarpAdam was designed. The judging part was not: run it once for each release, and
do not change WarpAdam to do better on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from benchmarks.optimizers import few_shot_digits, physics, tabular, transformer
from benchmarks.optimizers.judging import burgers, flights, glyphs, names, terrain, words
from benchmarks.optimizers.training import Task

DESIGN: Final[tuple[Task, ...]] = (*tabular.TASKS, *physics.TASKS, *transformer.TASKS, *few_shot_digits.TASKS)
JUDGING: Final[tuple[Task, ...]] = (
    *glyphs.TASKS,
    *terrain.TASKS,
    *names.TASKS,
    *words.TASKS,
    *flights.TASKS,
    *burgers.TASKS,
)
PARTS: Final[Mapping[str, tuple[Task, ...]]] = {"design": DESIGN, "judging": JUDGING}
TASKS: Final = (*DESIGN, *JUDGING)
