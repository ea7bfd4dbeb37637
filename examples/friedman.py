# A dataset of your own: Friedman's regression benchmark, made anew from the job's seed. A job names it as
# {"entrypoint": "examples.friedman:make_dataset"} when the operator has set WARPTUNE_ALLOWED_MODULES=examples. The
# contract is docs/user-code.md.
"""A made table as a user's dataset."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.datasets import make_friedman1


def make_dataset(
    seed: int, *, rows: int = 500, features: int = 10, noise: float = 0.5
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], str]:
    """Return x, y and the task; only the first five features matter.

    Args:
        seed: The job's seed.
        rows: Rows.
        features: Columns of x, five at least.
        noise: Standard deviation of what is added to y.
    """
    x, y = make_friedman1(rows, features, noise=noise, random_state=np.random.RandomState(seed))
    return x.astype(np.float32), y, "regression"
