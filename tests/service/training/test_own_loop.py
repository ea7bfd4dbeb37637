# A training loop of the user's gets the optimizer of its run; what it yields becomes the points of the run, and what is
# wrong with it is said in a sentence.
from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from search_spaces import get_preset
from service.data.prepared import PreparedData
from service.engines.base import default_train
from service.optimizers import OPTIMIZERS, build_optimizer
from service.spec.metrics import METRICS
from service.spec.tasks import Task
from service.training.entrypoints import EntrypointError
from service.training.own_loop import MODES, Evaluation, OwnLoop, train_own_loop
from service.training.run import CurvePoint, DivergedError, Run, Training
from tests.service.user_code import loops
from warpadam import WarpAdam, WarpAdamConfig, load_warp
from warpadam.config import STRATEGIES

ADAMW = OPTIMIZERS["adamw"].config({})


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return build_optimizer("adamw", model, dict(ADAMW))


def evaluations(function: Callable[..., Any], **config: Any) -> list[Evaluation]:
    return list(OwnLoop(function, adamw, 0, config))


def losses(function: Callable[..., Any], seed: int = 0, **config: Any) -> list[float]:
    return [found.loss for found in OwnLoop(function, adamw, seed, config)]


BAD: dict[str, tuple[Callable[..., Any], dict[str, Any], str]] = {
    "raises": (loops.raises, {}, r"the training loop raised RuntimeError: no such table \(loops.py, line \d+\)"),
    "leaves": (loops.leaves, {}, "the training loop raised SystemExit: gone"),
    "wrong config": (loops.fit, {"stepz": 3}, r"must take \(make_optimizer, seed, stepz=...\): .*'stepz'"),
    "one argument": (loops.takes_too_little, {}, r"must take \(make_optimizer, seed\): too many positional arguments"),
    "a text": (loops.yields, {"what": "a text"}, r"yielded '0.3' of type str as a loss; expected the validation loss"),
    "nothing": (loops.yields, {"what": "nothing"}, "yielded None as a loss; expected"),
    "a truth": (loops.yields, {"what": "true"}, "yielded True of type bool as a loss; expected"),
    "many": (loops.yields, {"what": "many"}, "of type ndarray as a loss; expected"),
    "a list": (loops.yields, {"what": "a list"}, "of type list as a loss; expected"),
    "no loss": (loops.yields, {"what": "no loss"}, 'a dict without "loss"; expected'),
    "a typo": (loops.yields, {"what": "a typo"}, "yielded 'acuracy'; the name must be one of .* mean 'accuracy'"),
    "a score": (loops.yields, {"what": "a text in a dict"}, "yielded 'high' of type str as accuracy"),
    "returns nothing": (loops.returns_nothing, {}, "yielded None as a loss"),
    "own optimizer": (loops.own_optimizer, {}, "never called make_optimizer; train with the optimizer that"),
    "no steps": (loops.no_steps, {}, "never stepped its optimizer; call step"),
    "two models": (loops.two_models, {}, r"called make_optimizer twice; .*ModuleList\(\[first, second\]\)"),
    "a number": (loops.optimizes, {"what": "a number"}, "make_optimizer got a value of type int; give it the model"),
    "groups": (loops.optimizes, {"what": "groups"}, r"of type list; .*named_parameters\(\) without groups"),
    "no parameters": (loops.optimizes, {"what": "nothing"}, "got no parameter with requires_grad"),
    "frozen": (loops.optimizes, {"what": "frozen"}, "got no parameter with requires_grad"),
    "a name twice": (loops.optimizes, {"what": "a name twice"}, "each name once"),
    "twice": (loops.evaluates_twice, {}, "yielded twice after step 1; yield once for each evaluation"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_loop_that_breaks_its_contract_is_refused(case: str) -> None:
    function, config, reason = BAD[case]
    with pytest.raises(EntrypointError, match=reason):
        evaluations(function, **config)


def test_each_loss_has_the_steps_before_it_and_the_scores_beside_it() -> None:
    found = evaluations(loops.fit, steps=6, every=3)
    assert [evaluation.step for evaluation in found] == [3, 6]
    assert all(0 < evaluation.scores["accuracy"] < 1 for evaluation in found)
    assert found[0].loss > found[1].loss
    assert 0 < found[0].seconds < found[1].seconds


def test_numbers_of_numpy_and_torch_are_numbers() -> None:
    assert losses(loops.yields_numbers_of_other_libraries) == [0.5, 0.25, 0.125, 1.0]


def test_losses_may_be_returned_as_any_iterable_and_those_of_a_list_are_spread_over_the_steps() -> None:
    plain = losses(loops.fit, name="plain")
    assert losses(loops.returns_a_list) == plain
    assert losses(loops.returns_other) == plain
    assert [found.step for found in evaluations(loops.returns_a_list)] == [2, 4, 6, 8, 10, 12]
    assert len(losses(loops.returns_a_number)) == 1
    found = evaluations(loops.returns_many, steps=100, count=100)
    assert [evaluation.step for evaluation in found] == list(range(1, 101))
    found = evaluations(loops.returns_many, steps=10, count=4)
    assert [evaluation.step for evaluation in found] == [3, 5, 8, 10]


@pytest.mark.parametrize("kind", ["numpy", "torch", "pandas"])
def test_an_array_that_a_loop_returns_is_a_list_of_losses(kind: str) -> None:
    assert losses(loops.returns_an_array, kind=kind) == pytest.approx(losses(loops.returns_a_list))


def test_a_loss_before_the_first_step_does_not_count() -> None:
    assert [found.step for found in evaluations(loops.evaluates_first)] == [1]


def test_the_seed_decides_the_weights_so_that_optimizers_are_compared_on_equal_ones() -> None:
    assert losses(loops.fit) == losses(loops.fit) != losses(loops.fit, seed=1)


def test_a_loop_is_left_after_a_step_although_it_catches_exceptions() -> None:
    loop = OwnLoop(loops.is_endless, adamw, 0, {}, stops=lambda: loop.steps == 5)
    assert [found.step for found in loop] == [2, 3, 4]
    assert (loop.steps, loop.was_stopped) == (5, True)


@pytest.mark.parametrize(
    ("how", "exit_code"),
    [("returns", 0), ("yields", 0), ("raises", 1), ("done", 0), ("failed", 3), ("says why", 1)],
)
def test_a_process_that_a_loop_forks_ends_where_it_would_come_out(how: str, exit_code: int) -> None:
    assert losses(loops.forks, how=how) == [exit_code]


def test_a_loop_that_is_left_leaves_nothing_changed_for_the_next_run() -> None:
    def modes() -> list[object]:
        return [Path.cwd(), *(read() for read, _ in MODES)]

    before = modes()
    running = iter(OwnLoop(loops.changes_modes, adamw, 0, {}))
    next(running)
    assert not any(now == then for now, then in zip(modes(), before, strict=True))
    del running
    assert modes() == before


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_every_strategy_of_warpadam_trains_in_a_plain_loop(strategy: Any) -> None:
    """No learner needs a closure or a second batch, so a loop restricts no search space."""
    config = WarpAdamConfig().changed(**strategy._asdict(), meta_every=1, lr=0.01)
    loop = OwnLoop(loops.fit, lambda model: WarpAdam.from_config(model.named_parameters(), config), 0, {})
    found = [evaluation.loss for evaluation in loop]
    assert found[-1] < found[0]
    assert isinstance(loop.optimizer, WarpAdam)
    assert loop.optimizer.skipped_updates == 0


@pytest.fixture(params=[name for name in OPTIMIZERS if OPTIMIZERS[name].requires is None])
def build(request: pytest.FixtureRequest) -> Callable[[nn.Module], torch.optim.Optimizer]:
    """Each optimizer that needs nothing else installed."""
    entry = OPTIMIZERS[request.param]
    space = entry.space or get_preset("adamw" if entry.name == "random_p" else "default")
    config = dict(entry.config(space.some_values()))
    return lambda model: build_optimizer(entry.name, model, config)


def test_every_optimizer_takes_named_parameters(build: Callable[..., Any]) -> None:
    assert [found.step for found in OwnLoop(loops.evaluates_first, build, 0, {})] == [1]


def test_every_optimizer_trains_parameters_that_a_loop_adds_later(build: Callable[..., Any]) -> None:
    before, after = (found.loss for found in OwnLoop(loops.unfreezes, build, 0, {}))
    assert before == 0 < after


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("WARPTUNE_ALLOWED_MODULES", loops.__name__)
    source = hashlib.sha256(Path(str(loops.__file__)).read_bytes()).hexdigest()
    return Run(
        arm="adamw",
        config=ADAMW,
        sizes=(),
        activation="",
        task=Task.LOOP,
        data=PreparedData("", ""),
        steps=12,
        batch_size=1,
        seed=0,
        model={"name": "loop", "entrypoint": f"{loops.__name__}:fit", "config": {}, "sha256": source},
        best_by="loss",
    )


def with_loop(run: Run, name: str, **config: Any) -> Run:
    assert run.model is not None
    return replace(run, model={**run.model, "entrypoint": f"{loops.__name__}:{name}", "config": config})


def test_a_run_has_the_points_of_its_loop_and_ends_with_what_its_best_point_has(run: Run) -> None:
    points = list(default_train(run))
    assert [point.step for point in points] == [2, 4, 6, 8, 10, 12]
    assert all(point.test_loss is None for point in points)
    tested = list(default_train(replace(run, test=True, metric="accuracy", best_by="score", by_score=True)))
    assert [point.val_loss for point in tested] == [point.val_loss for point in points]
    assert all(point.test_loss is None for point in tested[:-1])
    assert tested[-1].test_loss in [point.val_loss for point in tested]
    assert tested[-1].test_score in [point.val_score for point in tested]
    *_, last = default_train(replace(run, test=True, best_by=None))
    assert last.test_loss == last.val_loss


def test_a_run_ends_after_its_steps_or_its_patience(run: Run) -> None:
    assert [point.step for point in train_own_loop(replace(run, steps=5))] == [2, 4, 6]
    endless = replace(with_loop(run, "is_endless"), steps=30)
    assert list(train_own_loop(endless))[-1].step == 30
    worse = with_loop(run, "fit", steps=10_000)
    config = {**ADAMW, "lr": 0.0}
    still = replace(worse, steps=10_000, config=config, training=Training(patience=1000))
    assert list(train_own_loop(still))[-1].step == 1250


def test_a_loop_that_evaluates_all_the_time_has_as_many_points_as_other_runs(run: Run) -> None:
    points = list(train_own_loop(replace(with_loop(run, "fit", steps=200, every=1), steps=200)))
    assert [point.step for point in points] == list(range(5, 201, 5))
    late = list(train_own_loop(replace(with_loop(run, "fit", steps=198, every=3), steps=400)))
    assert late[-1].step == 198


def test_a_loss_that_is_not_finite_ends_the_run_as_diverged(run: Run) -> None:
    with pytest.raises(DivergedError, match="the validation loss is nan after 1 of 12 steps"):
        list(train_own_loop(with_loop(run, "yields", what="nan")))


def test_an_integer_that_is_too_large_for_a_float_is_infinite() -> None:
    assert losses(loops.yields, what="too large") == [-math.inf]


SHARE = r"expected a number from 0 to 1"
OUT_OF_RANGE = [
    ("accuracy", 93.9, f"yielded 93.9 as accuracy; {SHARE}: yield 0.939, not 93.9"),
    ("balanced_accuracy", 51, f"yielded 51 as balanced_accuracy; {SHARE}: yield 0.51, not 51"),
    ("f1", 1.5, f"yielded 1.5 as f1; {SHARE}: yield 0.015, not 1.5"),
    ("roc_auc", 939.0, f"yielded 939 as roc_auc; {SHARE}$"),
    ("average_precision", -0.1, f"yielded -0.1 as average_precision; {SHARE}$"),
    ("accuracy", float("inf"), f"yielded inf as accuracy; {SHARE}$"),
    ("r2", 98.5, "yielded 98.5 as r2; expected at most 1$"),
    ("closeness", 1.1, "yielded 1.1 as closeness; expected at most 1$"),
    *((name, -0.5, f"yielded -0.5 as {name}; expected at least 0$") for name in ("mae", "rmse", "log_loss")),
    ("median_absolute_error", -1, "yielded -1 as median_absolute_error; expected at least 0$"),
]


@pytest.mark.parametrize(("metric", "score", "reason"), OUT_OF_RANGE)
def test_a_score_that_cannot_be_is_refused(metric: str, score: float, reason: str) -> None:
    with pytest.raises(EntrypointError, match=reason):
        evaluations(loops.yields_score, metric=metric, score=score)


def test_every_metric_of_a_loop_has_a_limit() -> None:
    assert {name for name, _, _ in OUT_OF_RANGE} == set(METRICS)


@pytest.mark.parametrize(
    ("metric", "score"),
    [("accuracy", 0.0), ("accuracy", 1.0), ("f1", 1 + 1e-7), ("r2", -1e9), ("r2", 1), ("closeness", -3.0), ("mae", 0)],
)
def test_a_score_at_its_limit_is_taken(metric: str, score: float) -> None:
    """With an error of rounding, as the mean of numbers of 32 bits has."""
    (found,) = evaluations(loops.yields_score, metric=metric, score=score)
    assert found.scores == {metric: score}


@pytest.mark.parametrize("best_by", ["score", None])
@pytest.mark.parametrize(
    ("metric", "score"), [("rmse", "nan"), ("rmse", "inf"), ("accuracy", "nan"), ("r2", "-inf"), ("f1", "nan")]
)
def test_a_judged_score_that_is_not_finite_ends_the_run_as_diverged(
    run: Run, metric: str, score: str, best_by: Any
) -> None:
    """The loss cannot stand in for it: it would be compared with the scores of other trials."""
    judged = replace(with_loop(run, "yields_score", metric=metric, score=float(score)), metric=metric, by_score=True)
    with pytest.raises(DivergedError, match=f"the validation {metric} is {score} after 1 of 12 steps"):
        list(train_own_loop(replace(judged, best_by=best_by)))
    shown = replace(judged, by_score=False, best_by=best_by and "loss")
    assert [(point.val_loss, point.val_score) for point in train_own_loop(shown)] == [(0.5, None)]


@pytest.mark.parametrize("best_by", ["score", None])
def test_each_evaluation_has_the_score_that_is_judged(run: Run, best_by: Any) -> None:
    once = replace(with_loop(run, "yields_score_once"), metric="accuracy", best_by=best_by, by_score=True)
    with pytest.raises(EntrypointError, match=r"val_accuracy needs 'accuracy' in what .* \(loss\)"):
        list(train_own_loop(once))


def test_a_loop_without_a_loss_or_without_the_score_that_is_judged_fails(run: Run) -> None:
    with pytest.raises(EntrypointError, match="ended without a loss; expected"):
        list(train_own_loop(with_loop(run, "never_yields")))
    with pytest.raises(EntrypointError, match=r"objective.metric val_f1 needs 'f1' in what .* \(loss, accuracy\)"):
        list(train_own_loop(replace(run, metric="f1", best_by="score", by_score=True)))


def test_the_learned_p_is_kept_and_can_be_started_from(run: Run, tmp_path: Path) -> None:
    (tmp_path / "data.npz").touch()
    data, config = PreparedData(str(tmp_path / "data.npz"), ""), WarpAdamConfig(lr=0.01).to_dict()
    learns = replace(run, arm="warpadam", config=config, data=data, p_url=str(tmp_path / "p"))
    first = last_of(learns)
    warp, digest = load_warp(tmp_path / "p"), hashlib.sha256((tmp_path / "p").read_bytes()).hexdigest()
    assert warp.is_finite()
    again = last_of(replace(learns, p_url=None, from_p_url=str(tmp_path / "p"), from_p_sha256=digest))
    assert again.val_loss != first.val_loss


def last_of(run: Run) -> CurvePoint:
    *_, last = train_own_loop(run)
    return last
