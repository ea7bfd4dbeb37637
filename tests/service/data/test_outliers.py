# Which columns have a few rows that decide their variance: not those of small tables, nor heavy tails.
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.data.arrays import find_outliers
from service.data.facts import DatasetFacts, Reading, dataset_info
from service.data.read_csv import read_csv
from service.spec.data import DatasetSpec

NORMAL = np.random.default_rng(0).normal(size=300)


@pytest.mark.parametrize(
    ("values", "rows"),
    [
        ([*NORMAL, 1e6], 1),
        ([*NORMAL, 1e6, -1e6, 1e6], 3),
        ([*NORMAL, *[1e6] * 4], None),  # too many to be odd
        ([*NORMAL[:60], 1e6, 1e6, 1e6], None),  # of 63 rows only one may be
        ([*NORMAL, 3e38, 1.0], 1),
        (NORMAL, None),
        (NORMAL[:10], None),
        (np.random.default_rng(1).lognormal(0, 1.5, 2000), None),
        (np.full(20, 7.0), None),
        ([], None),
    ],
)
def test_a_few_rows_that_hold_half_of_the_squared_distances_are_found(values: Any, rows: int | None) -> None:
    found = find_outliers(np.asarray(values, dtype=np.float64))
    assert (found and found.rows) == rows
    if found is not None:
        distances = np.abs(np.asarray(values) - np.median(values))
        largest = np.sort(distances / distances.max())[-found.rows :]
        share = (largest**2).sum() / ((distances / distances.max()) ** 2).sum()
        assert found.squares == pytest.approx(share, abs=1e-7)
        assert abs(found.value) == np.abs(values).max()


def test_an_uploaded_target_tells_its_odd_row_and_its_smallest_value(tmp_path: Path) -> None:
    lines = [f"{row % 7},{value}" for row, value in enumerate([*NORMAL.round(3), 1e6])]
    source = tmp_path / "t.csv"
    source.write_text("\n".join(["x,y", *lines]))
    read_csv(source, tmp_path, 1 << 20, Reading()).save(tmp_path)
    facts = DatasetFacts.load(tmp_path)  # as JSON and back
    info = dataset_info(facts, DatasetSpec(id="ds-1", target="y"))
    assert info.target_low == pytest.approx(NORMAL.min(), abs=1e-3)
    assert info.target_outliers is not None
    assert (info.target_outliers.value, info.target_outliers.rows) == (1e6, 1)
    as_feature = dataset_info(facts, DatasetSpec(id="ds-1", target="x"))
    assert (as_feature.task, as_feature.target_outliers) == ("classification", None)
