# What is known of user code is found in a child process with a limit of time; whatever the code does there, the answer
# is a field error, and nothing is imported here.
from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest

from service.errors import ForbiddenError, InvalidSpecError, JobFailedError
from service.settings import Settings
from service.spec.job import JobSpec
from service.user_code.probe import UserCode
from tests.conftest import SpecMaker

FAULTY = "tests.service.user_code.faulty"
MODULE = "examples.gated_mlp:make_model"
DATA = "examples.friedman:make_dataset"


@pytest.fixture
def user_code() -> UserCode:
    return UserCode(Settings(allowed_modules=f"examples,{FAULTY}"))


def job(spec: SpecMaker, **parts: Any) -> JobSpec:
    return JobSpec.model_validate(spec(**parts))


@pytest.mark.parametrize("part", ["model", "dataset"])
@pytest.mark.parametrize("allowed", [None, "example", "examples.gated", "examples.gated_mlp.make_model"])
def test_what_the_operator_has_not_allowed_is_forbidden(spec: SpecMaker, part: str, allowed: str | None) -> None:
    wanted = job(spec, **{part: {"entrypoint": MODULE}})
    with pytest.raises(ForbiddenError, match="WARPTUNE_ALLOWED_MODULES"):
        UserCode(Settings(allowed_modules=allowed)).info_for(wanted, None)


def test_a_spec_without_user_code_starts_no_process(spec: SpecMaker, user_code: UserCode) -> None:
    assert user_code.info_for(job(spec), None) is None


def test_code_that_takes_too_much_memory_is_ended_while_it_does(spec: SpecMaker) -> None:
    user_code = UserCode(Settings(allowed_modules=FAULTY, slot_memory_bytes=700 << 20))
    began = time.monotonic()
    with pytest.raises(InvalidSpecError, match=r"it took more than 0\.7 GiB of memory \(WARPTUNE_SLOT_MEMORY_BYTES\)"):
        user_code.info_for(job(spec, dataset={"entrypoint": f"{FAULTY}:too_large"}), None)
    assert time.monotonic() - began < Settings().user_code_limit_s


@pytest.mark.slow
def test_both_kinds_are_known_without_being_imported_here(
    spec: SpecMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("examples.friedman", "examples.gated_mlp"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    user_code = UserCode(Settings(allowed_modules="examples"))
    wanted = job(spec, dataset={"entrypoint": DATA, "config": {"rows": 60}}, model={"entrypoint": MODULE})
    info = user_code.info_for(wanted, None)
    assert info is not None
    assert (info.rows, info.features, info.task, info.outputs) == (60, 10, "regression", 1)
    assert info.tensors[0] == (32, 10)
    assert set(info.sources) == {DATA, MODULE}
    user_code.write_dataset(wanted, info, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"facts.json", "x.npy", "y.npy"}
    assert not {"examples.friedman", "examples.gated_mlp"} & set(sys.modules)
    other = job(spec, dataset={"entrypoint": DATA, "config": {"rows": 70}})
    with pytest.raises(JobFailedError, match="made other data than when the job was submitted"):
        user_code.write_dataset(other, info, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "factory", "reason"),
    [
        ("model", "raises", "RuntimeError: no such table"),
        ("model", "dies", "its process ended with exit code 7"),
        ("dataset", "raises", "RuntimeError: no such table"),
        ("dataset", "leaves", "SystemExit: gone"),
        ("dataset", "nothing", "has no function 'nothing'"),
    ],
)
def test_code_that_fails_is_a_field_error(
    spec: SpecMaker, user_code: UserCode, part: str, factory: str, reason: str
) -> None:
    wanted = job(spec, **{part: {"entrypoint": f"{FAULTY}:{factory}"}})
    with pytest.raises(InvalidSpecError, match=reason) as caught:
        user_code.info_for(wanted, None)
    (error,) = caught.value.errors
    assert (error.field, error.value) == (f"{part}.entrypoint", f"{FAULTY}:{factory}")


@pytest.mark.parametrize("part", ["model", "dataset"])
def test_code_that_hangs_is_ended(spec: SpecMaker, part: str) -> None:
    user_code = UserCode(Settings(allowed_modules=FAULTY, user_code_limit_s=0.5))
    with pytest.raises(InvalidSpecError, match=r"it was not done within 0\.5 seconds \(WARPTUNE_USER_CODE_LIMIT_S\)"):
        user_code.info_for(job(spec, **{part: {"entrypoint": f"{FAULTY}:hangs"}}), None)
