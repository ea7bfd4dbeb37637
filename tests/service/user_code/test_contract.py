# User code that breaks its contract is refused in a sentence that says in what.
from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from service.data.facts import DatasetFacts
from service.spec.tasks import Task
from service.training.entrypoints import EntrypointError
from service.user_code import contract
from service.user_code.contract import make_dataset, make_model, try_loop
from tests.service.user_code import faulty, loops

BAD_MODELS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "raises": (faulty.raises, {}, r"the function raised RuntimeError: no such table \(faulty.py, line \d+\)"),
    "raises in torch": (faulty.good_model, {"width": "4"}, r"TypeError: .* \(faulty.py, line \d+\)"),
    "leaves": (faulty.leaves, {}, "the function raised SystemExit: gone"),
    "wrong config": (faulty.good_model, {"widht": 3}, "unexpected keyword argument 'widht'"),
    "other arguments": (nn.ReLU, {}, "the function must take shape, outputs, task and what config has: too many"),
    "no module": (faulty.no_module, {}, "returned a value of type list, expected a torch.nn.Module"),
    "no parameters": (faulty.no_parameters, {}, "no parameters to train"),
    "double": (faulty.double, {}, "parameter weight is of torch.float64; expected torch.float32"),
    "lazy": (faulty.lazy, {}, "parameter weight has no shape yet"),
    "wide": (faulty.broken, {"how": "wide"}, r"forward made \(4, 6\) of a batch of 4 rows; expected \(4, 3\)"),
    "list": (faulty.broken, {"how": "list"}, "forward returned a list; expected a tensor"),
    "nan": (faulty.broken, {"how": "nan"}, "output of the untrained module is not finite"),
    "cut": (faulty.broken, {"how": "cut"}, "the loss cannot be differentiated"),
    "no backward": (faulty.broken, {"how": "no backward"}, r"differentiated: ValueError: no gradient \(faulty"),
    "truths": (faulty.broken, {"how": "truths"}, "forward returned a tensor of torch.bool; expected torch.float32"),
    "integers": (faulty.broken, {"how": "integers"}, "a tensor of torch.int64; expected torch.float32"),
    "complex": (faulty.broken, {"how": "complex"}, "a tensor of torch.complex64; expected torch.float32"),
    "sparse output": (faulty.broken, {"how": "sparse"}, "a tensor of torch.sparse_coo; expected torch.strided"),
    "without numbers": (faulty.broken, {"how": "without numbers"}, "trying it raised RuntimeError: .*meta"),
    "no eval": (faulty.broken, {"how": "no eval"}, r"trying it raised ValueError: it only trains \(faulty.py, line"),
    "sparse": (faulty.sparse, {}, "the gradient of parameter 1.weight is sparse; make its layer with sparse=False"),
    "forward raises": (faulty.broken, {"how": "raises"}, "forward raised RuntimeError"),
    "a training loop": (loops.fit, {}, "takes make_optimizer, as a training loop does; set model.name to loop"),
}


@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
@pytest.mark.parametrize("case", BAD_MODELS)
def test_a_model_that_breaks_its_contract_is_refused(case: str) -> None:
    factory, config, reason = BAD_MODELS[case]
    with pytest.raises(EntrypointError, match=reason):
        make_model(factory, (5,), 3, Task.CLASSIFICATION, config)


@pytest.mark.parametrize(
    ("shape", "outputs", "task"),
    [((5,), 3, Task.CLASSIFICATION), ((5,), 1, Task.REGRESSION), ((5,), 5, Task.AUTOENCODING)],
)
def test_a_model_that_keeps_to_it_is_returned(shape: tuple[int, ...], outputs: int, task: str) -> None:
    shapes = [tuple(p.shape) for p in make_model(faulty.good_model, shape, outputs, task, {}).parameters()]
    assert shapes == [(4, 5), (4,), (outputs, 4), (outputs,)]


def test_a_model_may_be_wrapped_by_a_decorator_that_changes_what_it_takes() -> None:
    @functools.wraps(faulty.good_model)
    def adapted(*args: Any, size: int) -> nn.Module:
        return faulty.good_model(*args, width=size)

    first, *_ = make_model(adapted, (5,), 3, Task.CLASSIFICATION, {"size": 2}).parameters()
    assert first.shape == (2, 5)


BAD_DATASETS = {
    "two values": "returned a tuple of 2; expected three values: x, y and the task",
    "list": "x is a list of 30; expected a numpy array",
    "objects": "x is of object",
    "masked": r"x has masked values; give them a value, such as x.filled\(0\)",
    "masked y": r"y has masked values; give them a value, such as y.filled\(0\)",
    "bfloat16": "x is a tensor of torch.bfloat16, which numpy cannot hold; expected for example torch.float32",
    "few rows": "expected at least 10 rows",
    "nan": "x is nan in row 4, column 3; expected a finite number",
    "long y": r"y has the shape \(31,\); expected one value for each of the 30 rows",
    "one class": "y has one class only, 0",
    "rare class": "at least 5 rows of every class; '9' has 1",
    "no y": "y is None; expected one value for each row for regression",
    "y too": "y is a ndarray; expected None for autoencoding",
    "task": "the task is 'ranking'; expected one of classification, regression, autoencoding",
    "texts": "y does not fit the task regression",
}


@pytest.mark.parametrize("what", BAD_DATASETS)
def test_a_dataset_that_breaks_its_contract_is_refused(tmp_path: Path, what: str) -> None:
    with pytest.raises(EntrypointError, match=BAD_DATASETS[what]):
        make_dataset(faulty.dataset, 0, {"what": what}, tmp_path)


def test_config_may_not_have_the_seed(tmp_path: Path) -> None:
    with pytest.raises(EntrypointError, match="multiple values for argument 'seed'"):
        make_dataset(faulty.good_dataset, 0, {"seed": 1}, tmp_path)


@pytest.mark.parametrize(
    ("factory", "features", "outputs", "shape"),
    [
        (faulty.good_dataset, 4, 3, ()),
        (faulty.good_images, 90, 3, (3, 6, 5)),
        (faulty.good_autoencoding, 4, 4, ()),
    ],
)
def test_a_dataset_is_known_like_an_upload(
    tmp_path: Path, factory: Any, features: int, outputs: int, shape: tuple[int, ...]
) -> None:
    facts, info = make_dataset(factory, 0, {}, tmp_path)
    assert (info.rows, info.features, info.outputs, info.shape) == (30, features, outputs, shape)
    assert info.source == "entrypoint"
    assert DatasetFacts.from_json(json.loads(json.dumps(facts.to_json()))) == facts


def test_a_process_that_a_factory_forks_gives_no_answer(tmp_path: Path) -> None:
    assert make_dataset(faulty.forks, 0, {}, tmp_path)[1].rows == 30


def test_a_loop_is_described_by_its_steps_its_tensors_and_what_it_yields() -> None:
    info = try_loop(loops.fit, 0, {"steps": 6}, None, 60)
    assert (info.task, info.loop_steps, info.loop_scores) == (Task.LOOP, 6, ("accuracy",))
    assert info.tensors == ((2, 4), (2,))
    assert info.task_reason == "6 steps, yields loss, accuracy"


@pytest.mark.parametrize(("steps", "known"), [(4, 0), (100, 12)])
def test_a_loop_that_is_to_end_earlier_is_tried_that_far(steps: int, known: int) -> None:
    assert try_loop(loops.fit, 0, {}, steps, 60).loop_steps == known


@pytest.mark.parametrize(
    ("loop", "config", "limit_s", "reason"),
    [
        (loops.yields, {"what": "nan"}, 60, "yielded a loss of nan after 1 steps of AdamW as PyTorch ships it"),
        (loops.never_yields, {}, 60, "ended without a loss; expected the validation loss"),
        (loops.is_endless, {}, 0.1, r"did not end within 0 seconds \(\d+ steps\).* give budget.steps"),
        (loops.unfreezes, {"named": True}, 60, "with/without names. cannot add param group with names"),
        (
            loops.has_complex_parameters,
            {},
            60,
            "with WarpAdam at its defaults, the training loop raised UnsupportedParameterError: .*; with AdamW it runs",
        ),
        (loops.evaluates_late, {}, 0.1, r"no loss in its first \d+ steps .* raise WARPTUNE_USER_CODE_LIMIT_S"),
    ],
)
def test_a_loop_that_cannot_be_used_is_refused(loop: Any, config: dict[str, Any], limit_s: float, reason: str) -> None:
    with pytest.raises(EntrypointError, match=reason):
        try_loop(loop, 0, config, None, limit_s)


def test_an_endless_loop_can_be_used_with_a_number_of_steps() -> None:
    assert try_loop(loops.is_endless, 0, {}, 1_000_000, 0.1).loop_steps == 0


def test_a_loop_that_has_used_half_of_its_time_is_not_tried_with_warpadam(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(contract, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def takes_5_s(make_optimizer: loops.Make, seed: int) -> Iterator[float]:
        yield from loops.has_complex_parameters(make_optimizer, seed)
        now[0] += 5

    assert try_loop(takes_5_s, 0, {}, None, 9).loop_steps == 1
    now[0] = 0
    with pytest.raises(EntrypointError, match="with WarpAdam"):
        try_loop(takes_5_s, 0, {}, None, 11)
