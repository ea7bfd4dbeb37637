"""Applies a user's overrides to a search space.

A user may fix a parameter, narrow or widen its range, add another of WarpAdam's numbers, or ask for a structure, a
placement or a learner. ``override_domains.py`` reads one override; ``strategies.py`` finds the strategies that fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

from search_spaces.domains import Choice, Scalar
from search_spaces.errors import SearchSpaceError, unknown_name
from search_spaces.override_domains import domain_from, names_from
from search_spaces.presets import get_preset
from search_spaces.space import Parameter, SearchSpace
from search_spaces.strategies import (
    ALWAYS_USED,
    FACETS,
    STRATEGY,
    USED_BY,
    choose_strategies,
    is_used,
    never_used,
    parse_strategy,
    strategy_parameter,
)
from warpadam.config import LIMITS, STRATEGIES, Learner, WarpAdamConfig


def apply_overrides(space: SearchSpace, overrides: Mapping[str, object]) -> SearchSpace:
    """Return ``space`` with a user's overrides.

    Args:
        space: A preset, or any other space. A space without a parameter ``strategy`` belongs to a baseline: only its
            own parameters can be overridden, and Adam's other numbers if it has the betas of an Adam.
        overrides: By name, a scalar (fixes the parameter), a list of scalars (a choice) or
            ``{"low": .., "high": .., "log": ..}`` (a range; ``log`` defaults to the parameter's own). A name is one of:

            - a parameter of the space;
            - another number of :data:`warpadam.config.LIMITS`, which is then added;
            - ``structure``, ``placement`` or ``learner``. They take a name or a list of names and select strategies.

            Values may lie outside the range of the space, but not outside what the optimizer allows.

    Returns:
        A space of the same name, without the parameters that no remaining strategy uses. First trials of a removed
        strategy are dropped, unless all are: then they take the strategies that are left. Their numbers take the
        nearest legal values.

    Raises:
        SearchSpaceError: A name is unknown, a value is not legal, no strategy has the requested parts, or an overridden
            parameter could never be active.

    >>> from search_spaces import get_preset
    >>> space = apply_overrides(get_preset("wide"), {"structure": "low_rank", "rank": [2, 8], "lr": 0.01})
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
    is_adam = "beta1" in space and "beta2" in space
    adds = (*LIMITS, *FACETS) if STRATEGY in space else ALWAYS_USED if is_adam else ()
    known = dict.fromkeys((*space.names, *(name for name in (*LIMITS, *FACETS) if name in adds)))
    for name, value in overrides.items():
        if name not in known:
            raise SearchSpaceError(str(name), value, *unknown_name(name, known))


def _with_strategies(space: SearchSpace, overrides: Mapping[str, object]) -> list[Parameter]:
    """Limit ``strategy`` to what fits the overrides; let conditional parameters exist under the added strategies."""
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
        raise SearchSpaceError(STRATEGY, overrides[STRATEGY], f"does not fit {wished}")
    return fitting


def _with_domains(parameters: Sequence[Parameter], numbers: Mapping[str, object]) -> list[Parameter]:
    """Replace the domains of the overridden parameters; add the parameters that the space lacks."""
    own = {parameter.name: parameter for parameter in parameters}
    for name, override in numbers.items():
        domain = domain_from(name, override, own[name].domain if name in own else None)
        if name in own:
            own[name] = replace(own[name], domain=domain)
        else:
            own[name] = strategy_parameter(name, domain, [str(strategy) for strategy in STRATEGIES])
    return list(own.values())


def _without_orphans(parameters: Sequence[Parameter], numbers: Mapping[str, object]) -> tuple[Parameter, ...]:
    """Cut each condition to the values that its parent still has; drop parameters whose condition is left empty."""
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
    return SearchSpaceError(parameter.name, value, f"is never used here: it needs that {parameter.when}")


def _strategies(parameters: Sequence[Parameter]) -> tuple[str, ...]:
    domain = next(parameter.domain for parameter in parameters if parameter.name == STRATEGY)
    return tuple(map(str, domain.values)) if isinstance(domain, Choice) else ()


def _refit(space: SearchSpace, trials: Sequence[Mapping[str, Scalar]]) -> tuple[dict[str, Scalar], ...]:
    """Carry first trials over to a changed space, without duplicates.

    If no strategy of theirs is left, their numbers are tried with the new strategies, one after the other: a search
    without first trials would not be comparable with that of a baseline, which has some. Where P stays the identity,
    the arm is AdamW and gets AdamW's numbers.
    """
    if STRATEGY in space and trials:
        left = _strategies(list(space))
        if not any(trial[STRATEGY] in left for trial in trials):
            is_adamw = all(parse_strategy(name).learner is Learner.FROZEN for name in left)
            numbers = get_preset("adamw").first_trials if is_adamw else trials
            trials = [{**trial, STRATEGY: left[index % len(left)]} for index, trial in enumerate(numbers)]
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
        wanted = trial.get(parameter.name, _defaults().get(parameter.name, ""))  # "" is near no number
        if parameter.name in parents | {STRATEGY} and not parameter.domain.contains(wanted):
            return None
        values[parameter.name] = parameter.domain.nearest(wanted)
    return values


@cache
def _defaults() -> Mapping[str, Scalar]:
    """Return the optimizer's defaults by the names of parameters."""
    defaults = WarpAdamConfig().to_dict()
    defaults["beta1"], defaults["beta2"] = defaults.pop("betas")
    return defaults
