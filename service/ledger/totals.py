"""Totals for monitoring: how often something happened, and histograms of seconds.

They are added in the transaction of what they count, so they agree with the ledger, and reading them costs the same
however many jobs and trials there are. They outlive the jobs that they count.
"""

from __future__ import annotations

import zlib
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Final, NamedTuple

from sqlalchemy import func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from service.db.models import Total

SHARDS: Final = 8

SUM: Final = "sum"
"""Bucket with the sum of what a histogram has seen."""

BUCKETS: Final = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10000.0)
"""Upper bounds of the buckets of a histogram, in seconds. Greater values are in the bucket ``+Inf``."""

BOUNDS: Final = (*(f"{bound:g}" for bound in BUCKETS), "+Inf")


class Name(StrEnum):
    """What is counted. The comment says what the label is."""

    JOBS_ENDED = "jobs_ended"  # state of the job
    TRIALS_ENDED = "trials_ended"  # state of the trial
    RUNS_ENDED = "runs_ended"  # state of the confirmation run
    TRIAL_SECONDS = "trial_seconds"  # arm; a histogram
    P_UPDATE_SECONDS = "p_update_seconds"  # arm; a histogram
    LEASE_LOSSES = "lease_losses"
    RETRIES = "retries"  # what has died: slot or worker
    SLOT_DEATHS = "slot_deaths"  # what the slot was doing: running or starting


class Count(NamedTuple):
    """What to add to a total."""

    name: Name
    label: str = ""
    value: float = 1.0
    bucket: str = ""


def observed(name: Name, label: str, seconds: float) -> Iterator[Count]:
    """Yield what a value adds to a histogram."""
    yield Count(name, label, 1.0, BOUNDS[bisect_left(BUCKETS, seconds)])
    yield Count(name, label, seconds, SUM)


def add(session: Session, job_id: str, counts: Iterable[Count]) -> None:
    """Add to totals, in the transaction of ``session``; at most once in it, as the last thing that it locks.

    Rows are written in one order, so two transactions cannot wait for each other.
    """
    merged: dict[tuple[str, str, str], float] = defaultdict(float)
    for count in counts:
        merged[count.name, count.label[:40], count.bucket] += count.value
    if not merged:
        return
    session.flush()  # what is counted, so that totals come last
    shard = zlib.crc32(job_id.encode()) % SHARDS
    rows = [
        {"name": name, "label": label, "bucket": bucket, "shard": shard, "value": value}
        for (name, label, bucket), value in sorted(merged.items())
    ]
    dialect = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
    insert = dialect.insert(Total).values(rows)
    session.execute(
        insert.on_conflict_do_update(
            index_elements=[Total.name, Total.label, Total.bucket, Total.shard],
            set_={"value": Total.value + insert.excluded.value},
        )
    )


def read(session: Session) -> dict[Name, dict[str, dict[str, float]]]:
    """Return every total, by name, label and bucket."""
    found: dict[Name, dict[str, dict[str, float]]] = {name: {} for name in Name}
    key = (Total.name, Total.label, Total.bucket)
    for name, label, bucket, value in session.execute(select(*key, func.sum(Total.value)).group_by(*key)):
        found[Name(name)].setdefault(label, {})[bucket] = value
    return found
