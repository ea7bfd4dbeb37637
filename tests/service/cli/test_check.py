# `warptune check` says what user code is, or in a line what to change.
from __future__ import annotations

import pytest
from typer.testing import CliRunner, Result

from service.cli.app import app

FAULTY = "tests.service.user_code.faulty"


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


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["a.b"], "'a.b' must have the form package.module:factory"),
        (["no.such:f"], "No module named 'no'; install it, or put the folder that holds it on PYTHONPATH"),
        ([f"{FAULTY}:good_model", "--config", "[1]"], "--config must be a JSON object (got '[1]')"),
        (
            [f"{FAULTY}:good_model", "--shape", "8,8"],
            "--shape must be a number of features, or channels,height,width (got '8,8')",
        ),
        (
            [f"{FAULTY}:good_model", "--task", "language"],
            "--task must be one of classification, regression, autoencoding (got 'language')",
        ),
        ([f"{FAULTY}:unseeded", "--shape", "7"], "two models made with the same seed differ in"),
        ([f"{FAULTY}:raises"], "the factory raised RuntimeError: no such table"),
        ([f"{FAULTY}:raises", "--kind", "dataset"], "the factory raised RuntimeError: no such table"),
        (
            [f"{FAULTY}:dataset", "--kind", "dataset", "--config", '{"what": "clock"}'],
            "two calls with the same seed differ in x; use the seed for every random number",
        ),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_code_1(arguments: list[str], reason: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 1
    assert done.stderr.startswith("error: ")
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1
