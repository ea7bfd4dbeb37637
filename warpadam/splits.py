"""``split``: one parameter that holds several matrices, stepped as if each were a parameter of its own.

For example the fused projection of an attention layer has the rows of query, key and value below each other. One P for
all of them would mix rows that have nothing to do with each other. With ``split={"qkv_proj": 3}`` the rules see three
matrices. Each has its own P and its own entries in the state, with ``0.``, ``1.`` or ``2.`` before their names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from numbers import Integral
from typing import Any, Final, NamedTuple, final

import torch
from torch import Tensor
from typing_extensions import TypeIs

from warpadam.config import Limits
from warpadam.errors import InvalidConfigError

EACH: Final = "each"
"""Takes every index along an axis as a tensor of its own, without that axis."""

_FORM: Final = (
    "must be a number of equal parts, a list of sizes, 'each', {'parts': ..., 'dim': ...} of these, "
    "or such values by parameter name"
)

_COUNT: Final = Limits(1, whole=True)


class Split(NamedTuple):
    """How one parameter is divided.

    Attributes:
        dim: The axis that is divided.
        sizes: The length of each part along it.
        each: Whether every part has length 1 and loses the axis.
    """

    dim: int
    sizes: tuple[int, ...]
    each: bool

    def views(self, tensor: Tensor) -> Sequence[Tensor]:
        """Return the parts of a tensor of the parameter's shape, as views."""
        return tensor.unbind(self.dim) if self.each else torch.split(tensor, list(self.sizes), self.dim)


class PartOf(NamedTuple):
    """One part of a parameter, or all of it if it is not split.

    Attributes:
        prefix: What stands before the names of its entries in the state of the parameter: ``0.`` or nothing.
        like: A tensor with its shape, dtype and device. The values of a part do not matter.
    """

    prefix: str
    like: Tensor

    def entries(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Return its entries in the state of the parameter, under the names that a rule knows."""
        return {name.removeprefix(self.prefix): state[name] for name in state if name.startswith(self.prefix)}

    def named(self, entries: Mapping[str, Any]) -> dict[str, Any]:
        """Undo :meth:`entries`."""
        return {self.prefix + name: value for name, value in entries.items()}


def parts_of(param: Tensor, split: Split | None) -> list[PartOf]:
    """Return the parts of a parameter."""
    if split is None:
        return [PartOf("", param)]
    like = torch.empty((), dtype=param.dtype, device=param.device).expand(param.shape)
    return [PartOf(f"{index}.", part) for index, part in enumerate(split.views(like))]


@final
class SplitTensor:
    """The tensors to step for a split parameter. They are the same objects at each step.

    Args:
        split: How it is divided.
        whole: The parameter itself, or all of it if it is sharded. It has values and a gradient during a step.
    """

    def __init__(self, split: Split, whole: Tensor) -> None:
        self._split = split
        self._whole = whole
        self.parts = [torch.empty(0, dtype=whole.dtype, device=whole.device) for _ in split.sizes]

    def attach(self) -> None:
        """Make the parts views of the whole and of its gradient."""
        assert self._whole.grad is not None
        values, grads = self._split.views(self._whole.detach()), self._split.views(self._whole.grad.detach())
        for part, value, grad in zip(self.parts, values, grads, strict=True):
            part.data, part.grad = value, grad

    def detach(self) -> None:
        """Let go of the memory of the whole, and tell autograd that it has changed."""
        for part in self.parts:
            part.grad = None
            part.data = part.new_empty(0)
        torch.autograd.graph.increment_version(self._whole)


def splits_of(group: Mapping[str, Any], *, all_used: bool = False) -> dict[Tensor, Split]:
    """Return how the parameters of a group are split, for those that are.

    Args:
        group: A parameter group. Its ``split`` is for all parameters, or by name.
        all_used: Whether every name has to match a parameter of this group.

    Raises:
        InvalidConfigError: ``split`` has another form, does not fit a parameter, or has a name without a parameter.
    """
    value, params = group.get("split"), group["params"]
    if value is None:
        return {}
    names = group.get("param_names")
    if not _is_by_name(value):
        shown = names or [f"{index} of the group" for index in range(len(params))]
        return {param: _fitted(value, param, name) for param, name in zip(params, shown, strict=True)}
    if names is None:
        hint = "Pass model.named_parameters(), or give split as a setting of a group."
        raise InvalidConfigError("split", value, "needs parameters with names", hint)
    chosen = values_by_name(value, names)
    if all_used:
        check_used(value, names)
    return {
        param: _fitted(chosen[name], param, name) for param, name in zip(params, names, strict=True) if name in chosen
    }


def values_by_name(split: Any, names: Iterable[str]) -> dict[str, Any]:
    """Return the value of ``split`` for each name that it matches.

    Raises:
        InvalidConfigError: Two patterns with different values match the same name, or one of these values has another
            form.
    """
    if split is None:
        return {}
    if not _is_by_name(split):
        return dict.fromkeys(names, split)
    found: dict[str, Any] = {}
    for name in names:
        for pattern, value in split.items():
            if _matches(pattern, name):
                if name in found and _form_of(found[name]) != _form_of(value):
                    raise InvalidConfigError("split", pattern, f"matches {name!r}, and so does another of its names")
                found[name] = value
    return found


def check_used(split: Any, names: Iterable[str]) -> None:
    """Refuse a ``split`` by name that has a name without a parameter.

    Raises:
        InvalidConfigError: There is such a name.
    """
    known = list(names)
    for pattern in split if _is_by_name(split) else ():
        if not any(_matches(pattern, name) for name in known):
            hint = f"The parameters are {', '.join(known[:8])}{', ...' if len(known) > 8 else ''}."
            raise InvalidConfigError("split", pattern, "must match the name of a parameter or module", hint)


def _is_by_name(split: Any) -> TypeIs[Mapping[str, Any]]:
    return isinstance(split, Mapping) and "parts" not in split


def _matches(pattern: str, name: str) -> bool:
    """Tell whether some neighbouring parts of a dotted name match those of a pattern."""
    wanted, own = str(pattern).split("."), name.split(".")
    return any(
        all(map(fnmatchcase, own[start : start + len(wanted)], wanted)) for start in range(len(own) - len(wanted) + 1)
    )


def _fitted(value: Any, param: Tensor, name: str) -> Split:
    """Return the split of one parameter."""
    parts, dim = _form_of(value)
    shape = tuple(param.shape)
    where = f"parameter {name!r} of shape {shape}"
    if isinstance(dim, bool) or not isinstance(dim, Integral) or not -len(shape) <= int(dim) < len(shape):
        raise InvalidConfigError("split", value, f"does not go with {where}: it has no axis {dim!r}")
    dim = int(dim)
    length = shape[dim]
    if isinstance(parts, str):
        return Split(dim, (1,) * length, each=True)
    if isinstance(parts, int):
        if length % parts:
            hint = "Give a list of sizes if the parts are not equal."
            raise InvalidConfigError("split", value, f"does not divide axis {dim} of {where}", hint)
        return Split(dim, (length // parts,) * parts, each=False)
    if sum(parts) != length:
        raise InvalidConfigError(
            "split", value, f"must add up to {length}, the length of axis {dim} of {where}, not to {sum(parts)}"
        )
    return Split(dim, parts, each=False)


def _form_of(value: Any) -> tuple[int | str | tuple[int, ...], Any]:
    """Return the parts that a value asks for: a number, ``EACH`` or sizes; and the axis, which is not checked."""
    parts: Any = value
    dim: Any = 0
    if isinstance(value, Mapping):
        if "parts" not in value or not value.keys() <= {"parts", "dim"}:
            raise InvalidConfigError("split", value, _FORM)
        parts, dim = value["parts"], value.get("dim", 0)
    if isinstance(parts, str) and parts == EACH:
        return EACH, dim
    if _COUNT.allows(parts):
        return int(parts), dim
    if isinstance(parts, list | tuple) and parts and all(map(_COUNT.allows, parts)):
        return tuple(map(int, parts)), dim
    raise InvalidConfigError("split", value, _FORM)
