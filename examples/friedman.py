"""Bring your own dataset: Friedman's regression benchmark, generated from the job's seed.

Use it in a job as ``{"entrypoint": "examples.friedman:make_dataset"}``. The operator must set
``WARPTUNE_ALLOWED_MODULES=examples``. See docs/user-code.md.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.datasets import make_friedman1


def make_dataset(
    seed: int, *, rows: int = 500, features: int = 10, noise: float = 0.5
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], str]:
    """Return x, y and the task. y depends on the first five features only.

    Args:
        seed: The job's seed.
        rows: Number of rows.
        features: Number of columns of x; at least five.
        noise: Standard deviation of the noise in y.
    """
    x, y = make_friedman1(rows, features, noise=noise, random_state=np.random.RandomState(seed))
    return x.astype(np.float32), y, "regression"
