"""Prepares the data of a job: opens its sources, splits or groups the rows, and writes one NPZ file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from service.artifacts import DATA_FILE, TASK_FILE, ArtifactStore, local_folder
from service.data.families import FamilySummary, prepare_datasets, prepare_family
from service.data.prepared import PreparedData
from service.data.prepared_files import SPLIT_ARRAYS, load_family, pack_arrays, save_arrays
from service.data.sources import Arrays, Source, Table, bundled_source, stored_source
from service.data.split import write_split
from service.spec.data import DatasetSpec
from service.spec.job import JobSpec


@dataclass(frozen=True, slots=True)
class PreparedFile:
    """A local file with prepared arrays, the hash of its content, and the tasks of the family if the job has one."""

    path: Path
    sha256: str
    family: FamilySummary | None = None


def prepare_job_data(
    spec: JobSpec, task: str, artifacts: ArtifactStore, write_dataset: Callable[[Path], None], folder: Path
) -> PreparedFile:
    """Prepare the data of a job and write it to a file in ``folder``.

    Args:
        spec: The job's spec.
        task: What its data is for.
        artifacts: Has the uploaded datasets.
        write_dataset: Makes a dataset folder with the user code that the spec names; not called if it names none.
        folder: An empty folder on this machine.

    Raises:
        JobFailedError: The rows make too few tasks, or a text is too short for a window.

    Cost: a table and the features of a family are in memory as a whole, arrays and other features piece by piece.
    """
    arrays, made, file = folder / "arrays", folder / "made", folder / DATA_FILE
    arrays.mkdir()
    made.mkdir()

    @contextmanager
    def opened(chosen: DatasetSpec) -> Iterator[Source]:
        if chosen.name is not None:
            yield bundled_source(chosen.name)
        elif chosen.entrypoint is not None:
            write_dataset(made)
            yield stored_source(made, chosen, task)
        else:
            with local_folder(artifacts.dataset_url(chosen.label)) as stored:
                yield stored_source(stored, chosen, task)

    with ExitStack() as stack:
        sources = {chosen.label: stack.enter_context(opened(chosen)) for chosen in spec.datasets.values()}
        if spec.family is None:
            write_split(sources[spec.dataset.label], spec.model, spec.seed, arrays)
            return PreparedFile(file, pack_arrays(arrays, SPLIT_ARRAYS, file))
        tables = {label: source for label, source in sources.items() if isinstance(source, Table | Arrays)}
        if spec.family.datasets is not None:
            family, summary = prepare_datasets(tables, spec.family, spec.seed)
        else:
            family, summary = prepare_family(tables[spec.dataset.label], spec.family, spec.seed)
    return PreparedFile(file, family.pack(arrays, file), summary)


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
