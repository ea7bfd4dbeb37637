"""Runs a training loop of the user's: gives it its optimizer, counts its steps, and reads what it yields.

    def train(make_optimizer, seed):
        model = torch.nn.Linear(4, 1)
        optimizer = make_optimizer(model)
        for epoch in range(10):
            ...
            yield validation_loss  # or {"loss": validation_loss, "accuracy": accuracy}

:class:`OwnLoop` runs it once, be it for a job, to try it at submission, or to time its steps.
"""

from __future__ import annotations

import inspect
import math
import random
import time
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from typing import Any, Final, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from search_spaces.errors import must_be_one_of
from service.optimizers import build_optimizer
from service.spec.metrics import METRICS, PREFIX
from service.training.best import Cost, best_index, is_out_of_patience
from service.training.entrypoints import EntrypointError, described, forks_end_here, load_allowed
from service.training.learned_p import apply_p, write_p
from service.training.loop import report_steps
from service.training.run import CurvePoint, DivergedError, Run

LOSS: Final = "loss"
"""Key of the validation loss in a dict that a loop yields."""

ROUNDING: Final = 1e-5
"""How far a mean of 32-bit numbers may be beyond the best or the worst score."""

MODES: Final[tuple[tuple[Callable[[], Any], Callable[[Any], object]], ...]] = (
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_default_device, torch.set_default_device),
    (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
    (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
)
"""How to read and how to set what holds for all of torch in this process. A loop that is left at a yield may have
changed it for an evaluation."""

WANTED: Final = 'expected the validation loss, or a dict such as {"loss": 0.3, "accuracy": 0.9}'


class Evaluation(NamedTuple):
    """What a loop yielded once.

    Attributes:
        step: Steps of the optimizer before.
        seconds: Time in the loop since it made its optimizer, evaluations included.
        loss: The validation loss, which may not be finite.
        scores: Metric -> its value.
    """

    step: int
    seconds: float
    loss: float
    scores: Mapping[str, float]


class Parameters:
    """Named parameters in the form in which optimizers take a model."""

    def __init__(self, named: Mapping[str, Tensor]) -> None:
        self._named = named

    def named_parameters(self, **_: bool) -> Iterator[tuple[str, Tensor]]:
        """Yield each parameter with its name."""
        yield from self._named.items()

    def parameters(self) -> Iterator[Tensor]:
        """Yield each parameter."""
        yield from self._named.values()

    def modules(self) -> Iterator[nn.Module]:
        """Yield nothing: which modules have the parameters is unknown."""
        yield from ()


class OwnLoop:
    """A training loop of the user's; iterating over it runs it once.

    Args:
        function: The loop: ``(make_optimizer, seed, **config)`` -> losses.
        build: Makes the optimizer for a model.
        seed: What the loop gets. Python's, numpy's and torch's generators are seeded with it, too.
        config: Further arguments of the loop.
        stops: Asked after each step of the optimizer whether to leave the loop at once.

    Attributes:
        model: What the loop made its optimizer for; None before.
        optimizer: That optimizer.
        steps: Its steps so far.
        seconds: Time in the loop since then.
        setup_seconds: Time in the loop before.
        was_stopped: Whether ``stops`` has ended the loop.

    Raises:
        EntrypointError: The function does not take these arguments.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        build: Callable[[nn.Module], Optimizer],
        seed: int,
        config: Mapping[str, Any],
        stops: Callable[[], bool] = lambda: False,
    ) -> None:
        self._function, self._build, self._seed, self._config, self._stops = function, build, seed, config, stops
        self.model: nn.Module | None = None
        self.optimizer: Optimizer | None = None
        self.steps, self.seconds, self.setup_seconds, self.was_stopped = 0, 0.0, 0.0, False
        self._resumed = 0.0
        try:
            inspect.signature(function, follow_wrapped=False).bind(self._make_optimizer, seed, **config)
        except (TypeError, ValueError) as error:
            given = ", ".join(["make_optimizer", "seed", *(f"{name}=..." for name in config)])
            raise EntrypointError(f"the training loop must take ({given}): {error}") from error

    def __iter__(self) -> Iterator[Evaluation]:
        """Run the loop; yield an evaluation for each loss that it yields after a step.

        At the end, modes of torch and the working directory are what they were before.

        Losses that are returned as a list or an array are spread evenly over the steps.

        Raises:
            EntrypointError: It raised, or yields something else; the message says what would be right.
        """
        with chdir("."), _keep_modes():
            yield from self._once()

    def _once(self) -> Iterator[Evaluation]:
        for generator in (random.seed, np.random.seed, torch.manual_seed):
            generator(self._seed)
        self._resumed = time.perf_counter()
        made = self._run(lambda: self._function(self._make_optimizer, self._seed, **self._config))
        made = made.tolist() if hasattr(made, "tolist") else made  # an array of numpy, torch or pandas
        if isinstance(made, Iterable) and not isinstance(made, Sequence | Mapping | str):
            yield from self._evaluations(iter(made))
        elif not self.was_stopped:
            values = made if isinstance(made, Sequence) and not isinstance(made, str) else [made]
            self._check_trained()
            for count, value in enumerate(values, start=1):
                step = -(-count * self.steps // len(values))  # rounded up
                yield self._evaluation(value, step, count / len(values) * self.seconds)

    def _evaluations(self, values: Iterator[object]) -> Iterator[Evaluation]:
        count, last, end = 0, 0, object()
        try:
            while (value := self._run(lambda: next(values, end))) is not end and not self.was_stopped:
                if count:  # before the first step, one evaluation is fine
                    self._check_trained()
                evaluation = self._evaluation(value, self.steps, self.seconds)
                if self.steps == last > 0:
                    raise EntrypointError(
                        f"the training loop yielded twice after step {last}; yield once for each evaluation, and "
                        "several figures as one dict"
                    )
                if self.steps:
                    yield evaluation
                count, last = count + 1, self.steps
        finally:
            if isinstance(values, Generator):
                values.close()
        if not self.was_stopped:
            self._check_trained()

    def _check_trained(self) -> None:
        if self.optimizer is None:
            raise EntrypointError(
                "the training loop never called make_optimizer; train with the optimizer that make_optimizer(model) "
                "returns"
            )
        if not self.steps:
            raise EntrypointError(
                "the training loop never stepped its optimizer; call step() of what make_optimizer returned"
            )

    def _run(self, part: Callable[[], Any]) -> Any:
        """Run a part of the loop and count its time."""
        self._resumed = time.perf_counter()
        try:
            with forks_end_here():
                return part()
        except _StopLoop:
            self.was_stopped = True
            return None
        except EntrypointError:
            raise
        except (Exception, SystemExit) as error:
            raise EntrypointError(f"the training loop raised {described(error)}") from error
        finally:
            self.seconds += time.perf_counter() - self._resumed

    def _make_optimizer(self, given: object) -> Optimizer:
        """Return the optimizer for a model; what the loop gets as ``make_optimizer``."""
        if self.optimizer is not None:
            raise EntrypointError(
                "the training loop called make_optimizer twice; for several models, call it once with all of them: "
                "make_optimizer(torch.nn.ModuleList([first, second]))"
            )
        model = _as_model(given)
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise EntrypointError("make_optimizer got no parameter with requires_grad; give it a model to train")
        self.model, self.optimizer = model, self._build(model)
        self.optimizer.register_step_post_hook(self._count_step)
        now = time.perf_counter()
        self.setup_seconds, self.seconds, self._resumed = self.seconds + now - self._resumed, 0.0, now
        return self.optimizer

    def _count_step(self, *_: object) -> None:
        self.steps += 1
        if self._stops():
            raise _StopLoop

    @staticmethod
    def _evaluation(value: object, step: int, seconds: float) -> Evaluation:
        if not isinstance(value, Mapping):
            return Evaluation(step, seconds, _number(value, "a loss"), {})
        for name in value.keys() - {LOSS}:
            if name not in METRICS:
                message, hint = must_be_one_of(name, [LOSS, *METRICS])
                raise EntrypointError(f"the training loop yielded {name!r}; the name {message}. {hint or ''}".strip())
        if LOSS not in value:
            raise EntrypointError(f'the training loop yielded a dict without "loss"; {WANTED}')
        scores = {name: _score(score, name) for name, score in value.items() if name != LOSS}
        return Evaluation(step, seconds, _number(value[LOSS], "a loss"), scores)


class _StopLoop(BaseException):
    """Leaves a training loop after a step; no ``except Exception`` of the user's catches it."""


@contextmanager
def _keep_modes() -> Iterator[None]:
    before = [read() for read, _ in MODES]
    try:
        yield
    finally:
        for (read, change), value in zip(MODES, before, strict=True):
            if read() != value:
                change(value)


def _as_model(given: object) -> nn.Module:
    """Return a model, or parameters in the form of one."""
    if isinstance(given, nn.Module):
        return given
    if isinstance(given, Iterable):
        listed = list(given.items() if isinstance(given, Mapping) else given)
        pairs = [item if isinstance(item, tuple) else (str(index), item) for index, item in enumerate(listed)]
        named = {pair[0]: pair[1] for pair in pairs if len(pair) == 2 and isinstance(pair[1], Tensor)}
        if len(named) == len(pairs):
            return cast("nn.Module", Parameters(named))
    raise EntrypointError(
        f"make_optimizer got a value of type {type(given).__name__}; give it the model, or its named_parameters() "
        "without groups and with each name once"
    )


def _number(value: object, name: str) -> float:
    """Return a number, also of numpy or torch."""
    found = value.item() if isinstance(value, Tensor | np.ndarray | np.generic) and np.prod(value.shape) == 1 else value
    if isinstance(found, bool) or not isinstance(found, int | float):
        what = "None" if value is None else f"{value!r:.60} of type {type(value).__name__}"
        raise EntrypointError(f"the training loop yielded {what} as {name}; {WANTED}")
    try:
        return float(found)
    except OverflowError:
        return math.inf if found > 0 else -math.inf


def _score(value: object, name: str) -> float:
    """Return a score. It may be NaN, but must not be beyond the limits of its metric, as an accuracy in percent is."""
    score, (low, high) = _number(value, name), METRICS[name].limits
    if low - ROUNDING <= score <= high + ROUNDING or math.isnan(score):
        return score
    if math.isinf(low):
        wanted = f"at most {high:g}"
    elif math.isinf(high):
        wanted = f"at least {low:g}"
    else:
        wanted = f"a number from {low:g} to {high:g}"
    if (low, high) == (0, 1) and 1 < score <= 100:
        wanted += f": yield {score / 100:g}, not {score:g}"
    raise EntrypointError(f"the training loop yielded {score:g} as {name}; expected {wanted}")


def train_own_loop(run: Run) -> Iterator[CurvePoint]:
    """Run the training loop of the user's that a run names, yielding as many points as other runs have at most.

    It ends with the loop, at the first evaluation after ``run.steps`` steps, or when its patience ends. With
    ``run.test`` the last point has the loss of the best point as its test loss: the loop has no other.

    Raises:
        DivergedError: A loss is not finite, or a score by which the run is judged.
        EntrypointError: The loop cannot be used.
    """
    assert run.model is not None, "it names the loop"
    torch.set_num_threads(run.threads)
    if torch.device(run.device).type == "cuda":
        torch.cuda.set_device(run.device)
    function = load_allowed(run.model["entrypoint"], run.model["sha256"])
    loop = OwnLoop(function, lambda model: _optimizer(run, model), run.seed, run.model["config"])
    points: list[CurvePoint] = []
    for point in _points(run, loop):
        if run.test and points:
            yield points[-1]  # the last point is the only one that has a test loss
        points.append(point)
        if not run.test:
            yield point
    if not points:
        raise EntrypointError(f"the training loop ended without a loss; {WANTED}")
    assert loop.optimizer is not None, "otherwise there are no points"
    write_p(loop.optimizer, run)
    if run.test:
        best = points[best_index([run.cost(point) for point in points])] if run.best_by else points[-1]
        yield points[-1]._replace(test_loss=best.val_loss, test_score=best.val_score)


def _optimizer(run: Run, model: nn.Module) -> Optimizer:
    optimizer = build_optimizer(run.arm, model, run.config)
    apply_p(optimizer, run)
    return optimizer


def _points(run: Run, loop: OwnLoop) -> Iterator[CurvePoint]:
    """Yield the points of a run. Of a loop that evaluates more often than other runs do, some are left out."""
    due = report_steps(run.steps)
    steps, costs, left_out = [0], list[Cost](), None
    for evaluation in loop:
        left_out = point = _point(run, evaluation)
        if point.step >= due[bisect_right(due, steps[-1])]:
            steps.append(point.step)
            costs.append(run.cost(point))
            left_out = None
            yield point
        if point.step >= run.steps or (costs and is_out_of_patience(run.training.patience, steps[1:], costs)):
            return
    if left_out is not None and left_out.step > steps[-1]:
        yield left_out


def _point(run: Run, evaluation: Evaluation) -> CurvePoint:
    step, seconds, loss, scores = evaluation
    if not math.isfinite(loss):
        raise DivergedError(f"the validation loss is {loss} after {step} of {run.steps} steps")
    if run.by_score and run.metric not in scores:
        yielded = ", ".join([LOSS, *scores])
        raise EntrypointError(
            f"objective.metric {PREFIX}{run.metric} needs {run.metric!r} in what the training loop yields ({yielded})"
        )
    score = scores.get(run.metric or "", math.nan)
    if run.by_score and not math.isfinite(score):
        raise DivergedError(f"the validation {run.metric} is {score} after {step} of {run.steps} steps")
    return CurvePoint(step, loss, loss, seconds, val_score=score if math.isfinite(score) else None)
