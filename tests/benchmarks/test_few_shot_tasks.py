# The protocol behind the few-shot figures: nothing reported was learned on, and networks side by side do not meet.

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from benchmarks.few_shot.networks import NamedParams, train_together
from benchmarks.optimizers.few_shot_tasks import Split, disjoint, inner_disjoint, subsets
from warpadam import WarpAdam


@pytest.mark.parametrize(
    ("make", "sizes"), [(subsets, (200, 32, 20)), (disjoint, (120, 0, 20)), (inner_disjoint, (24, 20, 0))]
)
def test_no_task_is_in_two_parts_of_a_split(make: Callable[[], Split], sizes: tuple[int, int, int]) -> None:
    split = make()
    parts = [[task.classes for task in part] for part in (split.training, split.validation, split.held_out)]
    assert tuple(len(part) for part in parts) == sizes
    assert len({classes for part in parts for classes in part}) == sum(sizes)


def test_the_classes_of_disjoint_tasks_were_never_seen() -> None:
    split = disjoint()
    assert {digit for task in split.training for digit in task.classes} == set(range(6))
    assert {digit for task in split.held_out for digit in task.classes} == {6, 7, 8, 9}


def test_the_order_of_the_classes_gives_the_labels() -> None:
    one, other = disjoint().training[0], disjoint().training[-1]
    assert (one.classes, other.classes) == ((0, 1, 2), (5, 4, 3))
    assert set(other.fit.targets.tolist()) == {0, 1, 2}


def test_networks_side_by_side_go_where_each_goes_alone() -> None:
    tasks = subsets().validation[:3]

    def together(named: NamedParams) -> list[torch.optim.Optimizer]:
        return [WarpAdam(named, 0.01, learner="rotation", meta_every=1)]

    def alone(named: NamedParams) -> list[torch.optim.Optimizer]:
        size = len(named) // 3
        return [
            WarpAdam(named[index * size : (index + 1) * size], 0.01, learner="rotation", meta_every=1)
            for index in range(3)
        ]

    losses = [train_together(tasks, make, 0, (1, 8))[0] for make in (together, alone)]
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-5)
    assert (losses[0][:, 1] < losses[0][:, 0]).all()
