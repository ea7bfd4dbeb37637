"""The report of a job: one HTML file to keep, with the answer, the evidence and the next step, in this order.

It needs nothing from outside, and has no script. It shares the style sheet and the figures of the page of the job.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from service.api.pages import charts
from service.api.pages.render import FOLDER, fill
from service.api.pages.words import answer_of, extension_of, name_of
from service.db.models import ConfirmRun, Job
from service.export.files import ExportFormat
from service.ledger.queries import curve_of
from service.result.effects import change, figure, percent, read_comparison, score_label, search_figure, times_slower
from service.result.job_result import ArmResult, JobResult
from service.spec.metrics import METRICS, metric_of
from service.states import TrialState


def make_report(
    job: Job,
    result: JobResult,
    runs: Sequence[ConfirmRun],
    code: str | None = None,
    formats: Sequence[ExportFormat] = (),
) -> str:
    """Return the report of a job as HTML.

    Args:
        job: The job.
        result: What it found.
        runs: Its confirmation runs.
        code: Lines of Python that make the recommended optimizer; None if a call is not enough.
        formats: Formats in which the result can be exported.
    """
    arms = [found.arm for found in result.findings.arms] or [found.arm for found in result.finalists]
    trials = {found.trial for found in result.finalists}  # an arm may have had another finalist before an extension
    ended = [run for run in runs if run.trial_number in trials and run.state == TrialState.COMPLETE]
    curves = {arm: [_losses(run) for run in ended if run.arm == arm] for arm in arms}
    best = [(found.arm, point.best) for found in result.findings.arms for point in found.tuning_curve]
    judged, score = metric_of(result.metric), METRICS.get(result.score or "")
    return fill(
        "report",
        style=(FOLDER / "page.css").read_text(),
        job=job,
        result=result,
        findings=result.findings,
        arms=arms,
        code=code,
        formats=formats,
        answer=answer_of(result),
        recommended=name_of(result.arm),
        against=name_of(result.baseline),
        facts=_facts(result),
        more=extension_of(result),
        forest=charts.forest(result),
        search=charts.search(arms, best, rises=bool(judged and judged.higher_is_better)),
        learning=charts.learning(curves),
        value=partial(search_figure, result.metric, digits=4),
        value_label=judged.label if judged else "validation loss",
        loss=partial(figure, metric=None),
        score=partial(figure, metric=score),
        score_label=score_label(result.score),
        change=change,
        read=read_comparison,
        percent=percent,
    )


def _losses(run: ConfirmRun) -> list[tuple[int, float]]:
    return [(point.step, point.val_loss) for point in curve_of(run)]


def _facts(result: JobResult) -> list[str]:
    """Return the figures of the answer, one sentence each; a figure that is not known has none."""
    by_arm = {found.arm: found for found in result.finalists}
    challenger, baseline = by_arm[result.challenger], by_arm[result.baseline]
    names = (name_of(challenger.arm), name_of(baseline.arm))
    metric, part = METRICS.get(result.score or ""), result.part.capitalize()
    found = []
    if metric is not None:
        found += _means(
            names, f"{part} {metric.label}", *(figure(arm.mean_test_score, metric) for arm in (challenger, baseline))
        )
    if metric is None or metric_of(result.metric) is None:
        found += _means(names, f"{part} loss", *(figure(arm.mean_test_loss, None) for arm in (challenger, baseline)))
    if result.trivial is not None and metric is not None and result.trivial.mean_test_score is not None:
        found.append(
            f"For comparison: always predicting {result.trivial.predicts} has {metric.label} "
            f"{figure(result.trivial.mean_test_score, metric)}"
        )
    return [*found, *_speed(names, challenger, baseline)]


def _means(names: tuple[str, str], label: str, challenger: str, baseline: str) -> list[str]:
    if "-" in (challenger, baseline):
        return []
    return [f"{label}: {challenger} with {names[0]}, {baseline} with {names[1]}"]


def _speed(names: tuple[str, str], challenger: ArmResult, baseline: ArmResult) -> list[str]:
    if not challenger.mean_seconds or not baseline.mean_seconds:
        return []
    seconds = (f"{arm.mean_seconds:.2g}" for arm in (challenger, baseline))
    how = times_slower(challenger.mean_seconds / baseline.mean_seconds)
    return [f"Training: {next(seconds)} s with {names[0]}, {next(seconds)} s with {names[1]}: {how}"]
