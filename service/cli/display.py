"""Shows jobs in a terminal: progress bars while a job runs, tables of its arms and its result when it has ended."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from rich.console import Console, Group
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column, Table
from rich.text import Text

from service.cli.forest import draw_forest
from service.client.answers import AuditLine, Estimate, Event, Trial, place_in_queue
from service.client.quick_spec import WARNING, describe_cost
from service.result.compared import JobComparison, table
from service.result.effects import change, figure, percent, read_comparison, score_label, search_figure
from service.result.job_result import ANSWERS, Comparison, Findings, JobResult
from service.spec.metrics import METRICS, metric_of
from service.states import count_ended

COLOURS: Final = {"helps": "green", "hurts": "red", "no_difference": "yellow", "inconclusive": "yellow"}
CONFIRM: Final = "verify"

NARROW: Final = 76
"""Columns of a terminal below which comparisons are sentences."""

Answer = Mapping[str, Any]
"""What the API answered."""


def watch(console: Console, jobs: Iterable[Answer]) -> Answer:
    """Show a progress bar for each arm, and one for the verification, until the job has ended; return it."""
    columns = (
        TextColumn("{task.description:<10}", markup=False),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    job: Answer = {}
    with Progress(*columns, console=console) as progress:
        bars: dict[str, TaskID] = {}
        for job in jobs:
            for arm in job["arms"]:
                bar = _bar(progress, bars, arm["name"])
                done = count_ended(arm["trials"])
                note = _wait(job) or _arm_note(arm, _metric(job))
                _move(progress, bar, done, arm["trials_cap"], arm["state"], note)
            bar = _bar(progress, bars, CONFIRM)
            confirm = job["confirm"]
            state = {"verifying": "running", "succeeded": "complete"}.get(job["state"], "queued")
            _move(progress, bar, confirm["done"], confirm["planned"] or None, state, "fresh paired seeds")
    return job


def _wait(job: Answer) -> str:
    """Return what a job waits for; nothing if it runs or has ended."""
    return {"paused": "paused", "queued": f"waits for a worker{place_in_queue(job)}"}.get(job["state"], "")


def _bar(progress: Progress, bars: dict[str, TaskID], name: str) -> TaskID:
    if name not in bars:
        bars[name] = progress.add_task(name, start=False, total=None, note="")
    return bars[name]


def _move(progress: Progress, bar: TaskID, done: int, total: int | None, state: str, note: str) -> None:
    if state != "queued" and progress.tasks[bar].start_time is None:
        progress.start_task(bar)
    if state == "complete":
        progress.stop_task(bar)
        total = done
    progress.update(bar, completed=done, total=total, note=note)


def _metric(job: Answer) -> str:
    """Return what a job is judged by; another version may have stored another spec."""
    objective = job.get("spec", {}).get("objective") or {}
    return str(objective.get("metric", "val_loss"))


def _arm_note(arm: Answer, metric: str) -> str:
    best = f"best {search_figure(metric, arm['best']['value'], 4)}" if arm["best"] else ""
    others = [f"{arm['trials'][state]} {state}" for state in ("pruned", "diverged", "failed") if state in arm["trials"]]
    return "  ".join([best, *others]).strip()


def _table(*headers: str) -> Table:
    """Return a table whose cells continue in the next line where the terminal is narrow, so that none is cut."""
    return Table(*(Column(header, overflow="fold") for header in headers))


def show_estimate(console: Console, plan: Estimate) -> None:
    """Print what a job would do and cost."""
    table = _table("arm", "trials", "runs on fresh seeds", "seconds a run", "seconds", "memory of P")
    for arm in plan["arms"]:
        counts = (str(arm["trials"]), str(arm["confirm_runs"]))
        seconds = (f"{arm['seconds_a_run']:.3g}", f"{arm['seconds']:.3g}")
        table.add_row(arm["name"], *counts, *seconds, f"{arm['p_bytes']:,} B")
    console.print(table)
    for line in describe_cost(plan):
        console.print(Text(line, style="yellow" if line.startswith(WARNING) else ""))
    console.print(Text(plan["note"]))
    console.print(Text(plan["task"]))
    if (similar := plan.get("similar")) is not None:
        console.print(Text(similar["sentence"]))
    if plan["columns"]:
        show_columns(console, plan["columns"])
    for warning in plan.get("warnings", ()):  # a service of another version may send none
        console.print(Text(f"{WARNING}{warning}", style="yellow"))


def show_columns(console: Console, columns: Sequence[Answer], warnings: Sequence[str] = ()) -> None:
    """Print what the columns of a table are taken for, and what may have to be corrected."""
    table = _table("column", "kind", "role", "features", "missing", "distinct", "note")
    for column in columns:
        notes = [column["reason"], column["read_as"], *column["warnings"]]
        counts = (f"{column[name]:,}" for name in ("features", "missing", "distinct"))
        note = Text("\n".join(filter(None, notes)))
        table.add_row(Text(column["name"]), column["kind"], column["role"], *counts, note)
    for name in ("features", "missing", "distinct"):
        next(column for column in table.columns if column.header == name).justify = "right"
    console.print(table)
    for warning in warnings:
        console.print(Text(f"note: {warning}"))


def show_job(console: Console, job: Answer) -> None:
    """Print how a job stands."""
    console.print(Text.assemble((job["name"], "bold"), f"  {job['id']}  {job['state']}{place_in_queue(job)}"))
    if job["cause"]:
        console.print(Text(job["cause"], style="red"))
    table = _table("arm", "state", "trials", "best value", "trial", "seconds")
    for arm in job["arms"]:
        best = arm["best"]
        trials = ", ".join(f"{count} {state}" for state, count in arm["trials"].items())
        table.add_row(
            arm["name"],
            arm["state"],
            trials,
            search_figure(_metric(job), best["value"]) if best else "",
            str(best["number"]) if best else "",
            f"{arm['seconds_used']:.1f}",
        )
    console.print(table)


def show_trials(console: Console, trials: Sequence[Trial]) -> None:
    """Print trials, the best first, with the settings that the search chose."""
    table = _table("trial", "arm", "state", "value", "steps", "seconds", "settings")
    for trial in sorted(trials, key=lambda trial: (trial["value"] is None, trial["value"] or 0.0, trial["number"])):
        settings = ", ".join(f"{name} {_short(value)}" for name, value in trial["params"].items())
        figures = (_figure(trial["value"], ".5g"), str(trial["last_step"]), f"{trial['seconds']:.2f}")
        table.add_row(str(trial["number"]), trial["arm"], trial["state"], *figures, Text(settings))
    console.print(table)


def write_trials(trials: Sequence[Trial]) -> None:
    """Write trials to standard output as CSV, with a column for each setting of any of them."""
    facts = ("number", "arm", "state", "value", "last_step", "seconds", "cause")
    settings = list(dict.fromkeys(name for trial in trials for name in trial["params"]))
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([*facts, *settings])
    for trial in trials:
        known: Mapping[str, Any] = {**trial["params"], **trial}
        writer.writerow([known.get(name) for name in (*facts, *settings)])


def show_comparison(console: Console, compared: JobComparison) -> None:
    """Print jobs side by side."""
    shown = Table("")
    for job in compared.jobs:
        shown.add_column(Text(job.name, style="bold green" if job.id == compared.best else ""), overflow="fold")
    for label, cells in table(compared):
        shown.add_row(label, *map(Text, cells))
    console.print(Text(compared.summary), soft_wrap=True)
    console.print(shown)


def _short(value: object) -> str:
    if isinstance(value, Mapping):
        return f"({', '.join(f'{name} {_short(item)}' for name, item in value.items())})"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def describe_event(event: Event) -> str:
    """Return an event as a line: when, what, and its facts."""
    facts = ", ".join(f"{name} {_short(value)}" for name, value in event["data"].items() if value is not None)
    return f"{event['at'][:19].replace('T', ' ')}  {event['kind']:<16} {facts}".rstrip()


def describe_audit(line: AuditLine) -> str:
    """Return a line of the audit log: when, who, from where, what, and how it was answered."""
    what = line["operation"] or line["method"]
    came = f" from {line['address']}" if line["address"] else ""
    status = "" if line["status"] is None else f" -> {line['status']}"
    who = f"{line['who']}{came}"
    return f"{line['at'][:19].replace('T', ' ')}  {who:<28} {what:<16} {line['target']}{status}"


def describe_failure(trial: Trial) -> str:
    """Return why a trial did not complete, with the lines of its traceback indented."""
    first, *rest = (trial["cause"] or "no cause is known").splitlines()
    return "\n    ".join([f"trial {trial['number']} of {trial['arm']} {trial['state']}: {first}", *rest])


def show_catalog(console: Console, known: Answer) -> None:
    """Print the names that a spec may use, and where in the spec they go."""
    rows: dict[str, list[tuple[str, str]]] = {
        "dataset.name": [
            (item["name"], f"{item['rows']:,} rows, {item['features']} features, {item['task']}")
            for item in known["datasets"]
        ],
        "model.name": [(name, _sentence(schema)) for name, schema in known["models"].items()],
        "search_space.preset": [(name, _parameters(space)) for name, space in known["presets"].items()],
        "baselines": [
            (item["name"], f"{item['library']}; tunes {_parameters(known['baselines'][item['name']])}")
            for item in known["optimizers"]
            if item["baseline"]
        ],
        "objective.metric": [
            (item["name"], f"{item['label']}, {', '.join(item['tasks']) or 'any task'}") for item in known["metrics"]
        ],
        "search_space.overrides.learner": [(name, ", ".join(kinds)) for name, kinds in known["learners"].items()],
    }
    for field, items in rows.items():
        console.print(Text(field, style="bold"))
        table = Table(box=None, show_header=False, padding=(0, 2))
        for name, about in items:
            table.add_row(Text(name, no_wrap=True), Text(about))
        console.print(table)


def _sentence(schema: Answer) -> str:
    return str(schema.get("description", "")).partition("\n")[0].replace("``", "")


def _parameters(space: Answer) -> str:
    return ", ".join(parameter["name"] for parameter in space["parameters"])


def show_recommendation(console: Console, result: JobResult) -> None:
    """Print the verdict, the arms side by side, and the recommended config."""
    table = Table(title="The best config of each arm, on fresh seeds", padding=(0, 1, 0, 0))
    table.add_column("arm", overflow="fold")
    metric = METRICS.get(result.score or "")
    score = f"mean {result.part}\n{score_label(result.score)}".replace(" ", "\n").replace("\n", " ", 1)
    searched = "value in\nsearch" if metric_of(result.metric) is None else "score in\nsearch"
    for column in ("trial", searched, f"mean {result.part}\nloss", score, "seconds\na run", "runs"):
        table.add_column(column, justify="right", no_wrap=True)
    for finalist in result.finalists:
        table.add_row(
            finalist.arm,
            str(finalist.trial),
            search_figure(result.metric, finalist.value),
            _figure(finalist.mean_test_loss, ".5g"),
            figure(finalist.mean_test_score, metric),
            _figure(finalist.mean_seconds, ".2f"),
            f"{finalist.runs}/{finalist.planned}",
            style="bold" if finalist.arm == result.arm else None,
        )
    if trivial := result.trivial:
        figures = (_figure(trivial.mean_test_loss, ".5g"), figure(trivial.mean_test_score, metric))
        table.add_row("trivial", "", search_figure(result.metric, trivial.value), *figures, style="dim")
    console.print(table)
    if result.summary:
        console.print(Text(result.summary))
    headline = Text.assemble((ANSWERS[result.verdict], f"bold {COLOURS[result.verdict]}"), f" ({result.verdict})")
    lines = [headline, Text(result.reason)]
    if statistics := result.statistics:
        low, high = statistics.interval
        lines.append(
            Text(
                f"mean improvement {statistics.improvement:.5g} ({_percent(statistics.relative_improvement)}), "
                f"95 % interval {low:.5g} to {high:.5g}, one-sided p {min(statistics.p_helps, statistics.p_hurts):.4f}"
            )
        )
    question = Text(f"Does P help? {result.challenger} against {result.baseline}")
    console.print(Panel(Group(*lines), title=question, expand=False))
    for line in draw_forest(result, console.width, ascii_only=console.options.ascii_only):
        console.print(Text(line), no_wrap=True)
    if result.warm_start:
        console.print(Text(result.warm_start.reason))
    _show_findings(console, result.findings, result.part)
    console.print(Text.assemble((f"Recommended: {result.arm}", "bold"), f" (trial {result.trial})"))
    console.print_json(json.dumps(result.config))


def _show_findings(console: Console, findings: Findings, part: str) -> None:
    _show_comparisons(console, findings.comparisons, part)
    console.print(Text(findings.pruning))
    for sentence in findings.advice:
        console.print(Text(f"note: {sentence}"))
    if findings.similar is not None:
        console.print(Text(findings.similar.sentence))
    if findings.family and findings.family.break_even:
        console.print(Text(findings.family.break_even.summary))


def _show_comparisons(console: Console, comparisons: Sequence[Comparison], part: str) -> None:
    """Print them as a table, or as sentences where a table would break its words."""
    title = "Other arms and metrics: descriptive, p is Holm-adjusted"
    if console.width < NARROW:
        console.print(Text(title, style="italic"))
        for row in comparisons:
            metric, mean, other = read_comparison(row, part)
            figures = f"{mean} and {other}, {change(row)}; wins {row.win_rate:.0%}, p {row.p_holm:.3f}"
            console.print(Text(f"- {row.arm} against {row.against}, {metric}: {figures}"))
        return
    table = Table(title=title, padding=(0, 1, 0, 0))
    for column in ("arm", "against", "metric"):
        table.add_column(column, overflow="fold")  # on a narrow terminal a name continues in the next line
    for column in ("mean", "against,\nmean", "difference", "wins", "p"):
        table.add_column(column, justify="right", no_wrap=column != "difference")
    for row in comparisons:
        table.add_row(
            row.arm,
            row.against,
            *read_comparison(row, part),
            change(row),
            f"{row.win_rate:.0%}",
            f"{row.p_holm:.3f}",
        )
    console.print(table)


def _figure(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _percent(share: float | None) -> str:
    return "-" if share is None else percent(share)
