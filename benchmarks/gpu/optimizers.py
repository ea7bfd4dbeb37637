"""The optimizers under comparison: how each is made for a GPT, and which learning rates are tried."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any, Final, NamedTuple

import torch
from torch.optim import Optimizer

from benchmarks.gpu.gpt import Gpt
from warpadam import STRATEGIES, Learner, Strategy, Structure, WarpAdam, param_groups

HAS_PEERS: Final = find_spec("pytorch_optimizer") is not None
"""Whether SOAP and Shampoo can be compared with."""

ADAMW: Final = "AdamW, fused"

EVERY: Final = 10
"""Steps between two updates of P, and of the bases of SOAP and Shampoo."""

FULL_BLOCK: Final = 16
"""``block_size`` of full P: with the default of 256, the P of 85 M parameters would take 87 GB."""


class Contender(NamedTuple):
    """One optimizer.

    Attributes:
        make: Makes the optimizers that step a model together, at a learning rate.
        lrs: Learning rates to try in training, the most likely first. Each is twice or half another one.
    """

    make: Callable[[Gpt, float], list[Optimizer]]
    lrs: tuple[float, ...] = (0.002, 0.004, 0.001)


def _adamw(model: Gpt, lr: float) -> list[Optimizer]:
    return [torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True)]


def _muon(model: Gpt, lr: float) -> list[Optimizer]:
    """Muon for the matrices of the blocks, AdamW at a quarter of the lr for the rest, as with whitening."""
    matrices = [param for param in model.blocks.parameters() if param.ndim == 2]
    chosen = set(map(id, matrices))
    others = [param for param in model.parameters() if id(param) not in chosen]
    muon = torch.optim.Muon(matrices, lr=lr, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(others, lr=lr / 4, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    return [muon, adamw]


def _warpadam(model: Gpt, lr: float, **settings: Any) -> list[Optimizer]:
    return [WarpAdam(param_groups(model, lr=lr, meta_every=EVERY, block_size=FULL_BLOCK, **settings))]


def _peer(model: Gpt, lr: float, name: str, **settings: Any) -> list[Optimizer]:
    import pytorch_optimizer

    hidden = [param for param in model.blocks.parameters() if param.ndim == 2]
    chosen = set(map(id, hidden))
    others = [param for param in model.parameters() if id(param) not in chosen]
    peer: Optimizer = getattr(pytorch_optimizer, name)(hidden, lr=lr, **settings)
    return [peer, torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True)]


def _baselines() -> dict[str, Contender]:
    found = {ADAMW: Contender(_adamw), "Muon": Contender(_muon, _FIXED_SIZE)}
    if HAS_PEERS:
        soap = partial(_peer, name="SOAP", betas=(0.9, 0.95), precondition_frequency=EVERY)
        shampoo = partial(
            _peer, name="ScalableShampoo", betas=(0.9, 0.95), preconditioning_compute_steps=EVERY, block_size=512
        )
        found |= {"SOAP": Contender(soap), "Shampoo": Contender(shampoo)}
    return found


_FIXED_SIZE: Final = (0.01, 0.02, 0.005)
"""For updates with a root mean square of 0.2, where AdamW's have up to 1."""

WHITENING: Final = Contender(partial(_warpadam, learner="whitening"), _FIXED_SIZE)
ROTATION: Final = Contender(partial(_warpadam, learner="rotation"))
NOT_SCALED: Final = {
    "kronecker/pre/whitening, p_lr 0": Contender(partial(_warpadam, learner="whitening", p_lr=0.0), _FIXED_SIZE),
    "kronecker/sandwich/rotation, p_lr 0": Contender(partial(_warpadam, learner="rotation", p_lr=0.0)),
}
"""The same without a learned scale. A rotation without scale is SOAP."""


def _takes_long(strategy: Strategy) -> tuple[bool, bool]:
    return strategy.structure == Structure.FULL, strategy.learner in (Learner.ROTATION, Learner.WHITENING)


STEPPED: Final = {
    **_baselines(),
    **NOT_SCALED,
    **{
        str(strategy): Contender(partial(_warpadam, **strategy._asdict()))
        for strategy in sorted(STRATEGIES, key=_takes_long)
    },
}
"""The optimizers whose step is timed: every strategy, those that take longest last."""

TRAINED: Final = {
    **_baselines(),
    "kronecker/pre/whitening": WHITENING,
    "kronecker/sandwich/rotation": ROTATION,
    **NOT_SCALED,
    "kronecker/sandwich/hypergradient": Contender(partial(_warpadam, structure="kronecker", learner="hypergradient")),
    "diagonal/sandwich/hypergradient": Contender(partial(_warpadam, structure="diagonal", learner="hypergradient")),
}
"""The optimizers that train the small GPT."""
