# The first thing a new user does, as it is.
from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run_demo(folder: Path) -> str:
    folder.mkdir()
    command = [sys.executable, str(ROOT / "examples" / "demo.py")]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return str(done.stdout)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_demo_saves_a_config_that_runs_and_finds_the_same_one_again(tmp_path: Path) -> None:
    printed = [run_demo(tmp_path / name) for name in ("first", "second")]
    scripts = [tmp_path / name / "recommended.py" for name in ("first", "second")]
    configs = [runpy.run_path(str(script))["CONFIG"] for script in scripts]
    assert configs[0] == configs[1]
    for text in printed:
        assert "16/16" in text
        assert re.search(r"helps|hurts|no_difference|inconclusive", text)
        assert "lr" in json.loads(text[text.index("{") : text.rindex("}") + 1])
    done = subprocess.run([sys.executable, scripts[0]], capture_output=True, text=True, check=True)
    found = re.search(r"test loss ([\d.]+), recorded ([\d.]+)", done.stdout)
    assert found
    assert float(found[1]) == pytest.approx(float(found[2]), abs=1e-6)
