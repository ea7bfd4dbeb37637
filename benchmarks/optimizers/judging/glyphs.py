"""The task ``glyph_convnet``: a residual network with batch normalisation reads letters in fonts it has never seen.

The fonts ship with matplotlib. Four of them are held out.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from string import ascii_letters, digits
from typing import Final

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.optimizers.tabular import MatrixConv, Split, shuffled_batches
from benchmarks.optimizers.training import GradientTask, Problem

CHARACTERS: Final = ascii_letters + digits
SIDE: Final = 16
WIDTH: Final = 24
BATCH: Final = 64
SHIFT: Final = 2
"""Most pixels by which a training image is moved along each axis."""

_STYLES: Final = ("", "-Bold", "-BoldOblique", "-Oblique")
FONTS: Final = (
    *(f"DejaVuSans{style}" for style in _STYLES),
    *(f"DejaVuSansMono{style}" for style in _STYLES),
    *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-BoldItalic"),
    *("STIXGeneral", "STIXGeneralBol", "STIXGeneralBolIta"),
    *("cmb10", "cmss10", "cmti10"),
)
HELD_OUT: Final = ("DejaVuSerif-Italic", "STIXGeneralItalic", "cmr10", "cmtt10")


class ResidualBlock(nn.Module):
    """A convolution with batch normalisation, added to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = MatrixConv(WIDTH, WIDTH), nn.BatchNorm2d(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Map images of ``WIDTH`` channels to the same shape."""
        return x + functional.relu(self.norm(self.convolution(x)))


@lru_cache
def glyphs() -> Split:
    """Return images (n, 1, SIDE, SIDE) with pixels in [0, 1], and the index of each character."""
    labels = torch.arange(len(CHARACTERS))
    return Split(_images(FONTS), labels.repeat(len(FONTS)), _images(HELD_OUT), labels.repeat(len(HELD_OUT)))


def _images(fonts: Sequence[str]) -> Tensor:
    return torch.stack([_render(font, character) for font in fonts for character in CHARACTERS]).unsqueeze(1)


def _render(font: str, character: str) -> Tensor:
    path = Path(matplotlib.get_data_path(), "fonts", "ttf", f"{font}.ttf")
    image = Image.new("L", (SIDE, SIDE))
    face = ImageFont.truetype(path, SIDE - 3)
    ImageDraw.Draw(image).text((SIDE / 2, SIDE - 4), character, fill=255, font=face, anchor="ms")
    return torch.tensor(np.asarray(image, dtype=np.float32) / 255)


def _glyph_convnet(seed: int) -> Problem:
    data = glyphs()
    model = nn.Sequential(
        *(MatrixConv(1, WIDTH), nn.BatchNorm2d(WIDTH), nn.ReLU(), nn.MaxPool2d(2)),
        *(ResidualBlock(), nn.MaxPool2d(2), ResidualBlock()),
        *(nn.Flatten(), nn.Linear(WIDTH * (SIDE // 4) ** 2, len(CHARACTERS))),
    )
    draw = torch.Generator().manual_seed(seed)
    batches = shuffled_batches(len(data.x), BATCH, draw)

    def batch_loss() -> Tensor:
        batch = next(batches)
        down, right = torch.randint(-SHIFT, SHIFT + 1, (2,), generator=draw).tolist()
        moved = data.x[batch].roll((down, right), dims=(2, 3))
        return functional.cross_entropy(model(moved), data.y[batch])

    return Problem(model, batch_loss, lambda: functional.cross_entropy(model(data.x_val), data.y_val).item())


TASKS: Final = (GradientTask(name="glyph_convnet", version="1", steps=300, cost=3.0, problem=_glyph_convnet),)
