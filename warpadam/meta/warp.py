# A learned P as a value: what it is for each named parameter, and the rule it was learned under. Moves it out of an
# optimizer and into another, by name and shape; how it is kept in a file is in artifact.py. (placements.Warp is the P
# of one tensor in one step.)
"""P of a whole model, apart from any optimizer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

from warpadam.config import Learner, Strategy, WarpAdamConfig
from warpadam.errors import InvalidConfigError, WarpMismatchError
from warpadam.learners.scale import LOG_SCALE
from warpadam.optimizer import WarpAdam
from warpadam.structures.base import matrix_shape


@final
@dataclass(frozen=True, slots=True)
class WarpedParameter:
    """P of one parameter.

    Attributes:
        shape: The parameter's shape.
        strategy: The structure, placement and learner that made it.
        tensors: As :meth:`~warpadam.WarpAdam.get_distortion` returns them.
    """

    shape: tuple[int, ...]
    strategy: Strategy
    tensors: Mapping[str, Tensor]


@final
@dataclass(frozen=True, slots=True)
class Warp:
    """P of a whole model.

    Attributes:
        config: The settings it was learned under; a group may have had its own, see ``WarpedParameter.strategy``.
        parameters: P by the parameter's name.

    >>> import torch
    >>> model = torch.nn.Linear(3, 2)
    >>> warp = Warp.of(WarpAdam(model.named_parameters(), lr=0.01))
    >>> warp.parameters["weight"].shape
    (2, 3)
    >>> warp.optimizer(model.named_parameters()).defaults["p_lr"]
    0.0
    """

    config: WarpAdamConfig
    parameters: Mapping[str, WarpedParameter]

    @classmethod
    def of(cls, optimizer: WarpAdam) -> Warp:
        """Copy the P that an optimizer has now.

        Raises:
            InvalidConfigError: The optimizer was not made from ``named_parameters()``.
        """
        config = WarpAdamConfig(**{name: optimizer.defaults[name] for name in asdict(WarpAdamConfig())})
        parameters = {
            name: WarpedParameter(tuple(param.shape), strategy, optimizer.get_distortion(param))
            for name, param, strategy in _named(optimizer)
        }
        return cls(config, parameters)

    def optimizer(
        self, named_parameters: Iterable[tuple[str, Tensor]], *, learn: bool = False, **settings: Any
    ) -> WarpAdam:
        """Make an optimizer that starts from this P.

        Args:
            named_parameters: ``model.named_parameters()``.
            learn: Go on learning P. Otherwise no meta-gradient is taken (``p_lr`` is 0): factors of ``hypergradient``
                and a learned scale stay as they are, in the rule of the learner that made them, while what follows
                gradient covariances (``rotation``, ``whitening``) keeps following those of the new run.
            settings: Fields of :class:`~warpadam.config.WarpAdamConfig` that differ from ``config``.

        Raises:
            InvalidConfigError: An illegal setting.
            WarpMismatchError: As :meth:`apply`.
        """
        config = self.config if learn else replace(self.config, p_lr=0.0)
        optimizer = WarpAdam.from_config(list(named_parameters), replace(config, **settings))
        self.apply(optimizer)
        return optimizer

    def apply(self, optimizer: WarpAdam, *, strict: bool = True) -> tuple[str, ...]:
        """Give this P to the parameters of the same name; their state starts anew, with moments of zero.

        The structure and placement must be those that made P. So must the learner; only ``frozen`` may replace
        ``hypergradient`` and ``rotation``, whose rule it keeps.

        Args:
            optimizer: Made from ``named_parameters()``.
            strict: Whether everything must fit, both ways. Otherwise what fits is taken.

        Returns:
            What was not taken, one line each; nothing if strict.

        Raises:
            InvalidConfigError: The optimizer has no names.
            WarpMismatchError: Something does not fit; then the optimizer is as it was.
        """
        before = dict(optimizer.state)
        mismatches: list[str] = []
        unseen = dict(self.parameters)
        for name, param, strategy in list(_named(optimizer)):
            source = unseen.pop(name, None)
            if source is None:
                mismatches.append(f"missing: {name!r} of shape {tuple(param.shape)} has no P")
                continue
            wrong = list(_misfits(name, source, param, strategy)) or _give(optimizer, name, param, source)
            if wrong:
                _restore(optimizer, param, before)
                mismatches += wrong
        mismatches += [
            f"unexpected: {name!r} of shape {source.shape} is not in the optimizer" for name, source in unseen.items()
        ]
        if strict and mismatches:
            for _, param, _ in _named(optimizer):
                _restore(optimizer, param, before)
            raise WarpMismatchError(tuple(mismatches))
        return tuple(mismatches)

    def is_finite(self) -> bool:
        """Tell whether every tensor holds finite numbers only."""
        return all(bool(t.isfinite().all()) for source in self.parameters.values() for t in source.tensors.values())

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Return the tensors by parameter and name; not copied."""
        return {name: dict(source.tensors) for name, source in self.parameters.items()}

    def shuffled(self, seed: int) -> Warp:
        """Return the same P in wrong coordinates: every row and column of each parameter renumbered at random.

        It is the map P' = R P R^T with a permutation R, so spectrum, norm and learned step sizes are those of P; only
        what they belong to is lost. A P that transfers must beat it.

        Args:
            seed: Of the permutations; one P and one seed give the same result.

        >>> from warpadam import WarpAdam
        >>> warp = Warp.of(WarpAdam(torch.nn.Linear(3, 2).named_parameters()))
        >>> warp.shuffled(0).parameters["weight"].tensors.keys() == warp.parameters["weight"].tensors.keys()
        True
        """
        generator = torch.Generator().manual_seed(seed)
        return self.with_tensors({name: _renumbered(source, generator) for name, source in self.parameters.items()})

    def with_tensors(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> Warp:
        """Return the same with other tensors, in the form of :meth:`tensors`."""
        return Warp(
            self.config,
            {name: replace(source, tensors=dict(tensors[name])) for name, source in self.parameters.items()},
        )


def _renumbered(source: WarpedParameter, generator: torch.Generator) -> dict[str, Tensor]:
    """Permute every axis of the tensors of one P; axes of one length, which may be one axis, in one order."""
    orders: dict[int, Tensor] = {}

    def order(length: int) -> Tensor:
        if length not in orders:
            orders[length] = torch.randperm(length, generator=generator)
        return orders[length]

    sides = matrix_shape(source.shape)
    renumbered = {}
    for name in sorted(source.tensors):
        tensor = source.tensors[name]
        if name == LOG_SCALE and tensor.shape == (sum(sides),):  # of the rows, then of the columns
            parts = [part[order(len(part)).to(part.device)] for part in tensor.split_with_sizes(list(sides))]
            renumbered[name] = torch.cat(parts)
            continue
        for axis, length in enumerate(tensor.shape):
            tensor = tensor.index_select(axis, order(length).to(tensor.device))
        renumbered[name] = tensor
    return renumbered


def _named(optimizer: WarpAdam) -> Iterator[tuple[str, Tensor, Strategy]]:
    for index, group in enumerate(optimizer.param_groups):
        if "param_names" not in group:
            raise InvalidConfigError(
                "params", None, f"have no names in group {index}", "Make the optimizer from model.named_parameters()."
            )
        config = WarpAdamConfig(**{name: group[name] for name in asdict(WarpAdamConfig())})
        for name, param in zip(group["param_names"], group["params"], strict=True):
            yield name, param, config.strategy


def _misfits(name: str, source: WarpedParameter, param: Tensor, strategy: Strategy) -> Iterator[str]:
    if source.shape != tuple(param.shape):
        yield f"shape: {name!r} is {tuple(param.shape)} in the optimizer and {source.shape} in P"
    learners = {source.strategy.learner}
    if Learner.WHITENING not in learners:
        learners.add(Learner.FROZEN)
    if source.strategy[:2] != strategy[:2] or strategy.learner not in learners:
        yield f"strategy: {name!r} is {strategy} in the optimizer and P was made under {source.strategy}"


def _give(optimizer: WarpAdam, name: str, param: Tensor, source: WarpedParameter) -> list[str]:
    """Start a parameter anew from its P; return what its strategy cannot hold (rank or block size differ, say)."""
    optimizer.state.pop(param, None)
    wrong = []
    for tensor_name, tensor in source.tensors.items():
        try:
            optimizer.set_distortion(param, {tensor_name: tensor})
        except InvalidConfigError as error:
            wrong.append(f"tensor: {name!r}: {error}")
    return wrong


def _restore(optimizer: WarpAdam, param: Tensor, before: Mapping[Tensor, Any]) -> None:
    optimizer.state.pop(param, None)
    if param in before:
        optimizer.state[param] = before[param]
