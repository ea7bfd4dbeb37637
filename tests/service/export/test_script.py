# What people write, such as the name of a column, is text in the docstring of a script, whatever characters it has.
from __future__ import annotations

import ast
import re
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

from service.export.script import make_predict_script, make_script
from service.planning.plan import make_plan
from service.result.job_result import KeptWeights
from service.settings import Settings
from service.spec.dataset_info import DatasetInfo
from service.spec.job import JobSpec
from service.user_code.probe import UserCode
from tests.bare_install import run_bare
from tests.conftest import SpecMaker
from tests.service.export.test_predict import kept, spec_of
from tests.service.results import a_result
from tests.service.user_code import models

NAMES = ['p"""; print("X"); """', r"\xi", r"\N{x}", "a\\", '"', '""""', "'''", r"\"\"\"", "{p_note}"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_cannot_break_out_of_the_docstring(
    spec: SpecMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    plan = make_plan(JobSpec.model_validate(spec()))
    loop = DatasetInfo(task="loop", rows=0, features=0, outputs=0, sources={"a:b": "0" * 64})
    own = make_plan(JobSpec.model_validate({"model": {"name": "loop", "entrypoint": "a:b"}}), loop)
    result = a_result(summary=f"MAE in units of {name}: 3", reason=f"{name} it is")
    for script in (make_script(plan, result, None, None), make_script(own, result, None, None)):
        told = ast.get_docstring(ast.parse(script), clean=False)
        assert told is not None
        assert f"MAE in units of {name}: 3.\n" in told
        assert f"The verdict: {name} it is.\n" in told
        (tmp_path / "recommended.py").write_text(script)
        runpy.run_path(str(tmp_path / "recommended.py"), run_name="recommended")
    assert capsys.readouterr() == ("", "")


def test_a_script_begins_with_its_docstring(spec: SpecMaker) -> None:
    plan = make_plan(JobSpec.model_validate(spec()))
    weights = KeptWeights(file="w", sha256="0", preprocessing_sha256="0", seed=1, test_loss=0.5)
    for script, first in (
        (make_script(plan, a_result(), None, None), '"""Recommended optimizer of job-0: warpadam, verdict helps.\n'),
        (
            make_predict_script(plan, a_result(), weights),
            '"""The trained model of job-0: warpadam, seed 1, test loss 0.5.\n',
        ),
    ):
        assert script.startswith(first)
        assert "Made by warptune" in script.split('"""')[1]


@pytest.mark.parametrize("factory", [models.hooked, models.keeps_front_frozen, models.partly_frozen])
def test_a_model_of_the_users_own_code_is_trained_as_in_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factory: Callable[..., object]
) -> None:
    monkeypatch.setenv("WARPTUNE_ALLOWED_MODULES", models.__name__)
    entrypoint = f"{models.__name__}:{factory.__name__}"
    spec = spec_of(dataset={"name": "wine"}, model={"name": "entrypoint", "entrypoint": entrypoint})
    made = kept(tmp_path, spec, UserCode(Settings()).info_for(spec, None))
    script = str(made.folder / "recommended.py")
    done = run_bare(f"import runpy; runpy.run_path({script!r}, run_name='__main__')", ours=False)
    assert done.returncode == 0, done.stderr
    found = re.search(r"^test loss ([\d.]+), ", done.stdout)
    assert found is not None, done.stdout
    assert float(found[1]) == pytest.approx(made.test_loss, abs=1e-6)
