"""Writes the weights of a trained model as a safetensors file, and reads them back."""

from __future__ import annotations

import logging

from safetensors.torch import load, save
from torch import nn

from service.artifacts import is_data_gone, write_artifact
from service.training.run import Run

log = logging.getLogger(__name__)


def write_weights(model: nn.Module, run: Run) -> None:
    """Write the weights that a run ends with, if they are kept: where it is tested, those that were tested.

    If they cannot be written, a warning is logged and the run continues. Nothing is written once the data of the run is
    gone, as its job has been deleted.
    """
    if run.weights_url is None:
        return
    try:
        if is_data_gone(run.data.url, "weights"):
            return
        # a tensor is copied, because no two in a file may share memory
        tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in model.state_dict().items()}
        write_artifact(run.weights_url, save(tensors))
    except Exception:  # stores raise what they like, and a user's model may keep other things than tensors
        log.warning("the weights could not be written", extra={"url": run.weights_url}, exc_info=True)


def load_weights(model: nn.Module, content: bytes) -> None:
    """Give a model the weights of a file.

    Raises:
        RuntimeError: They are those of another model.
    """
    model.load_state_dict(load(content))
