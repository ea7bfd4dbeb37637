# Uploaded tables on their way to a split or a family, where numbers are larger than a float tells apart.
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from service.data.facts import EXACT, FACTS_FILE, Column, ColumnKind, DatasetFacts, dataset_info
from service.data.families import FamilyError, prepare_family
from service.data.family_tables import Table, uploaded_table
from service.data.preparation import column_values, prepare_job
from service.data.tables import read_csv
from service.errors import InvalidSpecError
from service.spec.data import DatasetSpec, FamilySpec
from service.spec.job import JobSpec

FIRST_ID = 1_234_567_890_123_456_789
"""Over 2**53, as those of many databases are."""


def uploaded(tmp_path: Path, ids: list[int]) -> Path:
    folder = tmp_path / "dataset"
    folder.mkdir()
    source = tmp_path / "people.csv"
    rows = [f"{number},{index % 7},{index % 5}" for index, number in enumerate(ids)]
    source.write_text("\n".join(["id,x,y", *rows]))
    (folder / FACTS_FILE).write_text(json.dumps(read_csv(source, folder, 1 << 20).to_json()))
    return folder


def grouped(folder: Path) -> Table:
    return uploaded_table(folder, DatasetSpec(id="ds-1", target="y", task="regression"))


def test_a_column_of_large_whole_numbers_is_a_feature_as_any_other(tmp_path: Path) -> None:
    folder = uploaded(tmp_path, [FIRST_ID + 10**17 * row for row in range(40)])
    spec = JobSpec.model_validate({"dataset": {"id": "ds-1", "target": "y"}, "model": {"name": "mlp"}})
    facts = DatasetFacts.from_json(json.loads((folder / FACTS_FILE).read_text()))
    split = tmp_path / "split"
    split.mkdir()
    prepare_job(spec, dataset_info(facts, spec.dataset), str(folder), split)
    x = np.load(split / "x_train.npy")
    assert x.shape == (24, 2)
    assert np.isfinite(x).all()
    assert x[:, 0].std() == pytest.approx(1.0, abs=1e-5)


def test_a_task_of_every_value_is_one_of_every_value_of_sixteen_digits(tmp_path: Path) -> None:
    ids = [4_111_111_111_111_111 + row // 12 for row in range(72)]
    family, summary = prepare_family(grouped(uploaded(tmp_path, ids)), FamilySpec(group_by="id", bins=0), 0)
    assert family.sizes.tolist() == [12] * 6
    names = {name for names in summary.tasks.values() for name in names}
    assert names == {f"id = {number}" for number in ids}


@pytest.mark.parametrize("last", [FIRST_ID, EXACT + 1])  # of which the second becomes EXACT, as does the one before it
def test_values_that_floats_cannot_tell_apart_make_no_tasks(tmp_path: Path, last: int) -> None:
    folder = uploaded(tmp_path, [last - row // 12 for row in range(72)])
    with pytest.raises(FamilyError, match=r"column id has numbers of 2\*\*53 or more"):
        prepare_family(grouped(folder), FamilySpec(group_by="id", bins=0), 0)


def test_whole_numbers_that_no_float_is_equal_to_become_the_nearest_ones() -> None:
    column = Column(name="id", kind=ColumnKind.NUMBER, type="int64", distinct=2)
    found = column_values(pa.array([2**60 + 1, 3]), column)
    assert found.tolist() == [2.0**60, 3.0]


def test_columns_that_are_excluded_are_no_features(tmp_path: Path) -> None:
    folder = uploaded(tmp_path, list(range(40)))
    facts = DatasetFacts.from_json(json.loads((folder / FACTS_FILE).read_text()))
    shapes = []
    for exclude in ([], ["id"]):
        chosen = {"id": "ds-1", "target": "y", "task": "classification", "exclude": exclude}
        spec = JobSpec.model_validate({"dataset": chosen, "model": {"name": "mlp"}})
        info = dataset_info(facts, spec.dataset)
        split = tmp_path / f"split-{len(exclude)}"
        split.mkdir()
        prepare_job(spec, info, str(folder), split)
        assert uploaded_table(folder, spec.dataset).features(np.arange(40), None).shape == (40, info.features)
        shapes.append((info.features, np.load(split / "x_train.npy").shape[1], info.columns))
    assert shapes == [(2, 2, ("id", "x")), (1, 1, ("x",))]


@pytest.mark.parametrize(
    ("exclude", "field", "expected"),
    [
        (["idd"], "dataset.exclude[0]", "did you mean 'id'?"),
        (["id", "y"], "dataset.exclude[1]", "a feature: it is the target"),
        (["id", "x"], "dataset.target", "a table with a column that varies beside it"),
    ],
)
def test_what_cannot_be_excluded_is_named(tmp_path: Path, exclude: list[str], field: str, expected: str) -> None:
    facts = DatasetFacts.from_json(json.loads((uploaded(tmp_path, list(range(40))) / FACTS_FILE).read_text()))
    with pytest.raises(InvalidSpecError) as caught:
        dataset_info(facts, DatasetSpec(id="ds-1", target="y", exclude=exclude))
    (error,) = caught.value.errors
    assert (error.field, expected in error.message) == (field, True), error
