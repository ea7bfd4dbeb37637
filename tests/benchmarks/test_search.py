"""The search benchmark trains what the service trains, and repeats its search, race and verdict on that."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.search import dense, searches
from benchmarks.search.searches import DenseTable, Race, regrets, search
from benchmarks.search.tables import Table
from benchmarks.search.verdicts import words
from service.result.job_result import Word
from service.training.loop import report_steps

STEPS = 12


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Table:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(150, 4))
    for module in (dense, searches):
        monkeypatch.setattr(module, "STEPS", STEPS)
    monkeypatch.setattr(dense, "FOLDER", tmp_path)
    monkeypatch.setattr(dense, "LRS", (1e-3, 1e-2, 0.1))
    return Table(x, (x[:, 0] + x[:, 1] > 0).astype(np.int64), 2)


@pytest.fixture
def small(table: Table) -> DenseTable:
    dense.make("small", table, "adamw")
    return DenseTable("small", "adamw")


@pytest.mark.parametrize("arm", ["adamw", "warpadam"])
def test_a_network_ends_the_same_side_by_side_as_alone(table: Table, arm: str) -> None:
    config = dense.grid("adamw")[1] if arm == "adamw" else {**dense.grid("adamw")[1], "meta_every": 5}
    parts = [dense._split(table, seed) for seed in range(3)]
    together = dense._train(arm, config, parts, table.classes)
    assert together.shape == (3, len(report_steps(STEPS)), 2)
    assert together[0] == pytest.approx(dense._train(arm, config, parts[:1], table.classes)[0], rel=1e-4)
    assert (together[:, -1, 0] < together[:, 0, 0]).all()


def test_an_assignment_is_read_from_the_config_with_its_choices_and_the_nearest_lr(small: DenseTable) -> None:
    configs = dense.grid("adamw")
    found = configs[small.nearest({"lr": 0.02, "beta1": 0.8, "beta2": 0.95, "weight_decay": 0.1})]
    assert found == {"lr": 1e-2, "beta1": 0.9, "beta2": 0.95, "weight_decay": 0.1}


def test_the_winner_of_a_race_has_the_lowest_mean_among_those_that_are_left(small: DenseTable) -> None:
    best_first = search(small, 0, 1)
    race = Race(small, best_first, 0, [1, 2, 3, 4])
    assert race.winner in dict.fromkeys(config for config, _ in best_first)
    assert race.luck.penalties[0] == 0.0
    assert list(race.luck.penalties) == sorted(race.luck.penalties)


def test_regrets_and_words_are_repeatable_and_an_arm_that_is_far_better_helps(small: DenseTable) -> None:
    assert regrets(small, "ours", 3).tolist() == regrets(small, "ours", 3).tolist()
    said = words(small, 4)
    assert said[1.0][Word.HELPS] + said[1.0][Word.HURTS] <= 1
    assert said[0.8][Word.HURTS] == 0
    assert all(counts.total() == 4 for counts in said.values())
