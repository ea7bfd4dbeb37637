"""``estimate_memory``: how much memory the state of WarpAdam will take, before training.

The estimate runs the optimizer itself on the meta device, where tensors have shapes and no storage. So no learner has
to describe its state a second time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT
from typing_extensions import override

from warpadam.config import WarpAdamConfig
from warpadam.optimizer import WarpAdam
from warpadam.reports import Listed, listed, p_entries, table, times

_MOMENTS: Final = frozenset({"step", "exp_avg", "exp_avg_sq"})
"""State entries of Adam itself."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TensorMemory:
    """The memory of one parameter's state, in bytes.

    Attributes:
        name: The parameter's name, or its position in its group.
        shape: Its shape.
        p_bytes: P: factors, covariances and scale.
        moments_bytes: Adam's two moments and its step counter.
        learning_bytes: Everything else that learning P needs: moments of the meta-gradient, counters, and the previous
            gradient or update.
    """

    name: str
    shape: tuple[int, ...]
    p_bytes: int
    moments_bytes: int
    learning_bytes: int


@final
class MemoryEstimate(tuple[TensorMemory, ...]):
    """The memory of each parameter's state. ``str()`` of it is a table with a total."""

    __slots__ = ()

    @property
    def p_bytes(self) -> int:
        """Bytes of P, over all parameters."""
        return sum(row.p_bytes for row in self)

    @property
    def moments_bytes(self) -> int:
        """Bytes of Adam's moments, over all parameters."""
        return sum(row.moments_bytes for row in self)

    @property
    def learning_bytes(self) -> int:
        """Bytes of everything else that learning P needs, over all parameters."""
        return sum(row.learning_bytes for row in self)

    @property
    def total_bytes(self) -> int:
        """Bytes of the whole state."""
        return self.p_bytes + self.moments_bytes + self.learning_bytes

    @override
    def __str__(self) -> str:
        rows = [("parameter", "shape", "P", "moments", "learning P", "bytes")]
        each = [(row.name, times(row.shape), row.p_bytes, row.moments_bytes, row.learning_bytes) for row in self]
        total = ("total", "", self.p_bytes, self.moments_bytes, self.learning_bytes)
        rows += [(name, shape, *_with_sum(*sizes)) for name, shape, *sizes in (*each, total)]
        return table(rows)


def estimate_memory(
    params: nn.Module | Mapping[str, Sequence[int]] | ParamsT,
    config: WarpAdamConfig | None = None,
    *,
    momentum_dtype: torch.dtype | None = None,
) -> MemoryEstimate:
    """Return the most bytes that the optimizer's state will take between two steps.

    Nothing is allocated: the optimizer takes a step on the meta device. Not counted are the temporary memory of a step,
    and what small parameters that are stepped together have besides their state: room for their gradients, and padding.

    Args:
        params: A model, shapes by name (for fp32), or anything that ``WarpAdam`` takes, such as the result of
            :func:`~warpadam.param_groups`. Parameters that need no gradient are left out.
        config: Settings; the defaults if not given. Groups may override them.
        momentum_dtype: As for :class:`~warpadam.WarpAdam`. Groups may override it.

    Raises:
        InvalidConfigError: A setting is out of range.
        UnsupportedParameterError: A parameter is complex or sparse.

    >>> estimate = estimate_memory({"weight": (64, 32), "bias": (64,)})
    >>> estimate[0].p_bytes == 4 * (2 * (64**2 + 32**2) + 1)  # factors, covariances, scale
    True
    """
    planned = WarpAdam.from_config(_as_params(params), config or WarpAdamConfig(), momentum_dtype=momentum_dtype)
    return MemoryEstimate(_simulate(item) for item in listed(planned) if item.owner.requires_grad)


def _as_params(params: nn.Module | Mapping[str, Sequence[int]] | ParamsT) -> ParamsT:
    if isinstance(params, nn.Module):
        return params.named_parameters()
    if isinstance(params, Mapping):
        return [(name, nn.Parameter(torch.empty(tuple(shape), device="meta"))) for name, shape in params.items()]
    return params


def _simulate(item: Listed) -> TensorMemory:
    """Step one parameter on the meta device and return the memory of its state."""
    param = nn.Parameter(torch.empty(item.param.shape, dtype=item.param.dtype, device="meta"))
    optimizer = WarpAdam([{**item.group, "split": None, "params": [(item.name, param)]}])
    param.grad = torch.empty_like(param)
    optimizer.step()
    state, names = optimizer.state[param], p_entries(item)
    return TensorMemory(
        name=item.name,
        shape=tuple(param.shape),
        p_bytes=_bytes(state, names),
        moments_bytes=_bytes(state, _MOMENTS),
        learning_bytes=_bytes(state, state.keys() - names - _MOMENTS),
    )


def _bytes(state: Mapping[str, Tensor], names: Iterable[str]) -> int:
    return sum(state[name].nbytes for name in names if name in state)


def _with_sum(p_bytes: int, moments_bytes: int, learning_bytes: int) -> tuple[str, str, str, str]:
    return f"{p_bytes:,}", f"{moments_bytes:,}", f"{learning_bytes:,}", f"{p_bytes + moments_bytes + learning_bytes:,}"
