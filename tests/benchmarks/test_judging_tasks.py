# The judging part of the comparison: what is held out is not trained on, and the data is what it claims to be.
from __future__ import annotations

import dataclasses
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from benchmarks.optimizers.arms import ADAMW
from benchmarks.optimizers.judging import burgers, flights, glyphs, names, terrain, words
from benchmarks.optimizers.tasks import DESIGN, JUDGING
from benchmarks.optimizers.training import GradientTask, Task
from warpadam import WarpAdamConfig

ADAMW_VALUES = {"lr": 0.01, "beta1": 0.9, "beta2": 0.999, "weight_decay": 0.0}


def model_of(task: Task) -> nn.Module:
    assert isinstance(task, GradientTask)
    return task.problem(0).model


@pytest.mark.parametrize("task", JUDGING, ids=lambda task: task.name)
def test_a_judging_task_can_be_learned(task: Task) -> None:
    curve = dataclasses.replace(task, steps=80).run(ADAMW, ADAMW_VALUES, seed=0)
    assert curve.final < 0.97 * curve.losses[0]


@pytest.mark.parametrize("task", JUDGING, ids=lambda task: task.name)
def test_a_seed_decides_a_run_of_a_judging_task(task: Task) -> None:
    short = dataclasses.replace(task, steps=2)
    first, again, other = (short.run(ADAMW, ADAMW_VALUES, seed).losses for seed in (3, 3, 4))
    assert first == again != other


def test_no_task_is_in_both_parts() -> None:
    every = [task.name for task in (*DESIGN, *JUDGING)]
    assert len(set(every)) == len(every) == 15


def test_two_judging_tasks_have_an_axis_that_p_does_not_mix_as_a_whole() -> None:
    longest = {task.name: max(max(p.shape) for p in model_of(task).parameters()) for task in JUDGING}
    long = {name for name, length in longest.items() if length > WarpAdamConfig().max_dim}
    assert long == {"terrain_vae", "word_transformer"}


def test_every_glyph_differs_from_the_others_of_its_font_and_no_font_is_in_both_parts() -> None:
    assert not set(glyphs.FONTS) & set(glyphs.HELD_OUT)
    data = glyphs.glyphs()
    for images in (data.x, data.x_val):
        for font in torch.split(images, len(glyphs.CHARACTERS)):
            assert len({tuple(image.tolist()) for image in font.flatten(1)}) == len(glyphs.CHARACTERS)
            assert font.flatten(1).any(1).all()


def test_the_loss_of_the_terrain_vae_is_the_negative_elbo() -> None:
    torch.manual_seed(0)
    model = terrain.Autoencoder()
    patches, noise = torch.randn(5, terrain.SIDE**2), torch.randn(5, terrain.LATENT)
    mean, log_std = model.encoder(patches).chunk(2, dim=1)
    posterior = Normal(mean, log_std.exp())
    decoded = Normal(model.decoder(mean + log_std.exp() * noise), terrain.NOISE)
    likelihood: Tensor = decoded.log_prob(patches)  # type: ignore[no-untyped-call]
    elbo = likelihood.sum(1) - kl_divergence(posterior, Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(model.negative_elbo(patches, noise), -elbo.mean() / terrain.SIDE**2)


def test_held_out_patches_lie_outside_of_the_terrain_to_train_on() -> None:
    train, held_out = terrain.terrain()
    patches = train.unfold(0, terrain.SIDE, 1).unfold(1, terrain.SIDE, 1).flatten(2).flatten(0, 1)
    for patch in held_out[::40]:
        assert (patches - patches.mean(1, keepdim=True) - patch).abs().amax(1).min() > 1e-3


def test_a_held_out_name_is_held_out_in_all_languages() -> None:
    train, held_out, characters = names.names()
    for part in (train, held_out):
        assert part.letters.shape[1] == names.LONGEST
        assert part.letters.max() < characters
        assert (part.letters[:, 0] > 0).all()
        assert len(set(part.languages.bincount().tolist())) == 1
    assert len(held_out.languages) == pytest.approx(len(train.languages) / 4, rel=0.01)


def test_the_words_are_the_same_in_every_process() -> None:
    script = "from benchmarks.optimizers.judging.words import text; print(text()[0].tolist(), text()[1].tolist())"
    texts = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(texts) == 1
    assert len(texts.pop()) > 1_000_000


def test_most_held_out_words_are_known() -> None:
    train, windows = words.text()
    assert train.max() == words.VOCABULARY - 1
    assert (windows == 0).float().mean() < 0.2


def test_flights_are_held_out_by_month_and_standardised_on_those_to_train_on() -> None:
    train, held_out, levels = flights.flights()
    assert (len(train.late), len(held_out.late)) == flights.ROWS
    torch.testing.assert_close(train.numbers.mean(0), torch.zeros(len(flights.NUMBERS)), atol=1e-4, rtol=0.0)
    torch.testing.assert_close(train.numbers.std(0), torch.ones(len(flights.NUMBERS)), atol=1e-3, rtol=0.0)
    temperature = held_out.numbers[:, flights.NUMBERS.index("temp")]
    assert temperature.mean() < -0.3  # October to December
    for part in (train, held_out):
        assert (part.categories < torch.tensor(levels)).all()


def test_the_flows_solve_burgers_equation() -> None:
    angle, time = 2 * np.pi * np.arange(burgers.POINTS) / burgers.POINTS, 0.5
    (found,) = burgers.solve(np.sin(angle)[None], time, burgers.STEPS_PER_TIME)
    # Cole and Hopf: u is the mean of (x - y) / t, weighted by how y spreads and by the integral of the start
    offsets = np.linspace(-3, 3, 20_001)
    start = 1 - np.cos(angle[:, None] - offsets)
    weights = np.exp(-start / (2 * burgers.VISCOSITY) - offsets**2 / (4 * burgers.VISCOSITY * time))
    exact = (weights * offsets / time).sum(1) / weights.sum(1)
    np.testing.assert_allclose(found, exact, atol=1e-6)
