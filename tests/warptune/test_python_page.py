# Every block of docs/python.md runs, one after the other, as a reader would run them; with small jobs.
from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from service.client.private import private_service
from tests.service.data import files
from warptune.budget import Size

PAGE = Path(__file__).parents[2] / "docs" / "python.md"
URL = "http://127.0.0.1:8000"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_block_of_the_page_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("warptune.tuning.TRIALS", 2)
    monkeypatch.setattr("warptune.tuning.STEPS", 20)
    monkeypatch.setattr("warptune.tuning.fit", lambda *arguments, **more: Size(2, 20))
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    (folder / "people.csv").write_bytes(files.csv(120))
    names: dict[str, Any] = {}
    for block in blocks:
        if URL not in block:
            exec(compile(block, str(PAGE), "exec"), names)
            continue
        with private_service() as client:
            small = block.replace(URL, client.url).replace(
                '"mlp"}', '"mlp"}, "budget": {"trials_per_arm": 2, "steps": 20}'
            )
            exec(compile(small, str(PAGE), "exec"), names)
    assert names["again"].config is not None
    assert names["result"].job["spec"]["baselines"] == ["adamw", "sgd"]
    assert names["result"].job["spec"]["budget"]["batch_size"] == 32
    assert names["script"].startswith(b'"""Recommended optimizer of')
    assert len(names["trials"]) == 5
    assert (folder / "report.html").exists()
    assert "searching: " in capsys.readouterr().out


def test_the_page_names_every_method_of_the_client() -> None:
    from warptune import Client

    methods = {name for name, value in vars(Client).items() if callable(value) and not name.startswith("_")}
    text = PAGE.read_text()
    for name in methods - {"close", "is_up"}:
        assert f"client.{name}(" in text or f"`{name}`" in text, name
