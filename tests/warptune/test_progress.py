# One line in a terminal, a card in a notebook, few lines in a pipe, nothing when quiet.
from __future__ import annotations

import io
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from service.client.answers import Job
from tests.warptune.test_budget import plan
from warptune.progress import Clock, Notebook, Silent, Terminal, make_progress


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def job(state: str, done: int = 0, confirmed: int = 0) -> Job:
    arms = [
        {
            "name": name,
            "trials": {"complete": done, "running": 1},
            "trials_cap": 20,
            "best": {"number": 1, "value": 0.25, "params": {}} if done else None,
        }
        for name in ("warpadam", "adamw")
    ]
    spec = {"objective": {"metric": "val_accuracy"}}
    whole: Any = {
        "id": "job-0",
        "state": state,
        "arms": arms,
        "confirm": {"done": confirmed, "planned": 49},
        "spec": spec,
    }
    found: Job = whole
    return found


def test_a_terminal_has_one_line_that_is_written_over(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("COLUMNS", "20")
    progress = make_progress(quiet=False)
    assert isinstance(progress, Terminal)
    progress.update("searching: " + "x" * 50)
    progress.end("done", "<b>done</b>")
    assert screen.getvalue() == "\r\x1b[Ksearching: " + "x" * 8 + "\r\x1b[Kdone\n"


def test_a_pipe_gets_a_line_for_each_stage(capsys: pytest.CaptureFixture[str]) -> None:
    progress = make_progress(quiet=False)
    for text in ("searching: 1/4", "searching, about 9 s left: 2/4", "verifying: 1/9"):
        progress.update(text)
    assert capsys.readouterr().out == "searching: 1/4\nverifying: 1/9\n"


@pytest.mark.parametrize(("encoding", "shown"), [("ascii", "gr\\xf6\\xdfe"), ("utf-8", "größe"), (None, "größe")])
def test_an_output_that_lacks_a_character_gets_its_code(
    monkeypatch: pytest.MonkeyPatch, encoding: str | None, shown: str
) -> None:
    bytes_out = io.BytesIO()
    output = io.StringIO() if encoding is None else io.TextIOWrapper(bytes_out, encoding)
    monkeypatch.setattr(sys, "stdout", output)
    make_progress(quiet=False).say("größe.csv  60 rows")
    found = output.getvalue() if isinstance(output, io.StringIO) else bytes_out.getvalue().decode()
    assert found == f"{shown}.csv  60 rows\n"


def test_quiet_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    progress = make_progress(quiet=True)
    assert isinstance(progress, Silent)
    progress.say("a")
    progress.update("b")
    progress.end("c", "c")
    assert not capsys.readouterr().out


def test_a_notebook_has_a_card_that_changes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pages: list[str] = []
    ipython, display = ModuleType("IPython"), ModuleType("IPython.display")
    ipython.get_ipython = lambda: SimpleNamespace(kernel=object())  # type: ignore[attr-defined]
    display.HTML = lambda page: page  # type: ignore[attr-defined]
    display.display = lambda page, display_id: SimpleNamespace(update=pages.append)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    progress = make_progress(quiet=False)
    assert isinstance(progress, Notebook)
    progress.say("people.csv, a < b")
    progress.update("searching")
    progress.end("done", "<b>done</b>")
    assert "people.csv, a &lt; b" in pages[1]
    assert "searching" in pages[1]
    assert pages[-1] == "<b>done</b>"
    assert not capsys.readouterr().out


def test_the_line_tells_trials_best_scores_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("warptune.progress.time.monotonic", lambda: now[0])
    clock = Clock(plan())
    assert clock.line(job("queued")) == "queued: waits for a worker"
    third: Any = {**job("queued"), "queue_position": 3}
    assert clock.line(third) == "queued: waits for a worker, number 3 in the queue"
    assert clock.line(job("paused")).endswith("warptune resume job-0 goes on with it")
    assert clock.line(job("running", 0)) == "searching: warpadam 0/20, adamw 0/20"
    assert "left" not in clock.line(job("running", 1))  # 3 of 130 seconds are done
    now[0] = 60.0
    assert clock.line(job("running", 5)) == (
        "searching, about 10 min left: warpadam 5/20 best 75 %, adamw 5/20 best 75 %"
    )
    assert clock.line(job("verifying", 20, 9)).endswith("adamw 20/20 best 75 %, fresh seeds 9/49")
