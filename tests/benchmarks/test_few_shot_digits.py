# Few-shot digits in the comparison: P comes from elsewhere, every network has all that its arm gives a network, and
# what tunes never confirms.

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from benchmarks.few_shot.networks import SideBySide
from benchmarks.optimizers import few_shot_digits
from benchmarks.optimizers.arms import ADAMW, ARMS, MUON, WARPADAM, Arm
from benchmarks.optimizers.few_shot_digits import TASKS, optimizers_for_all
from benchmarks.optimizers.few_shot_tasks import DigitTask, subsets
from benchmarks.optimizers.protocol import FIRST_CONFIRM_SEED, Budget, Unit
from benchmarks.optimizers.report import make_report, tables

TASK = dataclasses.replace(TASKS[0], steps=4, networks=3, learning_tasks=2, learning_steps=4)
ROTATION, WHITENING = (
    next(trial for trial in WARPADAM.space.first_trials if str(trial["strategy"]).endswith(learner))
    for learner in ("rotation", "whitening")
)


def stepped(arm: Arm, networks: SideBySide, *, together: bool) -> list[torch.Tensor]:
    """Make three steps, with optimizers for all networks or with some for each of them."""
    values = (
        {**WHITENING, "lr": 0.01} if arm is WARPADAM else arm.space.first_trials[0]
    )  # a rotation turns with rounding
    optimizers = (
        optimizers_for_all(arm, networks, values, 4)
        if together
        else [optimizer for network in networks for optimizer in arm.optimizers(network, values, 4, 0)]
    )
    for _ in range(3):
        networks.zero_grad()
        torch.autograd.backward(networks.batch_loss())
        for optimizer in optimizers:
            optimizer.step()
    return [param.detach() for param in networks.parameters()]


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.name)
def test_optimizers_for_all_networks_step_each_as_its_own_would(arm: Arm) -> None:
    tasks = subsets().validation[:2]
    ours, alone = (stepped(arm, SideBySide(tasks, 0), together=together) for together in (True, False))
    torch.testing.assert_close(ours, alone, rtol=1e-4, atol=1e-5)


def test_every_network_has_its_own_output_layer() -> None:
    networks = SideBySide(subsets().validation[:3], 0)
    hidden, others = optimizers_for_all(MUON, networks, MUON.space.first_trials[0], 4)
    assert [tuple(param.shape) for group in hidden.param_groups for param in group["params"]] == 6 * [(64, 64)]
    matrices = [param for group in others.param_groups for param in group["params"] if param.ndim == 2]
    assert [tuple(param.shape) for param in matrices] == 3 * [(5, 64)]


@pytest.mark.parametrize("values", [ROTATION, WHITENING], ids=lambda values: values["strategy"])
def test_p_is_learned_first_and_makes_a_difference(values: dict[str, float]) -> None:
    carried = TASK.run(WARPADAM, values, seed=0)
    assert carried.learning is not None
    assert (carried.learning.tasks, carried.learning.steps) == (2, 8)
    longer = dataclasses.replace(TASK, learning_tasks=3).run(WARPADAM, values, seed=0)
    assert carried.losses != longer.losses
    assert TASK.run(ADAMW, ADAMW.space.first_trials[0], seed=0).learning is None


@pytest.mark.parametrize("seed", [0, 1, FIRST_CONFIRM_SEED, FIRST_CONFIRM_SEED + 5])
def test_what_tunes_never_confirms(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[DigitTask] = []

    def watch(tasks: list[DigitTask], seed: int) -> SideBySide:
        trained.extend(tasks)
        return SideBySide(tasks, seed)

    monkeypatch.setattr(few_shot_digits, "SideBySide", watch)
    TASK.run(ADAMW, ADAMW.space.first_trials[0], seed)
    allowed = subsets().held_out if seed >= FIRST_CONFIRM_SEED else subsets().validation
    assert len(trained) == 3
    assert {task.classes for task in trained} <= {task.classes for task in allowed}


def test_a_p_that_ruins_learning_is_a_diverged_run() -> None:
    values = {**WARPADAM.space.first_trials[0], "lr": 1e30}
    assert TASK.run(WARPADAM, values, seed=0).final == math.inf


def test_a_report_tells_what_p_was_learned_on_and_counts_none_of_it(tmp_path: Path) -> None:
    for arm in (WARPADAM, ADAMW):
        Unit(TASK, arm, Budget(trials=1, seeds=2), tmp_path).outcome(run=True)
    report, curves = make_report([TASK], (WARPADAM, ADAMW), Budget(trials=1, seeds=2), tmp_path)
    rows = report["tasks"]["few_shot_digits"]
    assert (rows["warpadam"]["learning"]["tasks"], rows["warpadam"]["learning"]["steps"]) == (2, 8)
    assert "learning" not in rows["adamw"]
    assert "WarpAdam first learned P on 2 other tasks. This took 8 steps and " in tables(report)
    assert curves["few_shot_digits"]["warpadam"][0].steps[-1] == 4
