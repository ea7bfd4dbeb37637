from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from service.result.compared import Entry, compare_jobs
from service.spec.job import JobSpec
from service.states import JobState
from tests.service.results import a_result

OLD, NEW = "0" * 64, "1" * 64


def entry(number: int, data: str, sources: Mapping[str, str], **parts: Any) -> Entry:
    """Return a job of user code that has succeeded; ``data`` is what its list shows."""
    spec = JobSpec.model_validate({"model": {"name": "mlp"}, **parts}).to_json()
    return Entry(f"job-{number}", f"j{number}", JobState.SUCCEEDED, data, "any", spec, a_result(), sources)


def loop(number: int, config: dict[str, Any], code: str = OLD) -> Entry:
    model = {"name": "loop", "entrypoint": "m:train", "config": config}
    return entry(number, "m:train", {"m:train": code}, model=model)


def on_made_data(number: int, data: str, model: str = OLD) -> Entry:
    entrypoint = {"name": "entrypoint", "entrypoint": "n:make", "config": {"width": number}}
    return entry(
        number, "m:make", {"m:make": data, "n:make": model}, dataset={"entrypoint": "m:make"}, model=entrypoint
    )


@pytest.mark.parametrize(
    ("one", "other", "differs"),
    [
        (loop(1, {"data": "mnist"}), loop(2, {"data": "cifar"}), "model.config"),
        (loop(1, {}), loop(2, {}, NEW), "the code of m:train"),
        (loop(1, {}), loop(2, {"data": "cifar"}, NEW), "model.config, the code of m:train"),
        (on_made_data(1, OLD), on_made_data(2, NEW), "the code of m:make"),
    ],
)
def test_jobs_whose_user_code_may_make_other_data_are_not_compared(one: Entry, other: Entry, differs: str) -> None:
    found = compare_jobs([one, other])
    assert (found.comparable, found.best) == (False, None)
    assert found.summary == f"These jobs cannot be compared: what makes their data is not the same ({differs})."


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (loop(1, {"data": "mnist"}), loop(2, {"data": "mnist"})),
        (on_made_data(1, OLD), on_made_data(2, OLD, model=NEW)),
    ],
)
def test_jobs_on_the_same_made_data_are_compared_whatever_their_models_are(one: Entry, other: Entry) -> None:
    assert compare_jobs([one, other]).comparable
