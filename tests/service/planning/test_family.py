# What a plan says of a family: which ones can be had, and what shape their models have.
from __future__ import annotations

from typing import Any

import pytest

from service.data.prepared import PreparedData
from service.errors import InvalidSpecError
from service.planning.plan import make_plan
from service.spec.dataset_info import DatasetInfo
from service.spec.job import JobSpec
from service.spec.tasks import Task
from tests.conftest import SpecMaker


@pytest.mark.parametrize(
    ("dataset", "family", "field", "expected"),
    [
        ("digits", {}, "family", "must have one of class_subsets, group_by, datasets"),
        (
            "digits",
            {"class_subsets": {}, "group_by": "pixel_2_3"},
            "family",
            "must have one of class_subsets, group_by, datasets",
        ),
        ("diabetes", {"group_by": "agee"}, "family.group_by", "age"),
        ("diabetes", {"class_subsets": {"ways": 2}}, "family.class_subsets", "a dataset with classes"),
        ("digits", {"class_subsets": {"ways": 10}}, "family.class_subsets.ways", "3 subsets or more of the 10"),
        ("wine", {"class_subsets": {"ways": 4}}, "family.class_subsets.ways", "3 subsets or more of the 3"),
    ],
)
def test_a_family_that_the_dataset_cannot_give_is_refused_by_field(
    spec: SpecMaker, dataset: str, family: dict[str, Any], field: str, expected: str
) -> None:
    with pytest.raises(InvalidSpecError) as caught:
        make_plan(JobSpec.model_validate(spec(dataset={"name": dataset}, family=family)))
    assert [error.field for error in caught.value.errors] == [field]
    assert expected in caught.value.errors[0].message


def test_a_model_has_the_classes_of_one_task_and_lacks_the_column_that_makes_the_tasks(spec: SpecMaker) -> None:
    ways = make_plan(JobSpec.model_validate(spec(dataset={"name": "digits"}, family={"class_subsets": {"ways": 4}})))
    assert ways.sizes == (64, 8, 4)
    grouped = make_plan(JobSpec.model_validate(spec(dataset={"name": "diabetes"}, family={"group_by": "age"})))
    assert grouped.sizes == (9, 8, 1)


def test_a_model_that_reconstructs_rows_lacks_the_column_that_makes_the_tasks_on_both_ends(spec: SpecMaker) -> None:
    columns = ("a", "b", "group")
    info = DatasetInfo(
        rows=90, features=5, task=Task.AUTOENCODING, outputs=5, columns=columns, widths=(1, 2, 2), source="upload"
    )
    body = spec(dataset={"id": "ds-1"}, model={"name": "mlp", "hidden": [8]}, family={"group_by": "group"})
    assert make_plan(JobSpec.model_validate(body), info).sizes == (3, 8, 3)


def test_only_arms_that_learn_p_learn_before_they_train(spec: SpecMaker) -> None:
    body = spec(family={"class_subsets": {"ways": 2}, "learn_tasks": 7, "learn_steps": 5})
    plan = make_plan(JobSpec.model_validate(body))
    for arm, tasks in (("warpadam", 7), ("adamw", 0)):
        run = plan.run(arm, plan.arm(arm).space.some_values(), PreparedData("", ""), seed=0, test=False)
        assert run.family is not None
        assert (run.family.learn_tasks, run.family.learn_steps) == (tasks, 5)
