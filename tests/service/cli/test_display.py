# What is drawn is what the API answered, however odd its texts are.
from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console

from service.cli.console import plain_console
from service.cli.display import (
    show_catalog,
    show_columns,
    show_estimate,
    show_job,
    show_recommendation,
    show_trials,
    watch,
)
from service.result.job_result import BreakEven, FamilyFinding, WarmStartOutcome, Word
from tests.service.results import NO_FINDINGS, TRIVIAL, a_comparison, a_result, an_arm


@pytest.fixture
def console() -> Console:
    return plain_console(file=io.StringIO(), width=160, force_terminal=False)


def drawn(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def arm(name: str, **changes: Any) -> dict[str, Any]:
    answer = {"name": name, "state": "queued", "trials": {}, "trials_cap": 4, "seconds_used": 0.0, "best": None}
    return answer | changes


def job(state: str, *arms: dict[str, Any], **changes: Any) -> dict[str, Any]:
    answer = {"id": "job-0", "name": "small", "state": state, "cause": None, "arms": list(arms)}
    return answer | {"confirm": {"done": 0, "planned": 0}} | changes


BEST = {"number": 3, "value": 0.123456, "params": {}}


def test_watch_draws_each_arm_and_returns_the_ended_job(console: Console) -> None:
    ended = job(
        "succeeded",
        arm("warpadam", state="complete", trials={"complete": 2, "pruned": 1, "diverged": 1}, best=BEST),
        arm("adamw", state="complete", trials={"complete": 3}),
        confirm={"done": 12, "planned": 12},
    )

    def states() -> Iterator[dict[str, Any]]:
        yield job("queued", arm("warpadam"), arm("adamw"))
        yield job("running", arm("warpadam", state="running", trials={"running": 1, "complete": 1}), arm("adamw"))
        yield ended

    assert watch(console, states()) is ended
    (warpadam, adamw, verify) = drawn(console).strip().splitlines()
    assert warpadam.split()[0] == "warpadam"
    assert "4/4" in warpadam
    assert "best 0.1235  1 pruned  1 diverged" in warpadam
    assert adamw.split()[0] == "adamw"
    assert "3/3" in adamw, "an arm that its seconds ended is complete with what it has"
    assert "12/12" in verify


@pytest.mark.parametrize(
    ("answer", "note"),
    [
        (job("queued", arm("warpadam"), queue_position=3), "waits for a worker, number 3 in the queue"),
        (job("paused", arm("warpadam", best=BEST)), "paused"),
    ],
)
def test_watch_tells_what_a_job_waits_for(console: Console, answer: dict[str, Any], note: str) -> None:
    watch(console, iter([answer]))
    assert drawn(console).splitlines()[0].rstrip().endswith(note)


def test_job_that_fails_early_is_drawn_too(console: Console) -> None:
    failed = job("failed", arm("warpadam", state="running", trials={"failed": 1}), arm("adamw"), cause="no space")
    assert watch(console, iter([failed])) is failed
    assert "1 failed" in drawn(console)
    show_job(console, failed)
    assert "no space" in drawn(console)


ODD = ("[/bold]", "[red]x[/red]", "lr:fire:x", ":100: done", "[link=x]", "\\[", "größer 🚀")
"""Names that rich would read as markup or as an emoji."""


@pytest.mark.parametrize("name", ODD)
def test_texts_are_drawn_as_they_are(console: Console, name: str) -> None:
    show_job(console, job("failed", arm("warpadam"), name=name, cause=f"because {name}"))
    lines = drawn(console).splitlines()
    assert lines[0] == f"{name}  job-0  failed"
    assert lines[1] == f"because {name}"


def estimated(name: str) -> Any:
    counts = {"trials": 2, "confirm_runs": 6, "seconds_a_run": 0.1, "seconds": 1.0, "p_bytes": 8}
    column = {"name": name, "kind": name, "role": name, "features": 1, "missing": 0, "distinct": 2, "reason": name}
    plan = {"arms": [{"name": name, **counts}], "note": name, "task": name, "similar": {"sentence": name}}
    return {**plan, **counts, "columns": [{**column, "read_as": "", "warnings": [name]}], "warnings": [name]}


def a_trial(name: str) -> Any:
    return {
        "number": 1,
        "arm": name,
        "state": name,
        "value": 0.1,
        "last_step": 2,
        "seconds": 1.0,
        "params": {name: name},
    }


def catalog(name: str) -> dict[str, Any]:
    known: dict[str, Any] = {part: [] for part in ("datasets", "optimizers", "metrics")}
    return {**known, "models": {name: {"description": name}}, "presets": {}, "learners": {name: [name]}}


DRAWN: dict[str, Any] = {
    "a job": (lambda console, name: show_job(console, job("running", arm(name, state=name, trials={name: 1}))), 3),
    "bars": (lambda console, name: watch(console, iter([job("running", arm(name))])), 1),
    "an estimate": (lambda console, name: show_estimate(console, estimated(name)), 10),
    "columns": (lambda console, name: show_columns(console, estimated(name)["columns"], [name]), 6),
    "trials": (lambda console, name: show_trials(console, [a_trial(name)]), 4),
    "a catalog": (lambda console, name: show_catalog(console, catalog(name)), 4),
    "a result": (
        lambda console, name: show_recommendation(
            console,
            a_result(
                arm=name,
                challenger=name,
                baseline=name,
                reason=name,
                summary=name,
                finalists=[an_arm(name)],
                findings=NO_FINDINGS.model_copy(update={"comparisons": [a_comparison(arm=name, against=name)]}),
            ),
        ),
        10,
    ),
}


@pytest.mark.parametrize("what", DRAWN)
@pytest.mark.parametrize("name", ODD)
def test_every_name_in_every_drawing_is_as_it_is(console: Console, what: str, name: str) -> None:
    draw, least = DRAWN[what]
    draw(console, name)
    assert drawn(console).count(name) >= least, drawn(console)


def test_recommendation_shows_the_figures_behind_it(console: Console) -> None:
    show_recommendation(console, a_result())
    text = drawn(console)
    assert "Does P help? warpadam against adamw" in text
    assert "mean improvement 0.15 (30 %), 95 % interval 0.1 to 0.2, one-sided p 0.0156" in text
    assert "Recommended: warpadam (trial 3)" in text
    assert '"lr": 0.01' in text


def test_what_always_predicting_the_same_gets_is_shown_beside_the_arms(console: Console) -> None:
    show_recommendation(console, a_result(trivial=TRIVIAL, score="accuracy", summary="From the mean to P"))
    shown = drawn(console)
    assert re.search(r"mean test .*mean test .*\n.* accuracy", shown)
    assert re.search(r"warpadam .*3 .*0.5 .*0.25 .*93.8 % .*1.50 .*6/6", shown)
    assert re.search(r"trivial .*1.0625 .*1.0312 .*40.6 %", shown)
    assert "From the mean to P" in shown


def test_a_job_that_is_judged_by_a_score_shows_scores_and_no_costs(console: Console) -> None:
    row = a_comparison(metric="1 - test_accuracy", mean=0.275, against_mean=0.299)
    findings = NO_FINDINGS.model_copy(update={"comparisons": [row]})
    arms = [an_arm("adamw", value=0.28)]
    result = a_result(metric="val_accuracy", score="accuracy", finalists=arms, findings=findings)
    show_recommendation(console, result)
    shown = drawn(console)
    assert re.search(r"adamw .*72 % .*0.25 .*93.8 %", shown)
    assert re.search(r"test accuracy .*72.5 % .*70.1 %", shown)
    best = {"number": 1, "value": 0.275}
    arm = {"name": "adamw", "state": "running", "trials": {"complete": 2}, "seconds_used": 1.0, "best": best}
    job = {"name": "n", "id": "job-1", "state": "running", "cause": None, "arms": [arm]}
    for spec, best_value in (({"objective": {"metric": "val_accuracy"}}, "72.5 %"), ({}, "0.275")):
        show_job(console, job | {"spec": spec})
        assert re.search(rf"adamw .*{best_value} .*1", drawn(console))


def test_an_estimate_says_for_which_trials_the_limit_is_too_short(console: Console) -> None:
    plan = estimated("warpadam") | {"trials": 40, "trials_in_time": 1}
    plan["arms"] = [plan["arms"][0] | {"trials": 40, "trials_in_time": 1, "search_seconds": 90.0, "role": "warpadam"}]
    show_estimate(console, plan)
    text = drawn(console)
    assert "about 1 of 40 trials and 6 more runs, about 1 s" in text
    assert "only about 1 of 40 trials of warpadam fit into budget.max_seconds; for all, it must be about 99" in text


@pytest.mark.parametrize("width", [50, 60, 70, 80])
def test_a_narrow_terminal_cuts_no_name_and_no_figure(width: int) -> None:
    names = ["warpadam_kronecker_pre", "warpadam_low_rank_pre"]
    trial = {"number": 7, "state": "complete", "value": 0.0123456, "last_step": 400, "seconds": 1.25, "params": {}}
    cost = {"trials": 20, "confirm_runs": 18, "seconds_a_run": 0.0123, "seconds": 12.3, "p_bytes": 123_456_789}
    plan = {
        "trials": 40,
        "confirm_runs": 36,
        "seconds": 25.0,
        "note": "a note",
        "task": "classification: 2 values",
        "arms": [{"name": name, **cost} for name in names],
        "columns": [],
    }
    done = [arm(name, state="complete", trials={"complete": 18, "diverged": 3}, best=BEST) for name in names]
    trials = [{**trial, "arm": name} for name in names]
    shown: list[tuple[Any, Any]] = [(show_estimate, plan), (show_job, job("running", *done)), (show_trials, trials)]
    for show, answer in shown:
        console = Console(file=io.StringIO(), width=width, force_terminal=False)
        show(console, answer)
        text = drawn(console)
        assert "…" not in text
        rows = [[cell.strip() for cell in line.split("│")] for line in text.splitlines() if "│" in line]
        columns = ["".join(cells) for cells in zip(*rows, strict=True)]
        assert "".join(names) in columns, text


def test_a_narrow_terminal_shows_the_arms_whole() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=False)
    arms = [an_arm(name, value=0.045592) for name in ("warpadam-kronecker", "adamw_default", "adamw_more_steps")]
    show_recommendation(console, a_result(finalists=arms, trivial=TRIVIAL, score="accuracy"))
    for name in ("warpadam-kronecker", "adamw_default", "adamw_more_steps", "accuracy", "0.045592", "1.0312"):
        assert name in drawn(console)
    assert "…" not in drawn(console)


def test_a_result_without_a_score_or_a_trivial_predictor_is_shown(console: Console) -> None:
    show_recommendation(console, a_result(finalists=[an_arm("adamw", mean_test_score=None)]))
    assert "trivial" not in drawn(console)


@pytest.mark.parametrize("verdict", ["helps", "hurts", "no_difference", "inconclusive"])
def test_every_verdict_can_be_shown(console: Console, verdict: str) -> None:
    show_recommendation(console, a_result(verdict=Word(verdict)))
    assert verdict in drawn(console)


def test_recommendation_without_complete_runs_shows_dashes(console: Console) -> None:
    lost = an_arm("warpadam", trial=0, value=1.0, mean_test_loss=None, mean_seconds=None, runs=0)
    show_recommendation(console, a_result(statistics=None, finalists=[lost]))
    assert "0/6" in drawn(console)
    assert " - " in drawn(console)


def test_findings_are_shown_with_their_adjusted_p_and_what_became_of_pruning(console: Console) -> None:
    break_even = BreakEven(
        seeds=2,
        missed=0,
        learning_steps=90,
        learning_seconds=3.0,
        baseline_steps=40.0,
        challenger_steps=20.0,
        baseline_seconds=0.2,
        challenger_seconds=0.1,
        tasks_in_steps=5,
        tasks_in_seconds=7,
        summary="repaid after 7 tasks",
    )
    family = FamilyFinding(made_by="classes", tasks={}, left_out=[], break_even=break_even)
    changes = {"comparisons": [a_comparison()], "pruning": "pruning was on", "family": family}
    findings = NO_FINDINGS.model_copy(update=changes)
    show_recommendation(console, a_result(findings=findings))
    shown = drawn(console)
    assert "descriptive" in shown
    for figure in ("muon", "50 %", "88%", "0.062", "pruning was on", "repaid after 7 tasks"):
        assert figure in shown


@pytest.mark.parametrize("width", [60, 80])
def test_a_narrow_terminal_shows_metrics_and_figures_whole(width: int) -> None:
    comparison = a_comparison(
        arm="warpadam",
        against="shuffled_p",
        metric="test_median_absolute_error",
        mean=0.008823,
        against_mean=0.001651,
        relative_improvement=-2.9842,
        win_rate=1.0,
    )
    console = Console(file=io.StringIO(), width=width)
    findings = NO_FINDINGS.model_copy(update={"comparisons": [comparison], "pruning": "none was"})
    show_recommendation(console, a_result(findings=findings))
    shown = drawn(console)
    assert "…" not in shown
    for text in ("absolute", "shuffled_p", "0.008823", "0.001651", "4 times", "0.062"):
        assert text in shown


def test_a_warm_start_says_whether_p_transfers(console: Console) -> None:
    warm = WarmStartOutcome(job="job-1", sha256="0" * 64, transfer=False, reason="no transfer shown: of the tests")
    show_recommendation(console, a_result(warm_start=warm))
    assert "no transfer shown: of the tests" in drawn(console)
