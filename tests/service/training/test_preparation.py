# What a stored table becomes, where the values are ones that an upload would not keep any more.
from __future__ import annotations

import pyarrow as pa

from service.training.facts import Column, ColumnKind
from service.training.preparation import column_values


def test_whole_numbers_that_no_float_is_equal_to_become_the_nearest_ones() -> None:
    column = Column(name="id", kind=ColumnKind.NUMBER, type="int64", distinct=2)
    found = column_values(pa.array([2**60 + 1, 3]), column)
    assert found.tolist() == [2.0**60, 3.0]
