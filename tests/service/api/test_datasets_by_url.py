# Datasets that the service reads itself: from the artifact store and from what the operator has allowed, nothing else.
from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fastapi.testclient import TestClient

from service.api.app import create_app
from service.db.session import Database
from service.settings import Settings
from tests.service.api.conftest import assert_problem, count_rows, sqlite_only
from tests.service.data import files

pytestmark = sqlite_only

LIMIT = 1 << 20


@pytest.fixture
def api(settings: Settings, db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """The API with a small limit, whose operator allows a folder of the machine and one of another store."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    allowed = f"file://{tmp_path}/lake, memory://bucket/tables"
    with TestClient(app_of(settings, allowed), raise_server_exceptions=False) as opened:
        yield opened


def app_of(settings: Settings, allowed: str | None) -> Any:
    return create_app(settings.model_copy(update={"dataset_url_prefixes": allowed, "max_dataset_bytes": LIMIT}))


def put(url: str, content: bytes = files.csv()) -> str:
    fs, path = fsspec.url_to_fs(url)
    fs.makedirs(path.rpartition("/")[0], exist_ok=True)
    fs.pipe_file(path, content)
    return url


def by_url(client: TestClient, url: str, **query: str) -> Any:
    return client.post("/v1/datasets", params={"url": url, **query})


@pytest.mark.parametrize("place", ["file://{}/artifacts/incoming", "file://{}/lake/a", "memory://bucket/tables"])
def test_a_file_that_may_be_read_is_the_dataset_that_its_upload_is(api: TestClient, tmp_path: Path, place: str) -> None:
    url = put(f"{place.format(tmp_path)}/people.csv")
    answer = by_url(api, url)
    assert answer.status_code == 201, answer.text
    dataset = answer.json()
    assert (dataset["name"], dataset["format"], dataset["rows"]) == ("people.csv", "csv", 40)
    uploaded = api.post("/v1/datasets", params={"filename": "other.csv"}, content=files.csv())
    assert (uploaded.status_code, uploaded.json()) == (200, dataset)
    assert by_url(api, url).status_code == 200


def test_the_name_and_the_format_may_be_given_beside_the_url(api: TestClient, tmp_path: Path) -> None:
    url = put(f"file://{tmp_path}/lake/people")
    assert_problem(by_url(api, url), 422, "invalid_spec")
    assert by_url(api, url, format="csv", filename="named").json()["name"] == "named"


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd.csv",
        "file://{}/lake-of-others/people.csv",
        "file://{}/lake/../people.csv",
        "file://{}/lake/%2e%2e/people.csv",
        "file://{}/lake",
        "memory://bucket/other/people.csv",
        "memory://bucket/tables/../other/people.csv",
        "http://169.254.169.254/latest/people.csv",
        "s3://bucket/tables/people.csv",
    ],
)
def test_any_other_place_is_forbidden_and_not_touched(api: TestClient, db: Database, tmp_path: Path, url: str) -> None:
    (tmp_path / "people.csv").write_bytes(files.csv())
    before = count_rows(db)
    document = assert_problem(by_url(api, url.format(tmp_path), format="csv"), 403, "forbidden")
    assert "WARPTUNE_DATASET_URL_PREFIXES allows only file://" in document["detail"]
    assert count_rows(db) == before


def test_without_a_setting_only_the_artifact_store_may_be_read(
    settings: Settings, db: Database, tmp_path: Path
) -> None:
    with TestClient(app_of(settings, None)) as client:
        document = assert_problem(by_url(client, put(f"file://{tmp_path}/lake/people.csv")), 403, "forbidden")
        assert "WARPTUNE_DATASET_URL_PREFIXES is empty" in document["detail"]
        assert by_url(client, put(f"file://{tmp_path}/artifacts/people.csv")).status_code == 201


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("people.csv", "must be a URL with a scheme"),
        ("/etc/people.csv", "must be a URL with a scheme"),
        ("://people.csv", "must be a URL with a scheme"),
        ("simplecache::file:///etc/people.csv", "must be a URL with a scheme"),
        ("file://{}/lake/missing.csv", "must be the URL of a file; there is none"),
        ("file://{}/lake/folder.csv", "must be the URL of a file; there is none"),
        ("file://{}/lake/people.xls", "must end with .csv"),
    ],
)
def test_a_url_that_is_none_is_refused(api: TestClient, db: Database, tmp_path: Path, url: str, expected: str) -> None:
    (tmp_path / "lake/folder.csv").mkdir(parents=True)
    before = count_rows(db)
    document = assert_problem(by_url(api, url.format(tmp_path)), 422, "invalid_spec")
    assert expected in document["errors"][0]["message"]
    assert count_rows(db) == before


def test_a_body_beside_a_url_is_refused(api: TestClient, tmp_path: Path) -> None:
    url = put(f"file://{tmp_path}/lake/people.csv")
    answer = api.post("/v1/datasets", params={"url": url}, content=b"a,b")
    assert "must be left out if the body has a file" in assert_problem(answer, 422, "invalid_spec")["detail"]


def test_the_limits_and_checks_are_those_of_an_upload(api: TestClient, db: Database, tmp_path: Path) -> None:
    before = count_rows(db)
    large = put(f"file://{tmp_path}/lake/large.csv", b"a" * (LIMIT + 1))
    assert_problem(by_url(api, large), 413, "file_too_large")
    ragged = put(f"file://{tmp_path}/lake/ragged.csv", files.csv() + b"\n1,2\n")
    assert "Row #42" in assert_problem(by_url(api, ragged), 422, "invalid_file")["detail"]
    assert count_rows(db) == before
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_store_that_cannot_be_read_is_said(api: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("the bucket does not answer")

    monkeypatch.setattr(fsspec.get_filesystem_class("memory"), "_open", fail)
    document = assert_problem(by_url(api, "memory://bucket/tables/people.csv"), 503, "unavailable")
    assert "the bucket does not answer" in document["detail"]


@pytest.mark.parametrize("link", ["lake/secret.csv", "lake/folder"])
def test_a_symbolic_link_does_not_lead_out_of_a_folder(api: TestClient, tmp_path: Path, link: str) -> None:
    (tmp_path / "lake").mkdir(exist_ok=True)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.csv").write_bytes(files.csv())
    (tmp_path / link).symlink_to(outside / "secret.csv" if link.endswith(".csv") else outside)
    url = f"file://{tmp_path}/{link}" + ("" if link.endswith(".csv") else "/secret.csv")
    assert_problem(by_url(api, url), 403, "forbidden")
    (tmp_path / "lake/inside.csv").symlink_to(Path(put(f"file://{tmp_path}/lake/b/people.csv").removeprefix("file://")))
    assert by_url(api, f"file://{tmp_path}/lake/inside.csv").status_code in (200, 201)
