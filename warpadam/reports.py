# What the reports share: how they name a parameter, which rule steps it, which of its state is P, and how rows become a
# table. Reads an optimizer's groups only; the reports themselves are in diagnostics.py, memory.py and profiling.py.
"""The common part of every report about an optimizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from warpadam.learners import UpdateRule, make_rule


class Listed(NamedTuple):
    """One parameter of an optimizer.

    Attributes:
        group: Its group.
        name: Its name, or its place if the groups have no names.
        param: The parameter.
        rule: What steps it.
    """

    group: Mapping[str, Any]
    name: str
    param: Tensor
    rule: UpdateRule


def listed(optimizer: Optimizer) -> Iterator[Listed]:
    """List every parameter of an optimizer, in the order of its groups."""
    for group_index, group in enumerate(optimizer.param_groups):
        strategy = (group["structure"], group["placement"], group["learner"])
        for index, param in enumerate(group["params"]):
            name = group["param_names"][index] if "param_names" in group else f"{index} of group {group_index}"
            rule = make_rule(strategy, tuple(param.shape), group["rank"], group["block_size"], group["max_dim"])
            yield Listed(group, name, param, rule)


def p_entries(rule: UpdateRule) -> frozenset[str]:
    """Return the names of the state entries that are P: factors, covariances and scale."""
    return frozenset(rule.init_carried(torch.float32, torch.device("meta")))


def times(shape: Sequence[int]) -> str:
    """Show a shape.

    >>> times((8, 3)), times(())
    ('8x3', 'scalar')
    """
    return "x".join(map(str, shape)) or "scalar"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows, the first of them the header, as lines with aligned columns; numbers go to the right.

    >>> print(table([("name", "bytes"), ("weight", "12"), ("b", "4,096")]))
    name    bytes
    weight     12
    b       4,096
    """
    columns = [
        [cell.rjust(width) if index and _is_number(cells[1:]) else cell.ljust(width) for cell in cells]
        for index, cells in enumerate(zip(*rows, strict=True))
        for width in (max(map(len, cells)),)
    ]
    return "\n".join("  ".join(cells).rstrip() for cells in zip(*columns, strict=True))


def _is_number(cells: Sequence[str]) -> bool:
    return all(cell[:1].isdigit() or cell in ("inf", "nan") for cell in cells)
