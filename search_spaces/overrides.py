# What a user may change in a space: fix a parameter, narrow or widen it, add one of WarpAdam's numbers, or wish for a
# structure, a placement or a learner. Rules only; how one value is read is in override_domains.py, which strategies fit
# a wish in strategies.py.
"""Overrides of a search space by its user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from search_spaces.domains import Choice, Scalar
from search_spaces.errors import SearchSpaceError, one_of
from search_spaces.override_domains import domain_from, names_from
from search_spaces.space import Parameter, SearchSpace
from search_spaces.strategies import (
    ALWAYS_USED,
    FACETS,
    STRATEGY,
    USED_BY,
    choose_strategies,
    is_used,
    never_used,
    strategy_parameter,
)
from warpadam.config import LIMITS, STRATEGIES, WarpAdamConfig


def apply_overrides(space: SearchSpace, overrides: Mapping[str, object]) -> SearchSpace:
    """Return ``space`` as its user wants it.

    Args:
        space: A preset, or any other space. Without a parameter ``strategy`` it is a baseline's: only its own
            parameters and Adam's numbers can be overridden.
        overrides: By name, a scalar (fixes it), a list of scalars (a choice) or
            ``{"low": .., "high": .., "log": ..}`` (a range; ``log`` defaults to the parameter's own). A name is a
            parameter of the space, another number of :data:`warpadam.config.LIMITS`, which is then added, or
            ``structure``, ``placement`` or ``learner``, which take a name or a list of names and filter the strategies.
            Values may lie outside of the space's range, never outside of what the optimizer allows.

    Returns:
        A space of the same name. Parameters that no strategy uses any more are gone. First trials of a strategy that is
        gone are dropped; the others take the nearest legal values.

    Raises:
        SearchSpaceError: An unknown name, a value that is not legal, wishes that no legal combination fits, or an
            override of a parameter that could never be active.

    >>> from search_spaces import get_preset
    >>> space = apply_overrides(get_preset("default"), {"structure": "low_rank", "rank": [2, 8], "lr": 0.01})
    >>> space["strategy"].domain, space["rank"].domain
    (Choice(values=('low_rank/sandwich/hypergradient',)), Choice(values=(2, 8)))
    >>> "cov_beta" in space
    False
    """
    _check_names(space, overrides)
    parameters = _with_strategies(space, overrides) if STRATEGY in space else list(space)
    numbers = {name: value for name, value in overrides.items() if name != STRATEGY and name not in FACETS}
    parameters = _with_domains(parameters, numbers)
    narrowed = SearchSpace(name=space.name, parameters=_without_orphans(parameters, numbers))
    return replace(narrowed, first_trials=_refit(narrowed, space.first_trials))


def _check_names(space: SearchSpace, overrides: Mapping[str, object]) -> None:
    adds = (*LIMITS, *FACETS) if STRATEGY in space else tuple(name for name in LIMITS if name in ALWAYS_USED)
    known = dict.fromkeys((*space.names, *adds))
    for name, value in overrides.items():
        if name not in known:
            raise SearchSpaceError(str(name), value, f"the name to be {one_of(name, known)}")


def _with_strategies(space: SearchSpace, overrides: Mapping[str, object]) -> list[Parameter]:
    """Give ``strategy`` the values that fit the overrides, and new values to the parameters they use."""
    before = _strategies(list(space))
    after = _wished_strategies(before, overrides)
    new = [strategy for strategy in after if strategy not in before]
    return [
        replace(parameter, domain=Choice(values=after)) if parameter.name == STRATEGY else _extended(parameter, new)
        for parameter in space
    ]


def _extended(parameter: Parameter, new: Sequence[str]) -> Parameter:
    when = parameter.when
    if when is None or when.parent != STRATEGY:
        return parameter
    added = (strategy for strategy in new if is_used(parameter.name, strategy))
    return replace(parameter, when=replace(when, values=(*when.values, *added)))


def _wished_strategies(before: tuple[str, ...], overrides: Mapping[str, object]) -> tuple[str, ...]:
    wishes = {facet: names_from(facet, overrides[facet], FACETS[facet]) for facet in FACETS if facet in overrides}
    if STRATEGY not in overrides:
        return choose_strategies(before, wishes) if wishes else before
    named = names_from(STRATEGY, overrides[STRATEGY], [str(strategy) for strategy in STRATEGIES])
    fitting = tuple(name for name in named if not wishes or name in choose_strategies(named, wishes))
    if not fitting:
        wished = ", ".join(f"{facet}={'|'.join(names)}" for facet, names in wishes.items())
        raise SearchSpaceError(STRATEGY, overrides[STRATEGY], f"strategies that go with {wished}")
    return fitting


def _with_domains(parameters: Sequence[Parameter], numbers: Mapping[str, object]) -> list[Parameter]:
    """Replace the domains of the overridden parameters; add those that are not there yet."""
    own = {parameter.name: parameter for parameter in parameters}
    for name, override in numbers.items():
        domain = domain_from(name, override, own[name].domain if name in own else None)
        if name in own:
            own[name] = replace(own[name], domain=domain)
        else:
            own[name] = strategy_parameter(name, domain, [str(strategy) for strategy in STRATEGIES])
    return list(own.values())


def _without_orphans(parameters: Sequence[Parameter], numbers: Mapping[str, object]) -> tuple[Parameter, ...]:
    """Cut conditions to the values that their parents still have; drop the parameters left without one."""
    kept: dict[str, Parameter] = {}
    for parameter in parameters:
        narrowed = _narrowed(parameter, kept)
        if narrowed is not None:
            kept[parameter.name] = narrowed
        elif parameter.name in numbers:
            raise _never_active(parameter, numbers[parameter.name], kept)
    return tuple(kept.values())


def _narrowed(parameter: Parameter, kept: Mapping[str, Parameter]) -> Parameter | None:
    if (when := parameter.when) is None:
        return parameter
    parent = kept.get(when.parent)
    left = tuple(value for value in when.values if parent is not None and parent.domain.contains(value))
    return replace(parameter, when=replace(when, values=left)) if left else None


def _never_active(parameter: Parameter, value: object, kept: Mapping[str, Parameter]) -> SearchSpaceError:
    if parameter.when is not None and parameter.when.parent == STRATEGY and parameter.name in USED_BY:
        return never_used(parameter.name, value, _strategies(list(kept.values())))
    return SearchSpaceError(parameter.name, value, f"no value, as it needs that {parameter.when}")


def _strategies(parameters: Sequence[Parameter]) -> tuple[str, ...]:
    domain = next(parameter.domain for parameter in parameters if parameter.name == STRATEGY)
    return tuple(map(str, domain.values)) if isinstance(domain, Choice) else ()


def _refit(space: SearchSpace, trials: Sequence[Mapping[str, Scalar]]) -> tuple[dict[str, Scalar], ...]:
    """Carry first trials over to a narrower space, without repeating one."""
    fitted: list[dict[str, Scalar]] = []
    for trial in trials:
        values = _refit_one(space, trial)
        if values is not None and values not in fitted:
            fitted.append(values)
    return tuple(fitted)


def _refit_one(space: SearchSpace, trial: Mapping[str, Scalar]) -> dict[str, Scalar] | None:
    parents = {parameter.when.parent for parameter in space if parameter.when is not None}
    values: dict[str, Scalar] = {}
    for parameter in space:
        if not parameter.is_active(values):
            continue
        wanted = trial.get(parameter.name, _default(parameter.name))
        if parameter.name in parents | {STRATEGY} and not parameter.domain.contains(wanted):
            return None
        values[parameter.name] = parameter.domain.nearest(wanted)
    return values


def _default(name: str) -> Scalar:
    """Return the optimizer's own default; nothing, to which no number is near, for what it does not know."""
    defaults = WarpAdamConfig().to_dict()
    defaults["beta1"], defaults["beta2"] = defaults.pop("betas")
    value: Scalar = defaults.get(name, "")
    return value
