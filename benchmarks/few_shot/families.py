"""Families of small tasks, made of data that comes with Python and the packages of this project.

Recipes are chosen on the families of ``DESIGN``. Those of ``JUDGING`` are looked at once, with the recipes fixed.
"""

from __future__ import annotations

import importlib
import inspect
import math
import pydoc_data.topics
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from sklearn import datasets
from torch import Tensor, nn

from benchmarks.few_shot.networks import Rows, RowsTask


@dataclass(frozen=True)
class Family:
    """Tasks to learn P on, and other tasks that judge it. Their networks are alike."""

    learning: Sequence[RowsTask]
    judged: Sequence[RowsTask]


def _divided(inputs: Tensor, targets: Tensor, generator: torch.Generator, held_out: float = 0.3) -> tuple[Rows, Rows]:
    order = torch.randperm(len(targets), generator=generator)
    last = round(len(order) * held_out)
    fit, rest = order[last:], order[:last]
    return Rows(inputs[fit], targets[fit]), Rows(inputs[rest], targets[rest])


def _class_tasks(
    classes: Sequence[tuple[Tensor, Tensor]], tasks: int, hidden: tuple[int, ...], seed: int, ways: int = 5
) -> list[RowsTask]:
    """Return tasks to tell five classes apart, in random order. A class is its rows to train on and those held out."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(tasks):
        chosen = [classes[index] for index in torch.randperm(len(classes), generator=generator)[:ways].tolist()]
        fit, held_out = (
            Rows(
                torch.cat([one[part] for one in chosen]),
                torch.cat([torch.full((len(one[part]),), label) for label, one in enumerate(chosen)]),
            )
            for part in (0, 1)
        )
        made.append(RowsTask(fit, held_out, (fit.inputs.shape[1], *hidden, ways)))
    return made


_SIDE: Final = 8
"""Pixels on a side of a glyph, as in the digits of scikit-learn."""

_FONTS: Final = ("DejaVuSans*.ttf", "DejaVuSerif*.ttf", "STIXGeneral*.ttf")
_LEARNED_LETTERS: Final = "ABCDEFGHJKLMNPQRSTUVWXYZ"
_JUDGED_LETTERS: Final = "αβγδεζηθκλμξπρσςτφχψωΓΔΛΞΣΦΨΩ"


@lru_cache(maxsize=1)
def glyphs() -> Family:
    """Tell five letters apart from images of 8 x 8 pixels. P learns on Latin capitals and is judged on Greek letters.

    The rows of a letter are its images in the fonts of matplotlib, in several sizes and places. Held out are images of
    fonts that the network was not trained on.
    """
    folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
    fonts = sorted(path for pattern in _FONTS for path in folder.glob(pattern) if "Display" not in path.name)
    draw = np.random.default_rng(0)

    def images(letter: str, part: Sequence[Path]) -> Tensor:
        return torch.stack([_glyph(letter, path, draw) for path in part for _ in range(6)])

    def classes(letters: str) -> list[tuple[Tensor, Tensor]]:
        held_out = fonts[::4]
        rest = [path for path in fonts if path not in held_out]
        return [(images(letter, rest), images(letter, held_out)) for letter in letters]

    return Family(
        _class_tasks(classes(_LEARNED_LETTERS), 120, (32, 32), 0),
        _class_tasks(classes(_JUDGED_LETTERS), 16, (32, 32), 1),
    )


def _glyph(letter: str, font: Path, draw: np.random.Generator) -> Tensor:
    """Draw a letter 32 pixels high, slightly turned and moved, and shrink it. Pixels are from 0 to 1."""
    image = Image.new("L", (48, 48))
    size = int(draw.integers(30, 40))
    ImageDraw.Draw(image).text((24, 24), letter, 255, ImageFont.truetype(str(font), size), anchor="mm")
    moved = image.rotate(draw.uniform(-12, 12), translate=tuple(draw.uniform(-3, 3, 2)))
    return torch.from_numpy(np.asarray(moved.resize((_SIDE, _SIDE), Image.Resampling.BOX), np.float32) / 255).flatten()


@lru_cache(maxsize=1)
def sites() -> Family:
    """Fit the height of the ground as a function of two coordinates. Every task is another site of 24 x 24 points.

    The sites are cut from the elevation model that comes with matplotlib: P learns in the west, the east judges.
    """
    path = Path(matplotlib.get_data_path(), "sample_data", "jacksboro_fault_dem.npz")
    heights = torch.from_numpy(np.load(path)["elevation"].astype(np.float32))
    side = 24
    axis = torch.linspace(-1, 1, side)
    inputs = torch.cartesian_prod(axis, axis)
    west: list[RowsTask] = []
    east: list[RowsTask] = []
    for row in range(0, heights.shape[0] - side + 1, side):
        for column in range(0, heights.shape[1] - side + 1, side):
            heights_here = heights[row : row + side, column : column + side].reshape(-1, 1)
            if heights_here.std() < 1:
                continue
            generator = torch.Generator().manual_seed(row * 1000 + column)
            numbers = (heights_here - heights_here.mean()) / heights_here.std()
            task = RowsTask(*_divided(inputs, numbers, generator), (2, 32, 32, 1), activation=nn.Tanh)
            (west if column < heights.shape[1] // 2 else east).append(task)
    return Family(west, east[:: max(1, len(east) // 16)][:16])


@lru_cache(maxsize=1)
def sinusoids() -> Family:
    """Fit y = a sin(x + b) on [-5, 5], as MAML and WarpGrad do, from 64 points."""

    def task(seed: int) -> RowsTask:
        generator = torch.Generator().manual_seed(seed)
        amplitude, phase = torch.rand(2, generator=generator).tolist()
        inputs = torch.rand(164, 1, generator=generator) * 10 - 5
        targets = (0.1 + 4.9 * amplitude) * torch.sin(inputs + math.pi * phase)
        return RowsTask(Rows(inputs[:64], targets[:64]), Rows(inputs[64:], targets[64:]), (1, 40, 40, 1))

    return Family([task(seed) for seed in range(120)], [task(seed) for seed in range(1000, 1016)])


_CHARACTERS: Final = string.ascii_lowercase + " .,()\n"


@lru_cache(maxsize=1)
def characters() -> Family:
    """Tell the next character of a text from the three before it. Every task is another topic of Python's manual."""
    context, most = 3, 3000
    texts = [text.lower() for _, text in sorted(pydoc_data.topics.topics.items()) if len(text) >= 2000]
    tasks = []
    for text in texts:
        known = torch.tensor([_CHARACTERS.index(one) for one in " ".join(text.split()) if one in _CHARACTERS])[:most]
        windows = known.unfold(0, context + 1, 1)
        inputs = nn.functional.one_hot(windows[:, :context], len(_CHARACTERS)).flatten(1).float()
        last = len(inputs) * 7 // 10  # the end of a text is held out
        tasks.append(
            RowsTask(
                Rows(inputs[:last], windows[:last, -1]),
                Rows(inputs[last:], windows[last:, -1]),
                (inputs.shape[1], 32, len(_CHARACTERS)),
            )
        )
    order = torch.randperm(len(tasks), generator=torch.Generator().manual_seed(0)).tolist()
    shuffled = [tasks[index] for index in order]
    return Family(shuffled[12:], shuffled[:12])


_MODULES: Final = (
    *("argparse", "ast", "asyncio.base_events", "bdb", "calendar", "codecs", "collections", "configparser"),
    *("csv", "dataclasses", "datetime", "difflib", "doctest", "email.message", "enum", "fractions", "ftplib"),
    *("gettext", "gzip", "http.client", "http.cookiejar", "imaplib", "inspect", "ipaddress", "json.decoder", "locale"),
    *("logging", "mailbox", "mimetypes", "optparse", "os", "pathlib", "pdb", "pickle", "pickletools"),
    *("platform", "plistlib", "random", "shutil", "smtplib", "socket", "ssl", "statistics", "subprocess"),
    *("tarfile", "tempfile", "threading", "tokenize", "traceback", "turtle", "typing", "unittest.case", "urllib.parse"),
    *("urllib.request", "uuid", "warnings", "weakref", "zipfile"),
)


@lru_cache(maxsize=1)
def passages() -> Family:
    """Tell from which of five modules of Python's library a passage of 400 characters comes.

    The features are how often each of 64 characters occurs. P learns on two thirds of the modules; the others judge.
    """
    known = string.ascii_lowercase + string.digits + string.punctuation[:28]
    classes = []
    for module in _MODULES:
        source = inspect.getsource(importlib.import_module(module)).lower()
        passages = [source[start : start + 400] for start in range(0, min(len(source), 40_000) - 400, 400)]
        counts = np.array([[Counter(passage)[one] for one in known] for passage in passages], np.float32)
        rows = torch.from_numpy(np.sqrt(counts))
        last = len(rows) * 7 // 10
        classes.append((rows[:last], rows[last:]))
    order = torch.randperm(len(classes), generator=torch.Generator().manual_seed(0)).tolist()
    learned = [classes[index] for index in order[len(order) // 3 :]]
    judged = [classes[index] for index in order[: len(order) // 3]]
    every = torch.cat([rows for rows, _ in learned])
    mean, std = every.mean(0), every.std(0).clamp_min(1e-3)

    def scaled(some: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
        return [((one - mean) / std, (other - mean) / std) for one, other in some]

    return Family(_class_tasks(scaled(learned), 120, (32, 32), 0), _class_tasks(scaled(judged), 16, (32, 32), 1))


@lru_cache(maxsize=1)
def tables() -> Family:
    """Predict one column of a table from eight mixtures of the others. P learns on two tables; three others judge."""
    learned = [*_column_tasks(datasets.load_breast_cancer().data, 0), *_column_tasks(datasets.load_diabetes().data, 1)]
    linnerud = datasets.load_linnerud()
    judged = [
        *_column_tasks(datasets.load_wine().data, 2),
        *_column_tasks(datasets.load_iris().data, 3),
        *_column_tasks(np.hstack([linnerud.data, linnerud.target]), 4),
    ]
    return Family(learned, judged)


def _column_tasks(table: np.ndarray, seed: int) -> list[RowsTask]:
    numbers = torch.from_numpy(np.unique(np.asarray(table, np.float32), axis=0))  # a flower of iris occurs twice
    numbers = (numbers - numbers.mean(0)) / numbers.std(0)
    generator = torch.Generator().manual_seed(seed)
    tasks = []
    for column in range(numbers.shape[1]):
        others = numbers[:, [index for index in range(numbers.shape[1]) if index != column]]
        mixtures = others @ torch.randn(others.shape[1], 8, generator=generator) / others.shape[1] ** 0.5
        tasks.append(RowsTask(*_divided(mixtures, numbers[:, [column]], generator), (8, 32, 32, 1)))
    return tasks


DESIGN: Final[dict[str, Callable[[], Family]]] = {"glyphs": glyphs, "sites": sites, "characters": characters}
JUDGING: Final[dict[str, Callable[[], Family]]] = {"passages": passages, "tables": tables, "sinusoids": sinusoids}
FAMILIES: Final = DESIGN | JUDGING
