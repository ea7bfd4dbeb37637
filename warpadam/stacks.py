"""Decides which parameters are stepped together.

For many small tensors the calls cost more than the arithmetic. So parameters of one layout are stacked into one tensor
and stepped by one call of their rule, also those of several groups with equal settings. Short vectors, and small
matrices where the rule allows it, are padded with zeros to one layout. The optimizer's state holds views of the stacked
state, which look like any other tensors to a checkpoint. If someone replaces a view, the plan no longer serves and the
optimizer makes a new one.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from operator import is_
from typing import Final, NamedTuple, final

import torch
from torch import Tensor

from warpadam.learners.base import MOMENTUM, PREV_STEP, SKIPPED, Padding, Part, State, StepSettings, UpdateRule
from warpadam.state import known_entries, state_dtype
from warpadam.structures import Distortion

_MAX_ELEMENTS: Final = 65_536
"""Larger tensors are stepped one by one: their arithmetic hides the cost of the calls, and a tensor stays in the cache
during its step."""

_MAX_PADDED: Final = 1_024
"""Shorter vectors are padded with zeros to one length. A zero gradient leaves zero moments and moves nothing."""

_MAX_PADDED_SIDE: Final = 128
"""Matrices with no longer axis may be padded to one layout. Longer ones hide the cost of the calls."""

_MAX_PADDING: Final = (2, 3)
"""Vectors, and matrices, are padded to one layout only while that takes at most this many times their own memory."""

_STACK: Final = 2_000_000
"""Another stack takes as long as this many more multiplications for P g. (On one CPU core, 0.3 ms.)"""

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
        prefix: What stands before the names of the entries in its state: nothing, or the number of the part.
        shape: Its shape, or that of the part.
        whole: The tensor to step: the parameter itself, all of it if it is sharded, or a part of it if it is split.
        group: The index of its group.
        rule: Its update rule.
        distortion: The structure of its P.
        state: The optimizer's state of the parameter.
        shapes: The entries of the state that the rule knows, with their shapes.
        entries: The number of all its entries.
    """

    param: Tensor
    prefix: str
    shape: tuple[int, ...]
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
        return same and all(
            getattr(state.get(self.prefix + name), "shape", None) == shape for name, shape in self.shapes.items()
        )


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

    __slots__ = ("_entries", "_key", "_params", "_stacks", "_states")

    def __init__(
        self,
        members: Sequence[SteppedParameter],
        alike: Sequence[Hashable],
        key: object,
        before: StepPlan | None,
    ) -> None:
        self._key = key
        first = {member.param: member for member in members}
        self._params = list(first)
        self._states = [member.state for member in first.values()]
        self._entries = [member.entries for member in first.values()]
        old: list[Stack] = list(before._stacks) if before else []
        usable = {stack.key: stack for stack in old if stack.is_shared()}
        self._stacks: list[Stack] = [
            usable.get(_stack_key(together)) or Stack(together) for together in _stacked_together(members, alike)
        ]
        for stack in set(old).difference(self._stacks):
            stack.release()

    def serves(self, params: Sequence[Tensor], states: Mapping[Tensor, State], key: object) -> bool:
        """Tell whether the plan is for these parameters, and their states still share its storage."""
        return (
            key == self._key
            and len(params) == len(self._params)
            and all(map(is_, params, self._params))
            and all(map(is_, map(states.__getitem__, params), self._states))
            and list(map(len, self._states)) == self._entries
            and all(stack.is_shared() for stack in self._stacks)
        )

    def step(self, numbers: Sequence[GroupNumbers]) -> None:
        """Move every parameter by one step, with the numbers of its group."""
        for stack in self._stacks:
            stack.step(numbers)


@final
class Stack:
    """Parameters of one layout, or of several that are padded to one, with their states joined.

    Args:
        members: The parameters, at least one.

    Attributes:
        key: Equal for stacks that would be the same.
        state: The state that the rule changes, in the layout. It has one more dimension in front if there are several
            parameters. Each parameter's own state has views of it.
    """

    __slots__ = (
        "_distortion",
        "_dtype",
        "_grad",
        "_groups",
        "_is_like_params",
        "_layouts",
        "_members",
        "_names",
        "_owners",
        "_padding",
        "_params",
        "_rule",
        "_shapes",
        "_slots",
        "_spreads",
        "_stored",
        "_views",
        "key",
        "state",
    )

    def __init__(self, members: Sequence[SteppedParameter]) -> None:
        self._members = members
        self.key = _stack_key(members)
        self._rule = members[0].rule
        self._params = [member.whole for member in members]
        self._groups = [member.group for member in members]
        self._layouts = [member.distortion.layout for member in members]
        is_padded = len(set(self._layouts)) > 1
        padded = members[0].distortion.padded_to(_common(self._layouts)) if is_padded else None
        self._distortion = padded or members[0].distortion
        self._is_like_params = all(member.distortion.layout == member.shape for member in members)
        self.state: State = {}
        self._owners: list[State] = []
        self._names: list[str] = []
        self._views: list[Tensor] = []
        self._shapes: dict[str, list[tuple[int, ...]]] = {}
        for name in members[0].shapes:
            self._join(name)
        exp_avg = self.state["exp_avg"]
        self._dtype = state_dtype(self._params[0])
        # entries that are stored in fewer bits than they are computed in
        self._stored = [name for name in MOMENTUM & self.state.keys() if self.state[name].dtype != self._dtype]
        self._spreads = exp_avg.numel() > 0 and self._rule.spreads(self._distortion)
        self._padding: Padding | None = None
        if is_padded and exp_avg.ndim > 2:
            rows, columns = exp_avg.new_tensor(self._layouts, dtype=self._dtype).T[..., None, None]
            self._padding = Padding(rows, columns, self._shapes)
        self._grad = torch.zeros_like(exp_avg, dtype=self._dtype) if len(members) > 1 else None
        self._slots = self._split_like_params(self._grad) if self._grad is not None else []

    def step(self, numbers: Sequence[GroupNumbers]) -> None:
        """Move every parameter by one step, with the numbers of its group."""
        common = numbers[self._groups[0]]
        grad = self._gradient(common.maximize)
        state = self.state
        if self._stored:
            state = {**state, **{name: state[name].to(self._dtype) for name in self._stored}}
        update = self._rule.update(Part(self._distortion, state, grad, self._padding), common.settings)
        for name in self._stored:
            self.state[name].copy_(state[name])
        if self._grad is None:
            moves = self._split_like_params(update)
        else:
            self._grad.copy_(update)  # the gradient has served, and its slots have the shapes of the parameters
            moves = self._slots
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
        if any(decay != 1 for decay in decays):
            torch._foreach_mul_(self._params, decays)
        torch._foreach_add_(self._params, torch._foreach_mul(moves, [-float(own.lr) for own in numbers]))

    def _gradient(self, negated: bool) -> Tensor:
        """Return the gradients in the layout, without those that are too large to square."""
        grads = [param.grad for param in self._params]
        if self._grad is None:
            (grad,) = grads
            assert grad is not None
            stacked = self._distortion.to_layout(grad.to(self._dtype))
        else:
            torch._foreach_copy_(self._slots, [grad for grad in grads if grad is not None])
            stacked = self._grad
        if negated:
            stacked = stacked.neg()
        return self._without_too_large(stacked) if self._spreads else stacked

    def _without_too_large(self, grad: Tensor) -> Tensor:
        """Replace gradients that are too large to square by zeros, and count them in the state.

        One such element would spread to all others through P, and to every later step through the second moment. A
        gradient that is not finite is kept: it makes the parameter NaN, as in torch.optim.
        """
        limit = math.sqrt(torch.finfo(grad.dtype).max) / _STRETCH
        if grad.is_cpu and torch.linalg.vector_norm(grad).item() <= limit:  # on other devices this would wait
            return grad
        dims = tuple(range(grad.ndim - len(self._distortion.layout), grad.ndim))
        size, largest = (torch.linalg.vector_norm(grad, order, dims, keepdim=True) for order in (2, torch.inf))
        kept = (size <= limit) | ~(largest < torch.inf)
        self.state[SKIPPED].view(-1).add_(~kept.view(-1))
        return torch.where(kept, grad, 0.0)

    def is_shared(self) -> bool:
        """Tell whether the states of the parameters still hold the views that the stack gave them."""
        return all(map(is_, map(dict.get, self._owners, self._names), self._views))

    def release(self) -> None:
        """Give every parameter's state its own memory, unless another stack has taken it over."""
        for state, name, view in zip(self._owners, self._names, self._views, strict=True):
            if state.get(name) is view:
                state[name] = compacted(view)

    def _split_like_params(self, stacked: Tensor) -> list[Tensor]:
        """Return each parameter's part of a tensor in the layout, as a view of the parameter's shape."""
        parts = self._split(stacked, self._layouts)
        if self._is_like_params:
            return parts
        return [
            member.distortion.from_layout(part, member.shape) for part, member in zip(parts, self._members, strict=True)
        ]

    def _join(self, name: str) -> None:
        """Join an entry of all members, and put views of it into their states."""
        known = [known_entries(member.rule, member.distortion)[name] for member in self._members]
        values = [
            member.distortion.to_layout(value) if entry.elementwise else value
            for member, entry in zip(self._members, known, strict=True)
            for value in (member.state[member.prefix + name],)
        ]
        joined = _joined(values) if len(values) > 1 else compacted(values[0])
        self.state[name] = joined
        self._shapes[name] = shapes = [tuple(value.shape) for value in values]
        views = self._split_like_params(joined) if known[0].elementwise else self._split(joined, shapes)
        for member, view in zip(self._members, views, strict=True):
            member.state[member.prefix + name] = view
            self._owners.append(member.state)
            self._names.append(member.prefix + name)
            self._views.append(view)

    def _split(self, stacked: Tensor, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
        """Return each parameter's part of a tensor, without padding."""
        if len(self._members) == 1:
            return [stacked]
        parts = list(stacked.unbind())
        if len(set(shapes)) == 1:
            return parts
        return [part[tuple(map(slice, shape))] for part, shape in zip(parts, shapes, strict=True)]


def _stack_key(members: Sequence[SteppedParameter]) -> Hashable:
    """Return what a stack depends on. A state counts by identity: one that was replaced makes another stack."""
    first = members[0]
    owners = tuple((id(member.param), member.prefix, id(member.state), member.group) for member in members)
    return first.rule, first.distortion, frozenset(first.shapes), owners


def _stacked_together(
    members: Iterable[SteppedParameter], alike: Sequence[Hashable]
) -> Iterable[list[SteppedParameter]]:
    """Put members of one layout, short vectors, and small matrices where their rule allows it, into stacks.

    Members of a stack have the same entries in their states, and have made the same number of steps unless their rule
    joins others.
    """
    stacks: dict[Hashable, list[SteppedParameter]] = {}
    for index, member in enumerate(members):
        exp_avg = member.state[member.prefix + "exp_avg"]
        alone = index if exp_avg.numel() > _MAX_ELEMENTS else None
        kind = _padded_to_nothing(member) or member.distortion
        counted = () if member.rule.joins_steps else ("step", PREV_STEP)
        counters = tuple(member.state[member.prefix + name].item() for name in counted if name in member.shapes)
        dtypes = (state_dtype(member.whole), exp_avg.dtype)
        key = (member.rule, alike[member.group], dtypes, exp_avg.device, alone, kind)
        stacks.setdefault((*key, frozenset(member.shapes), counters), []).append(member)
    return (part for together in stacks.values() for part in _without_much_padding(together))


def _padded_to_nothing(member: SteppedParameter) -> Distortion | None:
    """Return the same structure for all members that may be padded to one layout; None if this one may not be."""
    layout = member.distortion.layout
    if max(layout) > (_MAX_PADDED if len(layout) == 1 else _MAX_PADDED_SIDE):
        return None
    may = len(layout) == 1 or member.rule.joins_shapes
    return member.distortion.padded_to((0,) * len(layout)) if may else None


def _without_much_padding(members: Sequence[SteppedParameter]) -> list[list[SteppedParameter]]:
    """Split members by layout, so that padding them to the longest axes of their part pays."""
    by_layout: dict[tuple[int, ...], list[SteppedParameter]] = {}
    for member in members:
        by_layout.setdefault(member.distortion.layout, []).append(member)
    parts: list[dict[tuple[int, ...], int]] = []  # for each part its layouts, and how many members have them
    for layout in sorted(by_layout, key=math.prod, reverse=True):
        count = len(by_layout[layout])
        if parts and _padding_pays({**parts[-1], layout: count}):
            parts[-1][layout] = count
        else:
            parts.append({layout: count})
    return [[member for layout in part for member in by_layout[layout]] for part in parts]


def _padding_pays(counts: Mapping[tuple[int, ...], int]) -> bool:
    """Tell whether one stack of these layouts takes less time than several, and little more memory."""
    common = _common(list(counts))
    total = sum(counts.values())
    elements = sum(count * math.prod(layout) for layout, count in counts.items())
    if total * math.prod(common) > _MAX_PADDING[len(common) - 1] * elements:
        return False
    added = total * _work(common) - sum(count * _work(layout) for layout, count in counts.items())
    return added <= _STACK * (len(counts) - 1)


def _common(layouts: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(map(max, zip(*layouts, strict=True)))


def _work(layout: tuple[int, ...]) -> int:
    """Return the multiplications of P g."""
    return math.prod(layout) * (sum(layout) if len(layout) > 1 else 1)


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    """Stack tensors, padded at the ends with zeros where their shapes differ."""
    shapes = [tuple(tensor.shape) for tensor in tensors]
    if len(set(shapes)) == 1:
        return torch.stack(list(tensors))
    joined = tensors[0].new_zeros((len(tensors), *_common(shapes)))
    for part, tensor in zip(joined, tensors, strict=True):
        part[tuple(map(slice, tensor.shape))] = tensor
    return joined


def compacted(tensor: Tensor) -> Tensor:
    """Return the tensor, or a contiguous copy if it is not contiguous or a view of a larger storage."""
    fills_its_storage = tensor.untyped_storage().nbytes() == tensor.nbytes
    if fills_its_storage and tensor.is_contiguous():
        return tensor
    return tensor.clone(memory_format=torch.contiguous_format)
