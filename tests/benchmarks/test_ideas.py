# Changes of the update that are tried: each does what it says, and a run can be stopped and continued.
from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.optimizers import ideas
from benchmarks.optimizers.arms import WARPADAM
from benchmarks.optimizers.training import Problem
from warpadam import WarpAdam

TASK = replace(ideas.TASKS[0], steps=6)
VALUES: dict[str, Any] = {
    "strategy": "kronecker/pre/whitening",
    "lr": 0.01,
    "weight_decay": 0.1,
    "p_lr": 0.0,
    "meta_every": 1,
}

MOVE = torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.1, 0.2]])
GRAD = torch.tensor([[-1.0, 0.0, 0.0], [0.0, 1.0, -1.0]])


def test_the_shapes_of_a_move() -> None:
    for reshape in (ideas.polar, ideas.equal_rows, ideas.row_floor):
        assert reshape(MOVE, GRAD).norm() == pytest.approx(MOVE.norm())
        assert torch.equal(reshape(torch.zeros(2, 3), GRAD), torch.zeros(2, 3))
    singular = torch.linalg.svdvals(ideas.polar(MOVE, GRAD))
    assert singular[0] == pytest.approx(singular[1])
    rows = ideas.equal_rows(MOVE, GRAD).norm(dim=1)
    assert rows[0] == pytest.approx(rows[1])
    before, after = MOVE.norm(dim=1), ideas.row_floor(MOVE, GRAD).norm(dim=1)
    assert after[1] / after[0] == pytest.approx(float(0.5 * before.mean() / before[0]))
    assert (ideas.cautious(MOVE, GRAD) * GRAD <= 0).all()


@pytest.mark.parametrize("idea", sorted(set(ideas.IDEAS) - {"as it is"}))
def test_every_idea_trains_and_changes_the_run(idea: str) -> None:
    plain, changed = (ideas.loss_of(TASK, VALUES, ideas.IDEAS[name], 1.0, 7) for name in ("as it is", idea))
    assert math.isfinite(changed)
    if idea not in ("capped by loss", "row floor"):  # in this short run no step is too long and no row too short
        assert changed != plain


def test_as_it_is_is_the_optimizer_alone() -> None:
    curve = TASK.run(WARPADAM, VALUES, 7)
    assert ideas.loss_of(TASK, VALUES, ideas.as_it_is, 1.0, 7) == curve.final


def test_a_step_is_cut_where_the_loss_would_fall_below_zero() -> None:
    model = nn.Linear(2, 2, bias=False)
    inputs = torch.eye(2)
    problem = Problem(model, lambda: (model(inputs) - 1).square().mean(), lambda: 0.0)
    optimizer = WarpAdam(model.named_parameters(), 1_000.0)
    problem = ideas.capped_by_loss(problem, optimizer)
    before = model.weight.detach().clone()
    loss = problem.batch_loss()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    assert model.weight.grad is not None
    gain = ((before - model.weight.detach()) * model.weight.grad).sum().item()
    assert gain == pytest.approx(loss.item(), rel=1e-4)


def test_a_run_continues_where_it_was_stopped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ideas, "TASKS", (TASK,))
    path, calls = tmp_path / "ideas.jsonl", []

    def loss_of(_task: object, _values: object, idea: ideas.Idea, factor: float, _seed: int) -> float:
        calls.append(factor)
        return factor if idea is ideas.as_it_is else factor / 2

    monkeypatch.setattr(ideas, "loss_of", loss_of)
    ideas.run(path, 2, ["as it is", "polar factor"])
    assert len(calls) == 2 * 2 * 3
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-2]))
    ideas.run(path, 2, ["as it is", "polar factor"])
    assert len(calls) == 2 * 2 * 3 + 2
    assert json.loads(path.read_text().splitlines()[0])["task"] == TASK.name
    assert "| polar factor | 0.500 | 0.500 |" in ideas.report(path)
