"""Tune WarpAdam and AdamW on your data, from Python.

    from warptune import tune

    result = tune("churn.csv", target="churned", minutes=5)
    optimizer = result.make_optimizer(model)

:class:`Client` talks to a running service, and :class:`AsyncClient` does so with asyncio. docs/python.md has examples.
"""

from __future__ import annotations

try:
    from service.client.async_rest import AsyncClient
    from service.client.private import NotStartedError
    from service.client.rest import ApiError, Client
    from service.errors import InvalidSpecError, JobFailedError, ServiceError
    from warptune.result import Result
    from warptune.tuning import tune
except ModuleNotFoundError as error:
    if (error.name or "").split(".")[0] in ("service", "search_spaces", "warpadam", "warptune"):
        raise
    raise ImportError(
        f"warptune needs {error.name}; install the service: pip install '.[service]' in your clone"
    ) from error

__all__ = [
    "ApiError",
    "AsyncClient",
    "Client",
    "InvalidSpecError",
    "JobFailedError",
    "NotStartedError",
    "Result",
    "ServiceError",
    "tune",
]
