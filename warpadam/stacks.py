"""Decides which parameters are stepped together.

For many small tensors the calls cost more than the arithmetic. So parameters of one layout are stacked into one tensor,
and one call of a rule steps all its stacks. The optimizer's state holds views of the stacked state, which look like any
other tensors to a checkpoint. If someone replaces a view, the plan no longer serves and the optimizer makes a new one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, final

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from warpadam.learners.base import Part, State, StepSettings, UpdateRule
from warpadam.structures import Distortion

_MAX_ELEMENTS: Final = 65_536
"""Larger tensors are stepped one by one: their arithmetic hides the cost of the calls, and a tensor stays in the cache
during its step."""

_MAX_PADDED: Final = 1_024
"""Shorter vectors are padded with zeros to one length. A zero gradient leaves zero moments and moves nothing."""


class SteppedParameter(NamedTuple):
    """A parameter with everything that a step of it needs.

    Attributes:
        param: The parameter. It has a gradient.
        rule: Its update rule.
        distortion: The structure of its P.
        state: The optimizer's state of the parameter.
    """

    param: Tensor
    rule: UpdateRule
    distortion: Distortion
    state: State


@final
class StepPlan:
    """How the parameters of one group that have a gradient are stepped.

    Args:
        members: In the group's order.
        key: The settings of the group on which rules and structures depend.
    """

    __slots__ = ("_batches", "_key", "_members", "_params")

    def __init__(self, members: Sequence[SteppedParameter], key: object) -> None:
        self._key = key
        self._members = members
        self._params = [member.param for member in members]
        self._batches = [_Batch(stacks) for stacks in _batched(members)]

    def serves(self, params: Sequence[Tensor], states: Mapping[Tensor, State], key: object) -> bool:
        """Tell whether the plan is for these parameters, and their states still share its storage."""
        return (
            key == self._key
            and len(params) == len(self._params)
            and all(map(_same, params, self._params))
            and all(states[member.param] is member.state for member in self._members)
            and all(stack.is_shared() for batch in self._batches for stack in batch.stacks)
        )

    def step(self, group: Mapping[str, Any], settings: StepSettings) -> None:
        """Move every parameter by one step."""
        for batch in self._batches:
            batch.step(group, settings)


class _Batch:
    """Stacks that are stepped by one call of their rule."""

    __slots__ = ("_copies", "_grads", "_params", "stacks")

    def __init__(self, stacks: Sequence[Stack]) -> None:
        self.stacks = stacks
        self._params = [member.param for stack in stacks for member in stack.members]
        self._copies = [slot for stack in stacks for slot in stack.slots]

    def step(self, group: Mapping[str, Any], settings: StepSettings) -> None:
        grads = self._gradients(group["maximize"])
        parts = [Part(stack.distortion, stack.state, grad) for stack, grad in zip(self.stacks, grads, strict=True)]
        updates = self.stacks[0].rule.update(parts, settings)
        moves: list[Tensor] = []
        for stack, update in zip(self.stacks, updates, strict=True):
            stack.share()
            moves += stack.split_like_params(update)
        if group["weight_decay"]:
            torch._foreach_mul_(self._params, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(self._params, moves, alpha=-group["lr"])

    def _gradients(self, negated: bool) -> list[Tensor]:
        if self._copies:
            stacked = (member.param.grad for stack in self.stacks if stack.slots for member in stack.members)
            torch._foreach_copy_(self._copies, [grad for grad in stacked if grad is not None])
        grads = [stack.gradient() for stack in self.stacks]
        return list(torch._foreach_neg(grads)) if negated else grads


@final
class Stack:
    """Parameters of one layout, or short vectors, with their states joined. A single parameter is left as it is.

    Args:
        members: The parameters, at least one.

    Attributes:
        members: The parameters.
        rule: The rule of all of them.
        distortion: The distortion that all share; for vectors, that of the longest.
        state: The state that a rule changes. It has one more dimension in front if there are several parameters. Call
            :meth:`share` after it changes.
        slots: Where the gradient of each parameter is copied to, in the parameter's shape. Empty for a single one.
    """

    __slots__ = ("_grad", "_lengths", "_shared", "_views", "distortion", "members", "rule", "slots", "state")

    def __init__(self, members: Sequence[SteppedParameter]) -> None:
        self.members = members
        self.rule = members[0].rule
        self.distortion = max((member.distortion for member in members), key=lambda distortion: distortion.layout)
        self._lengths = [member.distortion.layout[0] for member in members]
        self.slots: list[Tensor] = []
        self._shared: State = {}
        self._views: list[list[Tensor]] = []
        states = [member.state for member in members]
        if len(members) == 1:
            self.state = states[0]
        else:
            self.state = {name: _joined([state[name] for state in states]) for name in states[0]}
            exp_avg = self.state["exp_avg"]
            self._grad = torch.zeros_like(exp_avg)
            self.slots = self.split_like_params(self._grad)
        self.share()

    def is_shared(self) -> bool:
        """Tell whether the states of the parameters still hold the views that the stack gave them."""
        if len(self.members) == 1:
            return True
        return all(
            len(views) == len(member.state) and all(map(_same, views, member.state.values()))
            for member, views in zip(self.members, self._views, strict=True)
        )

    def gradient(self) -> Tensor:
        """Return the gradients in the layout. For several parameters, copy theirs to the slots before."""
        if len(self.members) > 1:
            return self._grad
        grad = self.members[0].param.grad
        assert grad is not None
        return self.distortion.to_layout(grad.to(self.state["exp_avg"].dtype))

    def split_like_params(self, stacked: Tensor) -> list[Tensor]:
        """Return each parameter's part of a tensor in the layout, as a view of the parameter's shape."""
        parts = self._split(stacked) if len(self.members) > 1 else [stacked]
        return [
            member.distortion.from_layout(part, tuple(member.param.shape))
            for part, member in zip(parts, self.members, strict=True)
        ]

    def share(self) -> None:
        """Give every parameter's state views of the entries that the stacked state has now."""
        if len(self.members) == 1 or self._nothing_changed():
            return
        gone = self._shared.keys() - self.state.keys()
        changed = {
            name: self._split(value) for name, value in self.state.items() if value is not self._shared.get(name)
        }
        for index, member in enumerate(self.members):
            for name in gone:
                del member.state[name]
            for name, parts in changed.items():
                member.state[name] = parts[index]
        self._shared = dict(self.state)
        self._views = [list(member.state.values()) for member in self.members]

    def _nothing_changed(self) -> bool:
        return len(self.state) == len(self._shared) and all(map(_same, self.state.values(), self._shared.values()))

    def _split(self, stacked: Tensor) -> list[Tensor]:
        longest = max(self._lengths)
        if stacked.ndim != 2 or stacked.shape[1] != longest or min(self._lengths) == longest:
            return list(stacked.unbind())
        return [part[:length] for part, length in zip(stacked.unbind(), self._lengths, strict=True)]


def _batched(members: Iterable[SteppedParameter]) -> list[list[Stack]]:
    """Stack the members of one layout, and the short vectors; group the stacks that a rule can step at once.

    Members of a batch have made the same number of steps. Members of a stack have the same entries in their states.
    """
    batches: dict[object, dict[object, list[SteppedParameter]]] = {}
    for index, member in enumerate(members):
        exp_avg, layout = member.state["exp_avg"], member.distortion.layout
        alone = index if exp_avg.numel() > _MAX_ELEMENTS else None
        padded = len(layout) == 1 and layout[0] <= _MAX_PADDED
        batch = (member.rule, member.state["step"].item(), exp_avg.dtype, exp_avg.device, alone)
        stack = (type(member.distortion) if padded else member.distortion, frozenset(member.state))
        batches.setdefault(batch, {}).setdefault(stack, []).append(member)
    return [[Stack(together) for together in stacks.values()] for stacks in batches.values()]


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    if all(tensor.shape == tensors[0].shape for tensor in tensors):
        return torch.stack(list(tensors))
    return pad_sequence(list(tensors), batch_first=True)


def _same(one: object, other: object) -> bool:
    return one is other
