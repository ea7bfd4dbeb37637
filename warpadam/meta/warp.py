"""The learned P of a whole model, as a value apart from any optimizer.

A :class:`Warp` holds the P of each named parameter and the settings under which it was learned. It is copied out of one
optimizer and given to another by name and shape. ``artifact.py`` saves it to a file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from warpadam.config import Learner, Strategy, WarpAdamConfig
from warpadam.errors import InvalidConfigError, WarpMismatchError
from warpadam.learners.scale import LOG_SCALE
from warpadam.optimizer import WarpAdam
from warpadam.structures.base import matrix_shape

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@final
@dataclass(frozen=True, slots=True)
class WarpedParameter:
    """P of one parameter.

    Attributes:
        shape: The parameter's shape.
        strategy: The structure, placement and learner that made it.
        tensors: The tensors of P, as :meth:`~warpadam.WarpAdam.get_distortion` returns them.
    """

    shape: tuple[int, ...]
    strategy: Strategy
    tensors: Mapping[str, Tensor]


@final
@dataclass(frozen=True, slots=True)
class Warp:
    """P of a whole model.

    Attributes:
        config: The settings under which it was learned. A group may have had its own strategy, which is in
            ``WarpedParameter.strategy``.
        parameters: The P of each parameter, by name.

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
        """Copy the current P of an optimizer.

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
        self,
        params: nn.Module | ParamsT,
        *,
        learn: bool = False,
        split: Any = None,
        maximize: bool = False,
        momentum_dtype: torch.dtype | None = None,
        process_group: ProcessGroup | None = None,
        **settings: Any,
    ) -> WarpAdam:
        """Make an optimizer that starts from this P.

        Args:
            params: What :class:`~warpadam.WarpAdam` takes, with names: the model if ``WarpAdam(model)`` has learned P,
                otherwise ``model.named_parameters()`` or groups of them.
            learn: Whether to continue learning P by meta-gradients. If not, ``p_lr`` is 0: the factors of
                ``hypergradient`` and every learned scale stay as they are. The factors of ``rotation`` and
                ``whitening`` follow the gradient covariances of the new run in both cases.
            split: As for :class:`~warpadam.WarpAdam`: that of the optimizer that has learned P.
            maximize: As for :class:`~warpadam.WarpAdam`.
            momentum_dtype: As for :class:`~warpadam.WarpAdam`.
            process_group: As for :class:`~warpadam.WarpAdam`.
            settings: Fields of :class:`~warpadam.WarpAdamConfig` that differ from ``config``.

        Raises:
            InvalidConfigError: A setting is not legal.
            WarpMismatchError: As for :meth:`apply`.
        """
        config = replace(self.config if learn else replace(self.config, p_lr=0.0), **settings)
        if not isinstance(params, nn.Module):
            kept: dict[str, Any] = {} if learn else {"p_lr": config.p_lr}
            params = [{**item, **kept} if isinstance(item, dict) else item for item in params]  # type: ignore[assignment]
        optimizer = WarpAdam.from_config(
            params,
            config,
            split=split,
            maximize=maximize,
            momentum_dtype=momentum_dtype,
            process_group=process_group,
        )
        self.apply(optimizer)
        return optimizer

    def apply(self, optimizer: WarpAdam, *, strict: bool = True) -> tuple[str, ...]:
        """Give this P to the parameters of the same name. Their moments start at zero again.

        Structure, placement and learner must be those that made P. The exception is ``frozen``, which may use a P made
        by ``hypergradient`` or ``rotation``.

        Args:
            optimizer: Made from ``named_parameters()``.
            strict: Whether every P and every parameter must fit. If not, only the P that fit are taken. In both cases
                a frozen parameter needs no P.

        Returns:
            One line for each thing that does not fit. Empty if strict.

        Raises:
            InvalidConfigError: The optimizer has no parameter names.
            WarpMismatchError: Something does not fit. The optimizer is unchanged then.
        """
        before = dict(optimizer.state)
        mismatches: list[str] = []
        unseen = dict(self.parameters)
        for name, param, strategy in list(_named(optimizer)):
            source = unseen.pop(name, None)
            if source is None:
                if param.requires_grad:  # a frozen parameter is not stepped
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
        """Tell whether all numbers are finite."""
        return all(bool(t.isfinite().all()) for source in self.parameters.values() for t in source.tensors.values())

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Return the tensors by parameter and name, not copied."""
        return {name: dict(source.tensors) for name, source in self.parameters.items()}

    def shuffled(self, seed: int) -> Warp:
        """Return this P in wrong coordinates: the rows and columns of each parameter are renumbered at random.

        The result is P' = R P R^T with a permutation R. Spectrum, norm and learned step sizes are those of P, but they
        belong to other coordinates. It is a control: a P that transfers must beat it.

        Args:
            seed: Seed of the permutations. The same P and seed always give the same result.

        >>> from warpadam import WarpAdam
        >>> warp = Warp.of(WarpAdam(torch.nn.Linear(3, 2).named_parameters()))
        >>> warp.shuffled(0).parameters["weight"].tensors.keys() == warp.parameters["weight"].tensors.keys()
        True
        """
        generator = torch.Generator("cpu").manual_seed(seed)
        return self.with_tensors({name: _renumbered(source, generator) for name, source in self.parameters.items()})

    def with_tensors(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> Warp:
        """Return a copy with other tensors, given in the form of :meth:`tensors`."""
        return Warp(
            self.config,
            {name: replace(source, tensors=dict(tensors[name])) for name, source in self.parameters.items()},
        )


def _renumbered(source: WarpedParameter, generator: torch.Generator) -> dict[str, Tensor]:
    """Permute every axis of the tensors of one P. Axes of the same length get the same order: they may be one axis."""
    orders: dict[int, Tensor] = {}

    def order(length: int) -> Tensor:
        if length not in orders:
            orders[length] = torch.randperm(length, device="cpu", generator=generator)
        return orders[length]

    def renumber(tensor: Tensor) -> Tensor:
        for axis, length in enumerate(tensor.shape):
            tensor = tensor.index_select(axis, order(length).to(tensor.device))
        return tensor

    renumbered = {}
    for name in sorted(source.tensors):
        tensor = source.tensors[name]
        sides = _sides(source, name)
        if sides and tensor.shape == (sum(map(math.prod, sides)),):
            pieces = tensor.split_with_sizes([math.prod(side) for side in sides])
            sorted_alike = [renumber(piece.view(side)).flatten() for piece, side in zip(pieces, sides, strict=True)]
            renumbered[name] = torch.cat(sorted_alike)
        else:
            renumbered[name] = renumber(tensor)
    return renumbered


def _sides(source: WarpedParameter, name: str) -> list[tuple[int, ...]]:
    """Return the shapes of the rows and of the columns in a scale: their length, or blocks x length. Else return []."""
    part, _, kind = name.rpartition(".")  # the name of a split parameter begins with the number of the part
    if kind != LOG_SCALE:
        return []
    prefix = f"{part}." if part else ""
    factors = [source.tensors.get(f"{prefix}{factor}") for factor in ("row_factor", "column_factor")]
    known = [None if factor is None else tuple(factor.shape[:-1]) for factor in factors]  # with the padding of blocks
    rest = len(source.tensors[name]) - sum(math.prod(side) for side in known if side)
    if known.count(None) == 1:
        return [side or (rest,) for side in known]
    return [side or (length,) for side, length in zip(known, matrix_shape(source.shape), strict=False)]


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
    """Reset a parameter's state and give it its P. Return the tensors that do not fit, if the rank differs, say."""
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
