"""Connects search spaces to Optuna: suggest values, and rebuild finished trials from stored values.

Only active parameters are suggested, parents first. This is the only file of the package that imports Optuna, so import
it by its full name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import BaseTrial

from search_spaces.domains import Choice, Domain, Int, Scalar
from search_spaces.space import SearchSpace


def suggest(trial: BaseTrial, space: SearchSpace) -> dict[str, Scalar]:
    """Ask ``trial`` for a value of every active parameter.

    Raises:
        ValueError: The trial's study has a parameter of the same name with another kind of distribution.

    >>> import optuna
    >>> from search_spaces import get_preset
    >>> trial = optuna.trial.FixedTrial({"lr": 0.01, "beta1": 0.9, "beta2": 0.95, "weight_decay": 0.0})
    >>> suggest(trial, get_preset("adamw"))
    {'lr': 0.01, 'beta1': 0.9, 'beta2': 0.95, 'weight_decay': 0.0}
    """
    values: dict[str, Scalar] = {}
    for parameter in space:
        if parameter.is_active(values):
            values[parameter.name] = _suggest(trial, parameter.name, parameter.domain)
    return values


def distributions(space: SearchSpace, values: Mapping[str, Scalar]) -> dict[str, BaseDistribution]:
    """Return the distributions that :func:`suggest` would have registered for ``values``.

    With them, ``optuna.trial.create_trial(params=values, distributions=...)`` rebuilds a trial that a sampler treats
    exactly as one that it suggested itself.

    Raises:
        SearchSpaceError: ``values`` is not a complete, legal assignment of the space.

    >>> from search_spaces import get_preset
    >>> space = get_preset("adamw")
    >>> distributions(space, space.first_trials[0])["lr"]
    FloatDistribution(high=0.3, log=True, low=0.0001, step=None)
    """
    space.check(values)
    return {parameter.name: _distribution(parameter.domain) for parameter in space.active(values)}


def first_trials(space: SearchSpace) -> list[dict[str, Scalar]]:
    """Return the points to try first, each ready for ``Study.enqueue_trial``.

    >>> from search_spaces import get_preset
    >>> first_trials(get_preset("adamw"))[0]
    {'lr': 0.01, 'beta1': 0.9, 'beta2': 0.999, 'weight_decay': 0.1}
    """
    return [dict(values) for values in space.first_trials]


def _suggest(trial: BaseTrial, name: str, domain: Domain) -> Scalar:
    if isinstance(domain, Choice):
        return cast("Scalar", trial.suggest_categorical(name, domain.values))
    if isinstance(domain, Int):
        return trial.suggest_int(name, domain.low, domain.high, log=domain.log)
    return trial.suggest_float(name, domain.low, domain.high, log=domain.log)


def _distribution(domain: Domain) -> BaseDistribution:
    if isinstance(domain, Choice):
        return CategoricalDistribution(domain.values)
    if isinstance(domain, Int):
        return IntDistribution(domain.low, domain.high, log=domain.log)
    return FloatDistribution(domain.low, domain.high, log=domain.log)
