"""The datasets that ship: facts about them, without loading numpy or their data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from service.registry import Registry
from service.spec.dataset_info import DatasetInfo
from service.spec.tasks import Task

_PIXELS: Final = tuple(f"pixel_{row}_{column}" for row in range(8) for column in range(8))
_CELLS: Final = (
    *("radius", "texture", "perimeter", "area", "smoothness", "compactness", "concavity"),
    *("concave points", "symmetry", "fractal dimension"),
)
_NUCLEI: Final = (
    *(f"mean {name}" for name in _CELLS),
    *(f"{name} error" for name in _CELLS),
    *(f"worst {name}" for name in _CELLS),
)
_WINE: Final = (
    *("alcohol", "malic_acid", "ash", "alcalinity_of_ash", "magnesium", "total_phenols", "flavanoids"),
    *("nonflavanoid_phenols", "proanthocyanins", "color_intensity", "hue", "od280/od315_of_diluted_wines", "proline"),
)
_PATIENT: Final = ("age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6")

_EQUATION: Final = DatasetInfo(rows=5000, features=3, task=Task.PHYSICS, outputs=1, source="exact solution")


@dataclass(frozen=True, slots=True, kw_only=True)
class BundledDataset:
    """A dataset that specs call by its name.

    Attributes:
        load: Import string of ``() -> (x, y)``, two numpy arrays; None for an equation, whose points are drawn.
    """

    name: str
    info: DatasetInfo
    load: str | None = None


BUNDLED: Final = Registry[BundledDataset](
    "dataset",
    (
        BundledDataset(
            name="digits",
            info=DatasetInfo(
                rows=1797,
                features=64,
                task=Task.CLASSIFICATION,
                outputs=10,
                images=True,
                shape=(1, 8, 8),
                columns=_PIXELS,
            ),
            load="service.data.sources:DIGITS",
        ),
        BundledDataset(
            name="breast_cancer",
            info=DatasetInfo(rows=569, features=30, task=Task.CLASSIFICATION, outputs=2, columns=_NUCLEI),
            load="service.data.sources:BREAST_CANCER",
        ),
        BundledDataset(
            name="wine",
            info=DatasetInfo(rows=178, features=13, task=Task.CLASSIFICATION, outputs=3, columns=_WINE),
            load="service.data.sources:WINE",
        ),
        BundledDataset(
            name="diabetes",
            info=DatasetInfo(rows=442, features=10, task=Task.REGRESSION, outputs=1, columns=_PATIENT),
            load="service.data.sources:DIABETES",
        ),
        BundledDataset(name="poisson_2d", info=_EQUATION),
        BundledDataset(name="burgers", info=_EQUATION),
    ),
)
"""Every bundled dataset by its name. To add one, list it here; outside of the service, call ``BUNDLED.register``."""

MAX_VALUES: Final = 20
"""Most distinct values of a column of numbers that makes a task of each value; others are cut into bins."""

MIN_GROUP_ROWS: Final = 10
"""Fewest rows of a task; a fifth of them is held out."""

MIN_TASKS: Final = 3
"""Fewest tasks of a family: one to learn P on, one to choose a config by, one for the verdict."""
