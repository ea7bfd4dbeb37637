# Which tensors of a model P is for. A table of embeddings has rows that are looked up, not multiplied, and the output
# layer one row a class: neither has axes worth mixing, so both are left to plain Adam. Rules here are short and go by
# torch's own module types and names; what they get wrong the caller overrides.
"""Parameter groups for a model."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any, Final

from torch import nn

from warpadam.config import Learner, Placement, Structure, WarpAdamConfig
from warpadam.errors import InvalidConfigError
from warpadam.learners import WhiteningRule, choose_rule

_TABLE_NAME: Final = re.compile(
    r"(^|_)(embed|embedding|embeddings|pos|position|positional|positions|token|tokens)(_|$)"
)
"""Own name of a bare parameter that is looked up or added like an embedding: ``pos_embed``, ``cls_token``."""

_PLAIN: Final[dict[str, Any]] = {
    "structure": Structure.DIAGONAL,
    "placement": Placement.PRE,
    "learner": Learner.FROZEN,
}
"""The strategy that is exactly AdamW."""

WHITENING_PLAIN_LR: Final = 0.25
"""Plain Adam's lr for tables and output layers, over the lr of ``whitening``, whose updates have a root mean square of
0.2. (Of 0.17, 0.33 and 0.67 a transformer liked the smallest best.)"""


def param_groups(
    model: nn.Module,
    config: WarpAdamConfig | None = None,
    *,
    plain: Iterable[nn.Module | str] | nn.Module | str | None = None,
    plain_lr: float | None = None,
    **overrides: Any,
) -> list[dict[str, Any]]:
    """Return the groups of a model for :class:`~warpadam.WarpAdam`: P for the hidden layers, plain Adam for the rest.

    Plain Adam (exactly AdamW) steps the embeddings, the output layer, and what ``whitening`` has no P for. Embeddings
    are the parameters of ``nn.Embedding`` and ``nn.EmbeddingBag``, and parameters whose own name is that of a table,
    for example ``pos_embed`` or ``cls_token``. The output layer is every ``nn.Linear`` whose weight is tied to an
    embedding, or, if there is none, the last ``nn.Linear`` that the model registered. Tensors with fewer than two axes
    (biases, norms) have no weight decay. Parameters that need no gradient are left out; a tied one appears once, by its
    first name.

    Args:
        model: Its parameters' names come along, for errors and for learned P.
        config: Settings of the hidden layers; the defaults if not given.
        plain: Modules, or names of modules or parameters, to leave to plain Adam in place of the output layer;
            embeddings are plain in any case. ``()`` for none.
        plain_lr: Learning rate of embeddings, output layer and ``plain``. If not given that of ``config``, or a quarter
            of it with ``whitening``: its updates have a fixed size, so its lr is larger than Adam's.
        **overrides: Fields of ``config`` to replace, as :meth:`~warpadam.config.WarpAdamConfig.changed` does.

    Returns:
        Groups with all settings, each with and without weight decay where both occur: what has a P; what ``whitening``
        has no P for; embeddings, output layer and ``plain``.

    Raises:
        InvalidConfigError: A setting out of range or unknown; something in ``plain`` that the model does not have.

    >>> model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 9))
    >>> for group in param_groups(model, lr=0.03, plain_lr=0.01):
    ...     print(group["learner"], group["lr"], [name for name, _ in group["params"]])
    whitening 0.03 ['1.weight']
    frozen 0.03 ['1.bias']
    frozen 0.01 ['0.weight', '2.weight']
    frozen 0.01 ['2.bias']
    """
    warped = (config or WarpAdamConfig()).changed(**overrides)
    if plain_lr is None:
        plain_lr = warped.lr * (WHITENING_PLAIN_LR if warped.learner == Learner.WHITENING else 1)
    configs = (warped, replace(warped, **_PLAIN), replace(warped, lr=plain_lr, **_PLAIN))
    chosen = _output_layers(model) if plain is None else _chosen(model, plain)
    left_out = _tables(model) | _ids(chosen)
    groups: dict[tuple[int, bool], list[tuple[str, nn.Parameter]]] = {}
    for name, param in model.named_parameters():
        if param.requires_grad:
            which = 2 if id(param) in left_out else 0 if _has_p(warped, tuple(param.shape)) else 1
            groups.setdefault((which, param.ndim < 2), []).append((name, param))
    return [_group(configs[which], is_short, groups[which, is_short]) for which, is_short in sorted(groups)]


def _group(config: WarpAdamConfig, is_short: bool, params: list[tuple[str, nn.Parameter]]) -> dict[str, Any]:
    settings = asdict(config)
    return {"params": params, **settings, "weight_decay": 0.0 if is_short else config.weight_decay}


def _has_p(config: WarpAdamConfig, shape: tuple[int, ...]) -> bool:
    """Tell whether the strategy does more than plain Adam for a tensor; ``whitening`` leaves vectors to Adam."""
    if config.learner != Learner.WHITENING:
        return True
    limits = {"rank": config.rank, "block_size": config.block_size, "max_dim": config.max_dim}
    rule, _ = choose_rule(config.strategy, shape, **limits)
    return isinstance(rule, WhiteningRule)


def _tables(model: nn.Module) -> set[int]:
    bare = {id(param) for name, param in model.named_parameters() if _TABLE_NAME.search(name.rpartition(".")[2])}
    return bare | _ids(_embeddings(model))


def _embeddings(model: nn.Module) -> list[nn.Parameter]:
    modules = (module for module in model.modules() if isinstance(module, nn.Embedding | nn.EmbeddingBag))
    return [param for module in modules for param in module.parameters()]


def _output_layers(model: nn.Module) -> list[nn.Parameter]:
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    embedded = _ids(_embeddings(model))
    chosen = [module for module in linears if id(module.weight) in embedded] or linears[-1:]
    return [param for module in chosen for param in module.parameters()]


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
