"""A training loop of your own: ``warptune check examples.own_loop:train --kind loop``; docs/own-loop.md explains it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn.functional import cross_entropy


def train(make_optimizer: Callable[[nn.Module], torch.optim.Optimizer], seed: int) -> Iterator[dict[str, float]]:
    x, y = (torch.as_tensor(array) for array in load_digits(return_X_y=True))
    x, x_val, y, y_val = train_test_split(x.float() / 16, y, test_size=0.25, random_state=seed)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = make_optimizer(model)
    for step in range(1, 201):
        rows = torch.randint(len(x), (64,))
        optimizer.zero_grad()
        cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
        if step % 10 == 0:
            with torch.no_grad():
                scores = model(x_val)
            hits = (scores.argmax(1) == y_val).float()
            yield {"loss": cross_entropy(scores, y_val).item(), "accuracy": hits.mean().item()}
