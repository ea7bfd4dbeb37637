"""The datasets that ship: facts about them, without loading numpy or their data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from service.registry import Registry
from service.spec.dataset_info import HELD_OUT, DatasetInfo, part_bounds
from service.spec.tasks import Task

__all__ = [
    "BUNDLED",
    "DATASETS",
    "HELD_OUT",
    "MAX_VALUES",
    "MIN_GROUP_ROWS",
    "MIN_TASKS",
    "BundledDataset",
    "DatasetInfo",
    "Task",
    "part_bounds",
]

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
        name: The name.
        info: Facts about it.
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
            load="service.data.bundled:DIGITS",
        ),
        BundledDataset(
            name="breast_cancer",
            info=DatasetInfo(rows=569, features=30, task=Task.CLASSIFICATION, outputs=2, columns=_NUCLEI),
            load="service.data.bundled:BREAST_CANCER",
        ),
        BundledDataset(
            name="wine",
            info=DatasetInfo(rows=178, features=13, task=Task.CLASSIFICATION, outputs=3, columns=_WINE),
            load="service.data.bundled:WINE",
        ),
        BundledDataset(
            name="diabetes",
            info=DatasetInfo(rows=442, features=10, task=Task.REGRESSION, outputs=1, columns=_PATIENT),
            load="service.data.bundled:DIABETES",
        ),
        BundledDataset(name="poisson_2d", info=_EQUATION),
        BundledDataset(name="burgers", info=_EQUATION),
    ),
)
"""Every bundled dataset by its name. To add one, list it here; outside of the service, call ``BUNDLED.register``."""


class _Infos(Mapping[str, DatasetInfo]):
    def __getitem__(self, name: str) -> DatasetInfo:
        return BUNDLED[name].info

    def __iter__(self) -> Iterator[str]:
        return iter(BUNDLED)

    def __len__(self) -> int:
        return len(BUNDLED)


DATASETS: Final[Mapping[str, DatasetInfo]] = _Infos()
"""Facts about every bundled dataset by its name."""

MAX_VALUES: Final = 20
"""Most distinct values of a column of numbers that makes a task of each value; others are cut into bins."""

MIN_GROUP_ROWS: Final = 10
"""Fewest rows of a task; a fifth of them is held out."""

MIN_TASKS: Final = 3
"""Fewest tasks of a family: one to learn P on, one to choose a config by, one for the verdict."""
