# The default on its own against AdamW at five learning rates: what is on record is not run again, and the table says
# what was measured.
from __future__ import annotations

import dataclasses
import json
import re
import statistics
from pathlib import Path

import pytest

from benchmarks.optimizers import default_alone
from benchmarks.optimizers.default_alone import DEFAULT, LRS, SEEDS, compare, main, paired_ratio, table
from benchmarks.optimizers.few_shot_digits import FewShotTask
from benchmarks.optimizers.tasks import TASKS
from benchmarks.optimizers.training import Curve, Task

BY_NAME = {task.name: task for task in TASKS}


def short(name: str) -> Task:
    return dataclasses.replace(BY_NAME[name], steps=3)


def test_the_ratio_pairs_seeds() -> None:
    assert paired_ratio([1.0, 2.0, 30.0], [1.0, 4.0, 10.0]) == 1.0


def test_a_finished_comparison_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = short("digits_mlp")
    figures = compare(task, tmp_path)
    assert set(figures["adamw"]) == {f"{lr:g}" for lr in LRS}
    assert len(figures["warpadam"]) == SEEDS
    assert len(set(figures["warpadam"])) == SEEDS
    best = min(figures["adamw"].values(), key=statistics.median)
    assert figures["ratio"] == paired_ratio(figures["warpadam"], best)

    def must_not_run(*_: object) -> Curve:
        raise AssertionError("ran again")

    monkeypatch.setattr(type(task), "run", must_not_run)
    assert compare(task, tmp_path) == figures


def test_a_model_with_embeddings_is_also_stepped_without_groups(tmp_path: Path) -> None:
    figures = compare(short("name_gru"), tmp_path)
    assert figures["ungrouped"] != figures["warpadam"]
    assert figures["to_ungrouped"] == paired_ratio(figures["warpadam"], figures["ungrouped"])


def test_without_learning_tasks_the_default_starts_from_nothing() -> None:
    task = BY_NAME["few_shot_digits"]
    assert isinstance(task, FewShotTask)
    unaided = dataclasses.replace(task, steps=2, networks=2, learning_tasks=0)
    assert unaided.run(DEFAULT, {}, 200).learning is None


def test_the_command_keeps_the_figures_of_the_other_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = {"design": (short("diabetes"),), "judging": (short("burgers_operator"),)}
    monkeypatch.setattr(default_alone, "PARTS", parts)
    main(["--part", "design", "--out", str(tmp_path)])
    design = json.loads((tmp_path / "default_alone.json").read_text())
    main(["--part", "judging", "--out", str(tmp_path)])
    both = json.loads((tmp_path / "default_alone.json").read_text())
    assert design == {"design": both["design"]}
    assert set(both) == {"design", "judging"}
    printed = capsys.readouterr().out
    assert table(both["judging"]) in printed
    row = both["judging"]["burgers_operator"]
    assert re.search(rf"`burgers_operator` .* {row['ratio']:.3f} ", printed)
