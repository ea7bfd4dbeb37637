"""Decides which parameters are stepped together.

For many small tensors the calls cost more than the arithmetic. So parameters of one layout are stacked into one tensor,
and one call of a rule steps all its stacks, also those of several groups with equal settings. The optimizer's state
holds views of the stacked state, which look like any other tensors to a checkpoint. If someone replaces a view, the
plan no longer serves and the optimizer makes a new one.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from operator import is_
from typing import Final, NamedTuple, final

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from warpadam.learners.base import PREV_STEP, SKIPPED, Part, State, StepSettings, UpdateRule
from warpadam.state import known_entries
from warpadam.structures import Distortion

_MAX_ELEMENTS: Final = 65_536
"""Larger tensors are stepped one by one: their arithmetic hides the cost of the calls, and a tensor stays in the cache
during its step."""

_MAX_PADDED: Final = 1_024
"""Shorter vectors are padded with zeros to one length. A zero gradient leaves zero moments and moves nothing."""

_MAX_PADDING: Final = 2
"""Vectors are padded to one length only while that takes at most this many times their own memory."""

_STRETCH: Final = 1e6
"""P may make a gradient this much longer before it is squared: a whitening up to 1e5."""


class GroupNumbers(NamedTuple):
    """The numbers of a parameter group in one step.

    Attributes:
        settings: Those that a rule needs.
        lr: Step size, a number or a tensor of one element.
        weight_decay: Decoupled weight decay.
        maximize: Whether the gradients are negated.
    """

    settings: StepSettings
    lr: float | Tensor
    weight_decay: float
    maximize: bool


class SteppedParameter(NamedTuple):
    """A parameter with everything that a step of it needs.

    Attributes:
        param: The parameter. It has a gradient.
        whole: The tensor to step: the parameter itself, or all of it if it is sharded.
        group: The index of its group.
        rule: Its update rule.
        distortion: The structure of its P.
        state: The optimizer's state of the parameter.
        shapes: The entries of the state that the rule knows, with their shapes.
        entries: The number of all its entries.
    """

    param: Tensor
    whole: Tensor
    group: int
    rule: UpdateRule
    distortion: Distortion
    state: State
    shapes: Mapping[str, tuple[int, ...]]
    entries: int

    def serves(self, group: int, state: State) -> bool:
        """Tell whether group and state are still the same, and the entries of the state have the same shapes."""
        same = group == self.group and state is self.state and len(state) == self.entries
        return same and all(getattr(state.get(name), "shape", None) == shape for name, shape in self.shapes.items())


@final
class StepPlan:
    """How the parameters that have a gradient are stepped.

    Args:
        members: These parameters, in the order of the groups.
        alike: For each group, the same value as for every other group with equal numbers apart from lr and decay.
        key: Everything else that the plan depends on.
        before: The plan of the step before. Its stacks are used again where they hold the same parameters; parameters
            that leave a stack get memory of their own.
    """

    __slots__ = ("_batches", "_entries", "_key", "_params", "_states")

    def __init__(
        self,
        members: Sequence[SteppedParameter],
        alike: Sequence[Hashable],
        key: object,
        before: StepPlan | None,
    ) -> None:
        self._key = key
        self._params = [member.param for member in members]
        self._states = [member.state for member in members]
        self._entries = [member.entries for member in members]
        old = list(before.stacks()) if before else []
        usable = {stack.key: stack for stack in old if stack.is_shared()}
        self._batches = [
            _Batch([usable.get(_stack_key(together)) or Stack(together) for together in stacks])
            for stacks in _batched(members, alike)
        ]
        for stack in set(old).difference(self.stacks()):
            stack.release()

    def serves(self, params: Sequence[Tensor], states: Mapping[Tensor, State], key: object) -> bool:
        """Tell whether the plan is for these parameters, and their states still share its storage."""
        return (
            key == self._key
            and len(params) == len(self._params)
            and all(map(is_, params, self._params))
            and all(map(is_, map(states.__getitem__, params), self._states))
            and list(map(len, self._states)) == self._entries
            and all(stack.is_shared() for stack in self.stacks())
        )

    def stacks(self) -> Iterable[Stack]:
        """Return all stacks."""
        return (stack for batch in self._batches for stack in batch.stacks)

    def step(self, numbers: Sequence[GroupNumbers]) -> None:
        """Move every parameter by one step, with the numbers of its group."""
        for batch in self._batches:
            batch.step(numbers)


class _Batch:
    """Stacks that are stepped by one call of their rule."""

    __slots__ = ("_copies", "_groups", "_params", "_spreading", "stacks")

    def __init__(self, stacks: Sequence[Stack]) -> None:
        self.stacks = stacks
        self._params = [member.whole for stack in stacks for member in stack.members]
        self._groups = [member.group for stack in stacks for member in stack.members]
        self._copies = [slot for stack in stacks for slot in stack.slots]
        self._spreading = {index: stack for index, stack in enumerate(stacks) if stack.spreads}

    def step(self, numbers: Sequence[GroupNumbers]) -> None:
        common = numbers[self._groups[0]]
        grads = self._gradients(common.maximize)
        parts = [Part(stack.distortion, stack.state, grad) for stack, grad in zip(self.stacks, grads, strict=True)]
        updates = self.stacks[0].rule.update(parts, common.settings)
        moves = [
            move for stack, update in zip(self.stacks, updates, strict=True) for move in stack.split_like_params(update)
        ]
        if len(set(self._groups)) == 1:
            self._move_alike(moves, common.lr, common.weight_decay)
        else:
            self._move(moves, [numbers[group] for group in self._groups])

    def _move_alike(self, moves: list[Tensor], lr: float | Tensor, weight_decay: float) -> None:
        if weight_decay:
            torch._foreach_mul_(self._params, 1 - lr * weight_decay)
        if isinstance(lr, Tensor):
            torch._foreach_sub_(self._params, torch._foreach_mul(moves, lr))
        else:
            torch._foreach_add_(self._params, moves, alpha=-lr)

    def _move(self, moves: list[Tensor], numbers: Sequence[GroupNumbers]) -> None:
        """Move parameters of several groups. None of these groups has a tensor as its lr."""
        decays = [1 - float(own.lr) * own.weight_decay for own in numbers]
        decayed = [index for index, decay in enumerate(decays) if decay != 1]
        if decayed:
            torch._foreach_mul_([self._params[index] for index in decayed], [decays[index] for index in decayed])
        torch._foreach_add_(self._params, torch._foreach_mul(moves, [-float(own.lr) for own in numbers]))

    def _gradients(self, negated: bool) -> list[Tensor]:
        if self._copies:
            stacked = (member.whole.grad for stack in self.stacks if stack.slots for member in stack.members)
            torch._foreach_copy_(self._copies, [grad for grad in stacked if grad is not None])
        grads = [stack.gradient() for stack in self.stacks]
        if negated:
            grads = list(torch._foreach_neg(grads))
        if self._spreading:
            self._leave_out_what_is_too_large(grads)
        return grads

    def _leave_out_what_is_too_large(self, grads: list[Tensor]) -> None:
        """Replace gradients that are too large to square by zeros, and count them in the state.

        One such element would spread to all others through P, and to every later step through the second moment. A
        gradient that is not finite is kept: it makes the parameter NaN, as in torch.optim.
        """
        sizes = torch._foreach_norm([grads[index] for index in self._spreading])
        limit = math.sqrt(torch.finfo(sizes[0].dtype).max) / _STRETCH
        if sizes[0].is_cpu and all(size.item() <= limit for size in sizes):  # on other devices this would wait
            return
        for index, stack in self._spreading.items():
            grad, dims = grads[index], tuple(range(stack.stack_dims, grads[index].ndim))
            size, largest = (torch.linalg.vector_norm(grad, order, dims, keepdim=True) for order in (2, torch.inf))
            kept = (size <= limit) | ~(largest < torch.inf)
            stack.state[SKIPPED].view(-1).add_(~kept.view(-1))
            grads[index] = torch.where(kept, grad, 0.0)


@final
class Stack:
    """Parameters of one layout, or short vectors, with their states joined.

    Args:
        members: The parameters, at least one.

    Attributes:
        members: The parameters.
        key: Equal for stacks that would be the same.
        rule: The rule of all of them.
        distortion: The distortion that all share; for vectors, that of the longest.
        state: The state that a rule changes, in the layout. It has one more dimension in front if there are several
            parameters. Each parameter's own state has views of it.
        slots: Where the gradient of each parameter is copied to, in the parameter's shape. Empty for a single one.
    """

    __slots__ = (
        "_grad",
        "_is_like_params",
        "_names",
        "_owners",
        "_padded_lengths",
        "_views",
        "distortion",
        "key",
        "members",
        "rule",
        "slots",
        "state",
    )

    def __init__(self, members: Sequence[SteppedParameter]) -> None:
        self.members = members
        self.key = _stack_key(members)
        self.rule = members[0].rule
        self.distortion = max((member.distortion for member in members), key=lambda distortion: distortion.layout)
        lengths = [member.distortion.layout[0] for member in members]
        self._padded_lengths = lengths if min(lengths) < max(lengths) else []
        self._is_like_params = all(member.distortion.layout == tuple(member.param.shape) for member in members)
        self.slots: list[Tensor] = []
        self.state: State = {}
        self._owners: list[State] = []
        self._names: list[str] = []
        self._views: list[Tensor] = []
        for name in members[0].shapes:
            self._join(name)
        if len(members) > 1:
            self._grad = torch.zeros_like(self.state["exp_avg"])
            self.slots = self.split_like_params(self._grad)

    @property
    def stack_dims(self) -> int:
        """Dimensions in front of the layout that count parameters: 0 or 1."""
        return int(len(self.members) > 1)

    @property
    def spreads(self) -> bool:
        """Tell whether one element of a gradient can change how others move."""
        return self.state["exp_avg"].numel() > 0 and self.rule.spreads(self.distortion)

    def is_shared(self) -> bool:
        """Tell whether the states of the parameters still hold the views that the stack gave them."""
        return all(map(is_, map(dict.get, self._owners, self._names), self._views))

    def release(self) -> None:
        """Give every parameter's state its own memory, unless another stack has taken it over."""
        for state, name, view in zip(self._owners, self._names, self._views, strict=True):
            if state.get(name) is view:
                state[name] = _compact(view)

    def gradient(self) -> Tensor:
        """Return the gradients in the layout. For several parameters, copy theirs to the slots before."""
        if len(self.members) > 1:
            return self._grad
        grad = self.members[0].whole.grad
        assert grad is not None
        return self.distortion.to_layout(grad.to(self.state["exp_avg"].dtype))

    def split_like_params(self, stacked: Tensor) -> list[Tensor]:
        """Return each parameter's part of a tensor in the layout, as a view of the parameter's shape."""
        parts = self._split(stacked)
        if self._is_like_params:
            return parts
        return [
            member.distortion.from_layout(part, tuple(member.param.shape))
            for part, member in zip(parts, self.members, strict=True)
        ]

    def _join(self, name: str) -> None:
        """Join an entry of all members, and put views of it into their states."""
        known = [known_entries(member.rule, member.distortion)[name] for member in self.members]
        values = [
            member.distortion.to_layout(member.state[name]) if entry.elementwise else member.state[name]
            for member, entry in zip(self.members, known, strict=True)
        ]
        joined = _joined(values) if len(values) > 1 else _compact(values[0])
        self.state[name] = joined
        views = self.split_like_params(joined) if known[0].elementwise else self._split(joined)
        for member, view in zip(self.members, views, strict=True):
            member.state[name] = view
            self._owners.append(member.state)
            self._names.append(name)
            self._views.append(view)

    def _split(self, stacked: Tensor) -> list[Tensor]:
        if len(self.members) == 1:
            return [stacked]
        parts = list(stacked.unbind())
        if not self._padded_lengths or stacked.ndim != 2 or stacked.shape[1] != max(self._padded_lengths):
            return parts
        return [part[:length] for part, length in zip(parts, self._padded_lengths, strict=True)]


def _stack_key(members: Sequence[SteppedParameter]) -> Hashable:
    """Return what a stack depends on. A state counts by identity: one that was replaced makes another stack."""
    first = members[0]
    owners = tuple((id(member.param), id(member.state), member.group) for member in members)
    return first.rule, first.distortion, frozenset(first.shapes), owners


def _batched(members: Iterable[SteppedParameter], alike: Sequence[Hashable]) -> list[list[list[SteppedParameter]]]:
    """Put members of one layout, and short vectors, into stacks; group the stacks that a rule can step at once.

    Members of a stack have made the same number of steps and have the same entries in their states.
    """
    batches: dict[Hashable, dict[Hashable, list[SteppedParameter]]] = {}
    for index, member in enumerate(members):
        exp_avg, layout = member.state["exp_avg"], member.distortion.layout
        alone = index if exp_avg.numel() > _MAX_ELEMENTS else None
        padded = len(layout) == 1 and layout[0] <= _MAX_PADDED
        counters = tuple(member.state[name].item() for name in ("step", PREV_STEP) if name in member.state)
        batch = (member.rule, alike[member.group], exp_avg.dtype, exp_avg.device, alone)
        stack = (type(member.distortion) if padded else member.distortion, frozenset(member.shapes), counters)
        batches.setdefault(batch, {}).setdefault(stack, []).append(member)
    return [
        [part for together in stacks.values() for part in _without_much_padding(together)]
        for stacks in batches.values()
    ]


def _without_much_padding(members: list[SteppedParameter]) -> list[list[SteppedParameter]]:
    """Split vectors by length, so that padding to the longest of each part stays below ``_MAX_PADDING``."""
    parts: list[list[SteppedParameter]] = []
    elements = 0
    for member in sorted(members, key=lambda member: -member.distortion.layout[0]):
        length = member.distortion.layout[0]
        if parts:
            padded = (len(parts[-1]) + 1) * parts[-1][0].distortion.layout[0]
            if padded <= _MAX_PADDING * (elements + length):
                parts[-1].append(member)
                elements += length
                continue
        parts.append([member])
        elements = length
    return parts


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    if all(tensor.shape == tensors[0].shape for tensor in tensors):
        return torch.stack(list(tensors))
    return pad_sequence(list(tensors), batch_first=True)


def _compact(tensor: Tensor) -> Tensor:
    """Return the tensor, or a copy if it is a view of a larger storage."""
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
