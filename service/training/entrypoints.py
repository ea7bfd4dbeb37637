"""Imports user code by its name, ``package.module:function``.

It checks that the operator allows the module and that its source is the one that a job was submitted with. Only slot
processes, Ray actors and child processes call this, never the API or the worker. The rules for user code are tested in
``service/user_code``.

Modules are found where Python finds them, and then in the folder of ``WARPTUNE_CODE``. Its place at the end means that
nothing in it takes the place of a module of the service.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import torch
from torch import nn

from service.settings import Settings

_sources: Final[dict[str, str]] = {}
"""Module -> SHA-256 of the source that this process imported, with that of the user's other modules it imports."""

OUTSIDE_USER_CODE: Final = (f"{Path(__file__).parents[1]}{os.sep}", f"{Path(importlib.__file__).parent}{os.sep}", "<")
"""Path prefixes outside the user's code: the service, the import system, code without a file."""


OURS: Final = ("warptune", "service", "search_spaces", "warpadam", "__main__")
"""Packages and modules that are never the user's."""


class EntrypointError(ValueError):
    """User code cannot be used; the message says what to change."""


def load_allowed(entrypoint: str, sha256: str) -> Callable[..., Any]:
    """Return a factory whose source is the one that a job was submitted with.

    Raises:
        EntrypointError: The operator does not allow it, it cannot be imported, or its source has changed.
    """
    require_allowed(entrypoint)
    module = entrypoint.partition(":")[0]
    if _sources.get(module) != sha256:
        _sources.clear()  # an earlier job of this process ran another source: import all of it again
    factory = load(entrypoint)
    if _sources[module] != sha256:
        raise EntrypointError(
            f"the source of {module} has changed since the job was submitted: its SHA-256 is {_sources[module]}, "
            f"expected {sha256}; submit the job again"
        )
    return factory


def require_allowed(entrypoint: str) -> Settings:
    """Return the settings of this process if they allow an entrypoint.

    Raises:
        EntrypointError: They do not allow it.
    """
    settings = Settings()
    refusal = settings.refusal(entrypoint)
    if refusal is not None:
        raise EntrypointError(refusal)
    return settings


def loaded_sha256(entrypoint: str) -> str:
    """Return the hash of the source that an entrypoint was loaded from."""
    return _sources[entrypoint.partition(":")[0]]


def load(entrypoint: str) -> Callable[..., Any]:
    """Return a factory, allowed or not. Random numbers drawn while its module is imported change no seed.

    Raises:
        EntrypointError: It cannot be imported, or is not a function.
    """
    name, _, attribute = entrypoint.partition(":")
    settings = Settings()
    if name not in _sources:
        _forget(settings)
    try:
        module = _import(name, settings)
    except (Exception, SystemExit) as error:
        itself = isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}.")
        hint = _where_to_put(name, settings) if itself else ""
        raise EntrypointError(f"{name} cannot be imported: {described(error)}{hint}") from error
    if getattr(module, "__file__", None) is None:
        raise EntrypointError(f"{name} has no file; name the module that defines the function")
    if name not in _sources:
        _sources[name] = _digest([module, *_modules(settings).values()])
    factory = getattr(module, attribute, None)
    if not callable(factory):
        own = [item for item, value in vars(module).items() if getattr(value, "__module__", None) == name]
        raise EntrypointError(f"{name} has no function {attribute!r}; it has {', '.join(sorted(own)) or 'none'}")
    owner = str(getattr(factory, "__module__", None))
    if owner.partition(".")[0] != name.partition(".")[0]:  # or an import of subprocess.run would be a factory too
        raise EntrypointError(f"{entrypoint} is defined in {owner}; name a function of the module's own package")
    return factory  # type: ignore[no-any-return]


def _import(name: str, settings: Settings) -> ModuleType:
    """Import a module from its source: an edit within a second would leave a compiled file that seems up to date."""
    if settings.code is not None and settings.code not in sys.path:
        sys.path.append(settings.code)
    keep, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        with torch.random.fork_rng(devices=[]):
            return importlib.import_module(name)
    finally:
        sys.dont_write_bytecode = keep


def _where_to_put(name: str, settings: Settings) -> str:
    """Say where a module that was not found may be, and where it was looked for."""
    if settings.code is None:
        return "; install it, or set WARPTUNE_CODE to the folder that holds it"
    package = name.partition(".")[0]
    file = getattr(sys.modules.get(package), "__file__", None)
    if file is not None and not Path(file).is_relative_to(settings.code):
        return f"; another {package} comes before that of WARPTUNE_CODE, {settings.code}: {file}. Rename yours"
    return f"; looked among the installed packages and in {settings.code}, the folder of WARPTUNE_CODE"


def _modules(settings: Settings) -> dict[str, ModuleType]:
    """Return the user's modules that this process has imported: those allowed, and those in the folder for code.

    The folder may also hold a virtual environment, or be a clone of this project.
    """
    return {
        name: module
        for name, module in list(sys.modules.items())
        if settings.allows(name) or (name.partition(".")[0] not in OURS and _is_in(settings.code, module))
    }


def _is_in(folder: str | None, module: ModuleType) -> bool:
    file = getattr(module, "__file__", None)
    if folder is None or file is None or not Path(file).is_relative_to(folder):
        return False
    return "site-packages" not in Path(file).relative_to(folder).parts


def _forget(settings: Settings) -> None:
    """Let the user's modules be imported again."""
    for name in _modules(settings):
        del sys.modules[name]
    _sources.clear()
    importlib.invalidate_caches()


def _digest(modules: Iterable[ModuleType]) -> str:
    """Return the SHA-256 of the file of a module, or of the hashes of several files in the order of their names."""
    files = sorted({Path(file) for module in modules if (file := getattr(module, "__file__", None)) is not None})
    hashes = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def described(error: BaseException) -> str:
    """Return an error of user code with the last line of the user's code before it was raised."""
    trace, place = error.__traceback__, ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith(OUTSIDE_USER_CODE) and "site-packages" not in file:
            place = f" ({Path(file).name}, line {trace.tb_lineno})"
        trace = trace.tb_next
    return f"{type(error).__name__}: {error}{place}"


@contextmanager
def forks_end_here() -> Iterator[None]:
    """Run user code. A process that it forks ends where it would come out, as at the end of a script."""
    pid = os.getpid()
    try:
        yield
    finally:
        if os.getpid() != pid:
            left = sys.exception()
            code = left.code if isinstance(left, SystemExit) else left
            os._exit(code if isinstance(code, int) else int(code is not None))


def call(factory: Callable[..., Any], /, *args: object, **config: Any) -> Any:
    """Return what a factory returns.

    Raises:
        EntrypointError: It raised.
    """
    try:
        with forks_end_here():
            return factory(*args, **config)
    except (Exception, SystemExit) as error:
        raise EntrypointError(f"the function raised {described(error)}") from error


def build_module(
    factory: Callable[..., Any], shape: tuple[int, ...], outputs: int, task: str, config: Mapping[str, Any]
) -> nn.Module:
    """Return the module of a factory, with a layer before it that gives flat rows the shape of images.

    Raises:
        EntrypointError: The factory takes other arguments, raised, or returned something else.
    """
    try:
        with suppress(ValueError):  # what is written in C may not say what it takes
            inspect.signature(factory, follow_wrapped=False).bind(shape, outputs, task, **config)
    except TypeError as error:
        raise EntrypointError(f"the function must take shape, outputs, task and what config has: {error}") from error
    model = call(factory, shape, outputs, task, **config)
    if not isinstance(model, nn.Module):
        raise EntrypointError(
            f"the function returned a value of type {type(model).__name__}, expected a torch.nn.Module"
        )
    return nn.Sequential(nn.Unflatten(1, shape), model) if len(shape) > 1 else model


def build_user_model(spec: Mapping[str, Any], shape: tuple[int, ...], sizes: Sequence[int]) -> nn.Module:
    """Return the model of a run.

    Args:
        spec: ``entrypoint``, ``config``, ``task``, and the ``sha256`` of the module's source.
        shape: Shape of an image; empty for other rows.
        sizes: Features of a row, and columns that the module returns.

    Raises:
        EntrypointError: The factory cannot be used.
    """
    factory = load_allowed(spec["entrypoint"], spec["sha256"])
    return build_module(factory, shape or (sizes[0],), sizes[-1], spec["task"], spec["config"])
