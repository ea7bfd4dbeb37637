# From a spec to what a job will do. What a spec's types cannot say is checked here, all of it at once.
from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import pytest
import torch

from search_spaces import PRESETS, Choice, Float, Int, get_preset
from service.data.prepared import PreparedData
from service.errors import InvalidSpecError
from service.optimizers import baselines
from service.planning.arms import Role
from service.planning.plan import WARP_PRESETS, JobPlan, make_plan, warp_space
from service.spec.dataset_info import DatasetInfo
from service.spec.job import JobSpec
from service.spec.tasks import TASKS, Task
from service.training.run import Training
from tests.conftest import SpecMaker

DATA = PreparedData("file:///split.npz", "0" * 64)


def plan(spec: SpecMaker, **parts: Any) -> JobPlan:
    return make_plan(JobSpec.model_validate(spec(**parts)))


def errors(spec: SpecMaker, **parts: Any) -> dict[str, tuple[object, str]]:
    with pytest.raises(InvalidSpecError) as caught:
        plan(spec, **parts)
    return {error.field: (error.value, error.message) for error in caught.value.errors}


def test_warpadam_runs_first_and_then_the_baselines(spec: SpecMaker) -> None:
    made = plan(spec, baselines=["adamw"])
    assert [arm.name for arm in made.arms] == ["warpadam", "adamw", "adamw_default"]
    assert made.arm("warpadam").space == get_preset("quick")
    assert made.arm("adamw").space == get_preset("adamw")


def test_one_arm_for_each_structure_of_the_space_on_request(spec: SpecMaker) -> None:
    made = plan(spec, arms="per_structure", search_space={"preset": "wide"}, baselines=["adamw", "soap"])
    assert [arm.name for arm in made.arms] == [
        "warpadam-kronecker",
        "warpadam-diagonal",
        "warpadam-low_rank",
        "adamw",
        "soap",
        "adamw_default",
    ]
    for arm in made.arms[:3]:
        values = arm.space.first_trials[0] if arm.space.first_trials else None
        assert arm.role is Role.WARPADAM
        domain = arm.space["strategy"].domain
        assert isinstance(domain, Choice)
        structures = {str(strategy).split("/")[0] for strategy in domain.values}
        assert structures == {arm.name.removeprefix("warpadam-")}
        assert values is None or arm.config(values)["structure"] in structures
    assert "rank" in made.arm("warpadam-low_rank").space
    assert "rank" not in made.arm("warpadam-kronecker").space


def test_controls_run_last_and_play_their_own_part(spec: SpecMaker) -> None:
    made = plan(spec, controls=["diagonal_pre", "random_p", "adamw_more_steps"])
    assert [(arm.name, arm.role) for arm in made.arms[2:]] == [
        ("diagonal_pre", Role.CONTROL),
        ("random_p", Role.CONTROL),
        ("adamw_more_steps", Role.CONTROL),
        ("adamw_default", Role.UNTUNED),
    ]
    diagonal, random_p, more, _ = made.arms[2:]
    assert diagonal.space["strategy"].domain == Choice(values=("diagonal/pre/hypergradient",))
    config = random_p.config(random_p.space.first_trials[0])
    assert (config["structure"], config["placement"], config["learner"]) == ("kronecker", "sandwich", "frozen")
    assert more.config(more.space.first_trials[0]) == made.arm("adamw").config(more.space.first_trials[0])


def test_every_job_has_adamw_as_pytorch_ships_it(spec: SpecMaker) -> None:
    *_, untuned = plan(spec, baselines=["sgd"]).arms
    parameters = inspect.signature(torch.optim.AdamW).parameters
    config = {**untuned.config({}), "betas": (0.9, 0.999)}
    assert (untuned.name, untuned.optimizer) == ("adamw_default", "adamw")
    assert untuned.config({})["betas"] == [0.9, 0.999]
    assert config == {name: parameters[name].default for name in ("lr", "betas", "eps", "weight_decay")}


def test_a_space_with_one_point_needs_one_trial_and_no_race(spec: SpecMaker) -> None:
    made = plan(spec, budget={"trials_per_arm": 20})
    assert [made.trials(arm) for arm in made.arms] == [20, 20, 1]
    assert [made.race_rounds(arm) for arm in made.arms] == [[6, 4, 3, 2], [6, 4, 3, 2], []]
    fixed = {"strategy": "diagonal/pre/hypergradient", "lr": 0.01, "beta1": 0.9, "beta2": 0.99, "p_lr": 0.1}
    made = plan(spec, search_space={"preset": "quick", "overrides": fixed}, budget={"trials_per_arm": 20})
    assert (made.trials(made.arm("warpadam")), made.race_rounds(made.arm("warpadam"))) == (1, [])
    assert made.trials(made.arm("adamw")) == 20


def test_arms_that_are_chosen_among_run_on_the_seeds_of_the_race_even_with_one_point(spec: SpecMaker) -> None:
    """The best of them is challenger, so their costs must come from the same seeds."""
    fixed = {
        "lr": 0.01,
        "beta1": 0.9,
        "beta2": 0.99,
        "p_lr": 0.1,
        "learner": "hypergradient",
        "structure": ["diagonal"],
    }
    space = {"preset": "quick", "overrides": {**fixed, "structure": ["diagonal", "kronecker"], "placement": "sandwich"}}
    made = plan(spec, arms="per_structure", search_space=space, budget={"trials_per_arm": 20})
    assert [made.trials(arm) for arm in made.arms] == [1, 1, 20, 1]
    assert [made.race_rounds(arm) for arm in made.arms] == [[1, 1, 1, 1], [1, 1, 1, 1], [6, 4, 3, 2], []]


def test_soap_without_its_package_is_refused_before_anything_runs(
    spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.planning.checks.find_spec", lambda name: None)
    wrong = errors(spec, baselines=["adamw", "soap"])
    assert wrong == {"baselines[1]": ("soap", "needs the package pytorch_optimizer, which is not installed here")}


def test_every_preset_is_of_warpadam_or_a_baseline() -> None:
    assert set(WARP_PRESETS) | set(baselines()) == set(PRESETS)
    assert not set(WARP_PRESETS) & set(baselines())


def test_overrides_change_the_space_of_warpadam_only(spec: SpecMaker) -> None:
    overrides = {
        "lr": 0.5,
        "p_lr": {"low": 0.1, "high": 0.2, "log": True},
        "structure": "diagonal",
        "meta_every": [1, 3],
    }
    made = plan(spec, search_space={"preset": "wide", "overrides": overrides})
    space = made.arm("warpadam").space
    assert space["lr"].domain == Choice(values=(0.5,))
    assert space["p_lr"].domain == Float(low=0.1, high=0.2, log=True)
    assert space["strategy"].domain == Choice(values=("diagonal/sandwich/hypergradient",))
    assert space["meta_every"].domain == Choice(values=(1, 3))
    assert made.arm("adamw").space == get_preset("adamw")


def test_log_of_null_is_the_one_of_the_preset(spec: SpecMaker) -> None:
    wanted = {"preset": "wide", "overrides": {"rank": {"low": 1, "high": 4, "log": None}}}
    space = warp_space(JobSpec.model_validate(spec(search_space=wanted)))
    assert space["rank"].domain == Int(low=1, high=4, log=True)


def test_config_is_what_the_values_of_a_space_stand_for(spec: SpecMaker) -> None:
    made = plan(spec)
    values = made.arm("warpadam").space.first_trials[0]
    config = made.arm("warpadam").config(values)
    assert (config["lr"], config["betas"]) == (values["lr"], [values["beta1"], values["beta2"]])
    assert f"{config['structure']}/{config['placement']}/{config['learner']}" == values["strategy"]
    adamw = made.arm("adamw").config(made.arm("adamw").space.first_trials[0])
    assert adamw == {"lr": 0.01, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.1}


@pytest.mark.parametrize(
    ("dataset", "model", "task", "sizes"),
    [
        ("wine", {"name": "mlp", "hidden": [8]}, Task.CLASSIFICATION, (13, 8, 3)),
        ("diabetes", {"name": "mlp", "hidden": [8, 4]}, Task.REGRESSION, (10, 8, 4, 1)),
        ("digits", {"name": "autoencoder", "hidden": [9, 5], "code": 2}, Task.AUTOENCODING, (64, 9, 5, 2, 5, 9, 64)),
    ],
)
def test_model_fits_the_data(
    spec: SpecMaker, dataset: str, model: dict[str, Any], task: str, sizes: tuple[int, ...]
) -> None:
    made = plan(spec, dataset={"name": dataset}, model=model)
    assert (made.task, made.sizes) == (task, sizes)


def test_run_carries_everything_that_it_depends_on(spec: SpecMaker) -> None:
    made = plan(
        spec,
        model={"name": "mlp", "hidden": [8], "activation": "gelu"},
        budget={"steps": 7, "batch_size": 9},
        training={"schedule": "cosine", "warmup_steps": 3, "max_grad_norm": 0.5, "compile": True},
    )
    run = made.run("adamw", {"lr": 0.25}, DATA, seed=3, test=True)
    assert (run.arm, run.config["lr"], run.sizes, run.activation) == ("adamw", 0.25, (13, 8, 3), "gelu")
    assert (run.task, run.data) == (Task.CLASSIFICATION, DATA)
    assert (run.steps, run.batch_size, run.seed, run.test) == (7, 9, 3, True)
    assert run.training == Training(schedule="cosine", warmup_steps=3, max_grad_norm=0.5, compile=True)


TIMED: dict[str, Any] = {"metric": "steps_to_target"}


@pytest.mark.parametrize(
    ("objective", "rest", "field", "expected"),
    [
        (TIMED, {}, "objective.target", "is required with the metric steps_to_target"),
        ({"target": 0.5}, {}, "objective.target", "must be null with the metric val_loss"),
        (TIMED | {"target": 0.0}, {}, "objective.target", "must be above 0"),
        (TIMED | {"target": -1.0}, {}, "objective.target", "must be above 0"),
        (TIMED | {"target": "baseline"}, {"baselines": ["soap"]}, "objective.target", "needs adamw in baselines"),
        (
            {"metric": "val_accuracy", "trade_off": "seconds"},
            {},
            "objective.trade_off",
            "needs the metric val_loss, not val_accuracy",
        ),
        (
            {"trade_off": "seconds"},
            {"search": {"pruner": "median"}},
            "search.pruner",
            "must be none with objective.trade_off",
        ),
        ({"metric": "val_r2"}, {}, "objective.metric", "must be one of val_loss, val_accuracy, val_balanced"),
        (
            {"metric": "val_roc_auc"},
            {"dataset": {"name": "diabetes"}},
            "objective.metric",
            "must be one of val_loss, val_r2",
        ),
    ],
)
def test_an_objective_that_does_not_fit_is_refused(
    spec: SpecMaker, objective: dict[str, Any], rest: dict[str, Any], field: str, expected: str
) -> None:
    assert expected in errors(spec, objective=objective, **rest)[field][1]


FAMILY: dict[str, Any] = {"dataset": {"name": "digits"}, "family": {"class_subsets": {"ways": 5}}}
DIABETES: dict[str, Any] = {"dataset": {"name": "diabetes"}}
ONE_ROW_LEFT: dict[str, Any] = {
    "dataset": {"name": "digits"},
    "model": {"name": "resnet"},
    "budget": {"steps": 10, "batch_size": 538},
}


@pytest.mark.parametrize(
    ("training", "rest", "expected"),
    [
        ({"warmup_steps": 10}, {}, "must be less than budget.steps, which is 10"),
        ({"precision": "float16"}, {}, "bfloat16 or float32 without a GPU"),
        ({"label_smoothing": 0.1}, DIABETES, "must be 0 for regression"),
        ({"class_weights": "balanced"}, DIABETES, "must be null for regression"),
        ({"last_batch": "keep"}, ONE_ROW_LEFT, "must be drop here"),
        ({"max_grad_norm": 1.0}, FAMILY, "must be null with a family"),
        ({"last_batch": "keep"}, FAMILY, 'must be "drop" with a family'),
        ({"precision": "bfloat16"}, FAMILY, 'must be "float32" with a family'),
        ({"compile": True}, FAMILY, "must be false with a family"),
    ],
)
def test_training_that_does_not_fit_is_refused(
    spec: SpecMaker, training: dict[str, Any], rest: dict[str, Any], expected: str
) -> None:
    ((field, (value, found)),) = errors(spec, training=training, **rest).items()
    assert {field.removeprefix("training."): value} == training
    assert expected in found


@pytest.mark.parametrize(
    ("training", "rest"),
    [
        ({"warmup_steps": 9, "schedule": "cosine"}, {}),
        ({"precision": "float16"}, {"resources": {"gpus_per_trial": 0.5}}),
        ({"label_smoothing": 0.1, "class_weights": "balanced"}, {}),
        ({"last_batch": "keep"}, {**ONE_ROW_LEFT, "model": {"name": "convnet"}}),
        ({"last_batch": "keep"}, {**ONE_ROW_LEFT, "budget": {"steps": 10, "batch_size": 64}}),
        ({"warmup_steps": 3, "label_smoothing": 0.1, "class_weights": "balanced"}, FAMILY),
    ],
)
def test_training_that_fits_is_taken(spec: SpecMaker, training: dict[str, Any], rest: dict[str, Any]) -> None:
    assert plan(spec, training=training, **rest).arms


def test_everything_that_is_wrong_is_said_at_once(spec: SpecMaker) -> None:
    wrong = errors(
        spec,
        dataset={"name": "mnist"},
        baselines=["lion", "adamw", "adamw"],
        controls=["random_p", "random_p"],
        confirm={"top_k": 3},
        search_space={"preset": "quick", "overrides": {"lr": -1}},
    )
    assert wrong == {
        "dataset.name": ("mnist", "must be one of digits, breast_cancer, wine, diabetes, poisson_2d, burgers"),
        "baselines[0]": ("lion", "must be one of adamw, muon, soap, sgd"),
        "baselines[2]": ("adamw", "must not be named twice"),
        "controls[1]": ("random_p", "must not be named twice"),
        "confirm.top_k": (3, "must be at most budget.trials_per_arm, which is 2"),
        "search_space.overrides.lr": (-1, "must be a finite number of at least 0"),
    }


def test_ray_refuses_what_it_would_ignore_or_could_never_place(spec: SpecMaker) -> None:
    given = {"slots": 2, "gpus_per_trial": 1.5, "custom": {"GPU": 1.0, "accelerator_type:A100": 1.0}}
    wrong = errors(spec, engine={"name": "ray"}, resources=given)
    assert wrong == {
        "resources.slots": (2, "must be 1 with the engine ray"),
        "resources.gpus_per_trial": (1.5, "must be a whole number above 1 with the engine ray"),
        "resources.custom.GPU": (1.0, "is not allowed here"),
    }


def test_autoencoder_takes_images_only(spec: SpecMaker) -> None:
    wrong = errors(spec, dataset={"name": "diabetes"}, model={"name": "autoencoder"})
    assert wrong == {"model.name": ("autoencoder", "needs images if the dataset is a bundled one")}


@pytest.mark.parametrize(
    ("rank", "wrong"),
    [
        (20, None),
        (21, {"": 21}),
        ([1, 20], None),
        ([21, 2, 22], {"[0]": 21, "[2]": 22}),
        ({"low": 1, "high": 20}, None),
        ({"low": 1, "high": 21}, {".high": 21}),
    ],
)
def test_rank_is_at_most_the_rows_of_the_largest_tensor(
    spec: SpecMaker, rank: object, wrong: dict[str, int] | None
) -> None:
    parts = {
        "model": {"name": "mlp", "hidden": [20, 10]},
        "search_space": {"preset": "wide", "overrides": {"rank": rank}},
    }
    if wrong is None:
        assert plan(spec, **parts).arm("warpadam").space.largest("rank") == 20
        return
    expected = "must be at most 20, the rows of the largest tensor"
    path = "search_space.overrides.rank"
    assert errors(spec, **parts) == {f"{path}{place}": (value, expected) for place, value in wrong.items()}


def test_rank_of_a_preset_may_be_above_the_rows(spec: SpecMaker) -> None:
    space = plan(spec, model={"name": "mlp", "hidden": [2]}, search_space={"preset": "wide"}).arm("warpadam").space
    assert space.largest("rank") == 16


BOTH = "cannot be used together with dataset.name or dataset.id"


@pytest.mark.parametrize(
    ("dataset", "field", "expected"),
    [
        ({"name": "wine", "entrypoint": "a:b"}, "dataset.entrypoint", BOTH),
        ({"id": "ds-1", "entrypoint": "a:b"}, "dataset.entrypoint", BOTH),
        ({"entrypoint": "a:b", "target": "y"}, "dataset.target", "must be null: the function says it"),
        (
            {"name": "wine", "exclude": ["id"]},
            "dataset.exclude",
            "must be empty: only an uploaded table has columns to choose",
        ),
        ({"entrypoint": "a:b", "task": "regression"}, "dataset.task", "must be null: the function says it"),
    ],
)
def test_a_dataset_has_one_source(spec: SpecMaker, dataset: dict[str, Any], field: str, expected: str) -> None:
    assert errors(spec, dataset=dataset)[field][1] == expected


def test_a_users_model_reads_no_text(spec: SpecMaker) -> None:
    text = DatasetInfo(rows=5000, features=1, task=Task.LANGUAGE, outputs=256)
    body = JobSpec.model_validate(spec(dataset={"id": "ds-1"}, model={"entrypoint": "a:b"}))
    with pytest.raises(InvalidSpecError, match=r"model\.name: must be one of transformer for language"):
        make_plan(body, text)


def test_long_unknown_names_are_answered(spec: SpecMaker) -> None:
    assert "dataset.name" in errors(spec, dataset={"name": "digits" * 16})


def test_every_fresh_seed_has_its_own_split_and_the_first_that_of_the_search(spec: SpecMaker) -> None:
    made = plan(spec, seed=5)
    assert made.fresh_splits
    assert [made.split_seed(seed) for seed in (5, 6, 7, 8)] == [5, 5, 7, 8]
    selecting = range(5 + 1 + 64, 5 + 1 + 70)
    assert len({made.split_seed(seed) for seed in (5, *range(7, 14), *selecting)}) == 14


def test_seeds_share_splits_where_the_spec_names_fewer(spec: SpecMaker) -> None:
    made = plan(spec, seed=5, confirm={"splits": 3})
    assert [made.split_seed(seed) for seed in range(5, 13)] == [5, 5, 7, 8, 5, 7, 8, 5]


@pytest.mark.parametrize(
    "parts",
    [
        {"confirm": {"splits": 1}},
        {"dataset": {"name": "burgers"}, "model": {"name": "pinn", "equation": "burgers"}},
    ],
    ids=["asked for", "an equation"],
)
def test_some_jobs_have_one_split(spec: SpecMaker, parts: dict[str, Any]) -> None:
    made = plan(spec, **parts)
    assert not made.fresh_splits
    assert {made.split_seed(seed) for seed in range(20)} == {made.spec.seed}


@pytest.mark.parametrize(
    ("parts", "best_by"),
    [
        ({}, "loss"),
        ({"objective": {"metric": "val_accuracy"}}, "score"),
        ({"objective": {"at": "last"}}, None),
        ({"dataset": {"name": "burgers"}, "model": {"name": "pinn", "equation": "burgers"}}, None),
    ],
)
def test_runs_are_judged_at_their_best_point_where_they_can_overfit(
    spec: SpecMaker, parts: dict[str, Any], best_by: str | None
) -> None:
    assert plan(spec, **parts).best_by == best_by


@pytest.mark.parametrize(
    "parts",
    [
        {"objective": {"at": "last"}},
        {"dataset": {"name": "burgers"}, "model": {"name": "pinn", "equation": "burgers"}},
    ],
)
def test_patience_needs_runs_that_are_judged_at_their_best_point(spec: SpecMaker, parts: dict[str, Any]) -> None:
    with pytest.raises(InvalidSpecError, match=r"training\.patience: must be null"):
        plan(spec, training={"patience": 10}, **parts)


LOOP = DatasetInfo(
    rows=0,
    features=0,
    task=Task.LOOP,
    outputs=0,
    tensors=((2, 4), (2,)),
    sources={"a:b": "0" * 64},
    loop_steps=12,
    loop_scores=("f1",),
)


def loop_plan(info: DatasetInfo, **parts: Any) -> JobPlan:
    body = {"model": {"name": "loop", "entrypoint": "a:b"}, **parts}
    return make_plan(JobSpec.model_validate(body), info)


@pytest.mark.parametrize(
    ("own", "given", "steps"), [(12, {}, 12), (12, {"steps": 5}, 5), (12, {"steps": 100}, 12), (0, {"steps": 7}, 7)]
)
def test_a_loop_has_its_own_steps_unless_it_is_to_end_earlier(own: int, given: dict[str, int], steps: int) -> None:
    info = replace(LOOP, loop_steps=own)
    made = loop_plan(info, budget=given)
    assert made.spec.budget.steps == steps
    again = make_plan(JobSpec.from_json(made.spec.to_json()), info)  # as the worker reads it
    assert again.spec.budget.steps == steps


def test_a_run_of_a_loop_names_its_source_and_the_score_that_it_yields() -> None:
    made = loop_plan(LOOP)
    run = made.run("adamw", made.arm("adamw").space.some_values(), DATA, seed=3, test=True)
    assert (run.task, run.sizes, run.metric, run.best_by) == (Task.LOOP, (), "f1", "loss")
    assert run.model == {"name": "loop", "entrypoint": "a:b", "config": {}, "task": "loop", "sha256": "0" * 64}
    assert made.split_seed(3) == made.split_seed(4) == 0
    without = loop_plan(replace(LOOP, loop_scores=()))
    assert without.score is None
    assert loop_plan(LOOP, objective={"at": "last"}).best_by is None
    assert loop_plan(LOOP, objective={"metric": "val_f1"}).best_by == "score"


@pytest.mark.parametrize("at", ["best", "last"])
def test_a_run_of_a_loop_knows_whether_its_score_is_judged(at: str) -> None:
    for metric, judged in (("val_f1", True), ("val_loss", False)):
        made = loop_plan(LOOP, objective={"metric": metric, "at": at})
        run = made.run("adamw", made.arm("adamw").space.some_values(), DATA, seed=3, test=False)
        assert (run.metric, run.by_score) == ("f1", judged)


@pytest.mark.parametrize("metric", ["steps_to_target", "seconds_to_target"])
def test_the_target_of_a_loop_may_be_below_0(metric: str) -> None:
    """Its loss may be minus a log-likelihood."""
    for target in (-2.5, 0.0):
        made = loop_plan(LOOP, objective={"metric": metric, "target": target})
        assert made.spec.objective.target == target


def test_the_target_of_a_plug_in_whose_loss_may_be_negative_may_be_below_0(
    spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TASKS._entries, "regression", replace(TASKS["regression"], negative_loss=True))
    made = plan(spec, dataset={"name": "diabetes"}, objective=TIMED | {"target": -2.5})
    assert made.spec.objective.target == -2.5


def test_a_loop_takes_no_dataset_and_nothing_that_it_decides_itself() -> None:
    with pytest.raises(InvalidSpecError) as caught:
        loop_plan(
            LOOP,
            dataset={"name": "wine"},
            training={"compile": True, "patience": 5},
            budget={"batch_size": 3},
            objective={"metric": "val_accuracy"},
            controls=["adamw_more_steps", "random_p"],
        )
    assert {error.field: error.message for error in caught.value.errors} == {
        "dataset": "must be left out: a training loop has its own data",
        "training.compile": "must be false with the model loop",
        "budget.batch_size": "must be 128 with the model loop",
        "controls": "must not have adamw_more_steps with the model loop",
        "objective.metric": "must be one of val_loss, val_f1 for loop",
    }


def test_without_a_dataset_a_factory_is_told_of_loops() -> None:
    with pytest.raises(InvalidSpecError) as caught:
        make_plan(JobSpec.model_validate({"model": {"entrypoint": "a:b"}}))
    assert "A training loop of your own needs none: set model.name to loop" in str(caught.value)
