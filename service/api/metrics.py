"""What ``GET /metrics`` shows, in the text format of Prometheus. docs/monitoring.md explains each metric.

Requests are counted in this process. Everything else is read when somebody asks: from the ledger, so that each API
process shows the same, and at a cost that does not grow with the number of trials.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import Scope

from service.artifacts import ArtifactStore
from service.db.session import Database
from service.disk import free_bytes, written_folders
from service.ledger import queries, totals
from service.ledger.totals import Name
from service.settings import Settings
from service.states import JobState, TrialState
from service.version import versions

log = logging.getLogger(__name__)

METHODS: Final = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE")
"""Methods that are counted by their name. A client may send any word."""

SIZED_EVERY_S: Final = 600.0
"""The files of the artifact store are looked at no more often than this, because that may take long."""

LATENCIES: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)

HELP: Final[Mapping[Name, tuple[str, str, str]]] = {
    Name.JOBS_ENDED: ("warptune_jobs_ended", "Jobs that have ended", "state"),
    Name.TRIALS_ENDED: ("warptune_trials_ended", "Trials that have ended", "state"),
    Name.RUNS_ENDED: ("warptune_confirm_runs_ended", "Confirmation runs that have ended", "state"),
    Name.LEASE_LOSSES: ("warptune_lease_losses", "Jobs taken over because their worker was silent", ""),
    Name.RETRIES: ("warptune_retries", "Runs queued again because their slot or worker had died", "died"),
    Name.SLOT_DEATHS: ("warptune_slot_deaths", "Slot processes that died or hung, by what they were doing", "while"),
}
"""Name, help and label of the counters in the ledger."""

HISTOGRAMS: Final[Mapping[Name, tuple[str, str]]] = {
    Name.TRIAL_SECONDS: ("warptune_trial_seconds", "Training time of trials that have ended"),
    Name.P_UPDATE_SECONDS: (
        "warptune_p_update_seconds",
        "Training time from one update of P to the next, the mean of each trial that has ended",
    ),
}


class Metrics:
    """The metrics of one API process."""

    def __init__(self, settings: Settings, db: Database, artifacts: ArtifactStore) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call] # one more series for each series, which nobody asks for
        self._registry = CollectorRegistry()
        labels = ("method", "route", "status")
        self._requests = Counter(
            "warptune_http_requests", "Requests that were answered", labels, registry=self._registry
        )
        self._seconds = Histogram(
            "warptune_http_request_seconds",
            "Time from a request to the end of its answer",
            ("method", "route"),
            buckets=LATENCIES,
            registry=self._registry,
        )
        self._counter_of = lru_cache(4096)(self._requests.labels)
        self._histogram_of = lru_cache(1024)(self._seconds.labels)
        self._registry.register(_Service(settings, db, artifacts))

    def count(self, scope: Scope, status: int, seconds: float) -> None:
        """Count a request that was answered. Its route is the template of its path, such as ``/v1/jobs/{job_id}``."""
        method = scope["method"] if scope["method"] in METHODS else "other"
        route = getattr(scope.get("route"), "path", None) or "other"
        self._counter_of(method, route, str(status)).inc()
        self._histogram_of(method, route).observe(seconds)

    def text(self) -> bytes:
        """Return all metrics in the text format."""
        return generate_latest(self._registry)


class _Service(Collector):
    """What the ledger, the disks and the artifact store say when somebody asks."""

    def __init__(self, settings: Settings, db: Database, artifacts: ArtifactStore) -> None:
        self._settings, self._db, self._size = settings, db, _StoreSize(artifacts)

    def collect(self) -> Iterator[Metric]:
        """Yield each metric. Called by the registry, in the thread of the request."""
        known = versions()
        info = GaugeMetricFamily("warptune_build_info", "Versions, as labels; the value is 1", labels=list(known))
        info.add_metric(list(known.values()), 1)
        yield info
        yield from self._ledger()
        free = GaugeMetricFamily("warptune_disk_free_bytes", "Free bytes of a disk that is written to", labels=["disk"])
        for what, folder in written_folders(self._settings).items():
            free.add_metric([what.removeprefix("the ").replace(" ", "_")], free_bytes(folder))
        yield free
        size_bytes = self._size.bytes()
        if size_bytes is not None:
            yield GaugeMetricFamily("warptune_artifacts_bytes", "Bytes of all files of the artifact store", size_bytes)

    def _ledger(self) -> Iterator[Metric]:
        with self._db.read() as session:
            standing, counted = queries.standing(session), totals.read(session)
        jobs = GaugeMetricFamily("warptune_jobs", "Jobs by state", labels=["state"])
        for state in JobState:
            jobs.add_metric([state], standing.jobs.get(state, 0))
        trials = GaugeMetricFamily("warptune_trials", "Trials that have not ended, by state", labels=["state"])
        for live in (TrialState.QUEUED, TrialState.RUNNING):
            trials.add_metric([live], standing.live_trials.get(live, 0))
        yield from (jobs, trials)
        about = "Time since the job was queued that has been queued for longest; 0 if none is"
        yield GaugeMetricFamily("warptune_queue_age_seconds", about, standing.queue_age_s)
        about = "Running jobs whose worker has been silent for longer than its lease"
        yield GaugeMetricFamily("warptune_jobs_without_worker", about, standing.without_worker)
        for name, (metric, about, label) in HELP.items():
            counter = CounterMetricFamily(metric, about, labels=[label] if label else [])
            found = counted[name] or ({} if label else {"": {"": 0.0}})
            for value, buckets in found.items():
                counter.add_metric([value] if label else [], buckets.get("", 0.0))
            yield counter
        for name, (metric, about) in HISTOGRAMS.items():
            histogram = HistogramMetricFamily(metric, about, labels=["arm"])
            for arm, buckets in counted[name].items():
                histogram.add_metric([arm], list(_cumulative(buckets)), buckets.get(totals.SUM, 0.0))
            yield histogram


def _cumulative(buckets: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    """Yield each upper bound with the number of values up to it, as Prometheus wants them."""
    count = 0.0
    for bound in totals.BOUNDS:
        count += buckets.get(bound, 0.0)
        yield bound, count


class _StoreSize:
    """The size of the artifact store, found out in a thread of its own."""

    def __init__(self, artifacts: ArtifactStore) -> None:
        self._artifacts, self._lock = artifacts, threading.Lock()
        self._bytes: int | None = None
        self._asked: float | None = None

    def bytes(self) -> int | None:
        """Return the size when it was last looked for; None if it is not known yet. Look again if that is long ago."""
        with self._lock:
            if self._asked is None or time.monotonic() - self._asked > SIZED_EVERY_S:
                self._asked = time.monotonic()
                threading.Thread(target=self._look, name="store-size", daemon=True).start()
            return self._bytes

    def _look(self) -> None:
        try:
            found: int | None = self._artifacts.total_bytes()
        except Exception:  # each kind of store raises its own errors
            log.warning("the size of the artifact store is not known", exc_info=True)
            found = None
        with self._lock:
            self._bytes = found
