"""Shows how far a job is: one line in a terminal, a card in a notebook, a line now and then elsewhere."""

from __future__ import annotations

import html
import shutil
import sys
import time
from typing import Any, Final, Protocol

from service.client.answers import Estimate, Job, place_in_queue
from service.result.effects import search_figure
from service.states import count_ended

CARD: Final = '<div style="border: 1px solid #8888; border-radius: 6px; padding: 0.6em 1em; max-width: 50em">{}</div>'


MEASURED: Final = 0.02
"""Share of a job that is watched before the rest of it is estimated."""


class Progress(Protocol):
    """What :func:`warptune.tune` tells while it works."""

    def say(self, line: str) -> None:
        """Tell something that stays visible."""

    def update(self, text: str) -> None:
        """Replace what was told of the progress before."""

    def end(self, text: str, page: str) -> None:
        """Replace the progress by the outcome, as a text or as HTML."""


class Silent:
    """Tells nothing."""

    def say(self, line: str) -> None: ...  # noqa: D102

    def update(self, text: str) -> None: ...  # noqa: D102

    def end(self, text: str, page: str) -> None: ...  # noqa: D102


class Terminal:
    """One line of a terminal that is written over; in a pipe or file, a line for each new state."""

    def __init__(self) -> None:
        self._is_live = sys.stdout.isatty()
        self._states = ""

    def say(self, line: str) -> None:
        """Tell something that stays visible."""
        _write(f"\r\x1b[K{line}\n" if self._is_live else f"{line}\n")

    def update(self, text: str) -> None:
        """Write over the line, cut to the width of the terminal."""
        if self._is_live:
            _write(f"\r\x1b[K{text[: shutil.get_terminal_size().columns - 1]}")
            return
        stage = text.partition(":")[0].partition(",")[0]
        if stage != self._states:
            self._states = stage
            _write(f"{text}\n")

    def end(self, text: str, page: str) -> None:  # noqa: ARG002
        """Write the outcome."""
        self.say(text)


class Notebook:
    """A card in a notebook that changes while the job runs."""

    def __init__(self) -> None:
        from IPython.display import HTML, display  # type: ignore[import-not-found, unused-ignore]

        self._html = HTML
        self._lines: list[str] = []
        self._card: Any = display(HTML(""), display_id=True)

    def say(self, line: str) -> None:
        """Add a line to the card."""
        self._lines.append(html.escape(line))
        self._draw("")

    def update(self, text: str) -> None:
        """Draw the card again."""
        self._draw(f"<br><b>{html.escape(text)}</b>")

    def end(self, text: str, page: str) -> None:  # noqa: ARG002
        """Replace the card by the result."""
        self._card.update(self._html(page))

    def _draw(self, more: str) -> None:
        self._card.update(self._html(CARD.format("<br>".join(self._lines) + more)))


def make_progress(*, quiet: bool) -> Progress:
    """Return how to tell of the progress here."""
    if quiet:
        return Silent()
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return Notebook() if hasattr(shell, "kernel") else Terminal()


class Clock:
    """Tells how far a job is, and how long the rest takes if it goes on as it did since the first run ended."""

    def __init__(self, plan: Estimate) -> None:
        self._plan = plan
        self._first: tuple[float, float] | None = None

    def line(self, job: Job) -> str:
        """Return how far a job is, in one line."""
        if job["state"] == "queued":
            return f"queued: waits for a worker{place_in_queue({**job, 'needs_module': None})}"  # ours has it
        if job["state"] == "paused":
            return f"paused: warptune resume {job['id']} goes on with it"
        metric = str(job["spec"].get("objective", {}).get("metric", "val_loss"))
        arms = []
        for arm in job["arms"]:
            best = f" best {search_figure(metric, arm['best']['value'], 4)}" if arm["best"] else ""
            arms.append(f"{arm['name']} {count_ended(arm['trials'])}/{arm['trials_cap']}{best}")
        runs = job["confirm"]
        if runs["done"]:
            arms.append(f"fresh seeds {runs['done']}/{runs['planned']}")
        stage = "searching" if job["state"] == "running" else job["state"]
        return f"{stage}{self._left(job)}: {', '.join(arms)}"

    def _left(self, job: Job) -> str:
        """Return how long the rest takes; nothing while little is done."""
        ended = {arm["name"]: count_ended(arm["trials"]) for arm in job["arms"]}
        seconds = {arm["name"]: arm["seconds_a_run"] for arm in self._plan["arms"]}
        runs = [arm.get("trials_in_time", arm["trials"]) + arm["confirm_runs"] for arm in self._plan["arms"]]
        whole = sum(arm["seconds_a_run"] * count for arm, count in zip(self._plan["arms"], runs, strict=True))
        mean = whole / sum(runs)
        done = sum(seconds.get(name, mean) * count for name, count in ended.items()) + mean * job["confirm"]["done"]
        share = done / whole if whole else 0.0
        if not share:
            return ""
        now = time.monotonic()
        began, at_first = self._first = self._first or (now, share)
        if share - at_first < MEASURED:
            return ""
        left_s = (now - began) * max(0.0, 1 - share) / (share - at_first)
        return f", about {left_s:.0f} s left" if left_s < 120 else f", about {left_s / 60:.0f} min left"


def _write(text: str) -> None:
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"  # one in memory has none
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
    sys.stdout.flush()
