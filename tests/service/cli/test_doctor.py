# The doctor says what is wrong with an installation, and what to do about it.
from __future__ import annotations

import importlib.metadata
import json
import socket
import sqlite3
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.backup.tables import create_all
from service.cli import doctor
from service.cli.app import app
from service.db.session import create_schema
from tests.service.live import Live


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for the data, and a port that is free when the test begins."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("WARPTUNE_DATABASE_URL", f"sqlite:///{tmp_path}/data/w.db")
    monkeypatch.setenv("WARPTUNE_ARTIFACTS_URL", f"{tmp_path}/data/artifacts")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        monkeypatch.setenv("WARPTUNE_PORT", str(probe.getsockname()[1]))
    return tmp_path


def checks() -> dict[str, doctor.Check]:
    return {check.name: check for check in doctor.run_checks()}


def test_nothing_is_bad_before_the_first_start(place: Path) -> None:
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 0, done.output
    assert "BAD" not in done.stdout
    assert "is not there yet" in done.stdout
    assert list(place.iterdir()) == [], "it only looks"


def test_a_database_is_named_with_its_tables(place: Path) -> None:
    create_schema(f"sqlite:///{place}/data/w.db")
    assert checks()["database"].state == "ok"
    with sqlite3.connect(place / "data/w.db") as connection:
        connection.execute("UPDATE warptune_version SET version_num = '0001_tables'")
    found = checks()["database"]
    assert (found.state, "warptune migrate" in found.advice) == ("bad", True)
    assert "has tables 0001_tables, not 0" in found.found


@pytest.mark.parametrize(
    ("table", "version", "expected"),
    [
        ("warptune_version", "0099_newer", "of a newer warptune"),
        ("warptune_version", "0003", "of a development version"),
        ("alembic_version", "v9.0.0", "of a newer Optuna"),
        ("alembic_version", "v3.0.0.d", "of an older Optuna"),
    ],
)
def test_tables_of_another_version_are_bad_and_say_what_to_do(
    place: Path, table: str, version: str, expected: str
) -> None:
    create_all(f"sqlite:///{place}/data/w.db")
    assert checks()["database"].state == "ok"
    with sqlite3.connect(place / "data/w.db") as connection:
        connection.execute(f"UPDATE {table} SET version_num = ?", [version])
    found = checks()["database"]
    assert (found.state, f"has tables {version} {expected}" in found.found, found.advice) == ("bad", True, "")


def test_a_database_that_does_not_answer_is_bad_and_keeps_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WARPTUNE_DATABASE_URL", "postgresql+psycopg://me:w7Qz-x@127.0.0.1:1/db")
    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert done.exit_code == 1
    (found,) = [check for check in json.loads(done.stdout) if check["name"] == "database"]
    assert (found["state"], found["advice"]) == ("bad", "Start the database, or correct WARPTUNE_DATABASE_URL.")
    assert "w7Qz-x" not in done.stdout


def test_a_folder_that_cannot_be_written_is_bad(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "file").write_text("")
    monkeypatch.setenv("WARPTUNE_ARTIFACTS_URL", f"{place}/file/artifacts")
    assert checks()["artifacts"].state == "bad"


def test_little_space_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LOW_SPACE_BYTES", 1 << 60)
    found = checks()["artifacts"]
    assert found.state == "bad"
    assert "MiB free" in found.found


def test_a_port_is_free_or_ours_or_taken(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "is free" in checks()["port"].found
    monkeypatch.setenv("WARPTUNE_PORT", live.url.rpartition(":")[2])
    assert checks()["port"] == ("port", "ok", f"the service answers at {live.url}", "")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens, so that the doctor does not wait for an answer
        monkeypatch.setenv("WARPTUNE_PORT", str(taken.getsockname()[1]))
        assert checks()["port"].state == "bad"


def test_a_cluster_that_is_away_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WARPTUNE_RAY_ADDRESS", "127.0.0.1:1")
    assert checks()["ray"].state == "bad"


def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WARPTUNE_LEASE_S", "0")
    found = checks()["settings"]
    assert (found.state, found.found.startswith("lease_s (WARPTUNE_LEASE_S): must be")) == ("bad", True)


def test_packages_are_checked_against_the_versions_that_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ["torch>=99", 'gone-package>=1; extra == "service"', 'soap-package; extra == "soap"', "numpy>=2.0"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: asked)
    found = checks()
    assert found["packages"].state == "bad"
    assert f"torch is {importlib.metadata.version('torch')}, not >=99" in found["packages"].found
    assert "gone-package is not installed" in found["packages"].found
    assert "numpy" not in found["packages"].found
    assert (found["extra soap"].state, found["extra ray"].state) == ("note", "ok")
