"""Registries of what can be added: optimizers, models, tasks, metrics, bundled datasets.

An entry has two halves under one name. The torch-free half is plain data that the API and the worker read. The torch
half is a function, named by an import string and imported on first use.

Built-in entries are listed where their registry is made. Plug-ins register theirs when they are imported: the modules
that ``WARPTUNE_PLUGINS`` names and the entry points of the group ``warptune.plugins``. Each process imports them once,
when it first reads a registry; child processes inherit the environment and so have the same names.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from importlib.metadata import entry_points
from operator import attrgetter
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from search_spaces.errors import must_be_one_of
from service.errors import ServiceError
from service.settings import PluginSettings
from service.version import PLUGINS
from warpadam.errors import field_text


class PluginError(ServiceError):
    """A plug-in cannot be imported."""

    code = "bad_plugin"


class UnknownNameError(KeyError):
    """A registry has no entry of this name; the message lists the names."""

    def __str__(self) -> str:
        return str(self.args[0])


T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """Entries by name, in the order in which they were registered.

    Args:
        kind: What an entry is, in one word, for messages.
        builtin: The entries that ship with the service.
        name_of: Tells the name of an entry.
    """

    def __init__(self, kind: str, builtin: Iterable[T], name_of: Callable[[T], str] = attrgetter("name")) -> None:
        self._kind, self._name_of = kind, name_of
        self._entries: dict[str, T] = {}
        for entry in builtin:
            self.register(entry)

    def register(self, entry: T) -> None:
        """Add an entry.

        Raises:
            ValueError: Another entry has this name.
        """
        name = str(self._name_of(entry))
        if name in self._entries:
            raise ValueError(f"{self._kind} {name!r} is registered already; choose another name")
        self._entries[name] = entry

    def __getitem__(self, name: str) -> T:
        load_plugins()
        try:
            return self._entries[name]
        except KeyError:
            message, hint = must_be_one_of(name, self._entries)
            raise UnknownNameError(field_text(self._kind, name, message, hint)) from None

    def __iter__(self) -> Iterator[str]:
        load_plugins()
        return iter(list(self._entries))

    def __len__(self) -> int:
        load_plugins()
        return len(self._entries)


def import_object(reference: str) -> Any:
    """Return what an import string ``package.module:name`` stands for: the torch half of an entry."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


_lock = threading.RLock()
_state = {"loaded": False}


def load_plugins() -> None:
    """Import every plug-in, unless this process has done so.

    Raises:
        PluginError: One cannot be imported.
    """
    if _state["loaded"]:
        return
    with _lock:
        if _state["loaded"]:
            return
        try:
            named = PluginSettings().plugins or ""
        except ValidationError as error:  # the file that names them cannot be read
            wrong = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise PluginError(f"a setting is not valid: WARPTUNE_PLUGINS {wrong}") from error
        _state["loaded"] = True  # a plug-in may read a registry while it is imported
        modules = filter(None, map(str.strip, named.split(",")))
        plugins: list[tuple[str, Callable[[], object], str]] = [
            (module, partial(importlib.import_module, module), "WARPTUNE_PLUGINS names it") for module in modules
        ]
        plugins += [(point.value, point.load, "an installed package names it") for point in entry_points(group=PLUGINS)]
        for name, load, origin in plugins:
            try:
                load()
            except Exception as error:
                _state["loaded"] = False
                cause = f"{type(error).__name__}: {error}"
                raise PluginError(f"the plug-in {name} cannot be imported: {cause} ({origin})") from error
