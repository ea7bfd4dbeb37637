"""P learned over a family helps on unseen tasks; learning it is reproducible, resumable and robust."""

from __future__ import annotations

import copy
import io
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from warpadam import InvalidConfigError, MetaConfig, MetaTrainer, Warp, WarpAdam, WarpAdamConfig

STEPS = 25


def _equal(one: Warp, other: Warp) -> bool:
    ours, theirs = one.tensors(), other.tensors()
    return ours.keys() == theirs.keys() and all(
        ours[name].keys() == theirs[name].keys() and torch.equal(value, theirs[name][key])
        for name in ours
        for key, value in ours[name].items()
    )


def _mean_loss(held_out: list[Any], optimizer_of: Any) -> float:
    losses = [float(task.train(optimizer_of, STEPS, seed)) for seed, task in enumerate(held_out)]
    return sum(losses) / len(losses)


@pytest.mark.parametrize(
    ("name", "mode", "rounds", "at_most"),
    [
        ("diagonal", "online", 12, 0.3),
        ("kronecker", "online", 12, 0.4),
        ("rotation", "online", 12, 0.2),
        ("whitening", "online", 12, 0.2),
        ("diagonal", "offline", 4, 0.7),
        ("kronecker", "offline", 4, 0.6),
    ],
)
def test_p_of_a_family_makes_the_next_tasks_faster(
    family: Any, held_out: Any, configs: dict[str, WarpAdamConfig], name: str, mode: str, rounds: int, at_most: float
) -> None:
    config = configs[name]
    warp = MetaTrainer(family, config, MetaConfig(mode=mode, steps=STEPS)).train(rounds).warp
    without = _mean_loss(
        held_out, lambda model: WarpAdam.from_config(model.named_parameters(), replace(config, p_lr=0.0))
    )
    assert _mean_loss(held_out, lambda model: warp.optimizer(model.named_parameters())) < at_most * without


CASES = [("rotation", "online"), ("kronecker", "online"), ("kronecker", "offline")]


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_a_stopped_run_goes_on_as_if_it_had_not_been(
    family: Any, held_out: Any, configs: dict[str, WarpAdamConfig], name: str, mode: str
) -> None:
    def make() -> MetaTrainer:
        return MetaTrainer(
            family, configs[name], MetaConfig(mode=mode, steps=6, validate_every=2), validation=held_out[:2]
        )

    whole = make().train(5)
    stopped = make()
    stopped.train(3)
    file = io.BytesIO()
    torch.save(stopped.state_dict(), file)
    file.seek(0)
    resumed = make()
    resumed.load_state_dict(torch.load(file, weights_only=True))
    result = resumed.train(2)
    assert _equal(result.last, whole.last)
    assert _equal(result.warp, whole.warp)
    assert result.scores == whole.scores
    assert list(whole.scores) == [0, 2, 4]


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_the_seed_decides_everything_and_the_callers_draws_are_left_alone(
    family: Any, configs: dict[str, WarpAdamConfig], name: str, mode: str
) -> None:
    def learn(seed: int) -> Warp:
        return MetaTrainer(family, configs[name], MetaConfig(mode=mode, steps=5, seed=seed)).train(2).warp

    torch.manual_seed(1)
    first, drawn = learn(0), torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(3))
    assert _equal(first, learn(0))
    assert not _equal(first, learn(1))


def test_every_task_is_visited_once_before_any_is_visited_again(
    family: Any, configs: dict[str, WarpAdamConfig]
) -> None:
    trainer = MetaTrainer(family, configs["rotation"], MetaConfig(steps=2))
    family[0].visits -= 1  # the trainer looked at its shapes
    for epoch in (1, 2):
        trainer.train(len(family))
        assert [task.visits for task in family] == [epoch] * len(family)


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_a_task_that_is_not_finite_changes_nothing_and_is_counted(
    broken: Any, configs: dict[str, WarpAdamConfig], name: str, mode: str
) -> None:
    trainer = MetaTrainer([broken], configs[name], MetaConfig(mode=mode, steps=10, tasks_per_round=1))
    before = copy.deepcopy(trainer.state_dict()["warp"])
    result = trainer.train(2)
    assert result.skipped == 2
    assert _equal(result.warp, result.warp.with_tensors(before))


def test_a_p_that_is_not_finite_is_not_carried_on(family: Any, configs: dict[str, WarpAdamConfig]) -> None:
    class Sharp:
        """The last loss is finite and its gradient is not, so covariances are lost."""

        count = 0

        def make_model(self) -> nn.Module:
            return nn.Linear(2, 2)

        def sample(self) -> Any:
            self.count += 1
            if self.count % 4:
                return lambda model: model.weight.square().sum()
            return lambda model: (model.weight * 0).sqrt().sum()

    trainer = MetaTrainer([Sharp()], configs["rotation"], MetaConfig(steps=4))
    result = trainer.train(1)
    assert result.skipped == 1
    assert result.warp.is_finite()


def test_the_best_p_on_validation_tasks_is_kept(family: Any, held_out: Any, configs: dict[str, WarpAdamConfig]) -> None:
    """A meta-gradient step far too large ruins P after the first rounds."""
    meta = MetaConfig(steps=10, validate_every=1)
    wild = replace(configs["diagonal"], p_lr=0.5)
    result = MetaTrainer(family, wild, meta, validation=held_out[:3]).train(6)
    assert len(result.scores) == 7
    best = min(result.scores, key=lambda rounds: result.scores[rounds])
    assert best < 6
    assert _equal(result.warp, MetaTrainer(family, wild, meta).train(best).warp)


def test_learning_starts_from_a_given_p(family: Any, configs: dict[str, WarpAdamConfig]) -> None:
    given = MetaTrainer(family, configs["rotation"], MetaConfig(steps=5)).train(2).warp
    still = replace(configs["rotation"], p_lr=0.0)
    scale = MetaTrainer(family, still, MetaConfig(steps=5), start=given).train(1).warp.tensors()["bias"]["log_scale"]
    assert torch.equal(scale, given.tensors()["bias"]["log_scale"])
    assert scale.abs().max() > 0


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"mode": "both"}, "mode"),
        ({"steps": 1}, "steps"),
        ({"seed": -1}, "seed"),
        ({"validate_every": 0}, "validate_every"),
        ({"tasks_per_round": 0}, "tasks_per_round"),
        ({"buffer_size": 1.5}, "buffer_size"),
        ({"meta_batch_size": 0}, "meta_batch_size"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidConfigError) as caught:
        MetaConfig(**settings)
    assert caught.value.field == field


@pytest.mark.parametrize("name", ["rotation", "whitening"])
def test_what_follows_covariances_is_learned_online_only(
    family: Any, configs: dict[str, WarpAdamConfig], name: str
) -> None:
    with pytest.raises(InvalidConfigError, match="learn them online"):
        MetaTrainer(family, configs[name], MetaConfig(mode="offline"))


def test_without_tasks_there_is_nothing_to_learn(configs: dict[str, WarpAdamConfig]) -> None:
    with pytest.raises(InvalidConfigError, match="at least one task"):
        MetaTrainer([], configs["rotation"], MetaConfig())
