# Many small tensors cost more in calls than in arithmetic, so parameters that a rule treats alike are stepped as one.
# Their state lives in stacked tensors, and what the optimizer keeps for each of them are views, which a checkpoint sees
# as any other tensor. Anybody may replace a view: the stack is then made anew. Knows nothing of what entries mean.
"""Parameters of one kind, stepped together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, final

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from warpadam.learners.base import State, UpdateRule

_MAX_ELEMENTS: Final = 65_536
"""Larger tensors are stepped alone: their arithmetic hides the calls, and a stack would only cost memory."""

_MAX_PADDED: Final = 1_024
"""Shorter vectors are padded with zeros to one length. A zero gradient leaves zero moments and moves nothing."""


class Member(NamedTuple):
    """One parameter in one step.

    Attributes:
        param: The parameter; it has a gradient.
        rule: Its update rule.
        state: What the optimizer keeps for it.
    """

    param: Tensor
    rule: UpdateRule
    state: State


def alike(members: Iterable[Member]) -> list[list[Member]]:
    """Split the parameters of one group into those that can be stepped together, in their order.

    These have the same layout, or are short vectors; have seen as many steps; and remember the same entries.
    """
    found: dict[object, list[Member]] = {}
    for member in members:
        layout = member.rule.distortion.layout
        exp_avg = member.state["exp_avg"]
        key: object = id(member.param)
        if exp_avg.numel() <= _MAX_ELEMENTS:
            kind = None if len(layout) == 1 and layout[0] <= _MAX_PADDED else member.rule
            key = (kind, member.state["step"].item(), frozenset(member.state), exp_avg.dtype, exp_avg.device)
        found.setdefault(key, []).append(member)
    return list(found.values())


def gradient_of(member: Member) -> Tensor:
    """Return the gradient of a parameter in its layout and the dtype of its state."""
    grad = member.param.grad
    assert grad is not None
    return member.rule.distortion.to_layout(grad.to(member.state["exp_avg"].dtype))


def move(members: Sequence[Member], updates: Sequence[Tensor], lr: float, weight_decay: float) -> None:
    """Decay the parameters and move them by -lr times their updates, which are in their layouts."""
    params = [member.param for member in members]
    moves = [
        member.rule.distortion.from_layout(update, tuple(member.param.shape))
        for member, update in zip(members, updates, strict=True)
    ]
    if weight_decay:
        torch._foreach_mul_(params, 1 - lr * weight_decay)
    torch._foreach_add_(params, moves, alpha=-lr)


@final
class Stack:
    """The states of several parameters as one state with a dimension in front.

    Args:
        members: As :func:`alike` groups them.

    Attributes:
        state: What a rule changes; :meth:`share` afterwards.
        rule: The rule for all: that of the longest vector, or the one that all have.
    """

    __slots__ = ("_lengths", "_shared", "_states", "_views", "rule", "state")

    def __init__(self, members: Sequence[Member]) -> None:
        self.rule = max((member.rule for member in members), key=lambda rule: rule.distortion.layout)
        self._lengths = [member.rule.distortion.layout[0] for member in members]
        self._states = [member.state for member in members]
        self.state = {name: self._join([state[name] for state in self._states]) for name in self._states[0]}
        self._shared: State = {}
        self._views: list[list[Tensor]] = []
        self.share()

    def serves(self, members: Sequence[Member]) -> bool:
        """Tell whether these are its parameters, and their states are still views of it."""
        return len(members) == len(self._states) and all(
            member.state is state and list(map(id, state.values())) == list(map(id, views))
            for member, state, views in zip(members, self._states, self._views, strict=True)
        )

    def join_gradients(self, grads: Sequence[Tensor]) -> Tensor:
        """Return the gradients, each in its parameter's layout, as one tensor."""
        return self._join(grads)

    def split(self, stacked: Tensor) -> list[Tensor]:
        """Return each parameter's part of a stacked tensor, as views."""
        longest = max(self._lengths)
        if stacked.ndim != 2 or stacked.shape[1] != longest or min(self._lengths) == longest:
            return list(stacked.unbind())
        return [part[:length] for part, length in zip(stacked.unbind(), self._lengths, strict=True)]

    def share(self) -> None:
        """Give every parameter's state the entries that the stacked state has now."""
        gone = self._shared.keys() - self.state.keys()
        changed = {name: self.split(value) for name, value in self.state.items() if value is not self._shared.get(name)}
        for index, state in enumerate(self._states):
            for name in gone:
                del state[name]
            for name, parts in changed.items():
                state[name] = parts[index]
        self._shared = dict(self.state)
        self._views = [list(state.values()) for state in self._states]

    @staticmethod
    def _join(tensors: Sequence[Tensor]) -> Tensor:
        if all(tensor.shape == tensors[0].shape for tensor in tensors):
            return torch.stack(list(tensors))
        return pad_sequence(list(tensors), batch_first=True)
