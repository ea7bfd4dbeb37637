"""Turns the flat values of a search space into the configuration of an optimizer.

``strategy`` is split into structure, placement and learner; ``beta1`` and ``beta2`` become ``betas``. The ranges of
``warpadam/config.py`` hold for AdamW too. No torch is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from search_spaces.domains import Scalar
from search_spaces.errors import SearchSpaceError, unknown_name
from search_spaces.strategies import FACETS, STRATEGY, parse_strategy
from warpadam.config import LIMITS, WarpAdamConfig

_BETAS = ("beta1", "beta2")
_WARPADAM_BETAS = WarpAdamConfig().betas


@dataclass(frozen=True, slots=True, kw_only=True)
class AdamWConfig:
    """The keyword arguments of ``torch.optim.AdamW`` that can be tuned; the defaults are PyTorch's.

    Attributes:
        lr: Step size.
        betas: Decay rates of the first and second moment.
        eps: Added to the root of the second moment.
        weight_decay: Decoupled weight decay.

    Raises:
        SearchSpaceError: A value is out of its range in :data:`warpadam.config.LIMITS`.

    >>> AdamWConfig(lr=0.01).to_dict()
    {'lr': 0.01, 'betas': [0.9, 0.999], 'eps': 1e-08, 'weight_decay': 0.01}
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        if not _is_pair(self.betas):
            raise SearchSpaceError("betas", self.betas, "must be two numbers, beta1 and beta2")
        object.__setattr__(self, "betas", tuple(self.betas))
        numbers = {"lr": self.lr, "eps": self.eps, "weight_decay": self.weight_decay}
        for name, value in (numbers | dict(zip(_BETAS, self.betas, strict=True))).items():
            if not LIMITS[name].allows(value):
                raise SearchSpaceError(name, value, f"must be {LIMITS[name]}")

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values that also work as keyword arguments; ``betas`` is a list."""
        return {**asdict(self), "betas": list(self.betas)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AdamWConfig:
        """Build a config from the form of :meth:`to_dict`; missing fields take their defaults.

        Raises:
            SearchSpaceError: A field is unknown, or a value is out of range.
        """
        known = [field.name for field in fields(cls)]
        for name, value in values.items():
            if name not in known:
                raise SearchSpaceError(name, value, *unknown_name(name, known))
        return cls(**values)


def warpadam_config(values: Mapping[str, Scalar]) -> WarpAdamConfig:
    """Return the WarpAdam configuration for sampled values.

    Args:
        values: Values by parameter name; missing ones take the optimizer's defaults.

    Raises:
        SearchSpaceError: ``strategy`` is not a legal combination.
        InvalidConfigError: A name is unknown, or a value is out of range.

    >>> config = warpadam_config({"strategy": "diagonal/pre/hypergradient", "lr": 0.01, "beta1": 0.8, "p_lr": 0.1})
    >>> config.structure, config.betas, config.p_lr
    ('diagonal', (0.8, 0.95), 0.1)
    """
    arguments = _with_betas(values, _WARPADAM_BETAS)
    if STRATEGY in arguments:
        arguments |= dict(zip(FACETS, parse_strategy(arguments.pop(STRATEGY)), strict=True))
    return WarpAdamConfig.from_dict(arguments)


def adamw_config(values: Mapping[str, Scalar]) -> AdamWConfig:
    """Return the AdamW configuration for sampled values.

    Args:
        values: Values by parameter name; missing ones take PyTorch's defaults.

    Raises:
        SearchSpaceError: A name is unknown, or a value is out of range.

    >>> adamw_config({"lr": 0.003, "beta2": 0.99}).betas
    (0.9, 0.99)
    """
    return AdamWConfig.from_dict(_with_betas(values, AdamWConfig().betas))


def joined_betas(values: Mapping[str, Scalar]) -> dict[str, Any]:
    """Return the values with ``beta1`` and ``beta2`` joined to ``betas``, as optimizers take them.

    >>> joined_betas({"lr": 0.01, "beta1": 0.9, "beta2": 0.99})
    {'lr': 0.01, 'betas': [0.9, 0.99]}
    """
    joined = _with_betas(values, AdamWConfig().betas)
    return {name: list(value) if name == "betas" else value for name, value in joined.items()}


def _is_pair(value: object) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2


def _with_betas(values: Mapping[str, Scalar], defaults: tuple[float, float]) -> dict[str, Any]:
    rest: dict[str, Any] = {name: value for name, value in values.items() if name not in _BETAS}
    betas = tuple(values.get(name, default) for name, default in zip(_BETAS, defaults, strict=True))
    return {**rest, "betas": betas} if any(name in values for name in _BETAS) else rest
