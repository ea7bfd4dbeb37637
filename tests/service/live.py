# The API behind a real HTTP server, in a thread of the tests: for whatever talks to it over a socket. No worker runs;
# tests write trials and results as one would.
from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from service.api.app import create_app
from service.db.session import Database, create_schema
from service.settings import Settings


@dataclass(frozen=True)
class Live:
    """A running API."""

    url: str
    db: Database


@contextmanager
def serve(folder: Path, port: int = 0, **changes: Any) -> Iterator[Live]:
    """Run the API on a port, or on a free one, with its database in ``folder``. ``changes`` are settings."""
    settings = Settings(database_url=f"sqlite:///{folder}/live.db", artifacts_url=str(folder / "artifacts"), **changes)
    create_schema(settings.database_url)
    app = create_app(settings)
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None))
    app.state.is_stopping = lambda: server.should_exit
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    db = Database(settings.database_url)
    yield Live(f"http://127.0.0.1:{port}", db)
    db.close()
    server.should_exit = True
    thread.join()
