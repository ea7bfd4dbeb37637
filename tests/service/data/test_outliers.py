# Which columns have a few rows that decide their variance: not those of small tables, nor heavy tails.
from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from service.artifacts import ArtifactStore
from service.data.arrays import find_outliers, write_arrays
from service.data.extremes import refuse_extremes
from service.data.facts import Column, ColumnKind, DatasetFacts, Reading, dataset_info
from service.data.prepare import prepare_job_data
from service.data.read_csv import read_csv
from service.data.sources import Arrays, Table, Target
from service.errors import JobFailedError
from service.spec.data import DatasetSpec
from service.spec.job import JobSpec
from service.spec.tasks import Task

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


def table_of(values: Any, y: Any = NORMAL) -> Table:
    """Return rows with a column and a target."""
    column = Column(name="a", kind=ColumnKind.NUMBER, type="double", distinct=len(set(values)))
    return Table(
        [column], pa.table({"a": pa.array(values, pa.float64())}), Target.of(np.array(y), Task.REGRESSION, "t")
    )


def arrays_of(values: Any, y: Any = NORMAL) -> Arrays:
    x = np.column_stack([NORMAL, values]).astype(np.float32)
    return Arrays(x, Target.of(np.array(y), Task.REGRESSION), is_pixels=False)


@pytest.mark.parametrize("make", [table_of, arrays_of])
@pytest.mark.parametrize("marks", [[-3.4e38], [-3.4e38] * 3, [1e20]])
def test_marks_for_no_value_that_no_split_can_be_trained_on_are_refused(
    make: Callable[..., Table | Arrays], marks: list[float]
) -> None:
    values = NORMAL.copy()
    values[[5, 70, 200][: len(marks)]] = marks
    where, remedy = ("column 'a'", "na_values") if make is table_of else ("column 2 of x", "remove the row")
    with pytest.raises(
        JobFailedError, match=f"^{where} has {re.escape(f'{marks[0]:g}')} in row 6, .* is 1.0.*{remedy}"
    ):
        refuse_extremes(make(values), "standardise")
    with pytest.raises(JobFailedError, match=r"^the target '[ty]' has .* in row 6, .* to quantile"):
        refuse_extremes(make(NORMAL, values), "standardise")
    refuse_extremes(make(NORMAL, values), "quantile")


@pytest.mark.parametrize("make", [table_of, arrays_of])
@pytest.mark.parametrize("values", [NORMAL, [*NORMAL[:-1], 1e15], NORMAL * 1e38, [0.0] * 299 + [1.0], np.arange(300)])
def test_numbers_that_can_be_standardised_are_not_refused(make: Callable[..., Table | Arrays], values: Any) -> None:
    refuse_extremes(make(values, values), "standardise")


def test_a_missing_value_is_no_extreme_one() -> None:
    refuse_extremes(table_of([None, *NORMAL[1:]]), "standardise")
    with pytest.raises(JobFailedError, match="3e\\+38 in row 3"):
        refuse_extremes(table_of([None, None, 3e38, *NORMAL[3:]]), "standardise")


def test_a_job_on_such_data_fails_before_its_search(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path / "artifacts"))
    spec = JobSpec.model_validate({"dataset": {"entrypoint": "a:b"}, "model": {"name": "mlp"}})
    values = np.array([*NORMAL[:-1], 3e38])

    def write_dataset(folder: Path) -> None:
        write_arrays(np.column_stack([NORMAL, values]), np.arange(300) % 2, folder).save(folder)

    with pytest.raises(JobFailedError, match="column 2 of x has 3e\\+38 in row 300"):
        prepare_job_data(spec, Task.CLASSIFICATION, store, write_dataset, tmp_path)
