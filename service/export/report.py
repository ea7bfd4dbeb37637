"""The HTML report: what was recommended and why, the figures, and what was not significant.

It shows the job's result and its confirmation runs. The page itself is report.html.jinja.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache, partial
from statistics import fmean
from typing import TYPE_CHECKING, Final

from service.db.models import ConfirmRun, Job
from service.ledger.queries import curve_of
from service.result.effects import axis_end, effects, percent
from service.result.job_result import ALPHA, ANSWERS, ArmFinding, JobResult, Pair, ParetoPoint
from service.states import TrialState

if TYPE_CHECKING:
    import jinja2
    import plotly.graph_objects as go

COLORS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#999999")
"""Okabe and Ito's palette with grey for black, which colour-blind readers can tell apart; one for each arm, then from
the start again."""

FIGURE_HEIGHT_PX: Final = 380
FOREST_HEIGHT_PX: Final = 200
FOREST_ROW_PX: Final = 40
CLEAR: Final = "rgba(0, 0, 0, 0)"
GREY: Final = "#888888"
"""Seen on white and on black."""


def make_report(job: Job, result: JobResult, runs: Sequence[ConfirmRun]) -> str:
    """Return the report of a job, with its confirmation runs, as one HTML file that loads nothing from the network."""
    from plotly.offline import get_plotlyjs

    findings = result.findings
    finalists, searched = [f.arm for f in result.finalists], [found.arm for found in findings.arms]
    arms = dict.fromkeys([*finalists, *searched])  # an arm that completed no trial has no finalist
    colors = {arm: COLORS[index % len(COLORS)] for index, arm in enumerate(arms)}
    trials = {finalist.trial for finalist in result.finalists}  # an arm may have had another one before an extension
    shown = [run for run in runs if run.trial_number in trials]
    figures = [
        ("Learning curves of the finalists", _learning_curves(shown, colors)),
        ("Paired differences on the fresh seeds", _paired_differences(result.pairs)),
        ("Search: the best so far", _tuning_curves(findings.arms, colors)),
        ("Importance of the parameters", _importances(findings.arms, colors)),
        ("Loss against seconds: trials that no other beats", _pareto(findings.pareto, colors)),
    ]
    return _template().render(
        job=job,
        result=result,
        answer=ANSWERS[result.verdict],
        forest=_html(_forest(result), "Forest plot") if effects(result) else "",
        findings=findings,
        figures=[(title, _html(figure, title)) for title, figure in figures if figure.data],
        significant=[item for item in findings.comparisons if item.p_holm <= ALPHA],
        weak=[item for item in findings.comparisons if item.p_holm > ALPHA],
        alpha=ALPHA,
        plotly_js=get_plotlyjs(),
    )


@cache
def _template() -> jinja2.Template:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("service", "export"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["number"] = _number
    environment.filters["json"] = partial(json.dumps, indent=2, ensure_ascii=False)  # escaped like any other text
    return environment.get_template("report.html.jinja")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"  # noqa: RUF001 - the dash of a table


def _html(figure: go.Figure, title: str) -> str:
    """Return a figure as HTML. Its id is the same each time, so that equal reports are equal files.

    Its background is that of the page, and the page colours its text, as a reader may prefer dark pages.
    """
    div_id = "figure-" + "-".join(word for word in title.lower().replace(":", "").split())
    figure.update_layout(
        height=figure.layout.height or FIGURE_HEIGHT_PX,
        template="plotly_white",
        margin={"l": 70, "r": 20, "t": 30, "b": 60},
        paper_bgcolor=CLEAR,
        plot_bgcolor=CLEAR,
    )
    figure.update_xaxes(gridcolor="rgba(136, 136, 136, 0.3)")
    figure.update_yaxes(gridcolor="rgba(136, 136, 136, 0.3)")
    config = {"displaylogo": False, "responsive": True}
    return str(figure.to_html(full_html=False, include_plotlyjs=False, div_id=div_id, config=config))


def _forest(result: JobResult) -> go.Figure:
    """Draw the verdict and the other arms as shares of the baseline's mean, with the bands that explain the word."""
    import plotly.graph_objects as go

    rows, end = effects(result), 105 * axis_end(result)
    small = result.statistics.min_effect if result.statistics else 0.0
    lucky = [row for row in rows if row.luck is not None]
    figure = go.Figure()
    figure.add_bar(
        x=[200 * (row.luck or 0.0) for row in lucky],
        base=[-100 * (row.luck or 0.0) for row in lucky],
        y=[row.label for row in lucky],
        orientation="h",
        width=0.5,
        marker={"color": COLORS[4], "opacity": 0.3},
        name="luck of two equal searches",
        hoverinfo="skip",
    )
    figure.add_scatter(
        x=[100 * row.mean for row in rows],
        y=[row.label for row in rows],
        error_x={
            "symmetric": False,
            "array": [100 * (row.high - row.mean) for row in rows],
            "arrayminus": [100 * (row.mean - row.low) for row in rows],
        },
        mode="markers",
        marker={"color": COLORS[0], "size": 10},
        name="mean and 95 % interval",
    )
    zone = f"too small to matter: under {percent(small)}"
    figure.add_vrect(-100 * small, 100 * small, fillcolor=GREY, opacity=0.3, line_width=0, name=zone, showlegend=True)
    figure.add_vline(x=0, line_color=GREY, line_width=1)
    for side, text in (("left", "← worse"), ("right", "better →")):
        x = 0 if side == "left" else 1
        figure.add_annotation(
            x=x, y=1, xref="paper", yref="paper", xanchor=side, yanchor="bottom", text=text, showarrow=False
        )
    figure.update_layout(
        height=FOREST_HEIGHT_PX + FOREST_ROW_PX * len(rows),
        xaxis={"range": [-end, end], "ticksuffix": " %", "zeroline": False},
        yaxis={"autorange": "reversed", "automargin": True},
        legend={"orientation": "h", "y": -0.3},
    )
    return figure


def _learning_curves(runs: Sequence[ConfirmRun], colors: dict[str, str]) -> go.Figure:
    """Draw the mean validation loss of each arm over its seeds, and the range of the seeds behind it."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for arm, color in colors.items():
        points: dict[int, list[float]] = {}
        for run in runs:
            if run.arm == arm and run.state == TrialState.COMPLETE:
                for point in curve_of(run):
                    points.setdefault(point.step, []).append(point.val_loss)
        if not points:
            continue
        steps = sorted(points)
        lows, highs = ([edge(points[step]) for step in steps] for edge in (min, max))
        figure.add_scatter(
            x=[*steps, *reversed(steps)],
            y=[*highs, *reversed(lows)],
            fill="toself",
            fillcolor=color,
            opacity=0.2,
            line={"width": 0},
            hoverinfo="skip",
            showlegend=False,
        )
        figure.add_scatter(x=steps, y=[fmean(points[step]) for step in steps], name=arm, line={"color": color})
    figure.update_layout(xaxis_title="step", yaxis_title="validation loss: mean and range of the seeds")
    return figure


def _paired_differences(pairs: Sequence[Pair]) -> go.Figure:
    import plotly.graph_objects as go

    by_seed = {
        pair.seed: pair.baseline - pair.warpadam
        for pair in pairs
        if pair.baseline is not None and pair.warpadam is not None
    }
    figure = go.Figure()
    if not by_seed:
        return figure
    gains = list(by_seed.values())
    colors = [COLORS[2] if gain > 0 else COLORS[1] for gain in gains]
    figure.add_bar(x=[f"seed {seed}" for seed in by_seed], y=gains, marker_color=colors)
    figure.add_hline(y=0, line_color=GREY, line_width=1)
    figure.add_hline(
        y=fmean(gains),
        line_dash="dash",
        line_color=GREY,
        annotation_text="mean; above 0 the challenger is better",
    )
    figure.update_layout(yaxis_title="baseline minus challenger")
    return figure


def _tuning_curves(arms: Sequence[ArmFinding], colors: dict[str, str]) -> go.Figure:
    from plotly.subplots import make_subplots

    figure = make_subplots(cols=2, shared_yaxes=True, x_title="", horizontal_spacing=0.04)
    for arm in arms:
        curve, color = arm.tuning_curve, colors[arm.arm]
        if not curve:
            continue
        for col, along in enumerate(("trials", "seconds"), start=1):
            figure.add_scatter(
                x=[getattr(point, along) for point in curve],
                y=[point.best for point in curve],
                name=arm.arm,
                legendgroup=arm.arm,
                showlegend=col == 1,
                mode="lines+markers",
                line={"color": color, "shape": "hv"},
                row=1,
                col=col,
            )
    figure.update_xaxes(title_text="trials of the arm", col=1)
    figure.update_xaxes(title_text="seconds of training", col=2)
    figure.update_yaxes(title_text="best cost on validation", col=1)
    return figure


def _importances(arms: Sequence[ArmFinding], colors: dict[str, str]) -> go.Figure:
    import plotly.graph_objects as go

    figure = go.Figure()
    for arm in arms:
        items = list(arm.importances.items())[::-1]
        if items:
            figure.add_bar(
                x=[value for _, value in items],
                y=[f"{arm.arm}: {name}" for name, _ in items],
                orientation="h",
                name=arm.arm,
                marker_color=colors[arm.arm],
            )
    figure.update_layout(xaxis_title="share of the variance", yaxis={"automargin": True})
    return figure


def _pareto(points: Sequence[ParetoPoint], colors: dict[str, str]) -> go.Figure:
    import plotly.graph_objects as go

    figure = go.Figure()
    for arm, color in colors.items():
        mine = [point for point in points if point.arm == arm]
        if mine:
            figure.add_scatter(
                x=[point.seconds for point in mine],
                y=[point.value for point in mine],
                text=[f"trial {point.trial}" for point in mine],
                mode="markers",
                name=arm,
                marker={"color": color, "size": 10},
            )
    figure.update_layout(xaxis_title="seconds of training", yaxis_title="validation loss")
    return figure
