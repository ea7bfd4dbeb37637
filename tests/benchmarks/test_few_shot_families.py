"""The families of the few-shot comparison: what judges was not learned on, and a table says what its runs found."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from benchmarks.few_shot import measure
from benchmarks.few_shot.arms import ARMS, SOAPS, Arm, damped_root
from benchmarks.few_shot.evolution import evolve, longer_steps
from benchmarks.few_shot.families import DESIGN, FAMILIES, JUDGING, Family
from benchmarks.few_shot.measure import SEEDS, TUNING_SEED, ratios, read, rows_of
from benchmarks.few_shot.networks import NamedParams, SideBySide, train_together
from benchmarks.optimizers.few_shot import from_warp
from warpadam import Warp, WarpAdam, WarpAdamConfig

ROTATION = WarpAdamConfig(learner="rotation", p_lr=0.003, meta_every=1)


def identity(family: Family, config: WarpAdamConfig = ROTATION) -> Warp:
    return Warp.of(WarpAdam.from_config(list(family.learning[0].make_model().named_parameters()), config))


@pytest.mark.parametrize("name", FAMILIES)
def test_no_row_that_judges_was_learned_on(name: str) -> None:
    family = FAMILIES[name]()
    assert len(family.judged) >= 12

    def rows(tasks: object, *parts: str) -> set[bytes]:
        return {
            torch.cat((row, target.reshape(-1).float())).numpy().tobytes()
            for task in tasks  # type: ignore[attr-defined]
            for part in parts
            for row, target in zip(*getattr(task, part), strict=True)
        }

    learned, judged = rows(family.learning, "fit", "held_out"), rows(family.judged, "fit", "held_out")
    if name != "characters":  # the same three characters occur in every text
        assert not learned & judged
        assert all(not rows([task], "fit") & rows([task], "held_out") for task in family.judged)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_networks_of_a_family_are_alike_and_fit_its_rows(name: str) -> None:
    family = FAMILIES[name]()
    assert len({(task.sizes, task.activation) for task in (*family.learning, *family.judged)}) == 1
    for task in (family.learning[0], family.judged[-1]):
        for rows in (task.fit, task.held_out):
            assert rows.inputs.shape == (len(rows.targets), task.sizes[0])
            assert rows.inputs.isfinite().all()
            if rows.targets.is_floating_point():
                assert rows.targets.shape[1:] == (task.sizes[-1],)
            else:
                assert int(rows.targets.min()) >= 0
                assert int(rows.targets.max()) < task.sizes[-1]


def test_the_families_that_judge_are_not_those_of_the_design() -> None:
    assert len(DESIGN) >= 3
    assert len(JUDGING) >= 2
    assert not DESIGN.keys() & JUDGING.keys()


def test_the_loss_of_a_task_is_the_mean_over_its_own_rows() -> None:
    tasks = FAMILIES["characters"]().judged[:3]  # texts of different lengths
    networks = SideBySide(tasks, 0)
    found = networks.losses()
    for index, (task, network) in enumerate(zip(tasks, networks, strict=True)):
        for losses, rows in zip(found, (task.fit, task.held_out), strict=True):
            expected = torch.nn.functional.cross_entropy(network(rows.inputs), rows.targets)
            torch.testing.assert_close(losses[index], expected)


def test_twins_start_alike_and_draw_the_same_batches() -> None:
    tasks = FAMILIES["sites"]().judged[:2]

    def make(named: NamedParams) -> list[torch.optim.Optimizer]:
        return [torch.optim.Adam([param for _, param in named], 0.01)]

    one, twin = train_together([*tasks, *tasks], make, 0, (1, 5), twins=True).chunk(2, 1)
    assert torch.equal(one, twin)
    one, other = train_together([*tasks, *tasks], make, 0, (1, 5)).chunk(2, 1)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("p_lr", [0.003, 0.0])
def test_longer_steps_are_longer_by_their_factor(p_lr: float) -> None:
    family = FAMILIES["sites"]()
    warp = identity(family, ROTATION.changed(p_lr=p_lr))
    numbers = torch.linspace(-1, 1, len(warp.parameters))

    def moved(of: Warp) -> list[torch.Tensor]:
        network = SideBySide(family.judged[:1], 0)
        before = [param.detach().clone() for param in network.parameters()]
        (optimizer,) = from_warp(of, 1, lr=1e-3)(list(network.named_parameters()))
        torch.autograd.backward(network.batch_loss())
        optimizer.step()
        return [param.detach() - old for param, old in zip(network.parameters(), before, strict=True)]

    # without any scale the basis would be new, and start from the first gradient
    some, longer = moved(longer_steps(warp, numbers)), moved(longer_steps(warp, numbers + 0.5))
    for short, long in zip(some, longer, strict=True):
        torch.testing.assert_close(long, short * math.exp(0.5), rtol=1e-3, atol=1e-7)


def test_evolution_lengthens_steps_that_are_far_too_short() -> None:
    family = FAMILIES["sites"]()
    warp = identity(family)
    evolved = evolve(family.learning[:8], warp, 1e-4, rounds=3, seed=0)
    changes = [own.tensors["log_scale"].mean() for name, own in evolved.parameters.items() if name.endswith("weight")]
    assert sum(map(float, changes)) > 0.1


def test_the_damped_root_of_a_covariance() -> None:
    factor = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    covariance = factor @ factor.T
    root = damped_root(covariance, 0.3)
    expected = covariance / covariance.trace() * 4 + 0.3 * torch.eye(4)
    torch.testing.assert_close(root @ root, expected / (expected.trace() / 4), rtol=1e-4, atol=1e-5)


def line(arm: str, lr: float, seed: int, loss: float) -> dict[str, object]:
    return {"family": "f", "arm": arm, "lr": lr, "seed": seed, "fit": [loss] * 3, "held_out": [2 * loss] * 3}


def test_the_tuning_seed_alone_chooses_the_lr_and_soap_is_the_better_one() -> None:
    lines = []
    for arm, tuned, seen in (
        ("P", (1.0, 2.0), (3.0, 1.0)),
        (SOAPS[0], (1.0, 9.0), (6.0, 1.0)),
        (SOAPS[1], (9.0, 1.0), (1.0, 4.0)),
    ):
        for lr, at_tuning, at_seeds in zip((0.1, 0.2), tuned, seen, strict=True):
            lines += [line(arm, lr, TUNING_SEED, at_tuning)]
            lines += [line(arm, lr, seed, at_seeds + offset) for seed, offset in zip(SEEDS, (-0.5, 0.5), strict=True)]
    rows = rows_of(lines, "f")
    assert rows["P"].lrs == [0.1] * 6
    assert rows["P"].losses == [3.0] * 3 + [6.0] * 3
    assert (rows["P"].lowest[0], rows["P"].highest[0]) == (2.5, 3.5)
    assert ratios(rows)["P"] == [3.0 / 4.0] * 6
    assert "P" not in rows_of([one for one in lines if (one["arm"], one["seed"]) != ("P", SEEDS[0])], "f")


def test_a_stopped_measurement_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "SEEDS", (0,))
    path, whole = tmp_path / "some.jsonl", tmp_path / "whole.jsonl"
    arm = Arm((0.003, 0.01), ARMS["AdamW"].make)
    measure.measure(whole, "AdamW", arm, "sites")
    lines = read(whole)
    assert [(one["seed"], one["lr"]) for one in lines] == [
        (TUNING_SEED, 0.003),
        (TUNING_SEED, 0.01),
        (0, 0.003),
        (0, 0.01),
    ]
    path.write_text("".join(json.dumps(one) + "\n" for one in lines[:3]))
    measure.measure(path, "AdamW", arm, "sites")
    resumed = read(path)
    assert resumed[:3] == lines[:3]
    assert (resumed[3]["fit"], resumed[3]["held_out"]) == (lines[3]["fit"], lines[3]["held_out"])
    assert all(math.isfinite(loss) for one in resumed for loss in one["fit"])
    measure.measure(path, "AdamW", arm, "sites")
    assert read(path) == resumed


@pytest.mark.parametrize("name", ["subspace of updates", "rotation without scale"])
def test_an_arm_uses_what_it_learned(name: str) -> None:
    family, arm = FAMILIES["sites"](), ARMS[name]
    lr = arm.lrs[0]
    learned = arm.learn("sites", lr, 0)
    assert learned is not None
    losses = [
        train_together(family.judged[:2], arm.make(warp, lr, 2), 0, (1, 3))
        for warp in (learned, identity(family, learned.config))
    ]
    assert not torch.equal(*losses)
