"""The scenarios of the atlas: their data, their specs, and how their results become a page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.atlas import report
from benchmarks.atlas.data import noisy_digits, teacher
from benchmarks.atlas.models import NORMS, normed_mlp
from benchmarks.atlas.runs import run, stored
from benchmarks.atlas.scenarios import SCENARIOS, Scenario, job
from service.planning.atlas import AtlasJob
from service.spec.job import JobSpec


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_every_scenario_is_a_spec(scenario: Scenario) -> None:
    JobSpec.model_validate({**scenario.fields, "name": scenario.name})


def test_there_are_at_least_60_different_jobs() -> None:
    assert len({scenario.name for scenario in SCENARIOS}) == len(SCENARIOS)
    assert len({scenario.key for scenario in SCENARIOS}) >= 60


def test_equal_jobs_on_two_axes_run_once() -> None:
    keys = {scenario.name: scenario.key for scenario in SCENARIOS}
    assert keys["batch size: made regression, 64"] == keys["conditioning: made regression, 100"]
    assert keys["carried P: made regression, 0 degrees"] != keys["conditioning: made regression, 100"]


@pytest.mark.parametrize("condition", [1.0, 1000.0])
def test_the_inputs_are_as_badly_conditioned_as_asked_for(condition: float) -> None:
    x, _, _ = teacher(0, rows=20_000, inputs=8, condition=condition, noise=0.0)
    spread = np.sqrt(np.linalg.eigvalsh(np.cov(x.T)))
    assert spread[-1] / spread[0] == pytest.approx(condition, rel=0.1)


def test_a_task_that_is_turned_further_is_less_like_the_first() -> None:
    first, *others = (np.asarray(teacher(0, turn=turn, noise=0.0)[1]) for turn in (0.0, 30.0, 90.0))
    near, far = (abs(np.corrcoef(first, other)[0, 1]) for other in others)
    assert 1 > near > 0.5 > far


def test_the_share_of_wrong_labels() -> None:
    (_, right, _), (_, wrong, _) = noisy_digits(0), noisy_digits(0, flipped=0.5)
    assert right is not None
    assert np.mean(right != wrong) == pytest.approx(0.45, abs=0.03)  # one in ten is drawn right by chance


@pytest.mark.parametrize("norm", NORMS)
def test_the_networks_take_a_batch(norm: str) -> None:
    model = normed_mlp((3,), 2, "classification", hidden=(4,), norm=norm)
    assert model(torch.zeros(5, 3)).shape == (5, 2)


def _atlas_job(name: str, axis: str, word: str, parameters: int) -> AtlasJob:
    traits: dict[str, Any] = {"task": "regression", "model": "mlp", "activation": "relu", "carried": False, "layers": 3}
    numbers: dict[str, Any] = {"parameters": parameters, "rows": 100, "batch_size": 10, "steps": 100}
    return AtlasJob(**traits, **numbers, name=name, axis=axis, data=axis, word=word, effect=0.0, strategy="")


def test_a_job_is_not_predicted_from_its_own_axis() -> None:
    jobs = [_atlas_job(f"a{n}", "a", "helps", 1000 + n) for n in range(9)]
    jobs += [_atlas_job(f"b{n}", "b", "hurts", 1000 + n) for n in range(9)]
    assert report.judge(jobs, "axis") == report.judge(jobs, "data") == (18, 0, 0)


def test_the_order_of_neighbours_brings_their_winner_forward() -> None:
    jobs = [_atlas_job(f"a{n}", f"axis {n % 2}", "helps", 1000 + n) for n in range(20)]
    winners = {job.name: 3 for job in jobs[:-1]} | {jobs[-1].name: 1}
    total, shared, voted = report.mean_places(jobs, winners, "axis")
    assert total == 20
    assert shared == pytest.approx((19 * 4 + 2) / 20)
    assert voted == pytest.approx((19 * 1 + 3) / 20)  # behind the winner of all others, and the first trial


def test_winners_are_found_among_the_first_trials() -> None:
    winners = report.first_trials(stored())
    assert len(winners) > 60
    assert set(winners.values()) <= set(range(8))


def test_neighbours_are_of_use_where_likeness_decides() -> None:
    jobs = [_atlas_job(f"small{n}", f"axis {n % 2}", "helps", 1000 + n) for n in range(20)]
    jobs += [_atlas_job(f"large{n}", f"axis {n % 2}", "hurts", 10**6 + n) for n in range(40)]
    assert report.judge(jobs, "axis") == (60, 60, 40)


@pytest.mark.slow
def test_a_scenario_runs_and_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.atlas.runs.FOLDER", tmp_path / "service")
    fields = job({"name": "wine"}, {"name": "mlp", "hidden": [4]}, trials_per_arm=2, steps=10)
    scenario, results = Scenario("size", "wine", "4", fields), tmp_path / "results.jsonl"
    run([scenario], results=results)
    found = stored(results)[scenario.key]
    assert found["word"] in report.WORDS
    assert found["traits"]["rows"] == 106
    before = results.read_text()
    run([scenario], results=results)
    assert results.read_text() == before
    assert json.loads(before)["name"] == "size: wine, 4"
