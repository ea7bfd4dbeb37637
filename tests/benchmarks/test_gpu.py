"""The check of a CUDA device: it runs whole on the CPU at toy size, and a job that fails costs one figure only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.jobs import NO_TIME, run_jobs
from benchmarks.gpu.optimizers import ADAMW, STEPPED, TRAINED
from benchmarks.gpu.tables import outcomes_table, steps_table, training_table
from benchmarks.gpu.text import read_text
from benchmarks.gpu.tuning import Trained, best_runs, first_jobs, further_jobs, job_name
from tests.bare_install import PRELUDE, ROOT, refused
from warpadam import STRATEGIES

DEVELOPMENT = {"hypothesis", "xdist", "pytest_timeout", "pytest_rerunfailures", "pytorch_optimizer", "matplotlib"}
WHITENING = "kronecker/pre/whitening"

JOBS = """
import os, sys, time
from benchmarks.gpu.jobs import serve

def measure(job):
    if job == "fails":
        raise RuntimeError("CUDA out of memory")
    if job == "dies":
        os._exit(7)
    if job == "waits":
        time.sleep(600)
    return {"pid": os.getpid()}

serve(measure)
"""


def run(*losses: float, diverged: bool = False) -> dict[str, Any]:
    """A run that was validated every 10 steps, and took a second for each."""
    curve = [(10 * place, 10.0 * place, loss) for place, loss in enumerate(losses, 1)]
    return {"curve": curve, "diverged": diverged, "peak_gib": None, "text": "0"}


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "some_jobs.py").write_text(JOBS)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(tmp_path), str(ROOT))))
    return "some_jobs"


def test_a_job_that_fails_is_told_and_the_next_ones_run_in_a_new_process(module: str) -> None:
    found = run_jobs(module, ["first", "second", "fails", "third", "dies", "last"], 60)
    assert list(found) == ["first", "second", "fails", "third", "dies", "last"]
    assert found["fails"] == {"error": "process ended with status 1: RuntimeError: CUDA out of memory"}
    assert found["dies"] == {"error": "process ended with status 7: it printed nothing"}
    assert found["first"]["pid"] == found["second"]["pid"]
    assert len({found[job]["pid"] for job in ("first", "third", "last")}) == 3


def test_what_was_found_before_the_time_limit_is_kept(module: str) -> None:
    found = run_jobs(module, ["first", "waits", "last"], 5)
    assert "pid" in found["first"]
    assert found["waits"] == found["last"] == NO_TIME


def test_every_strategy_is_stepped() -> None:
    assert {str(strategy) for strategy in STRATEGIES} <= STEPPED.keys()


def test_every_optimizer_trains_at_its_likely_lr_before_any_other_lr_is_tried() -> None:
    jobs = first_jobs()
    assert len(jobs) == len(set(jobs)) == sum(len(own.lrs) for own in TRAINED.values())
    assert jobs[: len(TRAINED)] == [job_name(name, own.lrs[0]) for name, own in TRAINED.items()]


def test_the_best_lr_counts_and_the_target_is_where_the_best_adamw_ends() -> None:
    runs = {
        job_name(ADAMW, 0.002): run(3.0, 2.5, 2.0),
        job_name(ADAMW, 0.004): run(4.0, 3.0, 2.2),
        job_name(WHITENING, 0.01): run(2.6, 2.0, 1.8),
        job_name(WHITENING, 0.02): run(9.0, diverged=True),
        job_name("Muon", 0.01): run(diverged=True),
        job_name("diagonal/sandwich/hypergradient", 0.002): run(3.0, 2.6, 2.1),
        **{job_name(name, TRAINED[name].lrs[0]): NO_TIME for name in TRAINED if "rotation" in name},
    }
    runs |= {job_name(name, 1.0): NO_TIME for name in TRAINED}
    best = best_runs(runs)
    whitening, diagonal = best[WHITENING], best["diagonal/sandwich/hypergradient"]
    assert isinstance(whitening, Trained)
    assert isinstance(diagonal, Trained)
    assert (whitening.lr, whitening.tried, whitening.at_end) == (0.01, 2, True)
    assert (whitening.loss, whitening.seconds) == (1.8, 30.0)
    assert (whitening.steps_to_target, whitening.seconds_to_target) == (20, 20.0)
    assert diagonal.steps_to_target is None
    assert best["Muon"] == "diverged at every lr: 0.01"
    assert best["kronecker/sandwich/rotation"] == NO_TIME["error"]
    text = training_table(best)
    assert "not reached" in text
    assert "diverged at every lr: 0.01" in text


def test_where_the_highest_or_lowest_lr_is_best_the_next_one_is_tried() -> None:
    low, middle, high = sorted(TRAINED[ADAMW].lrs)
    for best, expected in ((low, low / 2), (middle, None), (high, high * 2)):
        runs = {job_name(ADAMW, lr): run(1.0 if lr == best else 2.0) for lr in (low, middle, high)}
        assert further_jobs(runs) == ([] if expected is None else [job_name(ADAMW, expected)])
        assert further_jobs({**runs, job_name(ADAMW, middle): NO_TIME}) == []


def test_the_tables_name_what_failed() -> None:
    figures = {"mean_ms": 2.0, "typical_ms": 1.0, "slowest_ms": 9.0, "rounds": 1, "state_gib": 0.5, "peak_gib": 1.25}
    steps = steps_table({ADAMW: figures, "full/pre/whitening": {"error": "CUDA out of memory"}, "Muon": figures})
    assert "full/pre/whitening  CUDA out of memory" in steps
    assert [line.split() for line in steps.splitlines() if "Muon" in line] == [
        ["Muon", "2.00", "1.0", "1.00", "9.00", "0.50", "1.25"]
    ]
    failed = {"passed": 1, "failed": 1, "skipped": 0, "failures": {"test_it": "assert 1 == 2\nmore"}}
    tests = outcomes_table({"test_a.py": failed, "test_b.py": NO_TIME})
    assert "test_a.py: 1 passed, 1 failed, 0 skipped\n    test_it: assert 1 == 2\n" in tests
    assert f"test_b.py: {NO_TIME['error']}" in tests


def test_the_text_is_real_and_the_same_every_time() -> None:
    text = read_text()
    assert bytes(text.held_out[:400].tolist()).isascii()
    assert 0.05 < len(text.held_out) / len(text.train) < 0.25
    read_text.cache_clear()
    assert read_text().digest == text.digest


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_fake_run_needs_only_the_base_install_and_pytest_and_says_that_it_is_fake(tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    names = refused() | DEVELOPMENT | {"service", "search_spaces"}
    hook = PRELUDE.format(refused=sorted(names)).replace('sys.argv = ["warptune"]', "")
    (bare / "sitecustomize.py").write_text(hook)  # Python runs it at the start of every process
    path = os.pathsep.join((str(bare), str(ROOT)))
    own = {"WARPTUNE_FAKE": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": path}
    command = [sys.executable, "-m", "benchmarks.gpu", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **own})
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("Its figures mean nothing") == 2
    assert "SOAP and Shampoo are left out: pytorch-optimizer is not installed" in done.stdout
    assert "not measured" not in done.stdout
    result = json.loads((tmp_path / "fake.json").read_text())
    assert result["fake"] is True
    assert sum(found["passed"] for found in result["tests"].values()) > 100
    assert {str(strategy) for strategy in STRATEGIES} <= result["steps"].keys()
    assert all(own["mean_ms"] > 0 for own in result["steps"].values())
    assert all(own["steps_to_target"] is None or own["steps_to_target"] > 0 for own in result["best"].values())


def test_without_a_device_it_says_how_to_try_it() -> None:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "WARPTUNE_FAKE": "0"}
    command = [sys.executable, "-m", "benchmarks.gpu"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 1
    assert done.stderr == ("There is no CUDA device here. WARPTUNE_FAKE=1 runs the check at toy size on the CPU.\n")
