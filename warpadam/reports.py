"""What all reports about an optimizer need: its parameters with their names and rules, and a text table.

The reports are in ``diagnostics.py``, ``memory.py`` and ``profiling.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from warpadam.learners import UpdateRule, choose_rule
from warpadam.splits import PartOf, parts_of, splits_of
from warpadam.structures import Distortion, Factors


class Listed(NamedTuple):
    """One parameter of an optimizer, or one part of a split one.

    Attributes:
        owner: The parameter in the optimizer.
        part: What is listed: the parameter, or one part of it if it is split.
        group: Its group.
        name: Its name, or its position if the group has no names.
        rule: Its update rule.
        distortion: The structure of its P.
    """

    owner: Tensor
    part: PartOf
    group: Mapping[str, Any]
    name: str
    rule: UpdateRule
    distortion: Distortion

    @property
    def param(self) -> Tensor:
        """A tensor with the shape, dtype and device of what is listed."""
        return self.part.like

    def identity(self, device: torch.device) -> Factors:
        """Return P before anything is learned: factors, covariances and scale."""
        return self.rule.init_carried(self.distortion, torch.float32, device)


def listed(optimizer: Optimizer) -> Iterator[Listed]:
    """List every parameter of an optimizer, in the order of its groups; a split one by its parts."""
    for group_index, group in enumerate(optimizer.param_groups):
        strategy = (group["structure"], group["placement"], group["learner"])
        splits = splits_of(group)
        for index, param in enumerate(group["params"]):
            name = group["param_names"][index] if "param_names" in group else f"{index} of group {group_index}"
            limits = {limit: group[limit] for limit in ("rank", "block_size", "max_dim")}
            for part in parts_of(param, splits.get(param)):
                own_name = f"{name}[{part.prefix.rstrip('.')}]" if part.prefix else name
                yield Listed(param, part, group, own_name, *choose_rule(strategy, tuple(part.like.shape), **limits))


def p_entries(item: Listed) -> frozenset[str]:
    """Return the names of the state entries that are P: factors, covariances and scale."""
    return frozenset(item.identity(torch.device("meta")))


def times(shape: Sequence[int]) -> str:
    """Show a shape as text.

    >>> times((8, 3)), times(())
    ('8x3', 'scalar')
    """
    return "x".join(map(str, shape)) or "scalar"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as lines with aligned columns. The first row is the header; numbers are aligned to the right.

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
