# The P that a run has learned, as an artifact: a safetensors file, written at the end of a run and read by one that
# starts from it. The format is warpadam's (meta/artifact.py); which runs leave one is decided in recommend/confirm.py.
"""Writing and reading the P of a run."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from pathlib import Path

from torch.optim import Optimizer

from service.artifacts import read_artifact, write_artifact
from warpadam import Learner, Warp, WarpAdam, load_warp, save_warp

log = logging.getLogger(__name__)


def write_p(optimizer: Optimizer, url: str) -> None:
    """Write P, unless the optimizer learns none or it is not finite.

    A store that does not take it costs a warning, not the run.
    """
    if not isinstance(optimizer, WarpAdam) or optimizer.defaults["learner"] == Learner.FROZEN:
        return
    warp = Warp.of(optimizer)
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


def apply_p(optimizer: Optimizer, url: str, sha256: str | None) -> None:
    """Start an optimizer from the P of an earlier run.

    Raises:
        ValueError: The file is not the one that was meant, or the optimizer has no P.
    """
    content = read_artifact(url)
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise ValueError(f"the file of P has changed: its SHA-256 is {digest}, expected {sha256}")
    if not isinstance(optimizer, WarpAdam):
        raise ValueError(f"optimizer: got {type(optimizer).__name__}, expected WarpAdam, which has a P")
    with tempfile.TemporaryDirectory(prefix="warptune-p-") as folder:
        path = Path(folder, "p.safetensors")
        path.write_bytes(content)
        load_warp(path).apply(optimizer)
