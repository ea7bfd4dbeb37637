# A run that is cut short and goes on from its checkpoint must end as if nothing had happened, and a checkpoint that is
# torn, changed or another run's must never be used.
from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from search_spaces import get_preset
from service.artifacts import read_artifact, write_artifact
from service.data.prepared import PreparedData
from service.optimizers import OPTIMIZERS, baselines
from service.optimizers.muon_with_adamw import MuonWithAdamW
from service.planning.plan import WARP_PRESETS
from service.training import checkpoint as checkpoint_module
from service.training.checkpoint import Checkpoints
from service.training.loop import POINTS, train
from service.training.run import CurvePoint, FamilyTraining, Run, Training
from service.version import versions
from tests.service.training.test_loop import make_run, without_seconds
from tests.service.user_code import models

EVERY_STEP_S = 1e-9

STARTS = {
    **{
        str(values["strategy"]): ("warpadam", preset, index)
        for preset in WARP_PRESETS
        for index, values in enumerate(get_preset(preset).first_trials)
    },
    **{name: (name, name, 0) for name in baselines()},
}
"""For every strategy that a preset starts from and every baseline: an arm, a preset, and one of its first trials."""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return replace(make_run(tmp_path), checkpoint_url=f"file://{tmp_path}/trial-0", checkpoint_every_s=EVERY_STEP_S)


def config_of(arm: str, preset: str, index: int) -> dict[str, Any]:
    values = get_preset(preset).first_trials[index]
    return dict(OPTIMIZERS[arm].config(values))


class KilledError(Exception):
    """Stands for the death of the process."""


class Steps:
    """Counts the steps of a run; the optimizers inside of Muon-with-AdamW step with it."""

    def __init__(self) -> None:
        self.count, self._inside = 0, set[int]()

    def __call__(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        if isinstance(optimizer, MuonWithAdamW):
            self._inside |= set(map(id, optimizer._parts))
        self.count += id(optimizer) not in self._inside


def cut_short(run: Run, after: int) -> None:
    """Train until ``after`` steps are done and die in the next."""
    steps = Steps()

    def count(optimizer: torch.optim.Optimizer, *_: object) -> None:
        steps(optimizer)
        if steps.count > after:
            raise KilledError

    hook = register_optimizer_step_pre_hook(count)
    try:
        with pytest.raises(KilledError):
            list(train(run))
    finally:
        hook.remove()


def steps_of(action: Callable[[], object]) -> int:
    """Return how many optimizer steps ``action`` makes."""
    steps = Steps()
    hook = register_optimizer_step_pre_hook(steps)
    try:
        action()
    finally:
        hook.remove()
    return steps.count


def newest(run: Run) -> Mapping[str, Any] | None:
    """Return the content of the newest checkpoint of a run that can be used."""
    return Checkpoints(run).resume(lambda saved: saved)


def end_of(run: Run, points: list[CurvePoint]) -> dict[str, Any]:
    """Return the whole state after the last step, without what depends on the clock."""
    saved = newest(run)
    assert saved is not None
    assert saved["step"] == run.steps == points[-1].step
    return {name: value for name, value in saved.items() if name not in ("seconds", "points")}


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def files(run: Run) -> list[str]:
    fs, folder = fsspec.url_to_fs(run.checkpoint_url)
    return sorted(str(path).rpartition("/")[2] for path in fs.ls(folder, detail=False))


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno == logging.WARNING]


COMPILES = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning"),
]
WARPADAM = next(start for start, (arm, *_) in STARTS.items() if arm == "warpadam")
OPTIONS = {
    "constant": Training(schedule="constant"),
    "cosine, warm-up": Training(schedule="cosine", warmup_steps=12),
    "clipping": Training(max_grad_norm=0.1),
    "smoothing, weights": Training(label_smoothing=0.1, class_weights="balanced"),
    "keep": Training(last_batch="keep"),
    "bfloat16": Training(precision="bfloat16"),
    "float16": Training(precision="float16", max_grad_norm=0.1),
}


@pytest.mark.parametrize(
    ("start", "option"),
    [
        *((start, "linear") for start in STARTS),
        *((arm, "constant") for arm in baselines()),
        *((start, option) for start in (WARPADAM, "adamw") for option in OPTIONS),
        pytest.param(WARPADAM, "compile", marks=COMPILES),
    ],
)
def test_a_run_cut_short_twice_ends_bit_for_bit_like_an_uninterrupted_one(
    tmp_path: Path, run: Run, start: str, option: str
) -> None:
    arm = STARTS[start][0]
    training = {"linear": Training(), "compile": Training(compile=True, last_batch="keep"), **OPTIONS}[option]
    run = replace(run, arm=arm, config=config_of(*STARTS[start]), training=training, steps=30)
    whole = replace(run, checkpoint_url=f"file://{tmp_path}/whole")
    uninterrupted = list(train(whole))

    cut_short(run, 8)
    cut_short(run, 11)  # counted from the checkpoint on: after 19 steps, in the middle of an epoch and of a point
    points: list[CurvePoint] = []
    assert steps_of(lambda: points.extend(train(run))) == 30 - 19
    assert without_seconds(points) == without_seconds(uninterrupted)
    assert equal(end_of(run, points), end_of(whole, uninterrupted))


@pytest.mark.parametrize("factory", [models.counting, models.keeps_front_frozen, models.partly_frozen])
def test_a_run_of_a_users_own_model_goes_on_as_if_nothing_had_happened(
    run: Run, monkeypatch: pytest.MonkeyPatch, factory: Callable[..., object]
) -> None:
    monkeypatch.setenv("WARPTUNE_ALLOWED_MODULES", models.__name__)
    sha256 = hashlib.sha256(Path(str(models.__file__)).read_bytes()).hexdigest()
    entrypoint = f"{models.__name__}:{factory.__name__}"
    model = {"name": "entrypoint", "entrypoint": entrypoint, "sha256": sha256, "config": {}, "task": run.task}
    run = replace(run, model=model, best_by="loss")
    uninterrupted = without_seconds(list(train(replace(run, checkpoint_url=None))))
    cut_short(run, 31)  # between two points
    points: list[CurvePoint] = []
    assert steps_of(lambda: points.extend(train(run))) == 60 - 31
    assert without_seconds(points) == uninterrupted


@pytest.mark.parametrize("after", [1, 2, 3, 4, 29, 59])
def test_a_run_goes_on_from_any_step(run: Run, after: int) -> None:
    uninterrupted = without_seconds(list(train(replace(run, checkpoint_url=None))))
    cut_short(run, after)
    points: list[CurvePoint] = []
    assert steps_of(lambda: points.extend(train(run))) == 60 - after
    assert without_seconds(points) == uninterrupted
    assert all(later.seconds > earlier.seconds for earlier, later in pairwise(points))


def test_a_run_that_had_ended_gives_its_points_again_without_a_step(run: Run) -> None:
    points = list(train(run))
    again: list[CurvePoint] = []
    assert steps_of(lambda: again.extend(train(run))) == 0
    assert again[:-1] == points[:-1]
    assert without_seconds(again) == without_seconds(points)


def test_checkpoints_are_written_by_time_and_two_are_kept(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    written: list[int] = []
    save = Checkpoints.save

    def note(checkpoints: Checkpoints, step: int, content: Mapping[str, Any]) -> None:
        written.append(step)
        save(checkpoints, step, content)

    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(Checkpoints, "save", note)

    def tick(*_: object) -> None:
        nonlocal now
        now += 1.0

    hook = register_optimizer_step_pre_hook(tick)
    try:
        list(train(replace(run, checkpoint_every_s=7.0, steps=30)))
    finally:
        hook.remove()
    assert written == [7, 14, 21, 28]
    assert files(run) == ["step-000000021.ckpt", "step-000000028.ckpt"]


def test_a_run_without_a_place_for_checkpoints_writes_none(tmp_path: Path, run: Run) -> None:
    before = sorted(tmp_path.rglob("*"))
    list(train(replace(run, checkpoint_url=None)))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: b"",
        lambda content: content[:200] + bytes([content[200] ^ 1]) + content[201:],
        lambda content: b"\0" * len(content),
    ],
    ids=["torn", "a byte short", "empty", "one bit", "zeros"],
)
def test_a_damaged_checkpoint_falls_back_to_the_one_before_it(
    run: Run, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    uninterrupted = without_seconds(list(train(replace(run, checkpoint_url=None))))
    cut_short(run, 20)
    newest = f"{run.checkpoint_url}/step-000000020.ckpt"
    write_artifact(newest, damage(read_artifact(newest)))
    points: list[CurvePoint] = []
    assert steps_of(lambda: points.extend(train(run))) == 60 - 19
    assert without_seconds(points) == uninterrupted
    assert warnings_in(caplog) == ["unusable checkpoint"]
    assert files(run) == ["step-000000059.ckpt", "step-000000060.ckpt"]


def test_a_run_whose_checkpoints_are_all_damaged_starts_anew_and_says_so(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    uninterrupted = without_seconds(list(train(replace(run, checkpoint_url=None))))
    cut_short(run, 20)
    assert files(run) == ["step-000000019.ckpt", "step-000000020.ckpt"]
    for name in files(run):
        write_artifact(f"{run.checkpoint_url}/{name}", b"not a checkpoint")
    points: list[CurvePoint] = []
    assert steps_of(lambda: points.extend(train(run))) == 60
    assert without_seconds(points) == uninterrupted
    assert warnings_in(caplog) == ["unusable checkpoint"] * 2 + ["no usable checkpoint, the run starts again"]


OTHER: dict[str, Any] = {
    "arm": "adamw",
    "config": {"lr": 0.5},
    "sizes": (13, 9, 3),
    "activation": "tanh",
    "task": "regression",
    "metric": "r2",
    "data": PreparedData("file:///elsewhere.npz", "0" * 64),
    "steps": 61,
    "batch_size": 31,
    "training": Training(schedule="constant"),
    "seed": 6,
    "test": False,
    "family": FamilyTraining(1, 2),
    "model": {"name": "convnet"},
    "shape": (1, 8, 8),
    "from_p_sha256": "1" * 64,
    "shuffle_seed": 0,
    "best_by": "score",
}
SAME: dict[str, Any] = {
    "threads": 3,
    "device": "cuda:1",
    "checkpoint_url": "file:///elsewhere",
    "checkpoint_every_s": 1.0,
    "p_url": "file:///elsewhere/p",
    "weights_url": "file:///elsewhere/weights",
    "from_p_url": "file:///elsewhere/p",
    "by_score": True,
}


def test_every_field_of_a_run_either_changes_its_digest_or_does_not_change_its_result(run: Run) -> None:
    assert OTHER.keys() | SAME.keys() == set(Run.__dataclass_fields__)
    assert {name for name, value in OTHER.items() if replace(run, **{name: value}).digest() == run.digest()} == set()
    assert {name for name, value in SAME.items() if replace(run, **{name: value}).digest() != run.digest()} == set()
    assert replace(run, data=replace(run.data, url="file:///elsewhere.npz")).digest() == run.digest()


def test_every_choice_of_the_training_changes_the_digest(run: Run) -> None:
    options: list[dict[str, Any]] = [
        {"schedule": "cosine"},
        {"warmup_steps": 1},
        {"max_grad_norm": 1.0},
        {"label_smoothing": 0.1},
        {"class_weights": "balanced"},
        {"last_batch": "keep"},
        {"precision": "bfloat16"},
        {"compile": True},
        {"patience": 5},
    ]
    assert {name for option in options for name in option} == set(Training.__dataclass_fields__)
    digests = {replace(run, training=Training(**option)).digest() for option in options}
    assert len(digests | {run.digest()}) == len(options) + 1


def test_the_checkpoint_of_another_run_or_version_is_never_used(
    run: Run, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_short(run, 20)
    assert newest(replace(run, seed=6)) is None
    assert "it belongs to" in caplog.records[0].cause  # type: ignore[attr-defined]
    assert newest(run) is not None
    others = versions() | {"code": "0" * 12}
    monkeypatch.setattr(checkpoint_module, "versions", lambda: others)
    assert newest(run) is None
    assert "no usable checkpoint, the run starts again" in warnings_in(caplog)


@pytest.mark.parametrize("part", ["model", "optimizer", "training_step", "rng"])
def test_a_run_starts_again_if_no_state_fits(run: Run, part: str, caplog: pytest.LogCaptureFixture) -> None:
    uninterrupted = without_seconds(list(train(replace(run, checkpoint_url=None))))
    cut_short(run, 20)
    checkpoints = Checkpoints(run)
    checkpoints._proven = 19
    for step in (19, 20):
        content = dict(checkpoints._read(step))
        checkpoints.save(step, content | {part: {"param_groups": [], "state": {}, "of": "another plug-in"}})
    points: list[CurvePoint] = []
    assert steps_of(lambda: points.extend(train(run))) == run.steps
    assert without_seconds(points) == uninterrupted
    assert warnings_in(caplog)[:3] == [*["unusable checkpoint"] * 2, "no usable checkpoint, the run starts again"]


def test_a_run_goes_on_from_the_newest_state_that_fits(run: Run) -> None:
    uninterrupted = without_seconds(list(train(replace(run, checkpoint_url=None))))
    cut_short(run, 20)
    checkpoints = Checkpoints(run)
    checkpoints._proven = 19
    checkpoints.save(20, {**checkpoints._read(20), "optimizer": {}})
    points: list[CurvePoint] = []
    assert steps_of(lambda: points.extend(train(run))) == run.steps - 19
    assert without_seconds(points) == uninterrupted


def test_a_store_that_takes_no_checkpoint_costs_a_warning_and_not_the_run(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "trial-0").write_text("a file where the folder should be")
    points = list(train(replace(run, steps=2)))
    assert [point.step for point in points] == [1, 2]
    assert "a checkpoint could not be written" in warnings_in(caplog)
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".part"] == []


def test_a_checkpoint_that_cannot_be_read_back_leaves_the_one_before_it(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cut_short(run, 20)
    monkeypatch.setattr(checkpoint_module, "write_artifact", lambda url, content: write_artifact(url, content[:-9]))
    list(train(replace(run)))
    assert set(warnings_in(caplog)) == {"a checkpoint could not be written"}
    monkeypatch.undo()
    saved = newest(run)
    assert saved is not None
    assert saved["step"] == 20


def test_an_orphaned_process_that_is_ahead_keeps_its_checkpoints(run: Run) -> None:
    cut_short(run, 20)
    behind = Checkpoints(run)
    content = behind.resume(lambda saved: saved)
    assert content is not None
    cut_short(run, 10)  # another process, which went on to step 30
    behind.save(21, content)
    assert files(run) == [f"step-0000000{step}.ckpt" for step in (21, 29, 30)]


def test_nothing_is_written_for_a_job_that_is_gone(run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    points = train(run)
    next(points)
    before = files(run)
    (tmp_path / "wine.npz").unlink()
    assert len(list(points)) == POINTS - 1
    assert files(run) == before
    assert set(warnings_in(caplog)) == {"no checkpoint: the data of the run is gone"}


def test_checkpoints_work_in_a_store_that_is_no_folder(run: Run) -> None:
    run = replace(run, checkpoint_url="memory://bucket/jobs/job-0/checkpoints/trial-0")
    uninterrupted = without_seconds(list(train(replace(run, checkpoint_url=None))))
    cut_short(run, 20)
    assert files(run) == ["step-000000019.ckpt", "step-000000020.ckpt"]
    points: list[CurvePoint] = []
    assert steps_of(lambda: points.extend(train(run))) == 40
    assert without_seconds(points) == uninterrupted
