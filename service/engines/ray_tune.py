"""The engine for a Ray cluster, which does runs in Ray actors.

Ray Tune places the runs, starts them and stops them early. ray_bridge.py connects it to the Work. The engine keeps
nothing between two calls of ``run``, which the worker calls from its main thread.
"""

from __future__ import annotations

import tempfile

from service.engines.base import Train, Work, default_train
from service.engines.ray_session import RaySession, needed
from service.spec.job import ResourcesSpec


class RayEngine:
    """Does the runs of a Work with Ray Tune. Ray is imported by the first call of :meth:`run`.

    Args:
        address: host:port of the cluster; None to start an own Ray.
        train: Does a run in the actor; a function that the nodes of the cluster can import.
    """

    def __init__(self, address: str | None = None, train: Train = default_train) -> None:
        self._session = RaySession(address)
        self._train = train

    def run(self, work: Work, resources: ResourcesSpec, silence_s: float) -> None:
        """Do the runs of ``work`` until it has no more or is halted.

        Raises:
            JobFailedError: Ray is not installed or cannot be reached, no node has the resources, or an actor cannot
                start.
        """
        if work.halted():
            return
        self._session.connect()
        from ray import tune

        from service.engines.ray_bridge import Bridge, WorkSearcher, make_scheduler
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
                    stop=bridge,
                    callbacks=[bridge],
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                    failure_config=tune.FailureConfig(max_failures=resources.max_attempts - 1),
                    verbose=0,
                ),
            )
            try:
                tuner.fit()
            finally:
                bridge.kill_all()
        bridge.finish()

    def close(self) -> None:
        """End every process of this engine."""
        self._session.close()
