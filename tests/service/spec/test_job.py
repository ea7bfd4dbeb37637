# The spec is strict: nothing is coerced, nothing is ignored, and what it writes out is read back as the same spec.
from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from service.spec.job import (
    MAX_CONFIRM_SEEDS,
    MAX_SEED,
    BudgetSpec,
    ConfirmSpec,
    EngineSpec,
    JobSpec,
    ObjectiveSpec,
    RangeOverride,
    ResourcesSpec,
    SearchSpaceSpec,
    SearchSpec,
    TrainingSpec,
)
from service.spec.models import AutoencoderSpec, MlpSpec
from tests.conftest import SpecMaker

SMALLEST: dict[str, Any] = {"dataset": {"name": "wine"}, "model": {"name": "mlp"}}


def test_defaults_are_what_the_documents_say() -> None:
    assert JobSpec.model_validate(SMALLEST).to_json() == {
        "name": "untitled",
        "tags": [],
        "priority": 0,
        "dataset": {
            "name": "wine",
            "id": None,
            "target": None,
            "task": None,
            "exclude": [],
            "columns": {},
            "split": {"by": "random", "column": None},
            "target_transform": "standardise",
            "entrypoint": None,
            "config": {},
        },
        "model": {"name": "mlp", "hidden": [64, 64], "activation": "relu"},
        "family": None,
        "objective": {"metric": "val_loss", "target": None, "at": "best", "trade_off": None},
        "search_space": {"preset": "default", "overrides": {}},
        "arms": "warpadam",
        "baselines": ["adamw"],
        "controls": [],
        "engine": {"name": "optuna"},
        "warm_start": None,
        "search": {"sampler": "tpe", "pruner": "asha", "refine": 0.25, "from_job": None},
        "training": {
            "schedule": "linear",
            "warmup_steps": 0,
            "max_grad_norm": None,
            "label_smoothing": 0.0,
            "class_weights": None,
            "last_batch": "drop",
            "precision": "float32",
            "compile": False,
            "patience": None,
        },
        "budget": {"trials_per_arm": 20, "steps": 400, "batch_size": 128, "max_seconds": 600.0},
        "resources": {
            "slots": 1,
            "max_concurrent": None,
            "cpus_per_trial": 1,
            "gpus_per_trial": 0.0,
            "memory_bytes": None,
            "custom": {},
            "max_attempts": 2,
            "checkpoint_every_s": 30.0,
        },
        "confirm": {"top_k": None, "seeds": 8, "splits": None, "min_effect": 0.01},
        "notify": None,
        "seed": 0,
    }


@pytest.mark.parametrize(
    "url",
    [
        "ftp://hooks.example.org/",
        "hooks.example.org/in",
        "https://",
        "https://user:password@hooks.example.org/",
        "https://hooks.example.org/#part",
        "https://hooks.example.org:99999/",
        "https://other.example.net\\.hooks.example.org/",
        "https://hooks.example.org/a b",
    ],
)
def test_what_is_no_url_to_notify_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match=r"notify\.url"):
        JobSpec.model_validate(SMALLEST | {"notify": {"url": url}})


def test_written_out_spec_is_read_back_as_the_same(spec: SpecMaker) -> None:
    overrides = {"lr": {"low": 0, "high": 1.0, "log": False}, "rank": [1, 2], "beta1": 0.9, "structure": "full"}
    parsed = JobSpec.model_validate(spec(search_space={"preset": "paper", "overrides": overrides}))
    again = JobSpec.model_validate(parsed.to_json())
    assert again == parsed
    assert again.to_json() == parsed.to_json()


def test_whole_json_numbers_stay_whole() -> None:
    given = {"low": 1, "high": 16}
    override = SearchSpaceSpec.model_validate({"overrides": {"rank": given, "p_lr": 1.0}}).overrides
    rank = override["rank"]
    assert isinstance(rank, RangeOverride)
    assert (type(rank.low), type(rank.high), rank.log) == (int, int, None)
    assert type(override["p_lr"]) is float


@pytest.mark.parametrize("value", ["full", True, 1, 0.5, ["full", "diagonal"], [1, 2.5], {"low": 1, "high": 2}])
def test_override_keeps_the_kind_of_its_value(value: object) -> None:
    spec = SearchSpaceSpec.model_validate({"overrides": {"x": value}})
    assert spec.model_dump(mode="json", exclude_none=True)["overrides"]["x"] == value
    assert type(spec.overrides["x"]) is (RangeOverride if isinstance(value, dict) else type(value))


@pytest.mark.parametrize(
    ("model", "field", "low", "high"),
    [
        (BudgetSpec, "trials_per_arm", 1, 10_000),
        (BudgetSpec, "steps", 1, 1_000_000),
        (BudgetSpec, "batch_size", 1, 65_536),
        (ResourcesSpec, "slots", 1, 64),
        (ResourcesSpec, "cpus_per_trial", 1, 256),
        (ResourcesSpec, "gpus_per_trial", 0, 8),
        (ResourcesSpec, "max_concurrent", 1, 10_000),
        (ResourcesSpec, "max_attempts", 1, 10),
        (ConfirmSpec, "top_k", 1, 10),
        (ConfirmSpec, "seeds", 6, 64),
        (ConfirmSpec, "splits", 1, 64),
        (TrainingSpec, "patience", 1, 1_000_000),
        (ConfirmSpec, "min_effect", 0, 1),
        (AutoencoderSpec, "code", 1, 4096),
    ],
)
def test_ends_of_a_range_are_in_it_and_what_is_beyond_is_not(
    model: type[BaseModel], field: str, low: int, high: int
) -> None:
    for value in (low, high):
        assert getattr(model.model_validate({field: value}), field) == value
    for value in (low - 1, high + 1):
        with pytest.raises(ValidationError):
            model.model_validate({field: value})


@pytest.mark.parametrize("seed", [0, MAX_SEED])
def test_seed_leaves_room_for_the_fresh_ones(seed: int) -> None:
    parsed = JobSpec.model_validate(SMALLEST | {"seed": seed})
    assert parsed.seed + 1 + 2 * MAX_CONFIRM_SEEDS < 2**32


@pytest.mark.parametrize(
    "name", ["x", "x" * 100, "größer 🚀", "a/b", '"; DROP TABLE jobs; --', "[bold]", "{}", "\u202e"]
)
def test_name_is_any_line_of_text(name: str) -> None:
    assert JobSpec.model_validate(SMALLEST | {"name": name}).name == name


@given(st.characters(codec=None, categories=["Cc", "Cs"]))
def test_name_holds_no_control_character(character: str) -> None:
    with pytest.raises(ValidationError):
        JobSpec.model_validate(SMALLEST | {"name": f"a{character}b"})


@pytest.mark.parametrize(
    "model",
    [
        JobSpec,
        MlpSpec,
        AutoencoderSpec,
        ObjectiveSpec,
        SearchSpaceSpec,
        EngineSpec,
        SearchSpec,
        TrainingSpec,
        BudgetSpec,
        ResourcesSpec,
        ConfirmSpec,
    ],
)
def test_no_part_takes_an_unknown_field_or_a_change(model: type[BaseModel]) -> None:
    body = SMALLEST if model is JobSpec else {}
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        model.model_validate(body | {"unknown": 1})
    with pytest.raises(ValidationError, match="frozen"):
        setattr(model.model_validate(body), next(iter(model.model_fields)), None)


@pytest.mark.parametrize(
    ("top_k", "trials", "rounds"),
    [
        (None, 20, [6, 4, 3, 2]),
        (None, 3, [3, 2, 2, 2]),
        (None, 1, []),
        (1, 20, []),
        (2, 20, [2, 2, 2, 2]),
        (10, 20, [10, 7, 5, 4, 3, 2]),
    ],
)
def test_a_third_of_the_trials_drops_out_of_the_race_after_each_round(
    top_k: int | None, trials: int, rounds: list[int]
) -> None:
    parsed = JobSpec.model_validate(SMALLEST | {"confirm": {"top_k": top_k}, "budget": {"trials_per_arm": trials}})
    assert parsed.race_rounds == rounds


def texts_of(schema: object, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every place of a schema where a person may write any text: values, and names in an object."""
    if isinstance(schema, dict):
        if schema.get("type") == "string" and not {"enum", "const"} & set(schema):
            yield path, schema
        if schema.get("type") == "object" and schema.get("additionalProperties"):
            yield f"{path} names", schema.get("propertyNames", {})
        for name, inner in schema.items():
            if name != "propertyNames":
                yield from texts_of(inner, f"{path}.{name}")
    elif isinstance(schema, list):
        for index, inner in enumerate(schema):
            yield from texts_of(inner, f"{path}.{index}")


def test_every_text_of_a_spec_has_a_longest_length_and_no_control_characters() -> None:
    found = dict(texts_of(JobSpec.model_json_schema()))
    free = {path: text for path, text in found.items() if "config" not in path}  # arguments of the user's own code
    assert len(free) > 15
    for path, text in free.items():
        assert "pattern" in text, path
        assert "maxLength" in text or text["pattern"].endswith("{64}$"), path
        for odd in ("a\nb", "\x1b[31m", "a\x00", "a\x9b", "a\u2028b"):
            assert not re.fullmatch(text["pattern"], odd), path
