"""A family of small regression tasks: they share ill-conditioned inputs and differ in their targets."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from warpadam import WarpAdam, WarpAdamConfig
from warpadam.meta import Loss

FEATURES, OUTPUTS = 6, 3


class Regression:
    """Learn a random matrix from noise-free examples. The features have sizes from 0.03 to 1."""

    def __init__(self, seed: int, *, broken_after: int | None = None) -> None:
        self.target = torch.randn(OUTPUTS, FEATURES, generator=torch.Generator().manual_seed(seed))
        self.visits = 0
        self._samples = 0
        self._broken_after = broken_after

    def make_model(self) -> nn.Module:
        self.visits += 1
        return nn.Linear(FEATURES, OUTPUTS)

    def sample(self) -> Loss:
        self._samples += 1
        inputs = torch.randn(16, FEATURES) * torch.logspace(-1.5, 0, FEATURES)
        outputs = inputs @ self.target.mT
        if self._broken_after is not None and self._samples > self._broken_after:
            outputs = outputs * float("nan")

        def loss(model: nn.Module) -> Tensor:
            error: Tensor = model(inputs) - outputs
            return error.square().mean()

        return loss

    def train(self, optimizer_of: object, steps: int, seed: int) -> float:
        """Train with the optimizer that ``optimizer_of`` makes from the model; return the loss on many examples."""
        torch.manual_seed(seed)
        model = self.make_model()
        assert callable(optimizer_of)
        optimizer: WarpAdam = optimizer_of(model)
        for _ in range(steps):
            optimizer.zero_grad()
            self.sample()(model).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        torch.manual_seed(0)
        with torch.no_grad():
            return sum(float(self.sample()(model)) for _ in range(20)) / 20


@pytest.fixture
def family() -> list[Regression]:
    return [Regression(seed) for seed in range(12)]


@pytest.fixture
def held_out() -> list[Regression]:
    return [Regression(seed) for seed in range(100, 108)]


@pytest.fixture
def broken() -> Regression:
    return Regression(50, broken_after=3)


DIAGONAL = WarpAdamConfig(lr=0.03, structure="diagonal", placement="sandwich", learner="hypergradient", meta_every=1)
KRONECKER = WarpAdamConfig(lr=0.03, structure="kronecker", placement="sandwich", learner="hypergradient", meta_every=1)
ROTATION = WarpAdamConfig(lr=0.03, learner="rotation", meta_every=1, p_lr=0.02)
WHITENING = WarpAdamConfig(lr=0.03, placement="pre", learner="whitening", meta_every=2)


@pytest.fixture
def configs() -> dict[str, WarpAdamConfig]:
    return {"diagonal": DIAGONAL, "kronecker": KRONECKER, "rotation": ROTATION, "whitening": WHITENING}
