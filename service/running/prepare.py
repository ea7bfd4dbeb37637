"""Prepares the data of a job and stores it."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from service.data.prepared import PreparedData
from service.errors import JobFailedError
from service.ledger.runs import RunLog
from service.running.context import Tools
from service.spec.dataset_info import DatasetInfo

if TYPE_CHECKING:
    from service.data.families import FamilySummary
    from service.data.prepare import PreparedFile


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
        from service.data.prepare import prepare_job_data  # loads scikit-learn, which an idle worker does not need

        write_dataset = partial(self._tools.user_code.write_dataset, self._spec, info)
        with tempfile.TemporaryDirectory(prefix="warptune-data-") as folder:
            file = prepare_job_data(self._spec, info.task, self._tools.artifacts, write_dataset, Path(folder))
            self.family = file.family
            self._agree_on_data(file.sha256)
            return self._store(file)

    def put_one_task(self, data: PreparedData) -> PreparedData:
        """Store the split of one meta-test task, so that the P of a family can be tried on it."""
        from service.data.prepare import write_one_task

        with tempfile.TemporaryDirectory(prefix="warptune-task-") as folder:
            return self._store(write_one_task(data, Path(folder)))

    def _store(self, file: PreparedFile) -> PreparedData:
        url = self._tools.artifacts.put_file(self._record.job_id, file.path.name, file.path)
        return PreparedData(url, file.sha256)

    def _agree_on_data(self, digest: str) -> None:
        before = self._record.set_data_hash(digest)
        if before not in (None, digest):
            raise JobFailedError(
                f"the data that this worker prepares has SHA-256 {digest}, the trials so far were trained on {before}: "
                "the workers have different versions of numpy or scikit-learn"
            )
