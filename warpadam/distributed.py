"""Shares a step between processes: every parameter that they have in common has one owner, the rank that steps it.

For example two ranks train a model of four equal matrices. Each rank owns two of them: it keeps their state, refreshes
their P, steps them, and hands out the result. So P exists once, all ranks have the same parameters to the last bit, and
time and memory of P are divided by the number of ranks. A sharded parameter is gathered before its step, because P
mixes whole rows and columns; afterwards every rank takes its own shard of the result.

Source: the owner of a matrix is that of Dion and of distributed Muon; torch's ``ZeroRedundancyOptimizer`` hands out
parameters in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, final

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


class _Owner(NamedTuple):
    """Where the owner of a parameter is.

    Attributes:
        path: For each dimension of the mesh that shares the parameter, this rank's process group and the owner's rank
            in it. A value that is broadcast along one after the other reaches every rank.
    """

    path: tuple[tuple[dist.ProcessGroup, int], ...]

    def is_this_rank(self) -> bool:
        return all(group.rank() == rank for group, rank in self.path)


@final
class Owners:
    """The owner of each shared parameter.

    Every method but :meth:`owns` and :meth:`whole` must be called on all ranks with the same parameters.

    Args:
        process_group: The ranks that have the same copy of each parameter that is not sharded, as under
            ``DistributedDataParallel``. Without it, each rank steps all of those. The ranks of a sharded parameter are
            those of its mesh.
    """

    def __init__(self, process_group: dist.ProcessGroup | None) -> None:
        self._process_group = process_group
        self._owners: dict[Tensor, _Owner] = {}
        self._whole: dict[Tensor, Tensor] = {}
        self._loads: dict[tuple[dist.ProcessGroup, ...], list[int]] = {}

    def __bool__(self) -> bool:
        """Tell whether any parameter is shared."""
        return bool(self._owners)

    def add(self, params: Iterable[Tensor]) -> None:
        """Give each shared parameter to the rank that has the fewest elements so far, the largest parameter first."""
        for param in sorted(params, key=Tensor.numel, reverse=True):
            groups = self._groups(param)
            if groups:
                sizes = [group.size() for group in groups]
                loads = self._loads.setdefault(groups, [0] * math.prod(sizes))
                place = loads.index(min(loads))
                loads[place] += param.numel()
                ranks = torch.unravel_index(torch.tensor(place), sizes)
                self._owners[param] = _Owner(tuple(zip(groups, map(int, ranks), strict=True)))
                if is_sharded(param) and self.owns(param):
                    self._whole[param] = torch.empty(0, dtype=param.dtype, device=param.device)

    def owns(self, param: Tensor) -> bool:
        """Tell whether this rank steps a parameter."""
        owner = self._owners.get(param)
        return owner is None or owner.is_this_rank()

    def whole(self, param: Tensor) -> Tensor:
        """Return the tensor to step for an owned parameter: itself, or all of it if it is sharded.

        It is the same object at each step. That of a sharded parameter has values from :meth:`gather` to
        :meth:`hand_out`.
        """
        return self._whole.get(param, param)

    def gather(self, params: Iterable[Tensor]) -> None:
        """Bring sharded parameters and their gradients to their owners."""
        for param in params:
            if is_sharded(param):
                value, grad = param.full_tensor(), param.grad.full_tensor()  # type: ignore[attr-defined, union-attr]
                if param in self._whole:
                    self._whole[param].data = value
                    self._whole[param].grad = grad

    def hand_out(self, params: Iterable[Tensor]) -> None:
        """Give every rank the parameters that their owners have stepped, and free what :meth:`gather` brought."""
        for param in params:
            if param not in self._owners or not param.numel():
                continue
            sharded = is_sharded(param)
            value = self.whole(param)
            if sharded and value is param:
                value = torch.empty(param.shape, dtype=param.dtype, device=param.device)
            sent = value.detach().contiguous()
            for group, rank in self._owners[param].path:
                dist.broadcast(sent, group=group, group_src=rank)
            if sharded:
                _take_shard(param, sent)
            elif not self.owns(param):
                param.copy_(sent)
        for whole in self._whole.values():
            whole.grad = None
            whole.data = whole.new_empty(0)

    def state_of(self, param: Tensor, state: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the owner's state of a parameter, on every rank; ``state`` is what this rank has."""
        owner = self._owners.get(param)
        if owner is None:
            return state
        box: list[Any] = [{name: _portable(value) for name, value in state.items()} if self.owns(param) else None]
        for group, rank in owner.path:
            dist.broadcast_object_list(box, group=group, group_src=rank)
        if self.owns(param):
            return state
        return {
            name: torch.as_tensor(value, device=device) if device else value for name, (value, device) in box[0].items()
        }

    def _groups(self, param: Tensor) -> tuple[dist.ProcessGroup, ...]:
        if is_sharded(param):
            mesh = param.device_mesh  # type: ignore[attr-defined]
            return tuple(mesh.get_group(dim) for dim in range(mesh.ndim))
        return (self._process_group,) if self._process_group is not None else ()


def is_sharded(tensor: Tensor) -> bool:
    """Tell whether a tensor is a DTensor: each rank has a shard or a copy of it."""
    if not is_traceable_wrapper_subclass(tensor):
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def can_be_gathered(tensor: Tensor) -> bool:
    """Tell whether a tensor is sharded along its axes or replicated, and not in any other way."""
    if not is_sharded(tensor):
        return False
    from torch.distributed.tensor import Replicate, Shard

    return all(type(placement) in (Shard, Replicate) for placement in tensor.placements)  # type: ignore[attr-defined]


def _take_shard(param: Tensor, value: Tensor) -> None:
    """Copy this rank's shard of ``value``, which every rank has, into a sharded parameter."""
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = param.device_mesh, param.placements  # type: ignore[attr-defined]
    param.copy_(distribute_tensor(value, mesh, placements, src_data_rank=None))


def _portable(value: Any) -> tuple[Any, str | None]:
    """Return a value that can be sent, and the type of its device. A tensor is copied: it may be a view of a stack."""
    if not isinstance(value, Tensor):
        return value, None
    return value.detach().to("cpu", copy=True), value.device.type
