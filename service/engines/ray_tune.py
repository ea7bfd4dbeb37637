# The engine for a Ray cluster: Ray Tune's Tuner places the runs, starts them and stops them early; a Work says which
# and is told of everything. Nothing is kept between two calls of `run`. What connects the two is in ray_bridge.py.
"""Runs on a Ray cluster."""

from __future__ import annotations

import tempfile

from service.engines.attempt import Train, default_train
from service.engines.base import Work
from service.engines.ray_session import RaySession, needed
from service.spec.job import ResourcesSpec


class RayEngine:
    """Runs a Work with Ray Tune. Ray is loaded by the first run.

    Args:
        address: host:port of the cluster; None for a Ray of this process's own.
        train: What an actor does with a run; a function that the cluster's nodes can import.
    """

    def __init__(self, address: str | None = None, train: Train = default_train) -> None:
        self._session = RaySession(address)
        self._train = train

    def run(self, work: Work, resources: ResourcesSpec, silence_s: float) -> None:
        """Run what ``work`` hands out until it has nothing left or is halted.

        Raises:
            JobFailedError: Ray is not here, the resources can never be had, or an actor cannot start.
        """
        if work.halted():
            return
        self._session.connect()
        from ray import tune

        from service.engines.ray_bridge import Bridge, TellingCallback, WorkSearcher, WorkStopper
        from service.engines.ray_schedulers import make_scheduler
        from service.engines.ray_trainable import RunActor

        bridge = Bridge(work, self._train, resources, silence_s)
        wanted = needed(resources)
        with tempfile.TemporaryDirectory(prefix="warptune-ray-") as folder:
            tuner = tune.Tuner(
                tune.with_resources(RunActor, tune.PlacementGroupFactory([wanted])),
                tune_config=tune.TuneConfig(
                    search_alg=WorkSearcher(bridge),
                    scheduler=make_scheduler(work.pruning),
                    num_samples=-1,
                    reuse_actors=True,
                    trial_name_creator=lambda trial: str(trial.trial_id),
                    trial_dirname_creator=lambda trial: str(trial.trial_id),
                ),
                run_config=tune.RunConfig(
                    name="run",
                    storage_path=folder,
                    stop=WorkStopper(bridge),
                    callbacks=[TellingCallback(bridge)],
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                    failure_config=tune.FailureConfig(max_failures=resources.max_attempts - 1),
                    verbose=0,
                ),
            )
            try:
                tuner.fit()
            finally:
                bridge.kill_all()
        bridge.settle()

    def close(self) -> None:
        """End every process of this engine."""
        self._session.close()
