# What an operator can set: environment variables with the prefix WARPTUNE_, nothing else. A job's own choices are in
# spec/job.py.
"""Settings of the processes of the service."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal
from urllib.parse import unquote, urlsplit

from annotated_types import Ge, Gt, Le
from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

WELL_KNOWN_PASSWORDS: Final = frozenset(
    (
        "postgres",
        "password",
        "passwd",
        "changeme",
        "change-me",
        "secret",
        "admin",
        "root",
        "example",
        "test",
        "warptune",
    )
)
"""Passwords of examples and of images, which a database that others can reach must not have."""

HOST_NAME: Final = re.compile(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
"""Name of a host, or of all that are below one."""

DATABASE_URL: Final = re.compile(r"(sqlite|postgresql)(\+\w+)?://")
"""What SQLAlchemy's URLs of the databases begin with that the service knows."""


def _listed(text: str | None) -> list[str]:
    """Return what stands between commas; nothing of none and of blanks."""
    names = [name.strip() for name in (text or "").split(",")]
    return [] if names == [""] else names


class Settings(BaseSettings):
    """Settings, read from ``WARPTUNE_*`` environment variables."""

    model_config = SettingsConfigDict(env_prefix="WARPTUNE_", frozen=True)

    database_url: str = Field(
        "sqlite:///warptune-data/warptune.db", description="SQLAlchemy URL of the ledger and of Optuna's tables."
    )
    artifacts_url: str = Field("warptune-data/artifacts", description="fsspec URL of the folder of the artifacts.")
    ray_address: str | None = Field(
        None,
        description="host:port of the Ray cluster that runs jobs of the engine ray; none: a Ray of the worker's own.",
    )
    host: str = Field("127.0.0.1", description="Address that the API listens on. There is no login: keep it private.")
    allowed_hosts: str | None = Field(
        None,
        description="Names that the API answers to beside addresses and localhost, separated by commas; `*.name` is "
        "all below it, `*` any; none: no other ones where it listens on a loopback address, elsewhere any.",
    )
    port: Annotated[int, Ge(0), Le(65535)] = Field(8000, description="TCP port of the API.")
    max_body_bytes: Annotated[int, Ge(1024)] = Field(1 << 20, description="Largest request body, in bytes.")
    max_dataset_bytes: Annotated[int, Ge(1024)] = Field(
        4 << 30, description="Largest uploaded dataset, in bytes, as it comes and unpacked."
    )
    allowed_modules: str | None = Field(
        None,
        description="Modules whose factories a job may name as its model or dataset, with all that is below them, "
        "separated by commas; none: no user code runs.",
    )
    user_code_limit_s: Annotated[float, Gt(0)] = Field(
        60.0, description="Seconds that user code may take to make a dataset, or to try a model, the import included."
    )
    dataset_url_prefixes: str | None = Field(
        None,
        description="fsspec URLs of folders, separated by commas, from which datasets may be taken by URL beside the "
        "artifact store; none: from the artifact store only.",
    )
    lease_s: Annotated[float, Ge(1)] = Field(15.0, description="Seconds a silent worker keeps its job.")
    poll_s: Annotated[float, Gt(0), Le(1)] = Field(
        0.3, description="Seconds between two looks for a queued job or for a cancellation."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Lowest level that is logged.")
    log_format: Literal["text", "json"] = Field("text", description="Form of a log line on standard error.")
    plugins: str | None = Field(
        None, description="Modules that register your own optimizers, models or metrics, separated by commas."
    )

    def allows(self, module: str) -> bool:
        """Tell whether user code may be imported from ``module``."""
        prefixes = self.allowed_modules.split(",") if self.allowed_modules else []
        return any(module == prefix or module.startswith(f"{prefix}.") for prefix in prefixes)

    def refusal(self, entrypoint: str) -> str | None:
        """Return why an entrypoint may not be used; None if it may."""
        if self.allows(entrypoint.partition(":")[0]):
            return None
        found = f"allows only {self.allowed_modules} and what is below" if self.allowed_modules else "is empty"
        return f"the module of {entrypoint} is not allowed: the operator's setting WARPTUNE_ALLOWED_MODULES {found}"

    @field_validator("allowed_modules")
    @classmethod
    def _refuse_what_is_no_module(cls, modules: str | None) -> str | None:
        names = _listed(modules)
        wrong = [name for name in names if not all(part.isidentifier() for part in name.split("."))]
        if wrong:
            raise ValueError(f"{wrong[0]!r} is no dotted name of a module, such as models.vision")
        return ",".join(names) or None

    @field_validator("allowed_hosts")
    @classmethod
    def _refuse_what_is_no_name(cls, hosts: str | None) -> str | None:
        names = _listed(hosts)
        wrong = [name for name in names if name != "*" and not HOST_NAME.fullmatch(name)]
        if wrong:
            raise ValueError(
                f"{wrong[0]!r} is no name of a host, such as tune.example.org; it has no scheme and no port"
            )
        return ",".join(names) or None

    @field_validator("database_url")
    @classmethod
    def _refuse_what_is_no_database(cls, url: str) -> str:
        """Refuse what is no URL, and a password that everybody knows; none at all is the database's own decision."""
        if not DATABASE_URL.match(url):
            raise ValueError("expected a URL such as sqlite:///warptune.db or postgresql+psycopg://user@host/name")
        authority = urlsplit(url).netloc.rpartition("@")[0]
        if unquote(authority.partition(":")[2]).lower() in WELL_KNOWN_PASSWORDS:
            raise ValueError("its password is a well-known default; make one with: openssl rand -hex 24")
        return url
