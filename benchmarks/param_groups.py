"""Compare ``param_groups(model)`` with ``model.named_parameters()``, each at the best of three learning rates.

Run::

    python -m benchmarks.param_groups

An autoencoder and a convolutional net, where both are the same unless ``plain`` names the output layer, and language
models with embeddings. A figure is the lowest loss on held-out data, the mean of two seeds. It takes a quarter of an
hour.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from functools import partial
from pydoc_data.topics import topics
from typing import NamedTuple

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR

from benchmarks.default_lr import convolutions, mlp
from warpadam import WarpAdam, param_groups

LRS = (0.01, 0.02, 0.04)
SEEDS = range(2)
POINTS = 20
CONTEXT, TOKENS = 32, 128

Loss = Callable[[Tensor, Tensor], Tensor]


class Task(NamedTuple):
    """A model, with inputs and targets to train on and held out."""

    model: Callable[[], nn.Module]
    inputs: Tensor
    targets: Tensor
    loss: Loss
    batch_size: int
    steps: int
    train: int


class Transformer(nn.Module):
    """Two causal layers; the output layer may be tied to the embedding."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(TOKENS, 48)
        nn.init.normal_(self.embed.weight, std=0.05)
        self.pos_embed = nn.Parameter(torch.randn(CONTEXT, 48) * 0.02)
        layers = [
            nn.TransformerEncoderLayer(48, 4, 128, 0.0, "gelu", batch_first=True, norm_first=True) for _ in range(2)
        ]
        self.layers, self.norm, self.head = nn.ModuleList(layers), nn.LayerNorm(48), nn.Linear(48, TOKENS, bias=False)
        if tied:
            self.head.weight = self.embed.weight
        self.mask = nn.Transformer.generate_square_subsequent_mask(CONTEXT)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the scores of the next token, windows x tokens x vocabulary."""
        hidden = self.embed(tokens) + self.pos_embed
        for layer in self.layers:
            hidden = layer(hidden, src_mask=self.mask)
        scores: Tensor = self.head(self.norm(hidden))
        return scores


class Recurrent(nn.Module):
    """A GRU over embedded tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.reader = nn.Embedding(TOKENS, 32), nn.GRU(32, 64, batch_first=True)
        self.head = nn.Linear(64, TOKENS)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the scores of the next token, windows x tokens x vocabulary."""
        scores: Tensor = self.head(self.reader(self.embed(tokens))[0])
        return scores


def next_token_loss(scores: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy over all tokens."""
    return functional.cross_entropy(scores.flatten(0, 1), targets.flatten())


def make_tasks() -> dict[str, Task]:
    """Return the tasks by name."""
    order = torch.Generator().manual_seed(0)
    digits = load_digits()
    chosen = torch.randperm(len(digits.images), generator=order)
    images, labels = torch.tensor(digits.images, dtype=torch.float32)[chosen] / 16, torch.tensor(digits.target)[chosen]
    rows = images.flatten(1)
    rows = (rows - rows.mean(0)) / (rows.std(0) + 1e-3)
    text = torch.tensor(list("\n".join(topics[name] for name in sorted(topics)).encode())) % TOKENS
    windows = text[: len(text) // (CONTEXT + 1) * (CONTEXT + 1)].view(-1, CONTEXT + 1)
    windows = windows[torch.randperm(len(windows), generator=order)]
    language = (windows[:, :-1], windows[:, 1:], next_token_loss, 16, 200, len(windows) - 300)
    return {
        "autoencoder": Task(lambda: mlp(64, 96, 30, 96, 64), rows, rows, functional.mse_loss, 64, 400, 1300),
        "convolutions": Task(convolutions, images.unsqueeze(1), labels, functional.cross_entropy, 64, 300, 1300),
        "transformer": Task(partial(Transformer, False), *language),
        "transformer, tied": Task(partial(Transformer, True), *language),
        "recurrent": Task(Recurrent, *language),
    }


def lowest_loss(task: Task, params: Callable[[nn.Module, float], object], lr: float, seed: int) -> float:
    """Train and return the lowest of twenty losses on held-out data."""
    torch.manual_seed(seed)
    model = task.model()
    optimizer = WarpAdam(params(model, lr), lr=lr)  # type: ignore[arg-type]
    schedule = LambdaLR(optimizer, lambda step: max(0.0, 1 - step / task.steps))
    batches, losses = torch.Generator().manual_seed(seed), list[float]()
    for step in range(task.steps):
        batch = torch.randint(task.train, (task.batch_size,), generator=batches)
        optimizer.zero_grad()
        task.loss(model(task.inputs[batch]), task.targets[batch]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if (step + 1) % (task.steps // POINTS) == 0:
            with torch.no_grad():
                losses.append(task.loss(model(task.inputs[task.train :]), task.targets[task.train :]).item())
    return min(losses)


def output_layer(model: nn.Module) -> nn.Module:
    """Return the last linear layer."""
    return [module for module in model.modules() if isinstance(module, nn.Linear)][-1]


WAYS: Mapping[str, Callable[[nn.Module, float], object]] = {
    "named_parameters()": lambda model, _: model.named_parameters(),
    "param_groups(model)": lambda model, lr: param_groups(model, lr=lr),
    "plain_lr = lr / 4": lambda model, lr: param_groups(model, lr=lr, plain_lr=lr / 4),
    "plain=output": lambda model, lr: param_groups(model, lr=lr, plain=output_layer(model)),
}


def main() -> None:
    """Train every task in every way, and print the losses and their ratios to the first way."""
    torch.set_num_threads(1)
    for name, task in make_tasks().items():
        first = None
        for way, params in WAYS.items():
            loss = min(statistics.mean(lowest_loss(task, params, lr, seed) for seed in SEEDS) for lr in LRS)
            first = first or loss
            print(f"{name:18} {way:20} {loss:.4f} {loss / first:.2f}", flush=True)


if __name__ == "__main__":
    main()
