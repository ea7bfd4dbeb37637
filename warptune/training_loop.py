"""Takes a training loop that a caller has in memory to a service, as something that it can import."""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from service.errors import FieldError, InvalidSpecError
from service.settings import UserCodeSettings

MODULE: Final = '''\
"""A training loop that was given to warptune.tune. It is deleted when the call ends."""

from pathlib import Path

import cloudpickle

_loop = cloudpickle.loads(Path(__file__).with_suffix(".pickle").read_bytes())


def train(make_optimizer, seed):
    return _loop(make_optimizer, seed)
'''

TEMPORARY: Final = re.compile(r"train_[0-9a-f]{12}:train")
"""Entrypoint in a module with a loop that a caller has in memory."""

LIMIT_S: Final = 100
"""Seconds that a loop may take when it is tried, unless the environment says otherwise: nobody else waits for it."""

Loop = Callable[..., Any]


def name_of(loop: Loop) -> str:
    """Return what to call a loop where people read it."""
    name = str(getattr(loop, "__name__", ""))
    return name[:100] if name.isidentifier() else "train"


def refuse_model(data: object) -> None:
    """Refuse a model of torch where data or a training loop should be, as both can be called.

    Raises:
        InvalidSpecError: It is one, or a class of models.
    """
    networks = sys.modules.get("torch.nn")
    kind = data if isinstance(data, type) else type(data)
    if networks is None or not issubclass(kind, networks.Module):
        return
    hint = "Give the rows first, and as model a function or class that makes a fresh model for each run."
    raise InvalidSpecError(FieldError("data", kind.__name__, "must be rows or a training loop, not a model", hint))


def check_loop(loop: Loop, others: Mapping[str, object]) -> None:
    """Check what can be seen without running a loop. ``others`` are arguments for data, which a loop has itself.

    Raises:
        InvalidSpecError: Another argument is given, or the loop does not take the two arguments that it gets.
    """
    for argument, value in others.items():
        if value is not None:
            shown = value if isinstance(value, str) else type(value).__name__
            wrong = "must be left out with a training loop, which has its own data and model"
            raise InvalidSpecError(FieldError(argument, shown, wrong, code="conflict"))
    try:
        inspect.signature(loop, follow_wrapped=False).bind(None, 0)
    except (TypeError, ValueError) as error:
        wrong = f"must be a function that takes make_optimizer and seed: {error}"
        raise InvalidSpecError(FieldError("data", name_of(loop), wrong)) from error


def write_module(loop: Loop, folder: Path) -> tuple[str, dict[str, str]]:
    """Write a module with a loop to a folder that only this user can read.

    Returns:
        The entrypoint of the loop, and the settings that let a service of our own import it.

    Raises:
        InvalidSpecError: The loop cannot be taken to other processes.
    """
    import cloudpickle

    try:
        content = cloudpickle.dumps(loop)
    except Exception as error:  # whatever the objects that it uses raise
        hint = "Open files, connections and models inside the function."
        wrong = f"cannot be taken to the processes that run it: {type(error).__name__}: {error}"
        raise InvalidSpecError(FieldError("data", name_of(loop), wrong, hint)) from error
    module = f"train_{hashlib.sha256(content).hexdigest()[:12]}"
    (folder / f"{module}.pickle").write_bytes(content)
    (folder / f"{module}.py").write_text(MODULE, encoding="utf-8")
    ours = UserCodeSettings()
    settings = {
        "WARPTUNE_ALLOWED_MODULES": also_allowed(module),
        "WARPTUNE_CODE": str(folder),
        "WARPTUNE_USER_CODE_LIMIT_S": str(
            ours.user_code_limit_s if "user_code_limit_s" in ours.model_fields_set else LIMIT_S
        ),
    }
    return f"{module}:train", settings


def is_temporary(entrypoint: str) -> bool:
    """Return whether an entrypoint is in a module of :func:`write_module`, which is deleted when its call ends."""
    return TEMPORARY.fullmatch(entrypoint) is not None


def also_allowed(module: str) -> str:
    """Return the modules that the settings of this process allow, with another one."""
    return ",".join(filter(None, [UserCodeSettings().allowed_modules, module]))


def importable(argument: str, function: Callable[..., Any], why: str) -> str:
    """Return the entrypoint of a function that other processes import.

    Raises:
        InvalidSpecError: They cannot, because it is not at the top of a module.
    """
    module, name = getattr(function, "__module__", ""), getattr(function, "__qualname__", "")
    if module == "__main__" or not name.isidentifier():
        hint = f"{why}, so write it to a .py file and import it from there."
        if not name:  # an object that can be called, such as a model
            hint = f"{why}, and makes a fresh model for each run: give the function or class that makes it."
        shown = name or type(function).__name__
        raise InvalidSpecError(FieldError(argument, shown, "must be a function at the top of a module", hint))
    return f"{module}:{name}"
