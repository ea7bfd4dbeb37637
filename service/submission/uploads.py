"""Stores a checked upload: its dataset folder in the artifact store, its row in the ledger."""

from __future__ import annotations

from service.artifacts import ArtifactStore
from service.data.upload import Upload
from service.db.models import DatasetRow
from service.db.session import Database
from service.ledger import datasets as ledger
from service.ledger.events import now


def store_upload(db: Database, artifacts: ArtifactStore, upload: Upload, name: str) -> tuple[DatasetRow, bool]:
    """Store an upload that has arrived as a whole; return its row, and whether it is new.

    The same content in the same format is stored once. An empty ``name`` is replaced by one made of the dataset's id.

    Raises:
        InvalidFileError: The file cannot be used.
    """
    earlier = ledger.find(db, upload.dataset_id)
    if earlier is not None:
        return earlier, False
    facts, folder = upload.unpack()
    artifacts.put_dataset(upload.dataset_id, folder)
    row = DatasetRow(
        id=upload.dataset_id,
        name=name or f"{upload.dataset_id}.{upload.format}",
        format=upload.format,
        sha256=upload.sha256,
        size_bytes=upload.size_bytes,
        facts=facts.to_json(),
        created_at=now(),
    )
    return ledger.add(db, row)
