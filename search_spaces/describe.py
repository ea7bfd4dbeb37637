"""Describes a search space as plain JSON, for lists of presets and for forms.

There is no way back from JSON to a space: users name a preset and override it.
"""

from __future__ import annotations

from typing import Any

from search_spaces.domains import Choice, Domain, Int
from search_spaces.space import Condition, SearchSpace


def describe(space: SearchSpace) -> dict[str, Any]:
    """Return name, parameters (parents first) and first trials as JSON-ready values.

    >>> from search_spaces import get_preset
    >>> describe(get_preset("adamw"))["parameters"][0]
    {'name': 'lr', 'kind': 'float', 'low': 0.0001, 'high': 0.3, 'log': True, 'when': None}
    """
    parameters = [
        {"name": parameter.name, **_describe_domain(parameter.domain), "when": _describe_condition(parameter.when)}
        for parameter in space
    ]
    return {
        "name": space.name,
        "parameters": parameters,
        "first_trials": [dict(values) for values in space.first_trials],
    }


def _describe_domain(domain: Domain) -> dict[str, Any]:
    if isinstance(domain, Choice):
        return {"kind": "choice", "values": list(domain.values)}
    kind = "int" if isinstance(domain, Int) else "float"
    return {"kind": kind, "low": domain.low, "high": domain.high, "log": domain.log}


def _describe_condition(when: Condition | None) -> dict[str, Any] | None:
    return None if when is None else {"parent": when.parent, "values": list(when.values)}
