"""Saves a :class:`~warpadam.Warp` to a safetensors file, and loads it.

The file holds the tensors and a JSON text that describes them. One sha256 covers both, so a changed file is refused.
Loading executes nothing from the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from warpadam.config import Learner, Placement, Strategy, Structure, WarpAdamConfig
from warpadam.errors import InvalidConfigError, WarpFileError
from warpadam.meta.warp import Warp, WarpedParameter

FORMAT: Final = "warpadam.warp"
"""Marks our files among other safetensors files."""

FORMAT_VERSION: Final = 1
"""Increases when older versions of this package cannot read the file."""

_SEPARATOR: Final = ":"
"""Separates a parameter's name from a tensor's name, which does not contain it."""


def save_warp(path: str | os.PathLike[str], warp: Warp) -> None:
    """Write P to a file in one move: a reader sees the whole old file or the whole new one.

    Args:
        path: Usually ends in ``.safetensors``. An existing file is replaced.
        warp: Its tensors are stored bit for bit.

    >>> import tempfile
    >>> from warpadam import WarpAdam
    >>> warp = Warp.of(WarpAdam(torch.nn.Linear(3, 2).named_parameters()))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_warp(f"{folder}/p.safetensors", warp)
    ...     loaded = load_warp(f"{folder}/p.safetensors")
    >>> loaded.config == warp.config
    True
    """
    path = Path(path)
    tensors = {
        f"{name}{_SEPARATOR}{tensor_name}": tensor.detach().cpu().contiguous()
        for name, source in warp.parameters.items()
        for tensor_name, tensor in source.tensors.items()
    }
    content = json.dumps(
        {
            "config": warp.config.to_dict(),
            "parameters": {
                name: {"shape": list(source.shape), "strategy": list(source.strategy)}
                for name, source in warp.parameters.items()
            },
        }
    )
    metadata = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "content": content,
        "sha256": _digest(content, tensors),
    }
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as file:  # unlike those of tempfile, readable for whom the umask allows it
            file.write(save(tensors, metadata))
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def load_warp(path: str | os.PathLike[str]) -> Warp:
    """Load a P that :func:`save_warp` wrote, onto the CPU.

    Raises:
        FileNotFoundError: There is no such file.
        WarpFileError: The file is of another kind, was written by a later version, is truncated, or was changed.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        raise WarpFileError(f"{os.fspath(path)} is not a complete safetensors file: {error}") from error
    if metadata.get("format") != FORMAT:
        raise WarpFileError(
            f"{os.fspath(path)} does not hold a P: its format is {metadata.get('format')!r}, not {FORMAT!r}"
        )
    if metadata.get("format_version") != str(FORMAT_VERSION):
        raise WarpFileError(
            f"{os.fspath(path)} has format version {metadata.get('format_version')!r}; "
            f"this package reads version {FORMAT_VERSION}"
        )
    content, saved = metadata.get("content", ""), metadata.get("sha256")
    found = _digest(content, tensors)
    if found != saved:
        raise WarpFileError(f"{os.fspath(path)} was changed after it was saved: sha256 {found}, expected {saved}")
    return _read(json.loads(content), tensors, path)


def _digest(content: str, tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(content.encode())
    for key in sorted(tensors):
        tensor = tensors[key]
        digest.update(f"\0{key}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read(content: dict[str, Any], tensors: dict[str, Tensor], path: str | os.PathLike[str]) -> Warp:
    owned: dict[str, dict[str, Tensor]] = {name: {} for name in content["parameters"]}
    for key, tensor in tensors.items():
        name, _, tensor_name = key.rpartition(_SEPARATOR)
        owned[name][tensor_name] = tensor
    try:
        config = WarpAdamConfig.from_dict(content["config"])
    except InvalidConfigError as error:
        raise WarpFileError(f"{os.fspath(path)}: {error}") from error
    parameters = {}
    for name, described in content["parameters"].items():
        structure, placement, learner = described["strategy"]
        strategy = Strategy(Structure(structure), Placement(placement), Learner(learner))
        parameters[name] = WarpedParameter(tuple(described["shape"]), strategy, owned[name])
    return Warp(config, parameters)
