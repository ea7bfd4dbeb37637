"""The configuration of WarpAdam: its settings, their defaults and ranges, and the legal strategies.

A strategy is one structure (how P is shaped), one placement (where P acts) and one learner (how P learns). Not every
combination makes sense; ``STRATEGIES`` lists those that do.

This file imports no torch, because the service checks configurations in a process that never loads it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from numbers import Integral, Real
from typing import Any, Final, NamedTuple, cast

from warpadam.errors import InvalidConfigError


class Structure(StrEnum):
    """How the P of one parameter tensor is shaped."""

    DIAGONAL = "diagonal"
    LOW_RANK = "low_rank"
    KRONECKER = "kronecker"
    FULL = "full"


class Placement(StrEnum):
    """Where P acts: before Adam's moments (as in the paper), after them, or on both sides."""

    PRE = "pre"
    POST = "post"
    SANDWICH = "sandwich"


class Learner(StrEnum):
    """How P is learned."""

    HYPERGRADIENT = "hypergradient"
    ROTATION = "rotation"
    WHITENING = "whitening"
    FROZEN = "frozen"


class Strategy(NamedTuple):
    """A structure, a placement and a learner."""

    structure: Structure
    placement: Placement
    learner: Learner

    def __str__(self) -> str:
        return "/".join(self)


STRATEGIES: Final[tuple[Strategy, ...]] = (
    *(Strategy(s, p, Learner.HYPERGRADIENT) for s in Structure for p in Placement),
    *(Strategy(s, Placement.SANDWICH, Learner.ROTATION) for s in (Structure.KRONECKER, Structure.FULL)),
    *(Strategy(s, Placement.PRE, Learner.WHITENING) for s in (Structure.KRONECKER, Structure.FULL)),
    *(Strategy(s, p, Learner.FROZEN) for s in Structure for p in Placement),
)
"""Every legal combination. Rotation and whitening follow the gradient's covariance, so they need a P that mixes
coordinates: ``kronecker`` or ``full``. Rotation turns the basis and must turn the step back, so it is always a
``sandwich``. The P of whitening is symmetric and positive, so nothing must be turned back: it is always ``pre``."""


def _rank(strategy: Strategy) -> tuple[int, int, int]:
    structures = (Structure.KRONECKER, Structure.FULL, Structure.DIAGONAL, Structure.LOW_RANK)
    learners = (Learner.WHITENING, Learner.ROTATION, Learner.HYPERGRADIENT, Learner.FROZEN)
    placements = (Placement.SANDWICH, Placement.PRE, Placement.POST)
    if strategy.learner is Learner.FROZEN:
        placements = (Placement.PRE, Placement.SANDWICH, Placement.POST)
    structure, placement, learner = strategy
    return learners.index(learner), structures.index(structure), placements.index(placement)


_PREFERRED: Final = tuple(sorted(STRATEGIES, key=_rank))
"""All strategies, the most useful first. The first one that fits what a user gives fills in what the user leaves open.
A P learned by meta-gradient works best as a sandwich. A ``frozen`` P that is the identity is AdamW in any placement."""

_OPEN: Final = cast("str", None)
"""Default of structure, placement and learner. ``WarpAdamConfig`` replaces it by a name."""

_OPEN_LR: Final = cast("float", None)
"""Default of lr. ``WarpAdamConfig`` replaces it by that of the learner."""

DEFAULT_LR: Final[Mapping[str, float]] = {
    Learner.WHITENING: 0.005,
    Learner.ROTATION: 0.003,
    Learner.HYPERGRADIENT: 0.003,
    Learner.FROZEN: 0.003,
}
"""The default lr of each learner. Updates of ``whitening`` have a root mean square of 0.2, so at 0.005 its steps are
about as long as those of torch's AdamW at its default of 0.001."""


def as_float(number: Any) -> float:
    """Return a real number as a float; one that is too large for it as infinity."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


class Limits(NamedTuple):
    """The legal range of one number: from ``low`` to ``high``, or to below ``high``.

    >>> print(Limits(1, whole=True))
    a whole number of at least 1
    >>> print(Limits(0, 1, below_high=True))
    a finite number of at least 0 and below 1
    """

    low: float
    high: float = math.inf
    whole: bool = False
    below_high: bool = False

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a finite number"
        if math.isinf(self.high):
            return f"{kind} of at least {self.low:g}"
        if self.below_high:
            return f"{kind} of at least {self.low:g} and below {self.high:g}"
        return f"{kind} from {self.low:g} to {self.high:g}"

    def allows(self, value: object) -> bool:
        """Tell whether ``value`` is a number of the right kind within the range. A bool does not count as a number."""
        if isinstance(value, bool) or not isinstance(value, Integral if self.whole else Real):
            return False
        number = int(value) if self.whole else as_float(value)  # type: ignore[call-overload]  # a number, see above
        below = number < self.high if self.below_high or math.isinf(self.high) else number <= self.high
        return below and number >= self.low

    def as_number(self, value: Any) -> Any:
        """Return a number of any kind as one of Python, and 5.0 as 5 if it is to be whole; other values as they are."""
        if isinstance(value, bool) or not isinstance(value, Real):
            return value
        if isinstance(value, Integral):
            return int(value)
        number = as_float(value)
        return int(number) if self.whole and number.is_integer() else number


_BETA: Final = Limits(0.0, 1.0, below_high=True)

LIMITS: Final[Mapping[str, Limits]] = {
    "lr": Limits(0.0),
    "beta1": _BETA,
    "beta2": _BETA,
    "eps": Limits(0.0),
    "weight_decay": Limits(0.0),
    "rank": Limits(1, whole=True),
    "block_size": Limits(1, whole=True),
    "max_dim": Limits(1, whole=True),
    "p_lr": Limits(0.0),
    "meta_every": Limits(1, whole=True),
    "p_decay": Limits(0.0, 1.0),
    "cov_beta": _BETA,
}
"""The legal range of every number. ``betas`` is checked as ``beta1`` and ``beta2``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WarpAdamConfig:
    """The settings of :class:`~warpadam.WarpAdam`, checked when the config is made.

    Attributes:
        lr: Step size of the parameters. By default 0.005 for ``whitening`` and 0.003 for the other learners.
        betas: Decay rates of the first and second moment, as in Adam.
        eps: Added to the root of the second moment.
        weight_decay: Decoupled weight decay, as in AdamW.
        structure: How P is shaped for matrices: ``diagonal``, ``low_rank``, ``kronecker`` or ``full``. Vectors are
            ``diagonal`` unless the structure is ``full``.
        placement: Where P acts: ``pre`` (the paper's form), ``post`` or ``sandwich`` (Adam in a warped space).
        learner: How P learns: ``hypergradient``, ``rotation`` (a ``sandwich``), ``whitening`` (``pre``) or ``frozen``.
            Rotation and whitening need ``kronecker`` or ``full``.
        rank: Columns of each of the two factors of a ``low_rank`` P, at most the rows of the tensor.
        block_size: Most elements of one block of a ``full`` P. A larger tensor gets a block-diagonal P.
        max_dim: Longest axis that ``kronecker`` mixes as a whole. A longer one is mixed in blocks, up to 16 of them.
        p_lr: Step size of the meta-gradient that learns P. 0 switches the meta-gradient off.
        meta_every: Steps between two updates of P. For ``rotation`` and ``whitening``: between two updates of the
            factors; their learned scale is updated every step.
        p_decay: Pull of P towards the identity at each update: P += p_decay (I - P). For ``kronecker`` each factor is
            pulled so, and P, their product, about twice as far. For ``rotation`` and ``whitening``: pull of the
            learned scale towards 1.
        cov_beta: Decay rate of the running gradient covariances of ``rotation`` and ``whitening``.

    If you leave structure, placement or learner open, the config fills them in: ``kronecker``, ``pre`` and
    ``whitening`` if you give none of them, otherwise the best strategy that has what you give.

    Raises:
        InvalidConfigError: A number is out of its range in ``LIMITS``, or no strategy in ``STRATEGIES`` has the given
            structure, placement and learner.

    >>> config = WarpAdamConfig(lr=0.01, structure="diagonal")
    >>> config.placement, config.learner
    ('sandwich', 'hypergradient')
    >>> WarpAdamConfig.from_dict(config.to_dict()) == config
    True
    """

    lr: float = _OPEN_LR
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.0
    structure: str = _OPEN
    placement: str = _OPEN
    learner: str = _OPEN
    rank: int = 4
    block_size: int = 256
    max_dim: int = 512
    p_lr: float = 0.015
    meta_every: int = 5
    p_decay: float = 0.0
    cov_beta: float = 0.95

    def __post_init__(self) -> None:
        betas: object = self.betas
        if not isinstance(betas, tuple | list) or len(betas) != 2:
            raise InvalidConfigError("betas", betas, "must be two numbers, beta1 and beta2")
        object.__setattr__(self, "betas", (_legal("beta1", betas[0]), _legal("beta2", betas[1])))
        for name, value in _complete(self.structure, self.placement, self.learner)._asdict().items():
            object.__setattr__(self, name, str(value))
        if self.lr is None:
            object.__setattr__(self, "lr", DEFAULT_LR[self.learner])
        for name in LIMITS:
            if name not in ("beta1", "beta2"):
                object.__setattr__(self, name, _legal(name, getattr(self, name)))

    @property
    def strategy(self) -> Strategy:
        """Structure, placement and learner as one value."""
        return Strategy(Structure(self.structure), Placement(self.placement), Learner(self.learner))

    def changed(self, **settings: Any) -> WarpAdamConfig:
        """Return a config with some values replaced.

        Structure, placement and learner stay as they are where ``settings`` does not give them (or gives None). If they
        do not go with the given ones, they are filled in again as for a new config. An lr that is the default of its
        learner follows the learner.

        Raises:
            InvalidConfigError: A field is unknown, a value is out of range, or the settings do not go together.

        >>> str(WarpAdamConfig().changed(structure="full").strategy)
        'full/pre/whitening'
        >>> config = WarpAdamConfig().changed(structure="diagonal")
        >>> str(config.strategy), config.lr
        ('diagonal/sandwich/hypergradient', 0.003)
        """
        given = {name: settings[name] for name in Strategy._fields if settings.get(name) is not None}
        lr = None if self.lr == DEFAULT_LR[self.learner] else self.lr
        values = {**asdict(self), "lr": lr, **settings, **self.strategy._asdict(), **given}
        if tuple(values[name] for name in Strategy._fields) not in STRATEGIES:
            values |= dict.fromkeys(Strategy._fields) | given
        return self.from_dict(values)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values, one for each field; ``betas`` is a list."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}  # asdict would copy every number
        return {**values, "betas": list(self.betas)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> WarpAdamConfig:
        """Build a config from the form of :meth:`to_dict`; missing fields take their defaults.

        Raises:
            InvalidConfigError: A field is unknown, or a value is out of range.
        """
        known = [field.name for field in fields(cls)]
        for name, value in values.items():
            if name not in known:
                raise InvalidConfigError(name, value, "is not a field of WarpAdamConfig", f"It has {', '.join(known)}.")
        return cls(**values)


def _legal(name: str, value: object) -> int | float:
    """Return a value as a number of Python, if it is in the range of ``name``."""
    number: int | float = LIMITS[name].as_number(value)
    if not LIMITS[name].allows(number):
        raise InvalidConfigError(name, value, f"must be {LIMITS[name]}")
    return number


def _complete(structure: str | None, placement: str | None, learner: str | None) -> Strategy:
    """Return the preferred strategy with these parts; None leaves a part open."""
    given = {"structure": structure, "placement": placement, "learner": learner}
    given = {name: value for name, value in given.items() if value is not None}
    for name, kind in (("structure", Structure), ("placement", Placement), ("learner", Learner)):
        if name in given and given[name] not in tuple(kind):
            raise InvalidConfigError(name, given[name], f"must be one of {', '.join(kind)}")
    for strategy in _PREFERRED:
        if given.items() <= strategy._asdict().items():
            return strategy
    fitting = sorted({f"{s.structure} + {s.placement}" for s in STRATEGIES if s.learner == learner})
    others = " + ".join(str(value) for name, value in given.items() if name != "learner")
    raise InvalidConfigError(
        "learner",
        learner,
        f"does not go with {others}",
        f"It goes with {' or '.join(fitting)} (structure + placement).",
    )
