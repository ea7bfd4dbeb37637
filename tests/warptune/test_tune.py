# From data or a loop in memory to a verdict, an optimizer and predictions; and what is refused, by the name of the
# argument.
from __future__ import annotations

import importlib
import sys
import threading
import types
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

from service.client.answers import Job
from service.client.private import private_service
from service.errors import ConflictError, InvalidSpecError
from service.export.replay import BundleError
from service.spec.base import Entrypoint
from service.spec.job import JobSpec
from tests.conftest import SpecMaker
from tests.service.data import files
from tests.service.live import serve
from warptune import ApiError, Client, Result, tune
from warptune.progress import Clock
from warptune.training_loop import name_of, write_module
from warptune.tuning import _model

X = np.random.default_rng(0).normal(size=(120, 3)).astype(np.float32)
Y = (X[:, 0] > 0).astype(int)
TINY: dict[str, Any] = {"trials": 2, "steps": 20, "confirm": {"seeds": 6}}

OWN_MODEL = """
import torch

def make_model(shape, outputs, task):
    return torch.nn.Sequential(torch.nn.Linear(*shape, 4), torch.nn.ReLU(), torch.nn.Linear(4, outputs))
"""


def factory(shape: object, outputs: int, task: str) -> nn.Module:
    raise AssertionError


factory.__module__ = "__main__"


def fit(make_optimizer: Any, seed: int) -> Iterator[dict[str, float]]:
    """Fit a line to X, which is not in the function."""
    torch.manual_seed(seed)
    model, rows = nn.Linear(3, 1), torch.as_tensor(X)
    optimizer = make_optimizer(model)
    for step in range(1, 21):
        optimizer.zero_grad()
        loss = (model(rows)[:, 0] - rows[:, 0]).square().mean()
        loss.backward()
        optimizer.step()
        if step % 2 == 0:
            yield {"loss": loss.item(), "r2": 1 - loss.item()}


def of_a_notebook(function: Any) -> Any:
    """Return a function that other processes cannot import, as those of a notebook."""
    code = types.FunctionType(function.__code__, {**function.__globals__, "__name__": "__main__"}, "fit")
    code.__module__, code.__qualname__ = "__main__", "fit"
    return code


LOCK = threading.Lock()


def with_a_lock(make_optimizer: Any, seed: int) -> Iterator[float]:
    with LOCK:
        yield 0.5


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "trials and minutes": ({"trials": 2, "minutes": 1}, r"minutes: must be left out if trials is given \(got 1\)"),
    "a dataset by name": ({"dataset": "wine"}, r"dataset: must be a dict of fields \(got 'wine'\)"),
    "minutes of numpy": ({"minutes": np.int64(0)}, r"minutes: must be a number above 0, at most 10080 \(got 0\)"),
    "minutes of more than a week": ({"minutes": 1e308}, r"minutes: must be a number above 0, at most 10080 \(got 1e"),
    "minutes": ({"minutes": -1}, r"minutes: must be a number above 0, at most 10080 \(got -1\)"),
    "minutes of text": ({"minutes": "5"}, r"minutes: must be a number above 0, at most 10080 \(got '5'\)"),
    "minutes and a budget": ({"minutes": 1, "budget": {"trials_per_arm": 3}}, "minutes: must be left out if trials"),
    "what JSON does not have": ({"training": {"max_grad_norm": np.nan}}, "training: must consist of finite numbers"),
    "an object": ({"columns": {"a": object()}}, "columns: must consist of .*: object is none of these"),
    "steps twice": ({"steps": 20, "budget": {"steps": 30}}, "steps: must be left out if budget has steps"),
    "a model of the notebook": ({"model": factory}, "model: must be a function at the top of a module .*.py file"),
    "a model itself": (
        {"model": nn.Linear(3, 2)},
        r"model: must be .*\(got 'Linear'\).* a fresh model for each run",
    ),
    "a part of a function of the notebook": ({"model": partial(factory, task="loop")}, r"model: .* \(got 'factory'\)"),
    "a part of an argument": ({"model": partial(factory, (3,))}, r"model: must be .* \(got 'partial'\)"),
    "a model in place of rows": ({"data": nn.Linear(3, 2), "y": None}, r"data: .* not a model \(got 'Linear'\)"),
    "a class of models in place of rows": ({"data": nn.Linear}, r"data: must be rows .* not a model \(got 'Linear'\)"),
    "a model of numbers": ({"model": 3}, r"model: must be a name, a dict or a function \(got 3\)"),
    "a loop and a target": ({"data": fit, "y": None, "target": "a"}, r"target: must be left out with a training loop"),
    "a loop and rows": ({"data": fit}, r"y: must be left out with a training loop, .* \(got 'ndarray'\)"),
    "a loop and a dataset": ({"data": fit, "y": None, "dataset": {"task": "regression"}}, "dataset: must be left out"),
    "a loop of one argument": (
        {"data": of_a_notebook, "y": None},
        r"data: must be a function that takes make_optimizer and seed: too many .* \(got 'of_a_notebook'\)",
    ),
    "a loop with a lock": (
        {"data": of_a_notebook(with_a_lock), "y": None},
        r"data: cannot be taken to the processes .* cannot pickle '_thread.lock' object .* inside the function",
    ),
    "no file": ({"data": "gone.csv", "y": None}, "data: must be a file that exists"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_meant_is_refused_before_anything_starts(case: str, folder: Path) -> None:
    arguments, message = REFUSED[case]
    with pytest.raises(InvalidSpecError, match=message):
        tune(**{"data": X, "y": Y, "quiet": True, **arguments})
    assert not list(folder.iterdir())


def test_an_argument_that_does_not_exist_is_named_with_the_closest_one() -> None:
    with pytest.raises(TypeError, match=r"tune\(\) has no argument 'trails'. Did you mean 'trials'\?"):
        tune(X, Y, trails=3)  # type: ignore[call-arg]


BY_THE_SERVICE: dict[str, tuple[dict[str, Any], str]] = {
    "steps": ({"steps": 0}, r"^steps: must be greater than or equal to 1 \(got 0\)"),
    "trials": ({"trials": 2.5}, "^trials: must be"),
    "metric": ({"metric": "val_acuracy"}, "^metric: must be .*'val_accuracy'"),
    "numbers of numpy": ({"steps": np.int64(0), "trials": np.int32(2)}, r"^steps: must be greater .*\(got 0\)"),
    "a list of columns": ({"columns": ["city"]}, "^columns: must be"),
    "columns": ({"columns": {"city": "town"}}, "^columns.city: must be"),
    "split": ({"split": {"by": "group", "column": "town"}}, "^split.column: must be"),
    "model": ({"model": "mpl"}, "^model.*'mlp'"),
    "baselines": ({"baselines": ["adam"]}, "^baselines.*'adamw'"),
    "the budget": ({"budget": {"steps": 0}}, "^budget.steps: must be greater"),
    "the dataset": ({"dataset": {"target_transform": "log"}}, "^dataset.target_transform: must be"),
    "target": ({"target": "lable"}, "^target: must be one of .*'label'"),
}


@pytest.mark.parametrize(
    "model", [partial(fit, seed=8), {"entrypoint": fit, "config": {"seed": 8}}], ids=["partial", "function"]
)
def test_a_function_of_a_model_may_come_with_its_arguments(model: Any) -> None:
    found, settings = _model(model)
    assert found == {"entrypoint": f"{__name__}:fit", "config": {"seed": 8}}
    assert settings["WARPTUNE_ALLOWED_MODULES"].endswith(__name__)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with serve(tmp_path_factory.mktemp("live")) as live:
        yield live.url


@pytest.mark.parametrize("case", BY_THE_SERVICE)
def test_a_refusal_of_the_service_names_the_argument(case: str, url: str, folder: Path) -> None:
    arguments, message = BY_THE_SERVICE[case]
    (folder / "people.csv").write_bytes(files.csv(120))
    with pytest.raises(InvalidSpecError, match=message):
        tune("people.csv", **{"target": "label", "url": url, "quiet": True, **arguments})


def test_a_table_in_a_file_needs_a_target_and_a_broken_one_is_explained(url: str, folder: Path) -> None:
    (folder / "people.csv").write_bytes(files.csv(120))
    with pytest.raises(InvalidSpecError, match="target: must name the column to predict, one of: age, city"):
        tune("people.csv", url=url, quiet=True)
    with pytest.raises(InvalidSpecError, match=r"^y: must .*\(got 'y'\)"):
        tune(X[:, :2], X[:, 2], dataset={"task": "classification"}, url=url, quiet=True)
    (folder / "people.npz").write_bytes(b"not a zip")
    with pytest.raises(ApiError, match="zip"):
        tune("people.npz", url=url, quiet=True)


def test_columns_are_named_as_pandas_names_them(url: str) -> None:
    frame = pd.DataFrame(np.c_[X[:, :2], Y], columns=pd.MultiIndex.from_tuples([("x", 0), ("x", 1), ("y", "")]))
    with pytest.raises(InvalidSpecError, match=r"^columns.\('x', 1\): must be a kind that the values have"):
        tune(frame, target="y", columns={("x", 1): "date", ("x", 0): "number"}, url=url, quiet=True)
    with pytest.raises(InvalidSpecError, match=r"^split.column: must be another column than the target .*\('y', ''\)"):
        tune(frame, target=("y", ""), split={"by": "group", "column": "y"}, url=url, quiet=True)


def test_a_job_that_was_left_in_the_queue_is_named(
    url: str, spec: SpecMaker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def line(clock: Clock, job: Job) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(Clock, "line", line)
    with Client(url) as client:
        other = client.submit(spec(name="left over"))["id"]
        result = tune(X, Y, url=url, **TINY)
        client.cancel(other)
        assert client.job(result.job_id)["state"] == "cancelled"
    shown = capsys.readouterr().out
    assert f"! the earlier job left over is queued and may run first. To end it: warptune cancel {other}" in shown


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_arrays_come_to_a_verdict_an_optimizer_and_predictions(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = tune(X, Y, **TINY)
    shown = capsys.readouterr().out
    assert "data.npz  120 rows, classification: 2 distinct whole numbers" in shown
    assert f"({result.verdict}): {result.reason}" in shown
    assert result.verdict in ("helps", "hurts", "no_difference", "inconclusive")
    assert result.recommendation is not None
    assert f"Use {result.optimizer}" in repr(result)
    assert "<table>" in result._repr_html_()

    trials = result.trials
    assert trials["arm"].value_counts().to_dict() == {"warpadam": 2, "adamw": 2, "adamw_default": 1}
    assert trials["params_lr"].notna().sum() == 4

    model = nn.Linear(3, 2)
    optimizer = result.make_optimizer(model)
    assert f"{type(optimizer).__module__.partition('.')[0]}" == str(result.optimizer).partition(".")[0]
    assert result.config is not None
    assert optimizer.param_groups[0]["lr"] == result.config["lr"]
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()

    scores = result.predict(X[:5])
    assert list(scores) == ["prediction", "probability_0", "probability_1"]
    assert len(scores) == 5
    with pytest.raises(ValueError, match="expected numbers, rows x 3"):
        result.predict(X[:5, :2])

    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)  # the jobs are still found
    assert result.report("report.html").read_bytes().startswith(b"<!")
    assert b"make_optimizer" in result.export("best.py").read_bytes()
    with pytest.raises(InvalidSpecError, match=r"path: must end in one of .py, .zip"):
        result.export("best.txt")
    monkeypatch.chdir(folder)
    assert Result.load(result.job_id).reason == result.reason


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_frame_with_a_model_of_ones_own_scores_frames(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "own_model.py").write_text(OWN_MODEL)
    monkeypatch.syspath_prepend(str(folder))
    own_model = __import__("own_model")
    frame = pd.DataFrame({"x": X[:, 0], "kind": pd.Categorical(["a", "b", "c"] * 40), "label": Y > 0})
    result = tune(frame, target="label", model=own_model.make_model, quiet=True, **TINY)
    sys.modules.pop("own_model")
    assert result.job["spec"]["model"]["entrypoint"] == "own_model:make_model"
    monkeypatch.setenv("WARPTUNE_ALLOWED_MODULES", "own_model")
    scores = result.predict(frame.drop(columns="label").head(3))
    assert set(scores["prediction"]) <= {"true", "false"}
    shuffled = result.predict(frame.drop(columns="label").loc[[2, 0, 1]])
    assert list(shuffled.index) == [2, 0, 1], "a column that is made of it would go to other rows"
    assert shuffled.sort_index().equals(scores)
    with pytest.warns(UserWarning, match=r"columns that are not used: 'label' \(the target\)"):
        assert (result.predict(frame.head(3)) == scores).all().all()


@pytest.mark.parametrize("name", ["fit", "_loop", "Path", "train", "entraîner", "a" * 150])
def test_a_loop_may_have_any_name(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def loop(make_optimizer: Any, seed: int) -> Iterator[float]:
        yield seed / 4

    loop.__name__ = loop.__qualname__ = name
    entrypoint, settings = write_module(loop, folder)
    module, _, function = TypeAdapter(Entrypoint).validate_python(entrypoint).partition(":")
    assert settings["WARPTUNE_ALLOWED_MODULES"] == module
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, module, raising=False)
    assert list(getattr(importlib.import_module(module), function)(None, 3)) == [0.75]
    JobSpec.model_validate({"name": name_of(loop), "model": {"name": "loop", "entrypoint": entrypoint}})


def test_a_loop_of_a_notebook_is_not_sent_to_a_running_service(url: str) -> None:
    with pytest.raises(InvalidSpecError, match=r"data: must be a function at the top of a module .* takes no function"):
        tune(of_a_notebook(fit), url=url, quiet=True)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_training_loop_in_memory_comes_to_a_verdict_and_an_optimizer(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = tune(of_a_notebook(fit), trials=2, metric="val_r2", confirm={"seeds": 6})
    shown = capsys.readouterr().out
    assert "fit  loop: 20 steps, yields loss, r2\n5 trials and " in shown
    assert "the validation R2 is" in result.reason
    assert result.recommendation is not None
    assert set(result.trials["last_step"]) == {20}
    assert result.make_optimizer(nn.Linear(3, 1)).param_groups[0]["lr"] == result.recommendation.config["lr"]
    assert ".predict" not in repr(result)
    with pytest.raises(BundleError, match="no trained model: the job is on a family or a training loop"):
        result.predict(X)
    assert b"make_optimizer" in result.export("best.py").read_bytes()
    assert Result.load(result.job_id).reason == result.reason
    assert [path.name for path in folder.iterdir() if path.name.startswith("train_")] == []


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_worker_in_the_same_folder_leaves_a_loop_to_the_service_of_its_call(folder: Path) -> None:
    with private_service(folder=folder):
        result = tune(of_a_notebook(fit), trials=2, confirm={"seeds": 6}, quiet=True)
    assert result.verdict is not None


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_a_loop_raises_is_said_with_its_line() -> None:
    def train(make_optimizer: Any, seed: int) -> Iterator[float]:
        raise RuntimeError("no such table")
        yield 0.5

    reason = r"data: cannot be used: .* raised RuntimeError: no such table \(test_tune.py, line \d+\) \(got 'train'\)$"
    with pytest.raises(InvalidSpecError, match=reason):
        tune(train, quiet=True)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_an_interrupt_stops_the_job_and_keeps_its_trials(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def line(clock: Clock, job: Job) -> str:
        if any(arm["trials"].get("complete", 0) > 1 for arm in job["arms"]):
            raise KeyboardInterrupt
        return job["state"]

    monkeypatch.setattr(Clock, "line", line)
    result = tune(X, Y, trials=200, steps=200)
    assert "stopping the job; its trials are kept" in capsys.readouterr().out
    assert (result.verdict, result.config) == (None, None)
    assert result.reason.startswith("stopped before the verdict; ")
    assert "the best is trial " in repr(result)
    assert "trials are kept" in result._repr_html_()
    assert 2 <= (result.trials["state"] == "complete").sum() < 200
    for use in (
        lambda: result.make_optimizer(nn.Linear(3, 2)),
        lambda: result.report("r.html"),
        lambda: result.predict(X),
    ):
        with pytest.raises(ConflictError, match="has no recommendation: it was stopped"):
            use()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_job_that_was_interrupted_goes_on_in_a_service_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def line(clock: Clock, job: Job) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Clock, "line", line)
        stopped = tune(X, Y, **TINY)
    how = f"To go on: Result.load('{stopped.job_id}').resume()"
    assert how in stopped.reason
    assert how in capsys.readouterr().out
    result = Result.load(stopped.job_id).resume()
    assert result.job_id == stopped.job_id
    assert result.verdict in ("helps", "hurts", "no_difference", "inconclusive")
    assert f"({result.verdict}): {result.reason}" in capsys.readouterr().out
