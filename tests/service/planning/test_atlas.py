"""The jobs of the atlas that are most like a job."""

from __future__ import annotations

from dataclasses import replace

import pytest

from service.data.catalog import BUNDLED
from service.planning.atlas import AtlasJob, Traits, atlas, read, similar, similar_to, to_json
from service.planning.plan import make_plan
from service.spec.job import JobSpec

SMALL = AtlasJob(
    task="regression",
    model="mlp",
    activation="relu",
    carried=False,
    layers=3,
    parameters=1_000,
    rows=500,
    batch_size=32,
    steps=400,
    name="small",
    axis="size",
    data="made",
    word="helps",
    effect=0.2,
    strategy="kronecker/pre/whitening",
)
LARGE = replace(SMALL, name="large", parameters=1_000_000, word="hurts", strategy="diagonal/sandwich/hypergradient")
MIDDLE = replace(SMALL, name="middle", parameters=30_000, word="no_difference")
JOBS = (LARGE, MIDDLE, SMALL)


def plan(**fields: object) -> Traits:
    spec = {"dataset": {"name": "diabetes"}, "model": {"name": "mlp"}, **fields}
    traits = Traits.of(make_plan(JobSpec.model_validate(spec)))
    assert traits is not None
    return traits


def test_the_nearest_jobs_come_first() -> None:
    found = similar(replace(SMALL, parameters=1_500), JOBS, count=2)
    assert found.nearest == ("small", "middle")
    assert (found.jobs, found.helped, found.hurt) == (2, 1, 0)
    assert found.sentence == "Of the 2 jobs most like this one in the atlas, P helped in 1."


def test_what_made_things_worse_is_said() -> None:
    found = similar(LARGE, JOBS)
    assert found.sentence == "Of the 3 jobs most like this one in the atlas, P helped in 1 and hurt in 1."
    assert found.strategies == ("kronecker/pre/whitening", "diagonal/sandwich/hypergradient")


def test_another_task_is_farther_away_than_a_slightly_larger_network() -> None:
    other = replace(SMALL, name="classes", task="classification")
    wider = replace(SMALL, name="wider", parameters=1_400)
    assert similar(SMALL, (other, wider, LARGE)).nearest[0] == "wider"


def test_the_traits_of_a_job() -> None:
    found = plan(budget={"steps": 100, "batch_size": 4096}, model={"name": "mlp", "hidden": [8]})
    assert (found.task, found.model, found.layers, found.parameters) == ("regression", "mlp", 2, 10 * 8 + 8 + 8 + 1)
    assert found.batch_size == found.rows, "a batch has no more rows than there are to train on"
    assert not found.carried


def test_a_model_of_the_users_without_a_matrix_has_neighbours() -> None:
    spec = JobSpec.model_validate({"dataset": {"name": "wine"}, "model": {"name": "entrypoint", "entrypoint": "m:f"}})
    vectors = make_plan(spec, replace(BUNDLED["wine"].info, tensors=((13,), (3,)), sources={"m:f": "0" * 64}))
    matrix = make_plan(spec, replace(BUNDLED["wine"].info, tensors=((1, 13), (3,)), sources={"m:f": "0" * 64}))
    assert similar_to(vectors) == similar_to(matrix) is not None


def test_the_atlas_that_ships_can_be_read_and_compared_with() -> None:
    jobs = atlas()
    assert len(jobs) >= 60
    assert read(map(to_json, jobs)) == list(jobs)
    found = similar_to(make_plan(JobSpec.model_validate({"dataset": {"name": "wine"}, "model": {"name": "mlp"}})))
    assert found is not None
    assert found.jobs == 9


@pytest.mark.parametrize("job", atlas(), ids=lambda job: job.name)
def test_every_job_of_the_atlas_is_most_like_itself(job: AtlasJob) -> None:
    same = {other.name for other in atlas() if (other.numbers, other.names) == (job.numbers, job.names)}
    assert similar(job, atlas()).nearest[0] in same
