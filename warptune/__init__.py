"""Tune WarpAdam and AdamW on your data, from Python.

    from warptune import tune

    result = tune("churn.csv", target="churned", minutes=5)
    optimizer = result.make_optimizer(model)

:class:`Client` talks to a running service. docs/python.md has examples.
"""

from __future__ import annotations

try:
    from service.client.rest import ApiError, Client
except ModuleNotFoundError as error:
    if (error.name or "").split(".")[0] in ("service", "search_spaces", "warpadam"):
        raise
    raise ImportError(f"warptune needs {error.name}; install the service: pip install 'warptune[service]'") from error

__all__ = ["ApiError", "Client"]
