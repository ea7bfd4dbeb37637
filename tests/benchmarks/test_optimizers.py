# The comparison of optimizers, run for real on a few steps: what is interrupted ends as if it had not been, every arm
# trains every task, and the figures say what they are documented to say.
from __future__ import annotations

import dataclasses
import json
import math
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from benchmarks.optimizers.__main__ import main
from benchmarks.optimizers.arms import ADAMW, ARMS, MUON, NORMUON, WARPADAM, Arm, split
from benchmarks.optimizers.few_shot_digits import FewShotTask
from benchmarks.optimizers.measures import MISS, WORST_SPREAD, judge, lr_spread, median_curve, to_reach
from benchmarks.optimizers.protocol import Budget, MissingRunError, Outcome, Unit
from benchmarks.optimizers.records import Record
from benchmarks.optimizers.report import make_report, save_report, tables
from benchmarks.optimizers.tasks import JUDGING, PARTS, TASKS
from benchmarks.optimizers.training import Curve, GradientTask, Learning, Task, report_steps

BUDGET = Budget(trials=5, seeds=2)
BY_NAME = {task.name: task for task in TASKS}


def short(name: str, steps: int = 4) -> GradientTask:
    task = BY_NAME[name]
    assert isinstance(task, GradientTask)
    return dataclasses.replace(task, steps=steps)


def tiny(name: str) -> Task:
    task = BY_NAME[name]
    if isinstance(task, FewShotTask):
        return dataclasses.replace(task, steps=4, networks=2, learning_tasks=1, learning_steps=3)
    return short(name)


PAIR: tuple[Task, ...] = (short("digits_mlp"), short("diabetes"))


class InterruptedRunError(Exception):
    pass


def interrupt_after(runs: int) -> object:
    left = [runs]

    def said(_: Record) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise InterruptedRunError

    return said


def losses(outcome: Outcome) -> list[object]:
    curves = [*outcome.confirmed, *outcome.swept.values()]
    return [outcome.trials, outcome.best, [list(curve.losses) for curve in curves]]


@pytest.mark.parametrize("task", BY_NAME)
@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.name)
def test_every_arm_makes_steps_on_every_task(task: str, arm: Arm) -> None:
    few = task in {known.name for known in JUDGING}  # slower, and no first trial was chosen for them
    for values in arm.space.first_trials[: 1 if few else None]:
        curve = tiny(task).run(arm, values, seed=0)
        assert list(curve.steps) == [1, 2, 3, 4]
        assert len(set(curve.losses)) > 1
        assert math.isfinite(curve.final)


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.name)
def test_every_arm_has_as_many_first_trials_and_tunes_lr_momentum_and_decay(arm: Arm) -> None:
    assert len(arm.space.first_trials) == len(WARPADAM.space.first_trials)
    assert {"lr", "weight_decay", "momentum" if arm in (MUON, NORMUON) else "beta1"} <= set(arm.space.names)
    assert set(arm.lrs) <= set(arm.space.names)


def test_a_seed_decides_a_run() -> None:
    task, values = short("digits_mlp"), ADAMW.space.first_trials[0]
    first, again, other = (task.run(ADAMW, values, seed).losses for seed in (3, 3, 4))
    assert first == again != other


def test_arms_start_from_the_same_weights_on_the_same_batches() -> None:
    task = short("digits_mlp", steps=1)
    still = [task.run(arm, arm.scaled(arm.space.first_trials[0], 0.0), seed=0).losses for arm in ARMS]
    assert len({tuple(run) for run in still}) == 1


def test_the_split_leaves_embeddings_and_the_output_layer_out() -> None:
    model = short("char_transformer").problem(0).model
    names = {id(param): name for name, param in model.named_parameters()}
    hidden, output, others = split(model)
    assert names[id(output)] == "output.weight"
    assert {"embedding.weight", "positions.weight", "output.bias"} <= {names[id(param)] for param in others}
    assert len(hidden) == 12
    assert len(hidden) + 1 + len(others) == len(names)


def test_the_lr_decays_to_zero_after_the_warm_up() -> None:
    factors = [ADAMW.lr_factor(step, 100, 20) for step in range(100)]
    assert factors[0] < 0.1
    assert 0.75 < max(factors) < 1.0
    assert factors[-1] == pytest.approx(0.01)


@pytest.mark.parametrize("arm", [WARPADAM, ADAMW], ids=lambda arm: arm.name)
@pytest.mark.parametrize("task", PAIR, ids=lambda task: task.name)
def test_an_interrupted_search_ends_as_an_uninterrupted_one(task: Task, arm: Arm, tmp_path: Path) -> None:
    whole = Unit(task, arm, BUDGET, tmp_path / "whole").outcome(run=True)
    for runs in (1, 4, 2):
        unit = Unit(task, arm, BUDGET, tmp_path / "cut", said=interrupt_after(runs))  # type: ignore[arg-type]
        with pytest.raises(InterruptedRunError):
            unit.outcome(run=True)
        with unit.records.path.open("a") as file:
            file.write('{"digest": "cut o')
    unit = Unit(task, arm, BUDGET, tmp_path / "cut")
    assert len(unit.records.runs) == 7
    assert losses(unit.outcome(run=True)) == losses(whole)
    assert losses(Unit(task, arm, BUDGET, tmp_path / "cut").outcome(run=False)) == losses(whole)


def test_nothing_is_run_when_only_a_report_is_asked_for(tmp_path: Path) -> None:
    unit = Unit(PAIR[0], ADAMW, BUDGET, tmp_path)
    with pytest.raises(MissingRunError, match="digits_mlp, adamw: tune with seed 0"):
        unit.outcome(run=False)
    assert not unit.records.path.exists()


@pytest.mark.parametrize("change", [{"version": "2"}, {"steps": 3}, {"seeds_per_trial": 4}])
def test_runs_of_another_definition_are_not_reused(change: dict[str, str], tmp_path: Path) -> None:
    Unit(PAIR[0], ADAMW, Budget(trials=1, seeds=1), tmp_path).outcome(run=True)
    changed = Unit(dataclasses.replace(PAIR[0], **change), ADAMW, BUDGET, tmp_path)  # type: ignore[arg-type]
    assert changed.records.runs == []
    assert changed.records.stale == PAIR[0].seeds_per_trial + 5


def test_runs_of_another_space_or_code_are_not_reused(tmp_path: Path) -> None:
    narrow = dataclasses.replace(ADAMW.space, parameters=ADAMW.space.parameters, first_trials=())
    same = Unit(PAIR[0], dataclasses.replace(ADAMW), BUDGET, tmp_path).records.digest
    for changed in (dataclasses.replace(ADAMW, space=narrow), dataclasses.replace(ADAMW, code="torch 0")):
        assert Unit(PAIR[0], changed, BUDGET, tmp_path).records.digest != same


def test_a_trial_that_diverges_is_told_as_the_worst_and_never_wins(tmp_path: Path) -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Brittle(Task):
        def run(self, arm: Arm, values: object, seed: int) -> Curve:
            assert isinstance(values, dict)
            return Curve([1], [math.inf if values["lr"] >= 0.003 else 0.5], [0.1])

    task = Brittle(name="brittle", version="1", steps=1)
    outcome = Unit(task, ADAMW, Budget(trials=12, seeds=1), tmp_path).outcome(run=True)
    assert outcome.trials[0][1] == math.inf
    assert outcome.best["lr"] == 0.001
    assert Unit(task, ADAMW, Budget(trials=12, seeds=1), tmp_path).outcome(run=False).trials == outcome.trials


# --- Figures


def curve(losses: list[float], seconds: float = 1.0) -> Curve:
    return Curve(list(range(1, len(losses) + 1)), losses, [seconds * (i + 1) for i in range(len(losses))])


def test_a_loss_that_is_never_reached_counts_as_ten() -> None:
    assert to_reach(curve([3.0, 2.0, 1.5]), 1.0, curve([1.0] * 4)) == (MISS, MISS) == (10.0, 10.0)


def test_steps_and_seconds_to_a_loss_are_ratios_to_the_whole_baseline() -> None:
    assert to_reach(curve([3.0, 1.0, 2.0, 0.5], seconds=2.0), 1.0, curve([4.0, 3.0, 2.0, 1.0])) == (0.5, 1.0)


def test_a_curve_that_diverged_is_infinite_from_there_on() -> None:
    median = median_curve([curve([3.0, math.inf]), curve([2.0, math.inf]), curve([2.0, 1.0, 0.5])])
    assert median.losses == [2.0, math.inf, math.inf]
    assert median.final == math.inf


def test_the_spread_over_the_lr_is_bounded() -> None:
    assert lr_spread({1.0: curve([0.5]), 2.0: curve([1.5])}) == 3.0
    assert lr_spread({1.0: curve([0.5]), 2.0: curve([math.inf])}) == WORST_SPREAD


@pytest.mark.parametrize(
    ("factor", "word"), [(0.9, "win"), (1.0, "even"), (1.01, "even"), (1.1, "loss"), (math.inf, "loss")]
)
def test_a_judgement_is_of_the_best_peer_with_a_margin(factor: float, word: str) -> None:
    noise = (1.0, 1.002, 0.999, 1.001, 0.998, 1.003)
    peers = {"near": [curve([x]) for x in noise], "far": [curve([2 * x]) for x in noise]}
    found = judge([curve([factor * x]) for x in reversed(noise)], peers)
    assert (found.word, found.peer) == (word, "near")


@pytest.mark.parametrize("learning", [None, Learning(3, 60, 1.5)])
def test_a_curve_survives_json(learning: Learning | None) -> None:
    made = Curve([1, 2], [0.25, math.inf], [0.5, 1.0], learning)
    assert Curve.from_json(json.loads(json.dumps(made.to_json()))) == made


def test_a_curve_has_its_last_point_at_the_end() -> None:
    assert report_steps(3) == [1, 2, 3]
    assert len(report_steps(300)) == 40
    assert report_steps(300)[-1] == 300


# --- Report and command line


def test_a_report_is_made_from_what_is_there(tmp_path: Path) -> None:
    for task, arm in ((PAIR[0], WARPADAM), (PAIR[0], ADAMW), (PAIR[1], ADAMW)):
        Unit(task, arm, BUDGET, tmp_path).outcome(run=True)
    report, curves = make_report(PAIR, (WARPADAM, ADAMW), BUDGET, tmp_path)
    assert {task: set(arms) for task, arms in curves.items()} == {
        "digits_mlp": {"warpadam", "adamw"},
        "diabetes": {"adamw"},
    }
    assert report["missing"] == ["diabetes, warpadam: tune with seed 0 has not been run"]
    assert report["tasks"]["digits_mlp"]["adamw"]["to_adamw"] == 1.0
    assert report["judgements"]["digits_mlp"]["peer"] == "adamw"
    text = tables(report)
    for part in ("### digits_mlp", "| WarpAdam |", "digits_mlp, ", "- missing: diabetes, warpadam"):
        assert part in text
    save_report(report, tmp_path / "report.json")
    stored = json.loads((tmp_path / "report.json").read_text())
    assert len(stored["tasks"]["digits_mlp"]["adamw"]["trials"]) == BUDGET.trials
    assert stored["tasks"]["digits_mlp"]["adamw"]["trials"][0]["lr"] == ADAMW.space.first_trials[0]["lr"]
    assert stored["versions"]["torch"]


def test_a_report_of_nothing_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--tasks", "diabetes", "--arms", "adamw", "soap", "--out", str(tmp_path)]) == 0
    assert "- missing: diabetes, soap" in capsys.readouterr().out
    assert not (tmp_path / "optimizers.png").exists()


def test_a_part_is_chosen_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part, tasks in PARTS.items():
        assert main(["report", "--part", part, "--arms", "adamw", "--out", str(tmp_path)]) == 0
        missing = re.findall(r"- missing: (\w+), adamw", capsys.readouterr().out)
        assert missing == [task.name for task in tasks]


def test_without_a_sweep_only_the_best_lr_is_run(tmp_path: Path) -> None:
    budget = Budget(trials=1, seeds=2, sweeps=False)
    outcome = Unit(PAIR[0], ADAMW, budget, tmp_path).outcome(run=True)
    assert outcome.swept == {1.0: outcome.confirmed[0]}
    report, _ = make_report(PAIR[:1], [ADAMW], budget, tmp_path)
    assert "lr_spread" not in report["tasks"]["digits_mlp"]["adamw"]
    assert report["missing"] == []


@pytest.fixture
def endless(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A benchmark that would run for long; it has recorded some runs of both of its arms."""
    # what a shell starts in the background ignores it, and so would its children
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen([*command(tmp_path), "--trials", "500"], stderr=subprocess.DEVNULL) as process:
        signal.signal(signal.SIGINT, before)
        try:
            wait_until(lambda: all(file.exists() and file.read_text().count("\n") > 2 for file in records(tmp_path)))
            yield process
        finally:
            family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            process.kill()
            for child in family:
                child.kill()


@pytest.mark.slow
@pytest.mark.kills
@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_benchmark_leaves_no_process_and_goes_on(
    number: signal.Signals, endless: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    family = psutil.Process(endless.pid).children(recursive=True)
    assert len(family) >= 2
    endless.send_signal(number)
    assert endless.wait(60) == (130 if number == signal.SIGINT else -number)
    wait_until(lambda: not any(process.is_running() and process.status() != "zombie" for process in family))
    before = [file.read_text() for file in records(tmp_path)]
    assert subprocess.run([*command(tmp_path), "--trials", "3"], stdout=subprocess.DEVNULL).returncode == 0
    for text, file in zip(before, records(tmp_path), strict=True):
        assert file.read_text().startswith(text)
    report = json.loads((tmp_path / "optimizers.json").read_text())
    assert report["missing"] == []
    assert (tmp_path / "optimizers.png").stat().st_size > 10_000


def command(folder: Path) -> list[str]:
    chosen = ["--tasks", "diabetes", "--arms", "adamw", "soap", "--seeds", "2", "--out", str(folder)]
    return [sys.executable, "-m", "benchmarks.optimizers", *chosen]


def records(folder: Path) -> list[Path]:
    return [folder / "runs" / f"diabetes--{arm}.jsonl" for arm in ("adamw", "soap")]


def wait_until(condition: Callable[[], bool], timeout_s: float = 200.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)
