# The P that a run has learned, as an artifact: a safetensors file, written by a run and read by those that start from
# it. The format is warpadam's (meta/artifact.py); which runs leave one is decided in recommend/confirm.py.
"""Writing and reading the P of a run."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from pathlib import Path

from torch.optim import Optimizer

from service.artifacts import read_artifact, write_artifact
from service.training.run import Run
from warpadam import Learner, Warp, WarpAdam, load_warp, save_warp

log = logging.getLogger(__name__)


def write_p(optimizer: Optimizer, run: Run) -> None:
    """Write the P that an optimizer has at the end of a run, unless it has none of its own."""
    if run.p_url is None or not isinstance(optimizer, WarpAdam):
        return
    if optimizer.defaults["learner"] != Learner.FROZEN or run.from_p_url is not None:
        write_warp(Warp.of(optimizer), run.p_url)


def write_warp(warp: Warp, url: str) -> None:
    """Write P, unless it is not finite.

    A store that does not take it costs a warning, not the run.
    """
    if not warp.is_finite():
        log.warning("P is not finite and is not kept", extra={"url": url})
        return
    try:
        with tempfile.TemporaryDirectory(prefix="warptune-p-") as folder:
            path = Path(folder, "p.safetensors")
            save_warp(path, warp)
            write_artifact(url, path.read_bytes())
    except Exception:  # stores raise what they like
        log.warning("P could not be written", extra={"url": url}, exc_info=True)


def read_p(run: Run) -> Warp | None:
    """Return the P that a run starts from, renumbered where the run asks for that; None if it starts from none.

    Raises:
        ValueError: The file is not the one that was meant.
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
        ValueError: The file is not the one that was meant, the optimizer has no P, or P does not fit.
    """
    warp = read_p(run)
    if warp is None:
        return
    if not isinstance(optimizer, WarpAdam):
        raise ValueError(f"optimizer: got {type(optimizer).__name__}, expected WarpAdam, which has a P")
    warp.apply(optimizer)
