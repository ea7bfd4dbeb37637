"""Writes docs/atlas.md with its picture, and what the service knows of the scenarios."""

from __future__ import annotations

import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from matplotlib.figure import Figure

from benchmarks.atlas.runs import ROOT, Found, stored
from benchmarks.atlas.scenarios import SCENARIOS
from search_spaces import get_preset
from search_spaces.strategies import STRATEGY
from service.planning.atlas import FILE, AtlasJob, read, similar, to_json

PAGE: Final = ROOT / "docs" / "atlas.md"
PICTURE: Final = ROOT / "docs" / "images" / "atlas.svg"
TEXT: Final = Path(__file__).with_name("page.md")

WORDS: Final = ("helps", "no_difference", "hurts", "inconclusive")
Apart: TypeAlias = Literal["axis", "data"]
"""What a job must not share with those that it is predicted from."""

WAYS: Final[Mapping[Apart, str]] = {"axis": "on other axes", "data": "on other data"}

FARTHEST: Final = 1.0
"""Effects beyond this share of AdamW's loss are drawn at the edge."""


def write() -> None:
    """Write the page, its picture and the file of the service."""
    results = stored()
    found = [{**results[one.key], "name": one.name, "group": one.group} for one in SCENARIOS if one.key in results]
    jobs = _jobs(results)
    FILE.write_text(json.dumps([to_json(job) for job in jobs], indent=0) + "\n")
    _draw(found, PICTURE)
    parts = {
        "counts": _counts(found),
        "prediction": _prediction(jobs),
        "order": _order(jobs, first_trials(results)),
        "groups": "\n".join(_groups(found)),
        "results": "\n".join(_table(found)),
    }
    text = TEXT.read_text()
    for name, part in parts.items():
        text = text.replace(f"[[{name}]]", part)
    PAGE.write_text(text)
    print(f"{len(found)} scenarios; {parts['prediction']}")


def judge(jobs: Sequence[AtlasJob], apart: Apart) -> tuple[int, int, int]:
    """Predict each job from jobs on other axes, or on other data, and compare with always guessing the commoner word.

    Returns:
        The jobs; how many are predicted right; how many the commoner word of the others is right for.
    """
    right = common = 0
    for job in jobs:
        others = [other for other in jobs if getattr(other, apart) != getattr(job, apart)]
        helps = sum(other.word == "helps" for other in others) * 2 > len(others)
        near = similar(job, others)
        right += (near.helped * 2 > near.jobs) == (job.word == "helps")
        common += helps == (job.word == "helps")
    return len(jobs), right, common


def first_trials(results: Mapping[str, Found]) -> dict[str, int]:
    """Return which of WarpAdam's first trials won, by the name of the scenario. Other winners are left out."""
    places = {_identity(values): place for place, values in enumerate(get_preset("default").first_trials)}
    configs = {one.name: results[one.key]["config"] for one in SCENARIOS if results.get(one.key, {}).get("config")}
    winners = {name: places.get(_identity({**config, STRATEGY: _strategy(config)})) for name, config in configs.items()}
    return {name: place for name, place in winners.items() if place is not None}


def mean_places(jobs: Sequence[AtlasJob], winners: Mapping[str, int], apart: Apart) -> tuple[int, float, float]:
    """Say how soon the winner of a job is tried: in the order that all jobs share, and in that of its neighbours.

    Neighbours put first what won most often among them; the shared order decides between equals.

    Returns:
        The jobs; the mean place in the shared order, where the first is 1; that in the order of the neighbours.
    """
    shared, voted = [], []
    for job in (job for job in jobs if job.name in winners):
        others = [other for other in jobs if getattr(other, apart) != getattr(job, apart) and other.name in winners]
        votes = Counter(winners[name] for name in similar(job, others).nearest)
        shared.append(1 + winners[job.name])
        order = sorted(range(max(winners.values()) + 1), key=lambda place: -votes[place])
        voted.append(1 + order.index(winners[job.name]))
    return len(shared), statistics.fmean(shared), statistics.fmean(voted)


def _identity(values: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(values[name] for name in (STRATEGY, "lr", "weight_decay"))


def _strategy(config: Mapping[str, Any]) -> str:
    return "/".join(str(config[part]) for part in ("structure", "placement", "learner"))


def _jobs(results: Mapping[str, Found]) -> list[AtlasJob]:
    """Return the jobs that ran to their end, each once."""
    first = {scenario.key: scenario for scenario in reversed(SCENARIOS)}
    return read(
        {
            **results[key]["traits"],
            "name": scenario.name,
            "axis": scenario.axis,
            "data": scenario.data,
            "word": results[key]["word"],
            "effect": round(results[key]["equal_steps"]["effect"], 4),
            "strategy": _strategy(results[key]["config"]),
        }
        for key, scenario in sorted(first.items(), key=lambda item: SCENARIOS.index(item[1]))
        if results.get(key, {}).get("equal_steps")
    )


def _counts(found: Sequence[Found]) -> str:
    steps = Counter(entry["word"] for entry in found)
    seconds = Counter(entry["equal_seconds"]["word"] for entry in found if entry.get("equal_seconds"))
    rows = [f"| `{word}` | {steps[word]} | {seconds[word]} |" for word in WORDS]
    others = len(found) - sum(steps[word] for word in WORDS)
    rows += [f"| not run to its end | {others} | |"] if others else []
    return "\n".join(["| verdict | at equal steps | at equal seconds |", "|---|---|---|", *rows])


def _prediction(jobs: Sequence[AtlasJob]) -> str:
    """Return a row for each way to leave jobs out."""
    rows = ["| predicted from jobs | right | always guessing the commoner word |", "|---|---|---|"]
    for apart, words in WAYS.items():
        total, right, common = judge(jobs, apart)
        rows.append(f"| {words} | {right} of {total} ({right / total:.0%}) | {common} ({common / total:.0%}) |")
    return "\n".join(rows)


def _order(jobs: Sequence[AtlasJob], winners: Mapping[str, int]) -> str:
    """Return a row for each way to leave jobs out."""
    rows = ["| neighbours | jobs | mean place in the order that all share | in the order of the neighbours |"]
    rows.append("|---|---|---|---|")
    for apart, words in WAYS.items():
        total, shared, voted = mean_places(jobs, winners, apart)
        rows.append(f"| {words} | {total} | {shared:.1f} | {voted:.1f} |")
    return "\n".join(rows)


def _groups(found: Sequence[Found]) -> Iterable[str]:
    """Yield a row for each group: the effect at each value."""
    groups = defaultdict[str, list[Found]](list)
    for entry in found:
        groups[entry["group"]].append(entry)
    yield "| what changes | at | lower loss with P, at equal steps | at equal seconds |"
    yield "|---|---|---|---|"
    for name, entries in groups.items():
        values = [entry["name"].rpartition(", ")[2] for entry in entries]
        steps, seconds = ([_percent(entry.get(key)) for entry in entries] for key in ("equal_steps", "equal_seconds"))
        yield f"| {name} | {' · '.join(values)} | {' · '.join(steps)} | {' · '.join(seconds)} |"


def _table(found: Sequence[Found]) -> Iterable[str]:
    yield "| scenario | verdict | lower loss with P | 95 % interval | at equal seconds | best WarpAdam |"
    yield "|---|---|---|---|---|---|"
    for entry in found:
        steps = entry.get("equal_steps")
        if not steps:
            yield f"| {entry['name']} | {entry['word']} | | | | {entry['reason']} |"
            continue
        low, high = steps["interval"]
        config = entry["config"]
        strategy = f"{config['structure']} {config['learner']}, lr {config['lr']:.2g}"
        interval = f"{100 * low:.1f} to {100 * high:.1f} %"
        cells = (entry["word"], _percent(steps), interval, _percent(entry.get("equal_seconds")), strategy)
        yield f"| {entry['name']} | {' | '.join(cells)} |"


def _percent(effect: Found | None) -> str:
    """Return an effect as text; bold if the verdict is clear."""
    if not effect:
        return "-"
    text = f"{100 * effect['effect']:.1f} %"
    return f"**{text}**" if effect["word"] in ("helps", "hurts") else text


def _draw(found: Sequence[Found], path: Path) -> None:
    """Draw a row for each scenario: the effect at equal steps with its interval, and that at equal seconds."""
    shown = [entry for entry in found if entry.get("equal_steps")]
    figure = Figure(figsize=(9, 0.2 * len(shown) + 1), layout="constrained")
    axes = figure.add_subplot()
    for row, entry in enumerate(shown):
        steps, seconds = entry["equal_steps"], entry.get("equal_seconds")
        low, high = (max(-FARTHEST, min(FARTHEST, end)) for end in steps["interval"])
        clear = steps["word"] in ("helps", "hurts")
        axes.plot([low, high], [row, row], color="C0" if clear else "0.6", linewidth=2)
        axes.plot(_inside(steps["effect"]), row, "o", color="C0" if clear else "0.6", markersize=4)
        if seconds:
            axes.plot(_inside(seconds["effect"]), row, "|", color="C1", markersize=8)
    axes.axvline(0, color="0.3", linewidth=0.8)
    axes.set_yticks(range(len(shown)), [entry["name"] for entry in shown], fontsize=6)
    axes.set(xlim=(-FARTHEST, FARTHEST), ylim=(len(shown) - 0.5, -0.5))
    axes.set_xlabel("how much lower the loss is with P, as a share of AdamW's (dot: equal steps; line: equal seconds)")
    axes.xaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f} %")
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path)


def _inside(share: float) -> float:
    return max(-FARTHEST, min(FARTHEST, share))
