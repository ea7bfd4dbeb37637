"""The torch half of Muon: one optimizer out of Muon and AdamW."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import nn
from torch.optim import Optimizer

from service.optimizers import Config


@final
class MuonWithAdamW(Optimizer):
    """Muon for some parameters and AdamW for the others, as one optimizer with the groups and states of both.

    Muon steps a tensor with more than two axes as a matrix (:func:`as_matrices`). AdamW steps the groups that are
    added later; settings that they lack take those of AdamW.
    """

    def __init__(self, muon: torch.optim.Muon, adamw: torch.optim.AdamW) -> None:
        self._parts: tuple[Optimizer, ...] = (muon, adamw)
        self._muon_groups = len(muon.param_groups)
        super().__init__([*muon.param_groups, *adamw.param_groups], dict(adamw.defaults))

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Step both; ``closure`` evaluates the loss again."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        count = self._muon_groups
        for part, groups in zip(self._parts, (self.param_groups[:count], self.param_groups[count:]), strict=True):
            part.param_groups, part.state = groups, self.state  # those that schedulers and checkpoints see
        muon, adamw = self._parts
        with as_matrices(param for group in muon.param_groups for param in group["params"]):
            muon.step()
        adamw.step()
        return loss

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_parts": self._parts, "_muon_groups": self._muon_groups}


@contextmanager
def as_matrices(params: Iterable[nn.Parameter]) -> Iterator[None]:
    """Give parameters with more than two axes, and their gradients, the shape (first axis, all others) for a while.

    ``torch.optim.Muon`` takes nothing but matrices. Muon's author steps a convolution in this shape: Jordan et al.
    2024, Muon: An optimizer for hidden layers in neural networks.
    """
    tensors = [(param, param.data, param.grad) for param in params if param.ndim > 2]
    for param, data, grad in tensors:
        param.grad, param.data = None, data.flatten(1)  # a gradient must have the shape of its parameter
        param.grad = None if grad is None else grad.flatten(1)
    try:
        yield
    finally:
        for param, data, grad in tensors:
            stepped, param.grad = param.data, None
            param.data = data.copy_(stepped.view_as(data))  # `flatten` has copied weights in the channels-last format
            param.grad = grad


def build_muon(model: nn.Module, config: Config) -> Optimizer:
    """Return Muon for the weights of the hidden layers of a model, and AdamW for all other parameters.

    The others are biases and norms, embeddings, tensors of more than two axes whose first has length 1, such as
    positions, and, with ``output_layer: adamw``, the last weight, unless it is the only one.
    """
    tables = {param for module in model.modules() if isinstance(module, nn.Embedding) for param in module.parameters()}
    hidden = [
        param
        for param in model.parameters()
        if param.ndim == 2 or (param.ndim > 2 and len(param) > 1)
        if param not in tables
    ]
    if config["output_layer"] == "adamw" and len(hidden) > 1:
        *_, (_, last) = (item for item in model.named_parameters(remove_duplicate=False) if item[1].ndim >= 2)
        hidden = [param for param in hidden if param is not last]  # a head that is tied to a table is not in it anyway
    decay = config["weight_decay"]
    with as_matrices(hidden):
        muon = torch.optim.Muon(
            [{"params": hidden}],  # a group may be empty: a user's model may have no vectors, or no matrices
            lr=config["lr"],
            momentum=config["momentum"],
            weight_decay=decay,
            adjust_lr_fn="match_rms_adamw",
        )
    chosen = set(hidden)
    others = [param for param in model.parameters() if param not in chosen]
    adamw = torch.optim.AdamW([{"params": others}], lr=config["adamw_lr"], betas=(0.9, 0.95), weight_decay=decay)
    return MuonWithAdamW(muon, adamw)
