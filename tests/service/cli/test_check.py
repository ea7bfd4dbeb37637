# `warptune check` says what user code is, or in a line what to change.
from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest
from typer.testing import CliRunner, Result

from service.cli.app import app
from tests.service.data import files

FAULTY = "tests.service.user_code.faulty"
LOOPS = "tests.service.user_code.loops"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["check", *arguments])


@pytest.mark.slow
def test_a_model_is_shown_with_its_tensors_and_the_memory_of_p() -> None:
    done = run("examples.gated_mlp:make_model", "--config", '{"width": 16}')
    assert done.exit_code == 0, done.output
    assert "4506 parameters in 16 tensors" in done.stdout
    assert "a row of shape (1, 8, 8) gives 10 outputs, for classification" in done.stdout
    assert "kronecker       125.8 KiB (162.0 KiB)" in done.stdout
    assert "WARPTUNE_ALLOWED_MODULES is empty" in done.stdout


@pytest.mark.parametrize("dataset", [(), ("--dataset", "digits")])
def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch, dataset: tuple[str, ...]) -> None:
    monkeypatch.setenv("WARPTUNE_LEASE_S", "0")
    done = run("examples.gated_mlp:make_model", *dataset)
    assert (done.exit_code, done.stdout) == (2, "")
    lines = done.stderr.splitlines()
    assert lines == [
        "error: a setting is not valid",
        "  lease_s (WARPTUNE_LEASE_S): must be greater than or equal to 1 (got '0')",
    ]


@pytest.mark.slow
def test_a_model_is_tried_on_the_rows_that_are_asked_for() -> None:
    done = run("examples.gated_mlp:make_model", "--shape", "7", "--outputs", "1", "--task", "regression")
    assert "a row of shape (7,) gives 1 outputs, for regression" in done.stdout


@pytest.mark.slow
def test_a_dataset_is_shown_with_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WARPTUNE_ALLOWED_MODULES", "examples")
    done = run("examples.friedman:make_dataset", "--kind", "dataset", "--config", '{"rows": 50, "noise": 0}')
    assert done.exit_code == 0, done.output
    assert "50 rows of shape (10,), 1 outputs, for regression" in done.stdout
    assert done.stdout.endswith("ready to use\n")


@pytest.mark.slow
def test_the_shape_of_a_model_comes_from_its_dataset(tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_bytes(files.csv(60))
    done = run("examples.gated_mlp:make_model", "--dataset", "digits")
    assert "a row of shape (1, 8, 8) gives 10 outputs, for classification" in done.stdout
    done = run("examples.gated_mlp:make_model", "--dataset", str(tmp_path / "people.csv"), "--target", "label")
    assert "a row of shape (69,) gives 2 outputs, for classification" in done.stdout


def test_a_training_loop_is_shown_with_its_steps_and_what_it_yields() -> None:
    done = run(f"{LOOPS}:fit", "--kind", "loop", "--config", '{"steps": 6}')
    assert done.exit_code == 0, done.output
    assert "a run with AdamW: 6 steps, yields loss, accuracy\n10 parameters in 2 tensors\n" in done.stdout
    assert "kronecker" in done.stdout


def test_a_model_may_keep_more_than_tensors() -> None:
    done = run(f"{FAULTY}:has_version", "--shape", "7")
    assert done.exit_code == 0, done.output


WRONG_OPTIONS: Final[list[tuple[list[str], str]]] = [
    (["a.b"], "'a.b' must have the form package.module:function"),
    (["README.md"], "function; warptune init FILE says what the columns of a table are taken for"),
    ([f"{FAULTY}:good_model", "--config", "[1]"], "--config must be a JSON object (got '[1]')"),
    (
        [f"{FAULTY}:good_model", "--shape", "8,8"],
        "--shape must be a number of features, or channels,height,width (got '8,8')",
    ),
    (
        [f"{FAULTY}:good_model", "--task", "language"],
        "the task must be one of classification, regression, autoencoding, it is language",
    ),
    ([f"{FAULTY}:good_model", "--dataset", "iris"], "--dataset must be a file, or one of digits, breast_cancer, "),
    ([f"{FAULTY}:good_model", "--dataset", "burgers"], "it is physics"),
]


@pytest.mark.parametrize(
    ("code", "arguments", "reason"),
    [
        *((2, *wrong) for wrong in WRONG_OPTIONS),
        (1, ["no.such:f"], "No module named 'no'; install it, or set WARPTUNE_CODE to the folder that holds it"),
        (1, [f"{LOOPS}:fit"], "set model.name to loop (warptune check --kind loop)"),
        (1, [f"{LOOPS}:raises", "--kind", "loop"], "the training loop raised RuntimeError: no such table"),
        (1, [f"{FAULTY}:unseeded", "--shape", "7"], "two models made with the same seed differ in"),
        (
            1,
            [f"{FAULTY}:broken", "--shape", "7", "--config", '{"how": "no eval"}'],
            "raised ValueError: it only trains",
        ),
        (1, [f"{FAULTY}:raises"], "the function raised RuntimeError: no such table"),
        (1, [f"{FAULTY}:raises", "--kind", "dataset"], "the function raised RuntimeError: no such table"),
        (
            1,
            [f"{FAULTY}:dataset", "--kind", "dataset", "--config", '{"what": "clock"}'],
            "two calls with the same seed differ in x; use the seed for every random number",
        ),
    ],
)
def test_what_is_wrong_is_one_line(code: int, arguments: list[str], reason: str) -> None:
    done = run(*arguments)
    assert done.exit_code == code
    assert done.stderr.startswith("error: ")
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1
