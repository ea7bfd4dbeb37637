# Runs on a Ray of several nodes, each a raylet process of its own, and what happens when one is killed in the middle.
# In a process of its own, as a process has one Ray.
from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.ray
@pytest.mark.xdist_group("ray")
@pytest.mark.slow
@pytest.mark.kills
@pytest.mark.timeout(330)
@pytest.mark.parametrize(
    "nodes",
    [pytest.param(1, id="one that joins later"), *(pytest.param(2, id=f"two, turn {turn}") for turn in range(10))],
)
def test_a_run_whose_node_is_killed_goes_on_from_its_last_checkpoint_on_another(tmp_path: Path, nodes: int) -> None:
    command = [sys.executable, "-m", "tests.service.engines.two_nodes", str(tmp_path), str(nodes)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["state"] == "complete"
    assert said["begun"] == 2
    assert said["value"] == said["undisturbed"]
    first, second = said["nodes"]
    assert first != second
    assert said["steps_before"] > said["steps_lost"] >= 0
    assert said["steps_lost"] <= said["most_lost"]
