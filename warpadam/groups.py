"""``param_groups``: which tensors of a model get a P, and which are left to plain Adam.

The rows of an embedding table are looked up, not multiplied. Such a table has no axes worth mixing, so plain Adam steps
it. It is found by torch's module types and by parameter names. ``plain`` adds others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any, Final

from torch import nn

from warpadam.config import LIMITS, Learner, Placement, Structure, WarpAdamConfig
from warpadam.errors import InvalidConfigError
from warpadam.learners import WhiteningRule, choose_rule
from warpadam.splits import check_used, parts_of, splits_of, values_by_name

_TABLE_NAME: Final = re.compile(
    r"(^|_)(embed|embedding|embeddings|pos|position|positional|positions|token|tokens)(_|$)"
)
"""Matches the own name of a parameter that is used like an embedding, such as ``pos_embed`` or ``cls_token``."""

_PLAIN: Final[dict[str, Any]] = {
    "structure": Structure.DIAGONAL,
    "placement": Placement.PRE,
    "learner": Learner.FROZEN,
}
"""The strategy that is exactly AdamW."""

WHITENING_PLAIN_LR: Final = 2.0
"""Plain Adam's lr for embeddings, as a multiple of the lr of ``whitening``, whose updates have a root mean square of
0.2. (Of 0.25, 0.5, 1 and 2, the largest was best for two small transformers and a recurrent net. For a third
transformer 1 was as good, and for a bag of embeddings 4 was slightly better.)"""


def param_groups(
    model: nn.Module,
    config: WarpAdamConfig | None = None,
    *,
    plain: Iterable[nn.Module | str] | nn.Module | str = (),
    plain_lr: float | None = None,
    split: Any = None,
    **overrides: Any,
) -> list[dict[str, Any]]:
    """Return groups for :class:`~warpadam.WarpAdam`: P for a model's layers, plain Adam for its embeddings.

    Plain Adam, which is exactly AdamW, steps

    - embeddings: parameters of ``nn.Embedding`` and ``nn.EmbeddingBag``, and parameters with a name such as
      ``pos_embed`` or ``cls_token``; also an output layer whose weight is tied to one;
    - what is in ``plain``;
    - vectors and scalars, for which ``whitening`` has no P.

    Tensors with fewer than two axes (biases, norms) have no weight decay. Parameters that need no gradient are left
    out. A tied parameter appears once, under its first name.

    Args:
        model: The groups include the names of its parameters, for errors and for a P that is carried over.
        config: Settings of the layers; the defaults if not given.
        plain: More modules, or names of modules or parameters, that plain Adam steps.
        plain_lr: Learning rate of embeddings and ``plain``. By default the lr of ``config``, or twice that with
            ``whitening``.
        split: Parameters that hold several matrices, by name, as for :class:`~warpadam.WarpAdam`.
        **overrides: Fields of ``config`` to replace, as in :meth:`WarpAdamConfig.changed`.

    Returns:
        Groups with all settings. There are up to three kinds: tensors with a P; vectors, for which ``whitening`` has no
        P; embeddings and ``plain``. Each kind is split into tensors with and without weight decay.

    Raises:
        InvalidConfigError: A setting is out of range or unknown, or the model does not have something in ``plain`` or
            ``split``.

    >>> model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 9))
    >>> for group in param_groups(model, lr=0.03, plain_lr=0.01):
    ...     print(group["learner"], group["lr"], [name for name, _ in group["params"]])
    whitening 0.03 ['1.weight', '2.weight']
    frozen 0.03 ['1.bias', '2.bias']
    frozen 0.01 ['0.weight']
    """
    warped = (config or WarpAdamConfig()).changed(**overrides)
    if plain_lr is not None and not LIMITS["lr"].allows(plain_lr):
        raise InvalidConfigError("plain_lr", plain_lr, f"must be {LIMITS['lr']}")
    if plain_lr is None:
        plain_lr = warped.lr * (WHITENING_PLAIN_LR if warped.learner == Learner.WHITENING else 1)
    configs = (warped, replace(warped, **_PLAIN), replace(warped, lr=plain_lr, **_PLAIN))
    left_out = _tables(model) | _ids(_chosen(model, plain))
    named = dict(model.named_parameters())
    check_used(split, named)
    values = values_by_name(split, named)
    splits = splits_of({"params": [*named.values()], "param_names": [*named], "split": values})
    groups: dict[tuple[int, bool], list[tuple[str, nn.Parameter]]] = {}
    for name, param in named.items():
        if param.requires_grad:
            parts = parts_of(param, splits.get(param))
            has_p = any(_has_p(warped, tuple(part.like.shape)) for part in parts)
            which = 2 if id(param) in left_out else 0 if has_p else 1
            groups.setdefault((which, parts[0].like.ndim < 2), []).append((name, param))
    return [_group(configs[which], is_short, groups[which, is_short], values) for which, is_short in sorted(groups)]


def _group(
    config: WarpAdamConfig, is_short: bool, params: list[tuple[str, nn.Parameter]], splits: dict[str, Any]
) -> dict[str, Any]:
    settings = asdict(config)
    if own := {name: splits[name] for name, _ in params if name in splits}:
        settings["split"] = own
    return {"params": params, **settings, "weight_decay": 0.0 if is_short else config.weight_decay}


def _has_p(config: WarpAdamConfig, shape: tuple[int, ...]) -> bool:
    """Tell whether the strategy does more than plain Adam for a tensor of this shape."""
    if config.learner != Learner.WHITENING:
        return True
    limits = {"rank": config.rank, "block_size": config.block_size, "max_dim": config.max_dim}
    rule, _ = choose_rule(config.strategy, shape, **limits)
    return isinstance(rule, WhiteningRule)


def _tables(model: nn.Module) -> set[int]:
    bare = {id(param) for name, param in model.named_parameters() if _TABLE_NAME.search(name.rpartition(".")[2])}
    tables = (module for module in model.modules() if isinstance(module, nn.Embedding | nn.EmbeddingBag))
    return bare | _ids(param for module in tables for param in module.parameters())


def _chosen(model: nn.Module, plain: Iterable[nn.Module | str] | nn.Module | str) -> list[nn.Parameter]:
    modules = dict(model.named_modules(remove_duplicate=False))
    params = dict(model.named_parameters(remove_duplicate=False))
    found: list[nn.Parameter] = []
    for choice in [plain] if isinstance(plain, nn.Module | str) else plain:
        module = modules.get(choice) if isinstance(choice, str) else choice
        if isinstance(choice, str) and choice in params:
            found.append(params[choice])
        elif module is not None and any(module is own for own in modules.values()):
            found.extend(module.parameters())
        else:
            raise InvalidConfigError(
                "plain", choice, "must hold modules of the model, or names of its modules or parameters"
            )
    return found


def _ids(params: Iterable[nn.Parameter]) -> set[int]:
    return {id(param) for param in params}
