"""Writes the P that a run has learned and reads the P that a run starts from, as safetensors files of warpadam."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from pathlib import Path

from torch.optim import Optimizer

from service.artifacts import is_data_gone, read_artifact, write_artifact
from service.training.run import Run
from warpadam import Learner, Warp, WarpAdam, load_warp, save_warp

log = logging.getLogger(__name__)


def write_p(optimizer: Optimizer, run: Run) -> None:
    """Write the P that an optimizer has at the end of a run, if it learned one or started from one."""
    if run.p_url is None or not isinstance(optimizer, WarpAdam):
        return
    if optimizer.defaults["learner"] != Learner.FROZEN or run.from_p_url is not None:
        write_warp(Warp.of(optimizer), run.p_url, run.data.url)


def write_warp(warp: Warp, url: str, data_url: str) -> None:
    """Write P if it is finite.

    If the store does not take it, a warning is logged and the run continues. Nothing is written once the data of the
    run, at ``data_url``, is gone, as its job has been deleted.
    """
    if not warp.is_finite():
        log.warning("P is not finite and is not kept", extra={"url": url})
        return
    try:
        if is_data_gone(data_url, "P"):
            return
        with tempfile.TemporaryDirectory(prefix="warptune-p-") as folder:
            path = Path(folder, "p.safetensors")
            save_warp(path, warp)
            write_artifact(url, path.read_bytes())
    except Exception:  # stores raise what they like
        log.warning("P could not be written", extra={"url": url}, exc_info=True)


def read_p(run: Run) -> Warp | None:
    """Return the P that a run starts from, shuffled if the run asks for that; None if there is none.

    Raises:
        ValueError: The file has changed.
    """
    if run.from_p_url is None:
        return None
    content = read_artifact(run.from_p_url)
    digest = hashlib.sha256(content).hexdigest()
    if digest != run.from_p_sha256:
        raise ValueError(f"the file of P has changed: its SHA-256 is {digest}, expected {run.from_p_sha256}")
    with tempfile.TemporaryDirectory(prefix="warptune-p-") as folder:
        path = Path(folder, "p.safetensors")
        path.write_bytes(content)
        warp = load_warp(path)
    return warp if run.shuffle_seed is None else warp.shuffled(run.shuffle_seed)


def apply_p(optimizer: Optimizer, run: Run) -> None:
    """Start an optimizer from the P that its run starts from, if there is one.

    Raises:
        ValueError: The file has changed, the optimizer has no P, or P does not fit.
    """
    warp = read_p(run)
    if warp is None:
        return
    if not isinstance(optimizer, WarpAdam):
        raise ValueError(f"optimizer: got {type(optimizer).__name__}, expected WarpAdam, which has a P")
    warp.apply(optimizer)
