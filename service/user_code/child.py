"""Child process that runs user code for the API and the worker; started by ``probe.py``.

It makes a dataset, tries a model, writes what it found as JSON and ends. Its output is discarded.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypedDict

import torch

from service.spec.dataset_info import DatasetInfo
from service.training.entrypoints import EntrypointError, load, loaded_sha256, require_allowed
from service.user_code.contract import make_dataset, make_model


class Wanted(TypedDict):
    """User code, and the keyword arguments for it."""

    entrypoint: str
    config: dict[str, object]


def found_data(wanted: Wanted, seed: int, folder: Path) -> DatasetInfo:
    """Make a dataset, write its files to ``folder`` and return the facts about it.

    Raises:
        EntrypointError: The factory is not allowed, or breaks its contract.
    """
    entrypoint = wanted["entrypoint"]
    require_allowed(entrypoint)
    facts, info = make_dataset(load(entrypoint), seed, wanted["config"], folder)
    facts.save(folder)
    return replace(info, sources={entrypoint: loaded_sha256(entrypoint)})


def found_model(wanted: Wanted, info: DatasetInfo) -> DatasetInfo:
    """Try a model on data with these facts; return the facts with the shapes of the model's parameters.

    Raises:
        EntrypointError: The factory is not allowed, or breaks its contract.
    """
    entrypoint = wanted["entrypoint"]
    require_allowed(entrypoint)
    model = make_model(load(entrypoint), info.row_shape, info.outputs, info.task, wanted["config"])
    shapes = tuple(tuple(parameter.shape) for parameter in model.parameters())
    return replace(info, tensors=shapes, sources={**info.sources, entrypoint: loaded_sha256(entrypoint)})


def main(question: Path, answer: Path, folder: Path) -> None:
    """Answer a question; both are JSON files.

    The question has ``info`` (facts about the dataset; null if user code makes it), ``dataset`` and ``model`` (each
    null, or with ``entrypoint`` and ``config``) and ``seed``. The answer has ``info``, or ``error`` and the ``part``
    that is wrong.
    """
    torch.set_num_threads(1)
    request = json.loads(question.read_text(encoding="utf-8"))
    info = None if request["info"] is None else DatasetInfo.from_json(request["info"])
    content: dict[str, object] = {"part": "dataset"}
    try:
        if request["dataset"] is not None:
            info = found_data(request["dataset"], request["seed"], folder)
        content["part"] = "model"
        if request["model"] is not None and info is not None:
            info = found_model(request["model"], info)
        content["info"] = None if info is None else asdict(info)
    except EntrypointError as error:
        content["error"] = str(error)
    part = answer.with_suffix(".part")
    part.write_text(json.dumps(content), encoding="utf-8")
    part.replace(answer)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
