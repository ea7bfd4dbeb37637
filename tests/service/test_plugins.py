# An optimizer, a model, a metric and a task from outside of the package go the way of every other: spec, search in slot
# processes, verdict, export and report. The processes are real, as each of them must load the plug-in by itself.
from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from service.client.rest import ApiError
from tests.bare_install import ROOT, run_bare
from tests.service.cli.test_serve import Start, start, wait_for

__all__ = ["start"]  # a fixture

PLUGIN = "tests.service.toy_plugin"
BODY: dict[str, Any] = {
    "name": "toy",
    "dataset": {"name": "diabetes"},
    "model": {"name": "scaled_linear", "spread": 0.2},
    "objective": {"metric": "val_absolute_error"},
    "search_space": {"preset": "quick", "overrides": {"lr": 3e-3}},  # so that the toy optimizer is recommended
    "baselines": ["rprop"],
    "budget": {"trials_per_arm": 2, "steps": 60, "batch_size": 64},
    "confirm": {"seeds": 6},
    "seed": 0,
}


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_job_of_plugged_in_parts_comes_to_a_recommendation_an_export_and_a_report(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WARPTUNE_PLUGINS", PLUGIN)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    client = start().client
    with pytest.raises(ApiError) as caught:
        client.submit(BODY | {"dataset": {"name": "wine"}})
    assert [error.field for error in caught.value.errors] == ["objective.metric"]
    with pytest.raises(ApiError, match="must be 0 for median_regression"):
        client.submit(BODY | {"training": {"label_smoothing": 0.1}})
    job_id = client.submit(BODY)["id"]
    wait_for(lambda: client.job(job_id)["state"] in ("succeeded", "failed"))
    job = client.job(job_id)
    assert job["state"] == "succeeded", job["cause"]
    assert {arm["name"]: arm["trials"] for arm in job["arms"]} == {
        "warpadam": {"complete": 2},
        "rprop": {"complete": 2},
        "adamw_default": {"complete": 1},
    }

    result: dict[str, Any] = client.recommendation(job_id).to_json()
    assert (result["verdict"], result["arm"]) == ("hurts", "rprop")
    assert "absolute error" in result["reason"]
    assert result["config"].keys() == {"lr"}
    errors = [pair["baseline"] for pair in result["pairs"]]
    assert all(0.3 < error < 1.0 for error in errors), "the mean absolute error of a fit of standardised targets"
    assert result["trivial"]["predicts"] == "the median of the target"
    assert max(errors) < result["trivial"]["mean_test_score"] < 1.1
    assert result["summary"].startswith("Mean test absolute error: ")
    told = {row["metric"] for row in result["findings"]["comparisons"]}
    assert "test_loss" in told
    assert "test_absolute_error" not in told, "the verdict is about it"

    assert json.loads(client.export(job_id, "json"))["optimizer"] == "torch.optim.Rprop"
    script = tmp_path / "recommended.py"
    script.write_bytes(client.export(job_id, "python"))
    assert "l1_loss" in script.read_text()
    done = run_bare(f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')", ours=False)
    assert (done.returncode, done.stderr) == (0, "")
    reached, recorded, *scores = map(float, re.findall(r"\d+\.\d+", done.stdout))
    assert scores == pytest.approx([errors[0], errors[0]], abs=1e-6)
    assert recorded == pytest.approx(result["pairs"][0]["baseline_test_loss"], abs=1e-8)
    assert reached == pytest.approx(recorded, abs=1e-6)
    report = client.report(job_id).decode()
    assert "rprop" in report
    assert "absolute error" in report


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env={**os.environ, **environment}
    )


def test_a_plug_in_loads_no_torch_and_its_names_are_in_the_schema() -> None:
    code = """
import json, sys
from service.spec.job import JobSpec
from service.optimizers import baselines
from service.spec.dataset_info import DatasetInfo
from service.spec.tasks import TASKS
facts = {"rows": 10, "features": 2, "outputs": 1}
assert list(TASKS)[-1] == DatasetInfo.from_json(facts | {"task": "median_regression"}).task == "median_regression"
schema = JobSpec.model_json_schema()
names = schema["properties"]["model"]["discriminator"]["mapping"]
print(json.dumps([list(names), schema["$defs"]["ObjectiveSpec"]["properties"]["metric"]["enum"], list(baselines())]))
assert not {"torch", "numpy", "optuna"} & set(sys.modules)
"""
    done = python(code, WARPTUNE_PLUGINS=PLUGIN)
    assert done.returncode == 0, done.stderr
    models, metrics, baselines = json.loads(done.stdout)
    assert "scaled_linear" in models
    assert "val_absolute_error" in metrics
    assert baselines[-1] == "rprop"


def test_a_plug_in_that_cannot_be_imported_is_an_error_with_its_name() -> None:
    done = python("import service.spec.job", WARPTUNE_PLUGINS="tests.service.no_such_plugin")
    assert done.returncode == 1
    assert "PluginError: the plug-in tests.service.no_such_plugin cannot be imported: ModuleNotFound" in done.stderr
    assert "(WARPTUNE_PLUGINS names it)" in done.stderr


def test_the_command_line_says_what_is_wrong_with_a_plug_in_in_one_line() -> None:
    command = [sys.executable, "-m", "service", "check", "examples.gated_mlp:make_model", "--dataset", "digits"]
    environment = {**os.environ, "WARPTUNE_PLUGINS": "tests.service.no_such_plugin"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: the plug-in tests.service.no_such_plugin cannot be imported: ModuleNotFound")
    assert done.stderr.count("\n") == 1


def test_a_file_of_plug_ins_that_cannot_be_read_is_an_error_that_names_it() -> None:
    done = python("import service.spec.job", WARPTUNE_PLUGINS_FILE="/no/such/file")
    assert done.returncode == 1
    assert (
        "PluginError: a setting is not valid: WARPTUNE_PLUGINS must have a file of text in WARPTUNE_PLUGINS_FILE"
        in (done.stderr)
    )
