"""The parameter ``strategy``: which numbers each strategy uses, and which strategies fit a request.

A space holds structure, placement and learner as one parameter, for instance ``kronecker/pre/whitening``, because not
every combination is legal. ``warpadam/config.py`` has the table of legal ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Final

from search_spaces.domains import Domain
from search_spaces.errors import SearchSpaceError, must_be_one_of
from search_spaces.space import Condition, Parameter
from warpadam.config import STRATEGIES, Learner, Placement, Strategy, Structure

STRATEGY: Final = "strategy"
"""Name of the parameter that holds structure, placement and learner, as ``str(Strategy)``."""

FACETS: Final[Mapping[str, tuple[str, ...]]] = {
    "structure": tuple(map(str, Structure)),
    "placement": tuple(map(str, Placement)),
    "learner": tuple(map(str, Learner)),
}
"""The three parts of a strategy and their values."""

ALWAYS_USED: Final = frozenset({"lr", "beta1", "beta2", "eps", "weight_decay"})
"""Adam's own numbers. Every strategy uses them, and so does plain AdamW."""

_LEARNING: Final = tuple(str(learner) for learner in Learner if learner is not Learner.FROZEN)

USED_BY: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "rank": ("structure", (Structure.LOW_RANK.value,)),
    "block_size": ("structure", (Structure.FULL.value,)),
    "max_dim": ("structure", (Structure.KRONECKER.value,)),
    "p_lr": ("learner", _LEARNING),
    "meta_every": ("learner", _LEARNING),
    "p_decay": ("learner", _LEARNING),
    "cov_beta": ("learner", (Learner.ROTATION.value, Learner.WHITENING.value)),
}
"""For each number of P: the part of a strategy that decides whether it is used, and the values of that part."""

_BY_NAME: Final[Mapping[str, Strategy]] = {str(strategy): strategy for strategy in STRATEGIES}


def parse_strategy(text: object) -> Strategy:
    """Return the strategy that ``text`` names.

    Raises:
        SearchSpaceError: It does not name a legal combination.

    >>> parse_strategy("kronecker/sandwich/rotation").learner
    <Learner.ROTATION: 'rotation'>
    """
    if not isinstance(text, str) or text not in _BY_NAME:
        raise SearchSpaceError(STRATEGY, text, *must_be_one_of(text, _BY_NAME))
    return _BY_NAME[text]


def is_used(name: str, strategy: str) -> bool:
    """Tell whether WarpAdam's number ``name`` has an effect under ``strategy``.

    >>> is_used("rank", "low_rank/pre/hypergradient"), is_used("rank", "diagonal/pre/hypergradient")
    (True, False)
    """
    if name not in USED_BY:
        return name in ALWAYS_USED
    facet, values = USED_BY[name]
    return getattr(_BY_NAME[strategy], facet) in values


def strategy_parameter(name: str, domain: Domain, strategies: Sequence[str]) -> Parameter:
    """Return a parameter for WarpAdam's number ``name`` that exists only under the strategies that use it.

    >>> from search_spaces.domains import Int
    >>> print(strategy_parameter("rank", Int(low=1, high=8), ["full/pre/hypergradient", "low_rank/pre/frozen"]).when)
    strategy is low_rank/pre/frozen
    """
    if name in ALWAYS_USED:
        return Parameter(name=name, domain=domain)
    using = tuple(strategy for strategy in strategies if is_used(name, strategy))
    return Parameter(name=name, domain=domain, when=Condition(parent=STRATEGY, values=using))


def never_used(name: str, value: object, strategies: Iterable[str]) -> SearchSpaceError:
    """Return the error for a value of a number that none of ``strategies`` uses."""
    facet, values = USED_BY[name]
    here = ", ".join(dict.fromkeys(getattr(_BY_NAME[strategy], facet) for strategy in strategies))
    return SearchSpaceError(name, value, f"is only used when {facet} is {' or '.join(values)}; here it is {here}")


def choose_strategies(current: Sequence[str], wishes: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Return the strategies that fit the requested parts.

    Each requested combination selects from ``current``. If nothing there fits, it selects from all legal strategies,
    without ``frozen`` unless a learner is requested. So a requested value is not lost because a preset lacks it.

    Args:
        current: The strategies of the space.
        wishes: Requested values of ``structure``, ``placement`` and ``learner``; each may be missing.

    Raises:
        SearchSpaceError: No legal strategy fits.

    >>> choose_strategies(["diagonal/sandwich/hypergradient"], {"structure": ["full"], "placement": ["post"]})
    ('full/post/hypergradient',)
    """
    chosen: set[str] = set()
    for values in product(*wishes.values()):
        wish = dict(zip(wishes, values, strict=True))
        chosen.update(_fitting(current, wish) or _fitting(_table("learner" in wish), wish))
    if not chosen:
        raise _no_combination(wishes)
    return tuple(strategy for strategy in _BY_NAME if strategy in chosen)


def _table(with_frozen: bool) -> list[str]:
    return [name for name, strategy in _BY_NAME.items() if with_frozen or strategy.learner is not Learner.FROZEN]


def _fitting(strategies: Iterable[str], wish: Mapping[str, str]) -> list[str]:
    return [name for name in strategies if all(getattr(_BY_NAME[name], facet) == wish[facet] for facet in wish)]


def _no_combination(wishes: Mapping[str, Sequence[str]]) -> SearchSpaceError:
    *_, facet = wishes
    fitting = [name for value in wishes[facet] for name in _fitting(_BY_NAME, {facet: value})]
    others = ", ".join(f"{other}={'|'.join(values)}" for other, values in wishes.items() if other != facet)
    given = "|".join(wishes[facet])
    return SearchSpaceError(
        facet, given, f"does not fit {others}", f"The strategies with {facet}={given} are {', '.join(fitting)}."
    )
