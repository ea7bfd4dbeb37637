# The shapes that are worked out without torch are those of the modules, and the modules do what their task asks for.
from __future__ import annotations

import math

import pytest
import torch

from service.data.catalog import BUNDLED
from service.spec.dataset_info import DatasetInfo
from service.spec.models import ConvnetSpec, ModelSpec, PinnSpec, ResnetSpec, TransformerSpec
from service.spec.tasks import Task
from service.training.networks import build_network

COLOUR = DatasetInfo(rows=100, features=3 * 9 * 7, task=Task.CLASSIFICATION, outputs=5, images=True, shape=(3, 9, 7))
TEXT = DatasetInfo(rows=5000, features=1, task=Task.LANGUAGE, outputs=256, characters=40)

CASES: list[tuple[DatasetInfo, ModelSpec]] = [
    (COLOUR, ConvnetSpec()),
    (COLOUR, ConvnetSpec(channels=[2, 3, 4, 5, 6], activation="silu")),
    (COLOUR, ResnetSpec(width=2)),
    (COLOUR, ResnetSpec(width=3, blocks=3)),
    (TEXT, TransformerSpec()),
    (TEXT, TransformerSpec(tokens="characters", width=12, heads=3, layers=3, context=9)),
    (BUNDLED["poisson_2d"].info, PinnSpec(equation="poisson_2d")),
    (BUNDLED["burgers"].info, PinnSpec(equation="burgers", hidden=[5], activation="silu")),
]


def build(info: DatasetInfo, spec: ModelSpec) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_network(spec.model_dump(), info.shape, spec.layer_sizes(info), spec.activation_name)


@pytest.mark.parametrize(("info", "spec"), CASES)
def test_shapes_and_parameter_count_are_those_of_the_module(info: DatasetInfo, spec: ModelSpec) -> None:
    shapes = [tuple(parameter.shape) for parameter in build(info, spec).parameters()]
    assert spec.tensor_shapes(info) == shapes
    assert spec.parameter_count(info) == sum(map(math.prod, shapes))


@pytest.mark.parametrize("spec", [ConvnetSpec(), ResnetSpec(width=2)])
def test_flat_rows_of_images_become_scores_of_classes(spec: ModelSpec) -> None:
    assert build(COLOUR, spec)(torch.randn(4, COLOUR.features)).shape == (4, 5)


def test_the_transformer_does_not_see_what_comes_later() -> None:
    spec = TransformerSpec(width=16, heads=2, context=8)
    model = build(TEXT, spec)
    x = torch.randint(256, (2, 8))
    changed = x.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % 256
    before, after = model(x), model(changed)
    assert before.shape == (2, 256, 8)
    assert torch.allclose(before[:, :, :5], after[:, :, :5], atol=1e-6)
    assert not torch.allclose(before[:, :, 5], after[:, :, 5], atol=1e-3)
