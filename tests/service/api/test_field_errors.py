# What is wrong with a spec is said field by field: the path as its user would write it, the value that was given and
# what would be right. Nothing of a refused spec is stored.
from __future__ import annotations

import math

import pytest
from fastapi.testclient import TestClient

from service.db.session import Database
from tests.conftest import SpecMaker
from tests.service.api.conftest import MISSING, put, refused

OVERRIDES = "search_space.overrides"

WRONG: list[tuple[str, object, str, object, str]] = [
    # what is put where; the field, the value and a part of what would be right that must come back
    # --- names
    ("dataset.name", "iris", "dataset.name", "iris", "one of digits, breast_cancer, wine, diabetes"),
    ("dataset.name", "digit", "dataset.name", "digit", "Did you mean 'digits'?"),
    ("dataset.name", "", "dataset.name", "", "one of digits"),
    ("model.name", "cnn", "model.name", "cnn", "one of mlp, autoencoder"),
    ("model.name", 3, "model.name", 3, "one of mlp, autoencoder"),
    ("model.name", None, "model.name", None, "one of mlp, autoencoder"),
    ("model.activation", "ReLU", "model.activation", "ReLU", "'relu', 'tanh', 'gelu' or 'silu'"),
    ("search_space.preset", "fast", "search_space.preset", "fast", "one of default, quick, wide, paper"),
    ("search_space.preset", "adamw", "search_space.preset", "adamw", "one of default, quick, wide, paper"),
    ("objective.metric", "accuracy", "objective.metric", "accuracy", "'val_loss'"),
    ("engine.name", "dask", "engine.name", "dask", "'optuna' or 'ray'"),
    ("resources.max_concurrent", 2, "resources.max_concurrent", 2, "must be null without engine.name ray"),
    ("resources.memory_bytes", 1, "resources.memory_bytes", 1, "must be null without engine.name ray"),
    ("resources.custom", {"A100": 1}, "resources.custom", {"A100": 1.0}, "must be {} without engine.name ray"),
    ("resources.custom", {"A100": 0}, "resources.custom.A100", 0, "greater than 0"),
    ("search.sampler", "grid", "search.sampler", "grid", "'tpe', 'random', 'gp' or 'qmc'"),
    ("search.pruner", "pbt", "search.pruner", "pbt", "'asha', 'hyperband', 'median' or 'none'"),
    ("training.schedule", "step", "training.schedule", "step", "'constant', 'linear' or 'cosine'"),
    ("training.warmup_steps", 10, "training.warmup_steps", 10, "must be less than budget.steps, which is 10"),
    ("training.warmup_steps", -1, "training.warmup_steps", -1, "greater than or equal to 0"),
    ("training.max_grad_norm", 0, "training.max_grad_norm", 0, "greater than 0"),
    ("training.label_smoothing", 1, "training.label_smoothing", 1, "less than 1"),
    ("training.class_weights", "inverse", "training.class_weights", "inverse", "'balanced'"),
    ("training.last_batch", "pad", "training.last_batch", "pad", "'drop' or 'keep'"),
    ("training.precision", "float16", "training.precision", "float16", "bfloat16 or float32 without a GPU"),
    ("training.compile", "yes", "training.compile", "yes", "must be true or false"),
    ("training.clip", 1, "training.clip", 1, "The names are schedule"),
    ("baselines", ["lion"], "baselines[0]", "lion", "one of adamw, muon, soap, sgd"),
    ("baselines", ["adamw", "warpadam"], "baselines[1]", "warpadam", "one of adamw"),
    ("baselines", ["adamw", "adamw"], "baselines[1]", "adamw", "must not be named twice"),
    ("baselines", [], "baselines", [], "at least 1 item"),
    ("baselines", ["adamw"] * 9, "baselines", ["adamw"] * 9, "at most 8 items"),
    ("baselines", "adamw", "baselines", "adamw", "a list"),
    ("baselines", [1], "baselines[0]", 1, "a valid string"),
    # --- what is missing, unknown or null
    ("dataset", MISSING, "dataset", None, "is required"),
    ("dataset", {}, "dataset.name", None, "is required"),
    ("dataset", None, "dataset", None, "a JSON object"),
    ("dataset", "wine", "dataset", "wine", "a JSON object"),
    ("model", MISSING, "model", None, "is required"),
    ("model", {}, "model.name", None, "is required"),
    ("model", [], "model", [], "a JSON object"),
    ("dataset", "wine", "dataset", "wine", 'Write {"name": "wine"}.'),
    ("search_space", "quick", "search_space", "quick", 'Write {"preset": "quick"}.'),
    ("objective", "val_accuracy", "objective", "val_accuracy", 'Write {"metric": "val_accuracy"}.'),
    ("dataset", {"id": "ds-1f0c..."}, "dataset.id", "ds-1f0c...", "must have only letters, digits, _ and -"),
    ("tags", ["two words"], "tags[0]", "two words", "must begin with a letter or a digit"),
    ("model", None, "model", None, "a JSON object"),
    ("name", None, "name", None, "a valid string"),
    ("seed", None, "seed", None, "a valid integer"),
    ("budget", None, "budget", None, "a JSON object"),
    ("budget.steps", None, "budget.steps", None, "a valid integer"),
    ("search_space", None, "search_space", None, "a JSON object"),
    (OVERRIDES, None, OVERRIDES, None, "a JSON object"),
    (OVERRIDES, ["lr"], OVERRIDES, ["lr"], "a JSON object"),
    ("datset", {"name": "wine"}, "datset", {"name": "wine"}, "Did you mean 'dataset'?"),
    ("model.widths", [8], "model.widths", [8], "The names are name, hidden, activation"),
    ("model.code", 3, "model.code", 3, "The names are name, hidden, activation"),
    ("model.mlp", 3, "model.mlp", 3, "The names are name, hidden, activation"),
    ("budget.step", 3, "budget.step", 3, "Did you mean 'steps'?"),
    ("budget", {"budget": {}}, "budget.budget", {}, "The names are trials_per_arm, steps"),
    ("dataset.path", "/etc/passwd", "dataset.path", "/etc/passwd", "The names are name"),
    ("search_space.override", {}, "search_space.override", {}, "Did you mean 'overrides'?"),
    # --- user code
    ("model", {"entrypoint": "os.system"}, "model.entrypoint", "os.system", "must be a module and a function"),
    ("model", {"entrypoint": "../a:b"}, "model.entrypoint", "../a:b", "such as package.module:function"),
    ("model", {"entrypoint": "a:b" * 40}, "model.entrypoint", "a:b" * 40, "at most 100 characters"),
    ("model", {"entrypoint": None}, "model.entrypoint", None, "a valid string"),
    ("model", {"name": "entrypoint"}, "model.entrypoint", None, "is required"),
    ("model", {"entrypoint": "a:b", "hidden": [1]}, "model.hidden", [1], "The names are name, entrypoint, config"),
    ("model", {"entrypoint": "a:b", "config": [1]}, "model.config", [1], "a JSON object"),
    ("model", {"entrypoint": "a:b", "config": {"x": "\0"}}, "model.config", {"x": "\0"}, "without the character NUL"),
    ("model", {"entrypoint": "a:b", "config": {"x": float("nan")}}, "model.config.x", "NaN", "a finite number"),
    (
        "model",
        {"entrypoint": "a:b", "config": {"x": ["\ud800"]}},
        "model.config",
        {"x": ["?"]},
        "half a surrogate pair",
    ),
    ("dataset", {"entrypoint": "a"}, "dataset.entrypoint", "a", "must be a module and a function"),
    (
        "dataset",
        {"name": "wine", "config": {"x": 1}},
        "dataset.config",
        {"x": 1},
        "needs dataset.entrypoint",
    ),
    # --- ranges and types
    ("name", "", "name", "", "at least 1 character"),
    ("name", "x" * 101, "name", "x" * 101, "at most 100 characters"),
    ("name", "two\nlines", "name", "two\nlines", "must be text on one line"),
    ("name", "nul\x00", "name", "nul\x00", "must be text on one line"),
    ("name", "escape\x1b[31m", "name", "escape\x1b[31m", "must be text on one line"),
    ("name", "escape\x9b31m", "name", "escape\x9b31m", "must be text on one line"),
    ("name", 7, "name", 7, "a valid string"),
    ("budget.steps", 0, "budget.steps", 0, "greater than or equal to 1"),
    ("budget.steps", -5, "budget.steps", -5, "greater than or equal to 1"),
    ("budget.steps", "400", "budget.steps", "400", "a valid integer"),
    ("budget.steps", True, "budget.steps", True, "a valid integer"),
    ("budget.steps", 1.5, "budget.steps", 1.5, "a valid integer"),
    ("budget.steps", 400.0, "budget.steps", 400.0, "a valid integer"),
    ("budget.steps", [400], "budget.steps", [400], "a valid integer"),
    ("budget.steps", 10**6 + 1, "budget.steps", 10**6 + 1, "less than or equal to 1000000"),
    ("budget.steps", 10**30, "budget.steps", 10**30, "less than or equal to 1000000"),
    ("budget.steps", math.nan, "budget.steps", "NaN", "a valid integer"),
    ("budget.steps", math.inf, "budget.steps", "Infinity", "a valid integer"),
    ("budget.trials_per_arm", 0, "budget.trials_per_arm", 0, "greater than or equal to 1"),
    ("budget.batch_size", 0, "budget.batch_size", 0, "greater than or equal to 1"),
    ("budget.max_seconds", 0, "budget.max_seconds", 0, "greater than 0"),
    ("budget.max_seconds", "60", "budget.max_seconds", "60", "a valid number"),
    ("budget.max_seconds", math.nan, "budget.max_seconds", "NaN", "a finite number"),
    ("budget.max_seconds", -math.inf, "budget.max_seconds", "-Infinity", "a finite number"),
    ("budget.max_seconds", 604801, "budget.max_seconds", 604801, "less than or equal to 604800"),
    ("resources.slots", 0, "resources.slots", 0, "greater than or equal to 1"),
    ("resources.slots", 65, "resources.slots", 65, "less than or equal to 64"),
    ("resources.gpus_per_trial", -1, "resources.gpus_per_trial", -1, "greater than or equal to 0"),
    ("resources.max_attempts", 0, "resources.max_attempts", 0, "greater than or equal to 1"),
    ("resources.checkpoint_every_s", 0, "resources.checkpoint_every_s", 0, "greater than 0"),
    ("resources.checkpoint_every_s", 1e9, "resources.checkpoint_every_s", 1e9, "less than or equal to 86400"),
    ("confirm.seeds", 5, "confirm.seeds", 5, "greater than or equal to 6"),
    ("confirm.seeds", 65, "confirm.seeds", 65, "less than or equal to 64"),
    ("confirm.top_k", 0, "confirm.top_k", 0, "greater than or equal to 1"),
    ("confirm.top_k", 3, "confirm.top_k", 3, "at most budget.trials_per_arm, which is 2"),
    ("confirm.min_effect", 1.1, "confirm.min_effect", 1.1, "less than or equal to 1"),
    ("seed", -1, "seed", -1, "greater than or equal to 0"),
    ("seed", 2**31, "seed", 2**31, "less than or equal to 2147483647"),
    ("model.hidden", [], "model.hidden", [], "at least 1 item"),
    ("model.hidden", [8] * 9, "model.hidden", [8] * 9, "at most 8 items"),
    ("model.hidden", [0], "model.hidden[0]", 0, "greater than or equal to 1"),
    ("model.hidden", [8, 4097], "model.hidden[1]", 4097, "less than or equal to 4096"),
    ("model.hidden", [8, 8, "8"], "model.hidden[2]", "8", "a valid integer"),
    ("model.hidden", 8, "model.hidden", 8, "a list"),
    ("model", {"name": "autoencoder"}, "model.name", "autoencoder", "needs images"),
    # --- overrides
    (f"{OVERRIDES}.p_rl", 0.1, f"{OVERRIDES}.p_rl", 0.1, "Did you mean 'p_lr'?"),
    (f"{OVERRIDES}.structure", "diag", f"{OVERRIDES}.structure", "diag", "one of diagonal, low_rank"),
    (f"{OVERRIDES}.structure", ["full", "x"], f"{OVERRIDES}.structure[1]", "x", "one of diagonal, low_rank"),
    (f"{OVERRIDES}.structure", ["full", "full"], f"{OVERRIDES}.structure[1]", "full", "repeats a name"),
    (f"{OVERRIDES}.structure", [], f"{OVERRIDES}.structure", [], "at least 1 item"),
    (f"{OVERRIDES}.structure", None, f"{OVERRIDES}.structure", None, "a valid string"),
    (f"{OVERRIDES}.strategy", "full/pre/rotation", f"{OVERRIDES}.strategy", "full/pre/rotation", "one of diagonal/pre"),
    (f"{OVERRIDES}.lr", -0.1, f"{OVERRIDES}.lr", -0.1, "a finite number of at least 0"),
    (f"{OVERRIDES}.lr", "0.1", f"{OVERRIDES}.lr", "0.1", "a finite number of at least 0"),
    (f"{OVERRIDES}.lr", True, f"{OVERRIDES}.lr", True, "a finite number of at least 0"),
    (f"{OVERRIDES}.lr", math.nan, f"{OVERRIDES}.lr", "NaN", "a finite number"),
    (f"{OVERRIDES}.lr", [0.1, -1], f"{OVERRIDES}.lr[1]", -1, "a finite number of at least 0"),
    (f"{OVERRIDES}.lr", [0.1, None], f"{OVERRIDES}.lr[1]", None, "a valid number"),
    (f"{OVERRIDES}.lr", [0.1, [0.2]], f"{OVERRIDES}.lr[1]", [0.2], "a valid number"),
    (f"{OVERRIDES}.lr", [0.1, 0.1], f"{OVERRIDES}.lr[1]", 0.1, "repeats a value"),
    (f"{OVERRIDES}.lr", [0.1] * 101, f"{OVERRIDES}.lr", None, "at most 100 items"),
    (f"{OVERRIDES}.beta2", 1, f"{OVERRIDES}.beta2", 1, "below 1"),
    (f"{OVERRIDES}.meta_every", 2.5, f"{OVERRIDES}.meta_every", 2.5, "a whole number of at least 1"),
    (
        f"{OVERRIDES}.meta_every",
        {"low": 1.5, "high": 3},
        f"{OVERRIDES}.meta_every.low",
        1.5,
        "a whole number of at least 1",
    ),
    (f"{OVERRIDES}.p_lr", {"high": 1}, f"{OVERRIDES}.p_lr.low", None, "is required"),
    (f"{OVERRIDES}.p_lr", {"low": 0.1}, f"{OVERRIDES}.p_lr.high", None, "is required"),
    (f"{OVERRIDES}.p_lr", {"low": 0.2, "high": 0.1}, f"{OVERRIDES}.p_lr.low", 0.2, "at most the high end, 0.1"),
    (f"{OVERRIDES}.p_lr", {"low": 0, "high": 1, "log": True}, f"{OVERRIDES}.p_lr.low", 0, "above 0"),
    (f"{OVERRIDES}.p_lr", {"low": 0, "high": 1, "log": 1}, f"{OVERRIDES}.p_lr.log", 1, "true or false"),
    (f"{OVERRIDES}.p_lr", {"low": "a", "high": 1}, f"{OVERRIDES}.p_lr.low", "a", "a valid number"),
    (f"{OVERRIDES}.p_lr", {"low": 0.1, "high": math.inf}, f"{OVERRIDES}.p_lr.high", "Infinity", "a finite number"),
    (f"{OVERRIDES}.p_lr", {"low": 0.1, "high": 1, "q": 2}, f"{OVERRIDES}.p_lr.q", 2, "The names are low, high, log"),
    (
        f"{OVERRIDES}.p_lr",
        {"low": 0.1, "high": 1, "range": 2},
        f"{OVERRIDES}.p_lr.range",
        2,
        "The names are low, high, log",
    ),
    (f"{OVERRIDES}.rank", 17, f"{OVERRIDES}.rank", 17, "at most 8, the rows of the largest tensor"),
    (f"{OVERRIDES}.rank", [2, 9, 4, 8], f"{OVERRIDES}.rank[1]", 9, "at most 8, the rows of the largest tensor"),
    (f"{OVERRIDES}.rank", {"low": 1, "high": 9}, f"{OVERRIDES}.rank.high", 9, "at most 8, the rows of the largest"),
    (f"{OVERRIDES}.rank", 0, f"{OVERRIDES}.rank", 0, "a whole number of at least 1"),
    (
        OVERRIDES,
        {"structure": "diagonal", "rank": 2},
        f"{OVERRIDES}.rank",
        2,
        "is only used when structure is low_rank",
    ),
    (OVERRIDES, {"structure": "diagonal", "learner": "rotation"}, f"{OVERRIDES}.learner", "rotation", "kronecker"),
    (OVERRIDES, {f"p{n}": 1 for n in range(51)}, OVERRIDES, None, "at most 50 items"),
]


@pytest.mark.parametrize(("path", "wrong", "field", "value", "expected"), WRONG, ids=lambda part: str(part)[:40])
def test_wrong_field_is_named_with_its_value_and_what_would_be_right(
    shared_client: TestClient,
    shared_db: Database,
    spec: SpecMaker,
    path: str,
    wrong: object,
    field: str,
    value: object,
    expected: str,
) -> None:
    body = put(spec(search_space={"preset": "wide"}), path, wrong)
    (error,) = refused(shared_client, shared_db, body)
    assert error["field"] == field
    assert expected in f"{error['message']}. {error['hint']}"
    if value is not None or wrong in (None, MISSING):
        assert error["value"] == value


def test_every_wrong_field_is_named_at_once(shared_client: TestClient, shared_db: Database, spec: SpecMaker) -> None:
    body = spec(dataset={"name": "iris"}, baselines=["x"], confirm={"top_k": 4}, search_space={"preset": "y"})
    errors = refused(shared_client, shared_db, body)
    assert [error["field"] for error in errors] == [
        "dataset.name",
        "baselines[0]",
        "confirm.top_k",
        "search_space.preset",
    ]
    errors = refused(shared_client, shared_db, spec(seed=-1, budget={"steps": 0}, model={"name": "mlp", "hidden": [0]}))
    assert [error["field"] for error in errors] == ["model.hidden[0]", "budget.steps", "seed"]


@pytest.mark.parametrize(
    ("path", "wrong", "fields"),
    [
        ("model", {"name": "mlp", "mlp": 1, "hidden": "x"}, {"model.mlp", "model.hidden"}),
        (
            OVERRIDES,
            {"p_lr": {"range": 1, "low": "a"}},
            {f"{OVERRIDES}.p_lr.{end}" for end in ("range", "low", "high")},
        ),
        (OVERRIDES, {"lr": None, "value": None}, {f"{OVERRIDES}.lr", f"{OVERRIDES}.value"}),
    ],
)
def test_fields_beside_one_that_is_called_like_a_member_of_a_union_keep_their_names(
    shared_client: TestClient, shared_db: Database, spec: SpecMaker, path: str, wrong: object, fields: set[str]
) -> None:
    assert {error["field"] for error in refused(shared_client, shared_db, put(spec(), path, wrong))} == fields


def test_field_of_a_union_is_named_once(shared_client: TestClient, shared_db: Database, spec: SpecMaker) -> None:
    errors = refused(shared_client, shared_db, spec(search_space={"overrides": {"lr": None}}))
    assert [error["field"] for error in errors] == ["search_space.overrides.lr"]
    assert errors[0]["message"] == "must be a valid string or true or false or a valid integer or a valid number"


@pytest.mark.parametrize(
    ("path", "wrong", "code"),
    [
        ("model", MISSING, "missing"),
        ("model", {}, "missing"),
        ("budget.step", 3, "unknown_field"),
        ("model.name", "cnn", "unknown_name"),
        ("engine.name", "dask", "unknown_name"),
        ("budget.steps", 0, "out_of_range"),
        ("name", "x" * 101, "out_of_range"),
        ("budget.max_seconds", math.inf, "out_of_range"),
        ("budget.steps", "400", "wrong_type"),
        ("budget.steps", 1.5, "wrong_type"),
        ("dataset", None, "wrong_type"),
        (f"{OVERRIDES}.lr", None, "wrong_type"),
        ("name", "two\nlines", "invalid"),
    ],
)
def test_the_code_says_what_kind_of_mistake_it_is(
    shared_client: TestClient, shared_db: Database, spec: SpecMaker, path: str, wrong: object, code: str
) -> None:
    (error,) = refused(shared_client, shared_db, put(spec(), path, wrong))
    assert error["code"] == code
