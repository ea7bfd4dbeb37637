"""Prepares the data of a job: opens its sources, splits or groups the rows, and writes one NPZ file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from service.artifacts import DATA_FILE, TASK_FILE, ArtifactStore, local_folder
from service.data.catalog import Task
from service.data.families import FamilySummary, prepare_datasets, prepare_family
from service.data.prepared import PreparedData
from service.data.prepared_files import Family, Split, load_family, pack_arrays, save_arrays
from service.data.sources import Arrays, Source, Table, bundled_source, stored_source
from service.data.split import write_split
from service.spec.data import DatasetSpec
from service.spec.job import JobSpec

WriteDataset = Callable[[Path], None]
"""Runs the user code of a job, which writes a dataset folder."""


@dataclass(frozen=True, slots=True)
class PreparedFile:
    """A local file with prepared arrays.

    Attributes:
        path: The file.
        sha256: Hash of its content.
        family: Its tasks, if it holds a family.
    """

    path: Path
    sha256: str
    family: FamilySummary | None = None


def prepare_job_data(
    spec: JobSpec, task: Task, artifacts: ArtifactStore, write_dataset: WriteDataset, folder: Path
) -> PreparedFile:
    """Prepare the data of a job and write it to a file in ``folder``.

    Args:
        spec: The job's spec.
        task: What its data is for.
        artifacts: Where uploaded datasets are.
        write_dataset: Makes a dataset folder with user code; only called if the spec has a dataset of user code.
        folder: An empty folder on this machine.

    Raises:
        JobFailedError: The rows make too few tasks, or a text is too short for a window.

    Cost: a table and the features of a family are in memory as a whole, arrays and other features piece by piece.
    """
    arrays, made, file = folder / "arrays", folder / "made", folder / DATA_FILE
    arrays.mkdir()
    made.mkdir()
    with ExitStack() as stack:
        opened = {
            chosen.label: stack.enter_context(_open(chosen, task, artifacts, write_dataset, made))
            for chosen in spec.datasets.values()
        }
        if spec.family is None:
            write_split(opened[spec.dataset.label], spec.model, spec.seed, arrays)
            return PreparedFile(file, pack_arrays(arrays, Split, file))
        sources = {label: source for label, source in opened.items() if isinstance(source, Table | Arrays)}
        if spec.family.datasets is not None:
            family, summary = prepare_datasets(sources, spec.family, spec.seed)
        else:
            family, summary = prepare_family(sources[spec.dataset.label], spec.family, spec.seed)
        save_arrays(family.arrays(), arrays)
    return PreparedFile(file, pack_arrays(arrays, Family, file), summary)


@contextmanager
def _open(
    chosen: DatasetSpec, task: Task, artifacts: ArtifactStore, write_dataset: WriteDataset, made: Path
) -> Iterator[Source]:
    if chosen.name is not None:
        yield bundled_source(chosen.name)
    elif chosen.entrypoint is not None:
        write_dataset(made)
        yield stored_source(made, chosen, task)
    else:
        with local_folder(artifacts.dataset_url(chosen.label)) as stored:
            yield stored_source(stored, chosen, task)


def write_one_task(family: PreparedData, folder: Path) -> PreparedFile:
    """Write the first meta-test task of a family as the split of a run on one task.

    Args:
        family: The prepared family.
        folder: An empty folder on this machine.
    """
    save_arrays(load_family(family.url, family.sha256).one_task().arrays(), folder)
    file = folder / TASK_FILE
    return PreparedFile(file, pack_arrays(folder, Split, file))
