"""Prepares the data of a job: opens its sources, splits or groups the rows, and writes one NPZ file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from service.artifacts import DATA_FILE, PREPROCESSING_FILE, TASK_FILE, ArtifactStore, local_folder, split_file
from service.data.encoding import Preprocessing
from service.data.equations import collocation
from service.data.extremes import refuse_extremes
from service.data.families import FamilySummary, prepare_datasets, prepare_family
from service.data.leaks import notes_about_rows, suspicions
from service.data.prepared import PreparedData
from service.data.prepared_files import (
    SPLIT_ARRAYS,
    SPLIT_PARTS,
    Array,
    load_family,
    pack_arrays,
    save_arrays,
    split_arrays,
)
from service.data.sources import Arrays, Equation, Source, Table, Text, bundled_source, stored_source
from service.errors import JobFailedError
from service.spec.data import DatasetSpec
from service.spec.dataset_info import part_bounds
from service.spec.job import JobSpec
from service.spec.metrics import metric_of
from service.spec.models import LoopSpec, ModelSpec, TransformerSpec


@dataclass(frozen=True, slots=True)
class PreparedFile:
    """A local file with prepared arrays.

    Attributes:
        sha256: Hash of its content.
        family: The tasks of the family if the job has one.
        notes: What a person should know about the split, one sentence each.
        preprocessing: A file that says how rows became these arrays, where they did.
    """

    path: Path
    sha256: str
    family: FamilySummary | None = None
    notes: tuple[str, ...] = ()
    preprocessing: Path | None = None


def prepare_job_data(
    spec: JobSpec,
    task: str,
    artifacts: ArtifactStore,
    write_dataset: Callable[[Path], None],
    folder: Path,
    other_seeds: Iterable[int] = (),
) -> PreparedFile:
    """Prepare the data of a job and write it to a file in ``folder``.

    Args:
        spec: The job's spec.
        task: What its data is for.
        artifacts: Has the uploaded datasets.
        write_dataset: Makes a dataset folder with the user code that the spec names; not called if it names none.
        folder: An empty folder on this machine.
        other_seeds: Seeds of the splits that the job will use later, which :func:`prepare_splits` then writes. They are
            drawn here only to find out now whether they can be.

    Raises:
        JobFailedError: The rows make too few tasks, a text is too short for a window, a split leaves a class out, or a
            few numbers are too far from all others.

    Cost: a table and the features of a family are in memory as a whole, arrays and other features piece by piece.
    """
    arrays, made, file = folder / "arrays", folder / "made", folder / DATA_FILE
    arrays.mkdir()
    made.mkdir()
    if isinstance(spec.model, LoopSpec):  # it has its own data
        return PreparedFile(file, pack_arrays(arrays, (), file))
    with ExitStack() as stack:
        sources = {
            chosen.label: stack.enter_context(_opened(chosen, task, artifacts, write_dataset, made))
            for chosen in spec.datasets.values()
        }
        tables = {label: source for label, source in sources.items() if isinstance(source, Table | Arrays)}
        for table in tables.values():
            refuse_extremes(table, spec.dataset.target_transform)
        if spec.family is None:
            source = sources[spec.dataset.label]
            write_split(source, spec.model, spec.seed, arrays, _kept_transform(spec))
            notes: tuple[str, ...] = ()
            if isinstance(source, Table | Arrays):
                notes = tuple(notes_about_rows(source, spec.seed))
                for seed in other_seeds:
                    source.split.parts(source.rows, seed, source.target.classes, source.target.labels)
            fitted, sha256 = arrays / PREPROCESSING_FILE, pack_arrays(arrays, split_arrays(arrays), file)
            return PreparedFile(file, sha256, notes=notes, preprocessing=fitted if fitted.exists() else None)
        if spec.family.datasets is not None:
            family, summary = prepare_datasets(tables, spec.family, spec.seed)
        else:
            family, summary = prepare_family(tables[spec.dataset.label], spec.family, spec.seed)
    return PreparedFile(file, family.pack(arrays, file), summary)


def look_at_rows(spec: JobSpec, task: str, folder: Path) -> tuple[str, ...]:
    """Return what may be wrong with the rows of an uploaded dataset; :func:`prepare_job_data` would note it too.

    Args:
        spec: The spec of a job without a family.
        task: What its data is for.
        folder: The folder of its dataset.

    Raises:
        JobFailedError: A split leaves a class out, or a few numbers are too far from all others.
    """
    source = stored_source(folder, spec.dataset, task)
    if isinstance(source, Text):
        return ()
    refuse_extremes(source, spec.dataset.target_transform)
    return tuple(suspicions(source, spec.seed))


def prepare_splits(
    spec: JobSpec,
    task: str,
    artifacts: ArtifactStore,
    write_dataset: Callable[[Path], None],
    folder: Path,
    seeds: Iterable[int],
) -> Iterator[tuple[int, PreparedFile]]:
    """Yield further splits of a job's rows with the seeds that draw them, each written to a file in ``folder``.

    The other arguments are those of :func:`prepare_job_data`.
    """
    made = folder / "made"
    made.mkdir()
    with _opened(spec.dataset, task, artifacts, write_dataset, made) as source:
        for seed in seeds:
            arrays, file = folder / f"arrays-{seed}", folder / split_file(seed)
            arrays.mkdir()
            write_split(source, spec.model, seed, arrays, _kept_transform(spec))
            yield seed, PreparedFile(file, pack_arrays(arrays, split_arrays(arrays), file))


def _kept_transform(spec: JobSpec) -> str | None:
    """Return the target transform if runs have to undo it; None if the targets can stay standardised.

    The loss and R2 of standardised targets need no units, and their files stay those of earlier versions.
    """
    metric, transform = metric_of(spec.objective.metric), spec.dataset.target_transform
    has_units = metric is not None and metric.unit == "target"
    return transform if has_units or transform != "standardise" else None


@contextmanager
def _opened(
    chosen: DatasetSpec, task: str, artifacts: ArtifactStore, write_dataset: Callable[[Path], None], made: Path
) -> Iterator[Source]:
    """Open a source of a job; ``made`` is the folder for a dataset that user code makes."""
    if chosen.name is not None:
        yield bundled_source(chosen.name)
    elif chosen.entrypoint is not None:
        write_dataset(made)
        yield stored_source(made, chosen, task)
    else:
        with local_folder(artifacts.dataset_url(chosen.label)) as stored:
            yield stored_source(stored, chosen, task)


def write_one_task(family: PreparedData, folder: Path) -> PreparedFile:
    """Write the first meta-test task of a family as the split of a run on one task, to a file in ``folder``.

    Its held-out rows are both validation and test.
    """
    task = load_family(family.url, family.sha256).tasks("meta_test")[0]
    save_arrays({"x_train": task.x_train, "y_train": task.y_train}, folder)
    for part in ("val", "test"):
        save_arrays({f"x_{part}": task.x_held_out, f"y_{part}": task.y_held_out}, folder)
    file = folder / TASK_FILE
    return PreparedFile(file, pack_arrays(folder, SPLIT_ARRAYS, file))


def write_split(source: Source, model: ModelSpec, seed: int, folder: Path, kept_transform: str | None = None) -> None:
    """Write the arrays of a split as .npy files, and how rows became features as JSON.

    ``model`` tells how a text becomes windows of tokens. The parts of a text do not depend on the seed. The targets of
    a regression are standardised, or transformed by ``kept_transform``, which is then written too.

    Raises:
        JobFailedError: The transform does not take the targets, or a text is too short for a window.

    Cost: of ``Arrays`` and of the features of a ``Table``, a piece is in memory at once.
    """
    if isinstance(source, Text):
        assert isinstance(model, TransformerSpec), "only a transformer takes a text"
        save_arrays(_text_windows(source.content, model), folder)
    elif isinstance(source, Equation):
        save_arrays(collocation(source.name, seed), folder)
    else:
        in_drawn_order = isinstance(source, Arrays) and source.keeps_draw_order
        target = source.target
        parts = source.split.parts(source.rows, seed, target.classes, target.labels, keeps_draw_order=in_drawn_order)
        encoder = source.encoder(parts["train"])
        for part, rows in parts.items():
            shape = (len(rows), encoder.width)
            x = np.lib.format.open_memmap(folder / f"x_{part}.npy", "w+", np.float32, shape)
            encoder.write(rows, x)
            x.flush()
        if source.target.values is None:
            learned: dict[str, Any] = {}
            save_arrays({f"y_{part}": np.zeros(0, dtype=np.float32) for part in parts}, folder)
        else:
            y, learned = source.target.encode(parts["train"], kept_transform or "standardise")
            save_arrays({f"y_{part}": y[rows] for part, rows in parts.items()}, folder)
            if kept_transform is not None:
                units = np.asarray(source.target.values, dtype=np.float64)[:, None]
                save_arrays({**learned, **{f"target_{part}": units[rows] for part, rows in parts.items()}}, folder)
        how = Preprocessing(features=encoder.fitted, target=source.target.fitted(learned))
        (folder / PREPROCESSING_FILE).write_text(json.dumps(how, indent=1), encoding="utf-8")


def _text_windows(text: bytes, model: TransformerSpec) -> dict[str, Array]:
    """Return the arrays of the split of a text: windows of tokens, and the next token of each.

    The parts are consecutive pieces of the text, as windows drawn at random would be neighbours of training windows.
    Every distinct character of the whole text is a token, if the tokens are characters.

    Raises:
        JobFailedError: A part is shorter than a window.
    """
    if model.tokens == "characters":
        codes = np.frombuffer(text.decode().encode("utf-32-le"), dtype=np.uint32)
        tokens = np.unique(codes, return_inverse=True)[1]
    else:
        tokens = np.frombuffer(text, dtype=np.uint8)
    arrays: dict[str, Array] = {}
    for part, piece in zip(SPLIT_PARTS, np.split(tokens.astype(np.int64), part_bounds(len(tokens))), strict=True):
        count = (len(piece) - 1) // model.context
        if not count:
            raise JobFailedError(
                f"the {part} part of the text has {len(piece)} tokens, fewer than a window of {model.context}; "
                "make model.context shorter"
            )
        length = count * model.context
        arrays[f"x_{part}"] = piece[:length].reshape(count, model.context)
        arrays[f"y_{part}"] = piece[1 : length + 1].reshape(count, model.context)
    return arrays
