"""Repeats a zip export: checks every hash, then trains the recommended run again as the manifest describes it.

It uses the service's own training loop. It runs no code from the zip, and no name in the zip becomes a path.
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from pydantic import TypeAdapter, ValidationError

from service.artifacts import DATA_FILE, PREPROCESSING_FILE
from service.errors import ServiceError
from service.export.files import (
    BUNDLE_FORMAT,
    BUNDLE_VERSION,
    DOCUMENT,
    MANIFEST,
    P_FILE,
    PREDICT_SCRIPT,
    SCRIPT,
    START_FILE,
    WEIGHTS_FILE,
)
from service.training.run import Run
from service.version import VERSION, differences, versions

NAMES: Final = frozenset({MANIFEST, SCRIPT, DOCUMENT, DATA_FILE})
"""What every bundle holds."""

PS: Final = frozenset({P_FILE, START_FILE})
"""The P that was learned, and the P that its run started from, where there are such."""

OPTIONAL: Final = PS | {WEIGHTS_FILE, PREPROCESSING_FILE, PREDICT_SCRIPT}
"""What may also be there."""

MAX_BYTES: Final = 4 << 30
"""Unpacked size of a bundle. A larger one is refused unread."""

TOLERANCE: Final = 1e-6
"""Difference of two test losses up to which a run counts as the same."""


class BundleError(ServiceError, ValueError):
    """The file is not a complete, unchanged zip export."""

    code = "bad_bundle"


class Replay(NamedTuple):
    """A figure of a run that was repeated."""

    what: str
    found: float
    recorded: float

    @property
    def agrees(self) -> bool:
        """Whether it is as recorded, in units of the target up to a share of it."""
        return math.isclose(self.found, self.recorded, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


class Bundle(NamedTuple):
    """A zip export whose hashes are right."""

    manifest: dict[str, Any]
    files: dict[str, bytes]


def read_bundle(path: Path) -> Bundle:
    """Read a zip export and check its hashes.

    Raises:
        OSError: The file cannot be read.
        BundleError: It is not a zip export, was cut short, or was changed.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            files = _contents(archive, path)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise BundleError(f"{path} is not a complete zip file: {error}") from error
    manifest = _manifest(files.pop(MANIFEST), path)
    for name in sorted(files.keys() | manifest["files"].keys()):
        found = hashlib.sha256(files[name]).hexdigest() if name in files else "missing"
        if found != manifest["files"].get(name):
            expected = manifest["files"].get(name, "no such file")
            raise BundleError(f"{path}: {name} was changed: its SHA-256 is {found}, the manifest has {expected}")
    return Bundle(manifest, files)


def _contents(archive: zipfile.ZipFile, path: Path) -> dict[str, bytes]:
    names = archive.namelist()
    strange = sorted(set(names) - NAMES - OPTIONAL) + sorted({name for name in names if names.count(name) > 1})
    if strange:
        raise BundleError(
            f"{path} holds {strange[0]!r}; it may hold only {', '.join(sorted(NAMES | OPTIONAL))}, each once"
        )
    missing = sorted(NAMES - set(names))
    if missing:
        raise BundleError(f"{path} is not the export of a job: it has no {missing[0]}")
    size = sum(info.file_size for info in archive.infolist())
    if size > MAX_BYTES:
        raise BundleError(f"{path} unpacks to {size} bytes, more than the limit of {MAX_BYTES}")
    return {name: archive.read(name) for name in names}


def _manifest(content: bytes, path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(content)
    except ValueError as error:
        raise BundleError(f"{path}: {MANIFEST} is not JSON: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != BUNDLE_FORMAT:
        raise BundleError(f"{path}: {MANIFEST} does not have the format {BUNDLE_FORMAT}")
    if manifest.get("format_version") != BUNDLE_VERSION:
        found = manifest.get("format_version")
        raise BundleError(f"{path} has format version {found!r}, but warptune {VERSION} reads {BUNDLE_VERSION}")
    if not isinstance(manifest.get("files"), dict):
        raise BundleError(f"{path}: {MANIFEST} has no hashes of the files")
    return manifest


def replay(bundle: Bundle) -> Iterator[Replay]:
    """Train the recommended run again, then once more from the learned P if there is one.

    Raises:
        BundleError: The manifest does not describe a run, or the run cannot be repeated here.
    """
    from service.engines.base import default_train

    with tempfile.TemporaryDirectory(prefix="warptune-replay-") as folder:
        for what, run, recorded, score in _runs(bundle, Path(folder)):
            try:
                (*_, end) = default_train(run)
            except (ValueError, LookupError, TypeError, RuntimeError, ArithmeticError, ImportError) as error:
                raise BundleError(f"the run cannot be repeated here: {type(error).__name__}: {error}") from error
            assert end.test_loss is not None, "a run with test=True ends with one"
            yield Replay(f"test loss{what}", end.test_loss, recorded)
            if score is not None and end.test_score is not None:
                yield Replay(f"test {run.metric}{what}", end.test_score, score)


def why_they_differ(bundle: Bundle) -> str:
    """Return which versions differ between the recorded runs and this process, as a clause."""
    found = differences(bundle.manifest.get("versions") or {}, versions())
    if found:
        return f"they were recorded with {found}"
    return "no version differs, so another machine or number of threads may have recorded them"


def _runs(bundle: Bundle, folder: Path) -> Iterator[tuple[str, Run, float, float | None]]:
    """Yield which run is repeated, the run, its recorded test loss, and its recorded score if it is judged by one."""
    manifest = bundle.manifest
    for name in (DATA_FILE, *PS):
        if name in bundle.files:
            (folder / name).write_bytes(bundle.files[name])
    data = {"url": str(folder / DATA_FILE), "sha256": manifest["files"][DATA_FILE]}
    try:
        expected, from_p = manifest["expected"], manifest["expected_from_p"]
        if expected["test_loss"] is None and from_p is None:
            raise BundleError("there is nothing to compare with: no confirmation run of the recommendation completed")
        fields = {**manifest["run"], "seed": expected["seed"]}
        if fields.keys() & {"checkpoint_url", "p_url", "weights_url", "from_p_url"}:
            raise BundleError(f"{MANIFEST}: run names a file, which it must not")
        run = TypeAdapter(Run).validate_python({**fields, "data": data, "test": True})
        if expected["test_loss"] is not None:  # with a family, only the run from the learned P is on one task
            started = _started(run, bundle, START_FILE, folder)
            yield "", started, float(expected["test_loss"]), expected.get("test_score")
        if from_p is not None:
            if from_p["test_loss"] is None or P_FILE not in bundle.files:
                raise BundleError(f"{MANIFEST}: a run from P is expected, but its loss or {P_FILE} is missing")
            warm = _started(replace(run, seed=from_p["seed"]), bundle, P_FILE, folder)
            yield " from the learned P", warm, float(from_p["test_loss"]), None
    except (KeyError, TypeError, ValidationError) as error:
        raise BundleError(f"{MANIFEST} does not describe a run: {error}") from error


def _started(run: Run, bundle: Bundle, name: str, folder: Path) -> Run:
    """Return the run, started from a P of the bundle if that is there."""
    if name not in bundle.files:
        return run
    return replace(run, from_p_url=str(folder / name), from_p_sha256=bundle.manifest["files"][name])
