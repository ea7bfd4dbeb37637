# A service for one program, in whatever folder that program runs.
from __future__ import annotations

from pathlib import Path

import pytest

from service.client.private import NotStartedError, private_service
from tests.conftest import SpecMaker


def test_an_address_of_the_environment_that_it_does_not_use_may_be_wrong(tmp_path: Path, spec: SpecMaker) -> None:
    settings = {
        "WARPTUNE_DATABASE_URL": "sqlite:///own.db",
        "WARPTUNE_ARTIFACTS_URL": "artifacts",
        "WARPTUNE_HOST": "not a host",
        "WARPTUNE_PORT": "abc",
    }
    with private_service(settings, folder=tmp_path, worker=False) as client:
        assert client.estimate(spec())["arms"]  # in a process of its own


def test_a_folder_that_cannot_be_written_is_named_in_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WARPTUNE_DATABASE_URL", raising=False)
    (tmp_path / "warptune-data").touch()
    message = f"cannot write to the folder {tmp_path}/warptune-data, .* set WARPTUNE_DATABASE_URL and WARPTUNE_ARTIFACT"
    with pytest.raises(NotStartedError, match=message), private_service(folder=tmp_path):
        raise AssertionError


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_its_worker_starts_where_the_address_of_the_environment_is_in_files(
    tmp_path: Path, spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "port").write_text("8001")
    monkeypatch.setenv("WARPTUNE_PORT_FILE", str(tmp_path / "port"))
    settings = {"WARPTUNE_DATABASE_URL": "sqlite:///own.db", "WARPTUNE_ARTIFACTS_URL": "artifacts"}
    with private_service(settings, folder=tmp_path) as client:
        job = client.submit(spec(budget={"trials_per_arm": 1, "steps": 2}))
        *_, ended = client.watch(job["id"])
    assert ended["state"] == "succeeded", ended["cause"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_folder_of_the_user_that_is_called_as_ours_takes_nobodys_place(tmp_path: Path, spec: SpecMaker) -> None:
    (tmp_path / "service").mkdir()
    (tmp_path / "service" / "__init__.py").write_text("raise AssertionError('not this one')\n")
    settings = {"WARPTUNE_DATABASE_URL": "sqlite:///own.db", "WARPTUNE_ARTIFACTS_URL": "artifacts"}
    with private_service(settings, folder=tmp_path) as client:
        job = client.submit(spec(budget={"trials_per_arm": 1, "steps": 2}))
        *_, ended = client.watch(job["id"])
    assert ended["state"] == "succeeded", ended["cause"]
