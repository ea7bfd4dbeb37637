"""The task ``terrain_vae``: a variational autoencoder of patches of a mountain range.

The elevations ship with matplotlib (the Jacksboro fault in Tennessee). The eastern quarter is held out. A patch has
more pixels than the longest axis that WarpAdam's P mixes as a whole.
"""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path
from typing import Final

import matplotlib
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.optimizers.tabular import mlp
from benchmarks.optimizers.training import GradientTask, Problem

SIDE: Final = 24
LATENT: Final = 16
HIDDEN: Final = 128
BATCH: Final = 64
NOISE: Final = 0.2
"""Standard deviation of the decoder's output. Patches are in units of the standard deviation of all elevations."""

_GRID: Final = 12
"""Distance between two held-out patches, in pixels."""


class Autoencoder(nn.Module):
    """Encodes a patch as a Gaussian over ``LATENT`` numbers, and decodes a sample of it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = mlp((SIDE**2, HIDDEN, HIDDEN, 2 * LATENT), nn.SiLU)
        self.decoder = mlp((LATENT, HIDDEN, HIDDEN, SIDE**2), nn.SiLU)

    def negative_elbo(self, patches: Tensor, noise: Tensor) -> Tensor:
        """Return the negative evidence lower bound in nats for each pixel.

        Args:
            patches: Patches (n, SIDE**2).
            noise: Standard normal numbers (n, LATENT) that choose the samples.
        """
        mean, log_std = self.encoder(patches).chunk(2, dim=1)
        decoded = self.decoder(mean + log_std.exp() * noise)
        divergence = 0.5 * (mean.square() + (2 * log_std).exp() - 1 - 2 * log_std).sum(1)
        variance = torch.full_like(decoded, NOISE**2)
        misfit = functional.gaussian_nll_loss(decoded, patches, variance, full=True, reduction="none").sum(1)
        negative: Tensor = (divergence + misfit).mean() / SIDE**2
        return negative


@lru_cache
def terrain() -> tuple[Tensor, Tensor]:
    """Return the elevations to train on, and the held-out patches (n, SIDE**2)."""
    with np.load(Path(matplotlib.get_data_path(), "sample_data", "jacksboro_fault_dem.npz")) as archive:
        elevation = torch.tensor(archive["elevation"], dtype=torch.float32)
    cut = elevation.shape[1] * 3 // 4
    train, held_out = elevation[:, :cut], elevation[:, cut:]
    std = train.std()
    patches = held_out.unfold(0, SIDE, _GRID).unfold(1, SIDE, _GRID).flatten(2).flatten(0, 1)
    return train / std, _centred(patches / std)


def _centred(patches: Tensor) -> Tensor:
    return patches - patches.mean(1, keepdim=True)


def _terrain_vae(seed: int) -> Problem:
    train, held_out = terrain()
    model = Autoencoder()
    draw = torch.Generator().manual_seed(seed)
    fixed_noise = torch.randn(len(held_out), LATENT, generator=torch.Generator().manual_seed(0))
    pixels = torch.arange(SIDE)

    def batch_loss() -> Tensor:
        top, left = (torch.randint(length - SIDE + 1, (BATCH, 1), generator=draw) for length in train.shape)
        patches = train[(top + pixels).unsqueeze(2), (left + pixels).unsqueeze(1)].flatten(1)
        return model.negative_elbo(_centred(patches), torch.randn(BATCH, LATENT, generator=draw))

    return Problem(model, batch_loss, lambda: _above_floor(model.negative_elbo(held_out, fixed_noise).item()))


def _above_floor(loss: float) -> float:
    """Subtract the loss of a perfect decoder without a divergence, so that ratios of losses have a meaning."""
    return loss - (math.log(NOISE) + 0.5 * math.log(2 * math.pi))


TASKS: Final = (GradientTask(name="terrain_vae", version="1", steps=500, cost=3.0, problem=_terrain_vae),)
