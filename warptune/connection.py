"""Where jobs run: a service at a URL, or one that is started for as long as it is needed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from service.client.private import private_service
from service.client.rest import Client


@dataclass(frozen=True)
class Connection:
    """A way to reach the service.

    Attributes:
        url: URL of a running service; None starts one.
        folder: Where a service of our own keeps its jobs, unless the environment says otherwise.
        settings: Its settings by their names in the environment.
    """

    url: str | None
    folder: Path
    settings: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def to(cls, url: str | None, settings: Mapping[str, str] | None = None) -> Connection:
        """Return the connection to a URL, to that of ``WARPTUNE_URL``, or to a service of our own."""
        return cls(url or os.environ.get("WARPTUNE_URL") or None, Path.cwd(), settings or {})

    @contextmanager
    def open(self, *, worker: bool = False) -> Iterator[Client]:
        """Connect. A service of our own runs jobs only with a worker.

        Raises:
            ApiError: The service cannot be reached.
            NotStartedError: A service of our own did not start.
        """
        if self.url is not None:
            with Client(self.url) as client:
                yield client
        else:
            with private_service(self.settings, folder=self.folder, worker=worker) as client:
                yield client
