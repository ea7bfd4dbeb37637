"""Figures of the pages, as numbers that figures.html.jinja draws with SVG: shares of width and height, 0 to 100."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from search_spaces import Choice, Domain, Scalar, SearchSpace
from service.result.effects import axis_end, difference, effects, percent
from service.result.job_result import JobResult

COLOURS: Final = 6
"""The style sheet has this many colours for arms."""

AXIS_TOP: Final = 30
AXIS_BOTTOM: Final = 230
"""Where the axes of the settings begin and end, in pixels."""

AXIS_MARGIN: Final = 8.0
"""Room to the left of the first axis, in pixels."""

LETTER: Final = 7.0
"""Width of a letter of a label in pixels, at most."""


class ForestRow(NamedTuple):
    """A row of the forest plot. The middle is no difference, the right side is better."""

    label: str
    low: float
    mean: float
    high: float
    luck: tuple[float, float] | None
    words: str


class Forest(NamedTuple):
    """A comparison in shares of what it is compared with; ``small`` is the band that is too small to matter."""

    rows: list[ForestRow]
    small: tuple[float, float]
    end: str
    against: str


class Line(NamedTuple):
    """The best value of an arm after each of its trials, or its loss after some steps, and where it ends.

    ``best`` is the place of the point that is judged, if that is drawn.
    """

    arm: str
    colour: int
    points: str
    last: float
    band: str = ""
    best: tuple[float, float] | None = None


class Chart(NamedTuple):
    """The lines of all arms, how many trials or steps the longest has, and the values at the top and the bottom."""

    lines: list[Line]
    length: int
    top: float
    bottom: float


def forest(result: JobResult) -> Forest | None:
    """Return the forest plot of a result; None if there is nothing to compare."""
    found = effects(result)
    if not found:
        return None
    end = 1.05 * axis_end(result)
    small = result.statistics.min_effect if result.statistics else 0.0

    def place(share: float) -> float:
        return round(50 + 50 * max(-1.0, min(1.0, share / end)), 2)

    rows = [
        ForestRow(
            label=effect.label,
            low=place(effect.low),
            mean=place(effect.mean),
            high=place(effect.high),
            luck=None if effect.luck is None else (place(-effect.luck), place(effect.luck)),
            words=difference(effect.mean),
        )
        for effect in found
    ]
    return Forest(rows, (place(-small), place(small)), percent(round(end, 2) if end > 1 else end), result.baseline)


def search(arms: Sequence[str], values: Iterable[tuple[str, float | None]], *, rises: bool) -> Chart | None:
    """Return the best value so far of each arm, from its first trial with a value on; None without any.

    Args:
        arms: Names of the arms, in their order.
        values: Arm and value of every trial, in the order of the trials; None for one without. Lower is better.
        rises: Whether a better value is drawn higher, as for an accuracy.

    >>> search(["a"], [("a", 2.0), ("a", 1.0)], rises=False).lines[0].points
    '0,0 100,0 100,100'
    """
    best: dict[str, list[float]] = {arm: [] for arm in arms}
    for arm, value in values:
        so_far = best.setdefault(arm, [])
        so_far.append(min([math.inf if value is None else value, *so_far[-1:]]))
    drawn = {arm: column for arm, column in best.items() if column and column[-1] < math.inf}
    if not drawn:
        return None
    trials = max(map(len, best.values()))
    lasts = [column[-1] for column in drawn.values()]
    firsts = sorted(max(value for value in column if value < math.inf) for column in drawn.values())
    lowest, highest = (
        min(lasts),
        max(firsts[len(firsts) // 2], *lasts),
    )  # a first trial far worse would flatten the rest
    top, bottom = (lowest, highest) if rises else (highest, lowest)
    lines = [
        Line(arm, index % COLOURS, _stairs(column, trials, top, bottom), column[-1])
        for index, (arm, column) in enumerate(best.items())
        if arm in drawn
    ]
    return Chart(lines, trials, top, bottom)


def learning(
    curves: Mapping[str, Sequence[Sequence[tuple[int, float]]]], best: Mapping[str, int] | None = None
) -> Chart | None:
    """Return the mean loss of each arm over its runs, with the range of several runs; None without any.

    The scale is logarithmic if all losses are above 0. It begins at the highest mean after a tenth of the steps, as the
    first ones would flatten the rest.

    Args:
        curves: Arm -> the learning curve of each of its runs, as steps and losses.
        best: Arm -> the step to mark.

    >>> learning({"a": [[(1, 9.0), (10, 4.0), (20, 1.0)]]}).lines[0].points
    '0,0 47.37,0 100,100'
    """
    found = {arm: _by_step(runs) for arm, runs in curves.items()}
    ends = [losses for by_step in found.values() for losses in by_step.values()]
    if not ends:
        return None
    first, last = (edge(step for by_step in found.values() for step in by_step) for edge in (min, max))
    shown = [_mean(at) for by_step in found.values() for step, at in by_step.items() if 10 * step > last]
    top, bottom = max(shown), min(min(losses) for losses in ends)
    scale = math.log if bottom > 0 else float

    def place(step: int, loss: float) -> tuple[float, float]:
        width, height = last - first or 1, scale(top) - scale(bottom) or 1.0
        y = 100 * (scale(top) - scale(loss)) / height
        return round(100 * (step - first) / width, 2), round(min(100.0, max(0.0, y)), 2)

    def line(points: Iterable[tuple[int, float]]) -> str:
        return " ".join(f"{x:g},{y:g}" for x, y in (place(*point) for point in points))

    lines = []
    for index, (arm, by_step) in enumerate(found.items()):
        if by_step:
            means = [(step, _mean(losses)) for step, losses in by_step.items()]
            highs = [(step, max(losses)) for step, losses in by_step.items()]
            lows = [(step, min(losses)) for step, losses in reversed(by_step.items())]
            band = line([*highs, *lows]) if len(curves[arm]) > 1 else ""
            marked = [place(*point) for point in means if best and point[0] == best.get(arm)]
            lines.append(Line(arm, index % COLOURS, line(means), means[-1][1], band, *marked[:1]))
    return Chart(lines, last, top, bottom)


def _mean(losses: Sequence[float]) -> float:
    """Return the mean. The sum of losses above 1e308 would overflow; that of their shares does not."""
    return math.fsum(loss / len(losses) for loss in losses)


def _by_step(runs: Sequence[Sequence[tuple[int, float]]]) -> dict[int, list[float]]:
    """Return the losses of all runs at each step, in the order of the steps."""
    found: dict[int, list[float]] = {}
    for step, loss in sorted(point for run in runs for point in run):
        found.setdefault(step, []).append(loss)
    return found


def _stairs(column: Sequence[float], trials: int, top: float, bottom: float) -> str:
    """Return a line with a step wherever the value changes, from the first value that is not infinite on.

    Values beyond an end of the axis are drawn at that end.
    """

    def y(value: float) -> float:
        return round(100 * min(1.0, max(0.0, (top - value) / (top - bottom))), 2) if top != bottom else 50.0

    def x(index: int) -> float:
        return round(100 * index / max(trials - 1, 1), 2)

    first = column.count(math.inf)
    points = [(x(first), y(column[first]))]
    for index, (before, value) in enumerate(pairwise(column[first:]), start=first + 1):
        if value != before:
            points += [(x(index), y(before)), (x(index), y(value))]
    points.append((x(len(column) - 1), y(column[-1])))
    return " ".join(f"{x:g},{height:g}" for x, height in dict.fromkeys(points))


class Tick(NamedTuple):
    """A value at a place of an axis, in pixels from the top."""

    y: float
    text: str


class Axis(NamedTuple):
    """A setting, or the value of the trials; ``x`` is in pixels."""

    name: str
    x: float
    ticks: list[Tick]


class Parallel(NamedTuple):
    """Parallel coordinates: a line for each trial, the best ones last. ``width`` is in pixels."""

    axes: list[Axis]
    lines: list[str]
    width: float


def parallel(space: SearchSpace, trials: Sequence[tuple[Mapping[str, Scalar], float]], label: str) -> Parallel | None:
    """Return the settings of trials as parallel coordinates; None unless two trials differ in a setting.

    The last axis is the value of the trials, the best one at the top, logarithmic if all are above 0. A setting that a
    trial does not have, or a choice that its space no longer has, is drawn below the others.

    Args:
        space: What the trials are from.
        trials: Settings and value of each trial, the best one first. Lower is better.
        label: Name of the value.

    >>> from search_spaces import Choice, Parameter
    >>> space = SearchSpace(name="mine", parameters=(Parameter(name="rule", domain=Choice(values=("a", "b"))),))
    >>> parallel(space, [({"rule": "a"}, 1.0), ({"rule": "b"}, 2.0)], "loss").lines
    ['8,130 88,230', '8,30 88,30']
    """
    found: list[tuple[str, list[Tick], list[float]]] = []
    for parameter in space:
        values = [_known(parameter.domain, settings.get(parameter.name)) for settings, _ in trials]
        if len(set(values)) > 1:
            ticks = _ticks(parameter.domain)
            if None in values:
                ticks.append(Tick(AXIS_BOTTOM, "not used"))
            found.append((parameter.name, ticks, [_height(parameter.domain, value) for value in values]))
    if not found:
        return None
    costs = [cost for _, cost in trials]
    scale = math.log if min(costs) > 0 else float
    best, worst = scale(min(costs)), scale(max(costs))
    heights = [_between((scale(cost) - best) / (worst - best) if worst > best else 0.5) for cost in costs]
    found.append((label, [], heights))
    axes, right = [], AXIS_MARGIN
    for name, ticks, _ in found:
        axes.append(Axis(name, right, ticks))
        letters = max(len(text) for text in (name, *(tick.text for tick in ticks)))
        right += max(80.0, LETTER * (letters + 2))
    lines = [
        " ".join(f"{axis.x:g},{column[index]:g}" for axis, (_, _, column) in zip(axes, found, strict=True))
        for index in reversed(range(len(trials)))
    ]
    return Parallel(axes, lines, right)


def _ticks(domain: Domain) -> list[Tick]:
    values = domain.values if isinstance(domain, Choice) else (domain.low, domain.high)
    return [Tick(_height(domain, value), f"{value:g}" if isinstance(value, float) else str(value)) for value in values]


def _known(domain: Domain, value: Scalar | None) -> Scalar | None:
    """Return where a domain draws a value: at its nearest one. None if the domain has no place for it."""
    has_place = domain.contains(value) if isinstance(domain, Choice) else isinstance(value, int | float)
    return domain.nearest(value) if value is not None and has_place else None


def _height(domain: Domain, value: Scalar | None) -> float:
    """Return the place of a value on its axis; None is at the lower end, below the values of the domain."""
    if value is None:
        return AXIS_BOTTOM
    if isinstance(domain, Choice):
        return _between(domain.values.index(value) / max(1, len(domain.values)))
    assert not isinstance(value, str)
    scale = math.log if domain.log else float
    low, high = scale(domain.low), scale(domain.high)
    return _between(0.9 * (high - scale(value)) / (high - low or 1.0))


def _between(share: float) -> float:
    return round(AXIS_TOP + share * (AXIS_BOTTOM - AXIS_TOP), 1)
