# The one place that knows which hyper-parameters WarpAdam has, their ranges, and which combinations of
# structure, placement and learner are legal. Imports no torch: the service checks specs in a process that never
# loads it. What the values do is in optimizer.py, structures/ and learners/.
"""The validated configuration of WarpAdam."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any, Final, NamedTuple, cast

from warpadam.errors import InvalidConfigError


class Structure(StrEnum):
    """How P is parameterised, per parameter tensor."""

    DIAGONAL = "diagonal"
    LOW_RANK = "low_rank"
    KRONECKER = "kronecker"
    FULL = "full"


class Placement(StrEnum):
    """Where P acts: before the moments (the paper), after them, or on both sides."""

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
    """One way to shape, place and learn P."""

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
"""Every legal combination. Rotation and whitening follow the gradient's covariance, hence a P that mixes. A basis that
turns needs a way back, hence rotation only as a sandwich; the symmetric positive P of whitening needs none."""


def _rank(strategy: Strategy) -> tuple[int, int, int]:
    structures = (Structure.KRONECKER, Structure.FULL, Structure.DIAGONAL, Structure.LOW_RANK)
    learners = (Learner.WHITENING, Learner.ROTATION, Learner.HYPERGRADIENT, Learner.FROZEN)
    placements = (Placement.SANDWICH, Placement.PRE, Placement.POST)
    if strategy.learner is Learner.FROZEN:
        placements = (Placement.PRE, Placement.SANDWICH, Placement.POST)
    structure, placement, learner = strategy
    return learners.index(learner), structures.index(structure), placements.index(placement)


_PREFERRED: Final = tuple(sorted(STRATEGIES, key=_rank))
"""The same, the likeliest wish first: what a user leaves open is as in the first one that fits what is given. A P
learned by meta-gradient is best as a sandwich; a ``frozen`` one that is the identity is AdamW anywhere."""

_OPEN: Final = cast("str", None)
"""Default of structure, placement and learner. It is gone when the config is made."""


class Limits(NamedTuple):
    """The legal range of one number. ``low`` itself is legal unless ``above_low``; ``high`` unless ``below_high``."""

    low: float
    high: float = math.inf
    whole: bool = False
    above_low: bool = False
    below_high: bool = False

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a finite number"
        low = f"{'>' if self.above_low else '>='} {self.low:g}"
        high = "" if math.isinf(self.high) else f" and {'<' if self.below_high else '<='} {self.high:g}"
        return f"{kind} {low}{high}"

    def allows(self, value: object) -> bool:
        """Tell whether ``value`` is a number of the right kind within the range."""
        if isinstance(value, bool) or not isinstance(value, int if self.whole else (int, float)):
            return False
        above = value > self.low if self.above_low else value >= self.low
        below = value < self.high if self.below_high or math.isinf(self.high) else value <= self.high
        return above and below


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
"""The legal range of every number of the configuration (``betas`` is checked as beta1 and beta2)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WarpAdamConfig:
    """Every hyper-parameter of :class:`~warpadam.WarpAdam`, checked when it is made.

    Attributes:
        lr: Step size of the parameters.
        betas: Decay rates of the first and second moment, as in Adam.
        eps: Added to the root of the second moment.
        weight_decay: Decoupled weight decay, as in AdamW.
        structure: Parameterisation of P for matrices; vectors are ``diagonal`` unless ``full``. If nothing is said
            of structure, placement and learner, they are ``kronecker``, ``pre`` and ``whitening``. If one or two are
            given, the rest is what goes with them best: ``diagonal``, ``low_rank`` and ``post`` are learned by
            ``hypergradient``, which is a ``sandwich`` if it may be, and a ``sandwich`` by ``rotation`` if it may be.
        placement: Where P acts: ``pre`` is the paper's form, ``sandwich`` is Adam in a warped space.
        learner: How P is learned. ``rotation`` exists as a ``sandwich`` only, ``whitening`` as ``pre`` only; both for
            ``kronecker`` and ``full``.
        rank: Columns of the two factors of a ``low_rank`` P; a tensor with fewer rows takes its rows.
        block_size: Elements of one block of a ``full`` P; a larger tensor gets a block-diagonal P.
        max_dim: A ``kronecker`` axis longer than this is left alone.
        p_lr: Step size of the meta-gradient that learns P; 0 switches the meta-gradient off.
        meta_every: Steps between two updates of P; for ``rotation`` of its basis and for ``whitening`` of its roots,
            while their scale learns every step.
        p_decay: Pull towards the identity at each update of P: P += p_decay (I - P); for ``rotation`` and
            ``whitening`` of their scale.
        cov_beta: Decay rate of the running gradient covariance (``rotation`` and ``whitening``).

    Raises:
        InvalidConfigError: A value is out of its range in ``LIMITS``, or what is given of structure, placement and
            learner is in no strategy of ``STRATEGIES``.

    >>> config = WarpAdamConfig(lr=0.01, structure="diagonal")
    >>> config.placement, config.learner
    ('sandwich', 'hypergradient')
    >>> WarpAdamConfig.from_dict(config.to_dict()) == config
    True
    """

    lr: float = 0.03
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
            raise InvalidConfigError("betas", betas, "two numbers (beta1, beta2)")
        object.__setattr__(self, "betas", tuple(betas))
        numbers = {name: getattr(self, name) for name in LIMITS if name not in ("beta1", "beta2")}
        numbers |= {"beta1": self.betas[0], "beta2": self.betas[1]}
        for name, value in numbers.items():
            if not LIMITS[name].allows(value):
                raise InvalidConfigError(name, value, str(LIMITS[name]))
        for name, value in _complete(self.structure, self.placement, self.learner)._asdict().items():
            object.__setattr__(self, name, str(value))

    @property
    def strategy(self) -> Strategy:
        """Structure, placement and learner as one value."""
        return Strategy(Structure(self.structure), Placement(self.placement), Learner(self.learner))

    def changed(self, **settings: Any) -> WarpAdamConfig:
        """Return the config with other values.

        Structure, placement and learner that are not among ``settings`` (or None) stay, if they go with those that are;
        if not, they are chosen as if they had never been given.

        Raises:
            InvalidConfigError: An unknown field, a value out of range, or settings that do not go together.

        >>> str(WarpAdamConfig().changed(structure="full").strategy)
        'full/pre/whitening'
        >>> str(WarpAdamConfig().changed(structure="diagonal").strategy)
        'diagonal/sandwich/hypergradient'
        """
        given = {name: settings[name] for name in Strategy._fields if settings.get(name) is not None}
        values = {**asdict(self), **settings, **self.strategy._asdict(), **given}
        if tuple(values[name] for name in Strategy._fields) not in STRATEGIES:
            values |= dict.fromkeys(Strategy._fields) | given
        return self.from_dict(values)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON-ready values, one for each field; ``betas`` is a list."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}  # asdict would copy every number
        return {**values, "betas": list(self.betas)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> WarpAdamConfig:
        """Build a config from :meth:`to_dict`'s form; missing fields take their defaults.

        Raises:
            InvalidConfigError: An unknown field, or a value out of range.
        """
        known = [field.name for field in fields(cls)]
        for name, value in values.items():
            if name not in known:
                raise InvalidConfigError(name, value, f"one of the fields {', '.join(known)}")
        return cls(**values)


def _complete(structure: str | None, placement: str | None, learner: str | None) -> Strategy:
    """Return the first choice among the strategies with these parts; None is a part that is open."""
    given = {"structure": structure, "placement": placement, "learner": learner}
    given = {name: value for name, value in given.items() if value is not None}
    for name, kind in (("structure", Structure), ("placement", Placement), ("learner", Learner)):
        if name in given and given[name] not in tuple(kind):
            raise InvalidConfigError(name, given[name], f"one of {', '.join(kind)}")
    for strategy in _PREFERRED:
        if given.items() <= strategy._asdict().items():
            return strategy
    fitting = sorted({f"{s.structure} + {s.placement}" for s in STRATEGIES if s.learner == learner})
    others = " + ".join(str(value) for name, value in given.items() if name != "learner")
    raise InvalidConfigError("learner", learner, f"with it one of {'; '.join(fitting)} (got {others})")
