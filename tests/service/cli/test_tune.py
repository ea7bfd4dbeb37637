# The command that starts from a file: what it refuses, what it shows, and what it leaves behind.
from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from service.cli.spec_file import read_spec
from service.spec.job import JobSpec
from tests.service.data import files

ROOT = Path(__file__).parents[3]
LIMIT_S = 100
STARTING = "starting: reads the data and times a few steps\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "people.csv").write_bytes(files.csv(120, code=[f"{row:04d}-Q" for row in range(120)]))
    return tmp_path


def environment(folder: Path) -> dict[str, str]:
    mine = {name: value for name, value in os.environ.items() if not name.startswith("WARPTUNE_")}
    here = {"WARPTUNE_DATABASE_URL": f"sqlite:///{folder}/w.db", "WARPTUNE_ARTIFACTS_URL": f"{folder}/artifacts"}
    return mine | here | {"COLUMNS": "200"}


def tune(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "service", "tune", *arguments]
    return subprocess.run(command, env=environment(folder), capture_output=True, text=True, timeout=LIMIT_S)


def processes_of(folder: Path) -> list[psutil.Process]:
    """The processes of a private service whose database is in a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(folder) in process.environ().get("WARPTUNE_DATABASE_URL", ""):
                found.append(process)
        except psutil.Error:  # of another user, or gone
            continue
    return found


REFUSED = {
    "no file": (["gone.csv", "--target", "label"], "cannot read gone.csv: there is no such file"),
    "a form of no name": (["people.csv", "-o", "best.txt"], "--output must end in one of .py, .zip"),
    "half a column": (["people.csv", "--column", "code"], "--column must be two words with = between them"),
    "half a split": (["people.csv", "--split", "code"], "--split must be two words with = between them"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_meant_is_refused_before_anything_starts(folder: Path, case: str) -> None:
    (name, *options), message = REFUSED[case]
    done = tune(folder, str(folder / name), *options)
    assert done.returncode == 2
    assert message in done.stderr.replace(f"{folder}/", "")
    assert not (folder / "w.db").exists()


def test_init_writes_a_spec_that_can_be_submitted(folder: Path) -> None:
    command = [sys.executable, "-m", "service", "init", "people.csv", "--target", "label", "--column", "note=ignore"]

    def init(*more: str) -> subprocess.CompletedProcess[str]:
        env = environment(folder) | {"PYTHONPATH": str(ROOT)}
        return subprocess.run([*command, *more], env=env, cwd=folder, capture_output=True, text=True, timeout=LIMIT_S)

    done = init("--steps", "50")
    assert done.returncode == 0, done.stderr
    assert "wrote spec.yaml; next: warptune serve, then warptune submit spec.yaml --watch" in done.stdout
    text = (folder / "spec.yaml").read_text()
    assert "#   ! code: left out, nearly every row has another value" in text
    spec = JobSpec.model_validate(read_spec(folder / "spec.yaml"))
    assert (spec.dataset.target, spec.dataset.columns, spec.budget.steps) == ("label", {"note": "ignore"}, 50)
    again = init()
    assert (again.returncode, (folder / "spec.yaml").read_text()) == (2, text)
    assert "spec.yaml exists; choose another file with -o, or replace it with --force" in again.stderr


def test_a_dry_run_shows_what_is_used_and_saves_a_spec(folder: Path) -> None:
    people, spec = str(folder / "people.csv"), folder / "spec.yaml"
    done = tune(folder, people, "--target", "label", "--column", "note=ignore", "--dry-run", "--save-spec", str(spec))
    assert done.returncode == 0, done.stderr
    assert "people.csv  120 rows, 2 inputs, classification: 2 distinct boolean values in 120 rows" in done.stdout
    assert "! code: left out, nearly every row has another value" in done.stdout
    assert "! note: left out, the job leaves it out" in done.stdout
    saved = yaml.safe_load(spec.read_text())
    assert (saved["name"], saved["dataset"]["columns"], saved["model"]["name"]) == (
        "people.csv",
        {"note": "ignore"},
        "mlp",
    )
    assert done.stderr == STARTING
    assert not processes_of(folder)


def test_a_limit_in_seconds_is_named_where_it_is_too_short(folder: Path) -> None:
    people, spec = str(folder / "people.csv"), folder / "spec.yaml"
    limited = ["--trials", "10000", "--max-seconds", "30", "--dry-run", "--save-spec", str(spec)]
    done = tune(folder, people, "--target", "label", *limited)
    assert done.returncode == 0, done.stderr
    assert re.search(r"about [\d,]+ of 20,001 trials and 54 more runs", done.stdout)
    assert re.search(r"! only about [\d,]+ of 10,000 trials of warpadam .*fit into --max-seconds; for all", done.stdout)
    assert yaml.safe_load(spec.read_text())["budget"]["max_seconds"] == 30
    for given, why in (("0", "must be greater than 0 (got 0"), ("inf", "must be a finite number (got inf")):
        wrong = tune(folder, people, "--target", "label", "--max-seconds", given, "--dry-run")
        assert (wrong.returncode, f"--max-seconds {why}" in wrong.stderr) == (2, True), wrong.stderr


def test_a_table_needs_a_target_and_a_wrong_one_is_named(folder: Path) -> None:
    people = str(folder / "people.csv")
    without = tune(folder, people)
    assert (without.returncode, without.stdout) == (2, "")
    assert without.stderr.startswith(STARTING)
    assert "--target must name the column to predict, one of: code, age, city, note, label" in without.stderr
    wrong = tune(folder, people, "--target", "lable")
    assert wrong.returncode == 2
    assert "--target must be one of age, city, note, label (got 'lable'). Did you mean 'label'?" in wrong.stderr


@pytest.mark.slow
def test_one_command_answers_and_saves_what_it_recommends(folder: Path) -> None:
    best = folder / "best.json"
    small = ["--target", "label", "--trials", "2", "--steps", "20", "--metric", "val_roc_auc", "-o", str(best)]
    done = tune(folder, str(folder / "people.csv"), *small)
    assert done.returncode == 0, done.stderr
    assert "Does P help?" in done.stdout
    assert "next: warptune serve, then warptune report job-" in done.stdout
    assert json.loads(best.read_text())["verdict"] in ("helps", "hurts", "no_difference", "inconclusive")
    assert not processes_of(folder)


def started(folder: Path, command: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "service", command, str(folder / "people.csv"), "--target", "label"]
    return subprocess.Popen(
        words, env=environment(folder), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("command", ["tune", "init"])
def test_ctrl_c_before_there_is_a_job_says_so(folder: Path, command: str) -> None:
    process = started(folder, command)
    try:
        assert process.stderr is not None
        assert process.stderr.readline() == STARTING
        process.send_signal(signal.SIGINT)
        shown, errors = process.communicate(timeout=LIMIT_S)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, shown) == (128 + signal.SIGINT, "")
    assert errors.endswith("stopped; no job was started\n")
    assert not processes_of(folder)


def test_a_folder_that_cannot_be_written_is_named_with_the_way_out(folder: Path) -> None:
    (folder / "warptune-data").touch()
    env = {name: value for name, value in environment(folder).items() if not name.startswith("WARPTUNE_")}
    command = [sys.executable, "-m", "service", "tune", "people.csv", "--target", "label"]
    env["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=LIMIT_S)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"error: cannot write to the folder {folder}/warptune-data" in done.stderr
    assert "set WARPTUNE_DATABASE_URL and WARPTUNE_ARTIFACTS_URL" in done.stderr


@pytest.mark.slow
def test_ctrl_c_stops_the_job_and_every_process(folder: Path) -> None:
    process = started(folder, "tune")
    try:
        assert process.stdout is not None
        while "more runs, about" not in (line := process.stdout.readline()) and line:
            pass
        time.sleep(2)  # the job is queued, or runs
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=LIMIT_S)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 128 + signal.SIGINT, errors
    assert re.search(r"stopped; the trials of (job-\S+) so far are kept. To go on: .* warptune retry \1\n", errors)
    assert not processes_of(folder)
