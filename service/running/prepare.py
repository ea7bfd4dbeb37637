"""Prepares the data of a job and stores it."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from service.artifacts import DATA_FILE, TASK_FILE, local_folder
from service.data.catalog import DatasetInfo
from service.data.prepared import PreparedData
from service.errors import JobFailedError
from service.ledger.runs import RunLog
from service.running.context import Tools

if TYPE_CHECKING:
    from service.data.families import FamilySummary


class DataPreparation:
    """The data of one job.

    Args:
        record: Writes to the ledger.
        tools: Where the data comes from and where it goes.

    Attributes:
        family: The tasks of a family, once they are prepared; None for a job on one task.
    """

    def __init__(self, record: RunLog, tools: Tools) -> None:
        self._record, self._tools = record, tools
        self._spec = record.lease.spec
        self.family: FamilySummary | None = None

    def prepare(self, info: DatasetInfo) -> PreparedData:
        """Store the prepared data of the job."""
        artifacts = self._tools.artifacts
        with tempfile.TemporaryDirectory(prefix="warptune-split-") as name:
            packed = Path(name) / DATA_FILE
            if self._spec.family is None:
                self._pack_split(info, Path(name) / "arrays", packed)
            else:
                packed.write_bytes(self._pack_family())
            with packed.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            self._agree_on_data(digest)
            return PreparedData(artifacts.put_file(self._record.job_id, DATA_FILE, packed), digest)

    def _pack_split(self, info: DatasetInfo, folder: Path, packed: Path) -> None:
        from service.data.preparation import prepare_job
        from service.data.split import pack_split  # loads scikit-learn, which an idle worker does not need

        folder.mkdir()
        source = self._tools.artifacts.dataset_url(self._spec.dataset.label)
        if self._spec.dataset.entrypoint is not None:
            source = str(folder.with_name("made"))
            Path(source).mkdir()
            self._tools.user_code.write_dataset(self._spec, info, Path(source))
        prepare_job(self._spec, info, source, folder)
        pack_split(folder, packed)

    def _pack_family(self) -> bytes:
        from service.data.families import FamilyError, prepare_datasets, prepare_family
        from service.data.family_tables import bundled_table, uploaded_table

        spec = self._spec
        assert spec.family is not None, "asked for a family only"
        tables = {}
        for chosen in spec.datasets.values():
            if chosen.name is not None:
                tables[chosen.label] = bundled_table(chosen.name)
                continue
            with local_folder(self._tools.artifacts.dataset_url(chosen.label)) as folder:
                tables[chosen.label] = uploaded_table(folder, chosen)
        try:
            if spec.family.datasets is not None:
                family, self.family = prepare_datasets(tables, spec.family, spec.seed)
            else:
                family, self.family = prepare_family(tables[spec.dataset.label], spec.family, spec.seed)
        except FamilyError as error:
            raise JobFailedError(str(error)) from error
        return family.to_npz()

    def _agree_on_data(self, digest: str) -> None:
        before = self._record.set_data_hash(digest)
        if before not in (None, digest):
            raise JobFailedError(
                f"the data that this worker prepares has SHA-256 {digest}, the trials so far were trained on {before}: "
                "the workers have different versions of numpy or scikit-learn"
            )

    def put_one_task(self, data: PreparedData) -> PreparedData:
        """Store the split of one meta-test task, so that the P of a family can be tried on it."""
        from service.data.families import load_family
        from service.data.split import pack_split, save_split

        with tempfile.TemporaryDirectory(prefix="warptune-task-") as name:
            folder = Path(name)
            save_split(load_family(data.url, data.sha256).one_task().arrays(), folder)
            pack_split(folder, folder / TASK_FILE)
            digest = hashlib.sha256((folder / TASK_FILE).read_bytes()).hexdigest()
            return PreparedData(
                self._tools.artifacts.put_file(self._record.job_id, TASK_FILE, folder / TASK_FILE), digest
            )
