"""The settings that an operator makes: environment variables that begin with ``WARPTUNE_``.

docs/settings.md lists them. What a user chooses for one job is in spec/job.py.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Mapping
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import parse_qs, unquote, urlsplit

from annotated_types import Ge, Gt, Le
from pydantic import Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

WELL_KNOWN_PASSWORDS: Final = (
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
"""Database passwords that appear in examples and images, and that the service refuses."""

DATA_FOLDER: Final = "warptune-data"
"""Where a service keeps its jobs by default, in its working directory."""

LOCAL_PROJECT: Final = "local"
"""The project of whoever uses a service without API keys, and of what was stored before the first key."""

PRIVATE_KEY: Final = "WARPTUNE_PRIVATE_KEY"
"""Environment variable with a key for the process that starts a service for itself; it is in no database."""

HOST_NAME: Final = re.compile(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
"""A host name, or ``*.name`` for every name below it."""

MIN_KEY_BYTES: Final = 24
MAX_KEY_BYTES: Final = 64
"""Length of the key that signs notifications, by the Standard Webhooks specification."""

DATABASE_URL: Final = re.compile(r"(sqlite|postgresql)(\+\w+)?://")
"""How the URL of a supported database begins."""


CPUS: Final = re.compile(r"(\d{1,5})(?:-(\d{1,5})(?::(\d{1,5}))?)?")
"""Numbers of CPUs in a list, as taskset writes them: one, a range, or every nth of a range."""

RATE: Final = re.compile(r"off|[1-9][0-9]{0,6}/(second|minute|hour|day)")
"""A number of requests and a time."""


class _FromEnvironment(BaseSettings):
    """Settings from the environment, or from the files that it names. Arguments come before both."""

    model_config = SettingsConfigDict(env_prefix="WARPTUNE_", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _read_files(cls, given: Any) -> Any:
        """Take a setting from the file that ``WARPTUNE_<name>_FILE`` names, as secrets of Docker are passed."""
        for name in cls.model_fields:
            variable = f"WARPTUNE_{name.upper()}_FILE"
            file = os.environ.get(variable)
            if not file:
                continue
            if os.environ.get(plain := variable.removesuffix("_FILE")):
                raise ValueError(f"must not be in both {plain} and {variable}; remove one")
            if given.get(name, "") != "":
                continue  # an argument
            try:
                given[name] = Path(file).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeError) as error:
                raise ValueError(f"must have a file of text in {variable}, and {file!r} cannot be read") from error
        return given

    @field_validator("*", mode="before")
    @classmethod
    def _take_nothing_as_none(cls, value: object, info: ValidationInfo) -> object:
        """Take an empty variable as one that is not set, as ``${NAME:-}`` in a compose file makes it."""
        is_optional = cls.model_fields[str(info.field_name)].default is None
        return None if value == "" and is_optional else value


class LogSettings(_FromEnvironment):
    """How a process logs. Those that train need no other setting."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Lowest level that is logged.")
    log_format: Literal["text", "json"] = Field("text", description="Format of a log line on standard error.")


class PluginSettings(_FromEnvironment):
    """The plug-ins of a process, which it loads before it reads its other settings."""

    plugins: str | None = Field(
        None, description="Modules that register your own optimizers, models or metrics, separated by commas."
    )


class UserCodeSettings(_FromEnvironment):
    """What a process needs to know that only hands code to a service of its own."""

    allowed_modules: str | None = Field(
        None,
        description="Modules whose functions a job may use as its model, training loop or dataset, separated by "
        "commas. Their submodules are allowed too. Default: no user code runs.",
    )
    user_code_limit_s: Annotated[float, Gt(0)] = Field(
        60.0,
        description="Seconds that user code may take to make a dataset, or to try a model or a training loop, import "
        "included.",
    )


class Settings(LogSettings, PluginSettings, UserCodeSettings):
    """Settings of one process, read from ``WARPTUNE_*`` environment variables."""

    database_url: str = Field(
        f"sqlite:///{DATA_FOLDER}/warptune.db",
        description="SQLAlchemy URL of the database: SQLite or PostgreSQL.",
    )
    artifacts_url: str = Field(f"{DATA_FOLDER}/artifacts", description="fsspec URL of the folder for artifacts.")
    ray_address: str | None = Field(
        None,
        description="host:port of the Ray cluster for jobs with engine ray. Default: the worker starts its own Ray.",
    )
    host: str = Field(
        "127.0.0.1",
        description="Address that the API listens on. Any but a loopback address needs an API key in the database.",
    )
    allowed_hosts: str | None = Field(
        None,
        description="Host names that the API answers to, separated by commas, in addition to localhost and IP "
        "addresses. `*.name` allows every name below it, `*` any name. Default: on a loopback address no further "
        "names, on other addresses any name.",
    )
    trusted_proxies: str = Field(
        "127.0.0.1",
        description="Addresses or networks of proxies, separated by commas, whose X-Forwarded-For and "
        "X-Forwarded-Proto are believed. `*` believes everybody.",
    )
    tls_certificate: str | None = Field(
        None, description="PEM file with the certificate chain of the API, which then speaks HTTPS only."
    )
    tls_key: str | None = Field(
        None, validate_default=True, description="PEM file with the private key of the certificate."
    )
    port: Annotated[int, Ge(0), Le(65535)] = Field(8000, description="TCP port of the API.")
    max_body_bytes: Annotated[int, Ge(1024)] = Field(
        1 << 20, description="Largest request body in bytes, uploads excepted."
    )
    max_dataset_bytes: Annotated[int, Ge(1024)] = Field(
        4 << 30, description="Largest dataset in bytes, both as uploaded and unpacked."
    )
    readers: Annotated[int, Ge(1)] = Field(2, description="Uploaded files that are read at once. Others wait.")
    reader_memory_bytes: Annotated[int, Ge(1 << 28)] = Field(
        2 << 30, description="Largest memory in bytes that reading a file, or a column for a job, may take."
    )
    reader_limit_s: Annotated[float, Gt(0)] = Field(
        7.0, description="Seconds that reading a file may take, and one more for each MiB that it has."
    )
    min_free_bytes: Annotated[int, Ge(0)] = Field(
        64 << 20,
        description="Free bytes of a disk below which the service is not ready, accepts no job and no upload, and "
        "workers take no job.",
    )
    slot_memory_bytes: Annotated[int, Ge(1 << 28)] | None = Field(
        None,
        description="Largest memory in bytes of a slot process of the engine optuna. A run that takes more is failed. "
        "Default: what the machine has.",
    )
    max_job_memory_bytes: Annotated[int, Ge(1 << 28)] | None = Field(
        None,
        description="Largest memory in bytes that the slots of a job may need for their models. Default: what the "
        "machine of the workers has.",
    )
    max_slots: Annotated[int, Ge(1)] | None = Field(
        None, description="Most trials of a job that may run at once. Default: any number."
    )
    max_parameters: Annotated[int, Ge(1)] | None = Field(
        None, description="Most parameters of a model. Default: as many as the memory holds."
    )
    max_steps: Annotated[int, Ge(1)] | None = Field(None, description="Most steps of a run. Default: a million.")
    max_trials: Annotated[int, Ge(1)] | None = Field(None, description="Most trials of an arm. Default: 10,000.")
    max_job_seconds: Annotated[float, Gt(0)] = Field(
        604_800.0,
        description="Most seconds that workers may have a job: its search ends then, and at twice as many the job. "
        "Also the longest estimate with which a job is accepted, if this machine can tell.",
    )
    max_queued_jobs: Annotated[int, Ge(1)] = Field(10_000, description="Most jobs that may wait, paused ones included.")
    max_queued_jobs_per_project: Annotated[int, Ge(1)] | None = Field(
        None, description="Most jobs of a project that may wait, paused ones included. Default: any number."
    )
    max_project_bytes: Annotated[int, Ge(1)] | None = Field(
        None,
        description="Most bytes that a project may store: its datasets and the files of its jobs. Default: what the "
        "disk holds.",
    )
    worker_cpus: Annotated[int, Ge(1)] | None = Field(
        None,
        description="CPUs of the largest machine with a worker, which a trial of the engine optuna cannot exceed. "
        "Default: with SQLite those of this machine, with PostgreSQL only the worker checks.",
    )
    worker_memory_bytes: Annotated[int, Ge(1)] | None = Field(
        None,
        description="Memory in bytes of the largest machine with a worker, which a job of the engine optuna cannot "
        "exceed. Default: with SQLite that of this machine, with PostgreSQL only the worker checks.",
    )
    idempotency_key_s: Annotated[float, Gt(0)] = Field(
        86_400.0, description="Seconds after which an Idempotency-Key is forgotten."
    )
    read_rate: str = Field(
        "3000/minute", description="Requests that read, for each API key; without a key, for each address. Or off."
    )
    write_rate: str = Field("300/minute", description="Requests that change something, for each API key. Or off.")
    sign_in_rate: str = Field(
        "30/minute",
        description="Sign-ins for each address, and apart from them requests with a wrong API key. Or off.",
    )
    slot_nice: Annotated[int, Ge(0), Le(19)] = Field(
        0, description="How much slot processes of the engine optuna yield to other processes; 19 is most."
    )
    slot_cpus: str | None = Field(
        None,
        description="CPUs that slot processes of the engine optuna, and children that try user code, run on: numbers "
        "and ranges, separated by commas. Default: those of the worker.",
    )
    slot_user: str | None = Field(
        None,
        description="User that slot processes of the engine optuna run as, if the worker runs as root. Default: the "
        "user of the worker.",
    )
    code: str | None = Field(
        None,
        description="Folder with your own modules. It comes last among the folders that Python looks in. Default: only "
        "installed modules and those on PYTHONPATH are found.",
    )
    dataset_url_prefixes: str | None = Field(
        None,
        description="fsspec URLs of folders, separated by commas, from which users may take datasets by URL. Default: "
        "from the artifact store only.",
    )
    notify_secret: SecretStr | None = Field(
        None,
        description="Secret that signs notifications: `whsec_` and 24 to 64 random bytes as base64. Needed with "
        "WARPTUNE_NOTIFY_HOSTS.",
    )
    notify_hosts: str | None = Field(
        None,
        description="Hosts that jobs may notify of their end, separated by commas. `*.name` allows every name "
        "below it. Default: none, and a spec with notify is refused.",
    )
    public_url: str | None = Field(
        None,
        description="URL at which people reach the pages, for the links in notifications. Default: http://, or with a "
        "certificate https://, with WARPTUNE_HOST and WARPTUNE_PORT.",
    )
    keep_jobs_days: Annotated[float, Gt(0)] | None = Field(
        None, description="Days after which a job that has ended is deleted with its files. Default: never."
    )
    keep_datasets_days: Annotated[float, Gt(0)] | None = Field(
        None, description="Days after its upload after which a dataset that no job uses is deleted. Default: never."
    )
    keep_audit_days: Annotated[float, Gt(0)] | None = Field(
        None, description="Days after which a line of the audit log is deleted. Default: never."
    )
    lease_s: Annotated[float, Ge(1)] = Field(15.0, description="Seconds that a silent worker keeps its job.")
    turn_s: Annotated[float, Gt(0)] = Field(
        60.0, description="Seconds without a worker after which a project gets one, by a job of another giving way."
    )
    poll_s: Annotated[float, Gt(0), Le(1)] = Field(
        0.3, description="Seconds between two looks for a queued job, or a request to cancel, pause or stop."
    )

    @property
    def modules(self) -> list[str]:
        """The modules in ``allowed_modules``."""
        return self.allowed_modules.split(",") if self.allowed_modules else []

    def allows(self, module: str) -> bool:
        """Return whether user code may be imported from ``module``."""
        return any(module == prefix or module.startswith(f"{prefix}.") for prefix in self.modules)

    def refusal(self, entrypoint: str) -> str | None:
        """Return why the entrypoint ``package.module:function`` may not be used; None if it may."""
        if self.allows(entrypoint.partition(":")[0]):
            return None
        found = f"allows only {self.allowed_modules} and their submodules" if self.allowed_modules else "is empty"
        return f"the module of {entrypoint} is not allowed: the operator's setting WARPTUNE_ALLOWED_MODULES {found}"

    def notify_refusal(self, url: str) -> str | None:
        """Return why a job may not notify ``url`` of its end; None if it may."""
        host = urlsplit(url).hostname or ""
        if self.notify_hosts and is_listed(host, self.notify_hosts.lower().split(",")):
            return None
        found = f"allows only {self.notify_hosts}" if self.notify_hosts else "is empty"
        return f"names the host {host}, which is not allowed: the operator's setting WARPTUNE_NOTIFY_HOSTS {found}"

    @property
    def pages_url(self) -> str:
        """The URL at which people reach the pages."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        scheme = "https" if self.tls_certificate else "http"
        return (self.public_url or f"{scheme}://{host}:{self.port}").rstrip("/")

    @property
    def notify_key(self) -> bytes:
        """The key that signs notifications; without one, ``notify_hosts`` is refused."""
        return _signing_key(self.notify_secret.get_secret_value() if self.notify_secret else "")

    @field_validator("notify_secret")
    @classmethod
    def _check_secret(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is None or not secret.get_secret_value():
            return None
        _signing_key(secret.get_secret_value())
        return secret

    @field_validator("allowed_modules")
    @classmethod
    def _check_modules(cls, modules: str | None) -> str | None:
        names = _split_at_commas(modules)
        for name in names:
            if not all(part.isidentifier() for part in name.split(".")):
                raise ValueError(f"must list modules such as models.vision, and {name!r} is not a module name")
        return ",".join(names) or None

    @field_validator("port", mode="before")
    @classmethod
    def _not_of_kubernetes(cls, port: object) -> object:
        """Take the default if Kubernetes has set ``WARPTUNE_PORT`` to the address of a Service named ``warptune``."""
        is_address = isinstance(port, str) and port.startswith("tcp://")
        return cls.model_fields["port"].default if is_address else port

    @field_validator("trusted_proxies")
    @classmethod
    def _check_proxies(cls, proxies: str) -> str:
        for one in _split_at_commas(proxies):
            try:
                _ = one == "*" or ip_network(one)
            except ValueError:
                wrong = f"must list addresses or networks, such as 10.0.0.7 or 10.0.0.0/24, and not {one!r}"
                raise ValueError(wrong) from None
        return proxies

    @field_validator("read_rate", "write_rate", "sign_in_rate")
    @classmethod
    def _check_rate(cls, rate: str) -> str:
        if not RATE.fullmatch(rate):
            raise ValueError("must be requests in a second, minute, hour or day, such as 300/minute, or off")
        return rate

    @property
    def cpus_of_slots(self) -> frozenset[int] | None:
        """The numbers of the CPUs that slots run on; None for those of the worker."""
        return None if self.slot_cpus is None else read_cpus(self.slot_cpus)

    @field_validator("slot_cpus")
    @classmethod
    def _check_cpus(cls, cpus: str | None) -> str | None:
        if cpus is not None:
            read_cpus(cpus)
        return cpus

    @property
    def is_private(self) -> bool:
        """Whether the API listens on a loopback address, which only this machine reaches."""
        return is_loopback(self.host)

    @field_validator("tls_certificate", "tls_key")
    @classmethod
    def _check_tls(cls, file: str | None, info: ValidationInfo) -> str | None:
        if file and not Path(file).is_file():
            raise ValueError(f"must be a file that exists, and {file!r} is none here ({Path.cwd()})")
        if info.field_name == "tls_key" and bool(file) != bool(info.data.get("tls_certificate")):
            raise ValueError("must be set if WARPTUNE_TLS_CERTIFICATE is, and only then")
        return file or None

    @field_validator("code")
    @classmethod
    def _check_code(cls, folder: str | None) -> str | None:
        if not folder:
            return None
        if not Path(folder).is_dir():
            raise ValueError(f"must be a folder that exists, and {folder!r} is none here ({Path.cwd()})")
        return str(Path(folder).resolve())

    @field_validator("allowed_hosts", "notify_hosts")
    @classmethod
    def _check_hosts(cls, hosts: str | None, info: ValidationInfo) -> str | None:
        names = _split_at_commas(hosts)
        notifies = info.field_name == "notify_hosts"
        if names and notifies and not info.data.get("notify_secret"):
            raise ValueError(
                "needs a secret in WARPTUNE_NOTIFY_SECRET or WARPTUNE_NOTIFY_SECRET_FILE. Make one with: "
                "echo whsec_$(openssl rand -base64 32)"
            )
        for name in names:
            if (name != "*" or notifies) and not HOST_NAME.fullmatch(name):
                raise ValueError(
                    f"must list host names such as tune.example.org, without scheme and port, and {name!r} is not a "
                    "host name"
                )
        return ",".join(names) or None

    @field_validator("database_url")
    @classmethod
    def _check_database(cls, url: str) -> str:
        """Refuse a URL of another database and a well-known password; a URL without a password is allowed."""
        if not DATABASE_URL.match(url):
            raise ValueError("must be a URL such as sqlite:///warptune.db or postgresql+psycopg://user@host/name")
        parts = urlsplit(url)
        before_host = parts.netloc.rpartition("@")[0].partition(":")[2]
        passwords = [unquote(before_host), *parse_qs(parts.query).get("password", [])]
        if any(password.lower() in WELL_KNOWN_PASSWORDS for password in passwords):
            raise ValueError("must not have a well-known password. Make one with: openssl rand -hex 24")
        return url


def is_loopback(host: str) -> bool:
    """Return whether an address or ``localhost`` can be reached from this machine only."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def require_folder(folder: Path) -> None:
    """Make a folder for jobs if it does not exist, and check that files can be written there.

    Raises:
        OSError: It cannot be made or written. The message names it, and the settings for another one.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            f"cannot write to the folder {folder.absolute()}, which is for jobs: {error.strerror}. Start in another "
            "folder, or set WARPTUNE_DATABASE_URL and WARPTUNE_ARTIFACTS_URL"
        ) from error


def child_environment(settings: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment for a child started with ``-P``, so that it finds the modules that this process finds.

    Args:
        settings: Settings of the child by their names in the environment. They replace ours, those in files too.
    """
    settings = settings or {}
    ours = {name: value for name, value in os.environ.items() if name.removesuffix("_FILE") not in settings}
    return {**ours, "PYTHONPATH": os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path), **settings}


def read_cpus(text: str) -> frozenset[int]:
    """Return the numbers of a list of CPUs as taskset writes it.

    >>> sorted(read_cpus("0,4-6,8-15:4"))
    [0, 4, 5, 6, 8, 12]

    Raises:
        ValueError: It is not such a list, or an empty one.
    """
    found: set[int] = set()
    for part in text.split(","):
        numbers = CPUS.fullmatch(part.strip())
        first, last, step = (int(number) if number else None for number in numbers.groups()) if numbers else (None,) * 3
        if first is None or step == 0 or (last is not None and last < first):
            raise ValueError(f"must list CPUs such as 2-15 or 0,4-7, and {part!r} is not a CPU or a range of them")
        found.update(range(first, (first if last is None else last) + 1, step or 1))
    return frozenset(found)


def is_listed(host: str, names: Iterable[str]) -> bool:
    """Return whether a host is one of ``names``, where ``*.name`` is every name below it."""
    return any(host == name or (name.startswith("*.") and host.endswith(name[1:])) for name in names)


def _signing_key(secret: str) -> bytes:
    """Return the bytes of a secret in the form of the Standard Webhooks specification."""
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except binascii.Error:
        key = b""
    if not MIN_KEY_BYTES <= len(key) <= MAX_KEY_BYTES:
        raise ValueError(
            "must be whsec_ and 24 to 64 bytes as base64. Make one with: echo whsec_$(openssl rand -base64 32)"
        )
    return key


def _split_at_commas(text: str | None) -> list[str]:
    return [name.strip() for name in text.split(",")] if text and text.strip() else []
