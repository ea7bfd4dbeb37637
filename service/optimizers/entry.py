"""What the service knows about an optimizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue

from search_spaces import Scalar, SearchSpace

Config = Mapping[str, Any]
"""Arguments of an optimizer, as plain JSON values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerEntry:
    """An optimizer that arms train with.

    Attributes:
        name: Its name; that of the arm too, if it is a baseline.
        build: Import string of ``(model, config) -> torch.optim.Optimizer``. Exported scripts contain the source of
            this function and of what it uses.
        config: From values of the search space to the arguments of the optimizer, as plain JSON values.
        library: Dotted name of the class, as exports show it.
        space: What the baseline of this name tunes; None if there is none.
        learns_p: Whether it learns a P while it trains.
        has_p: Whether it is a WarpAdam, which has a P.
        requires: Module that must be installed, and how to install it; None if torch and warpadam are enough.
        script_needs: What an exported script needs installed.
    """

    name: str
    build: str
    config: Callable[[Mapping[str, Scalar]], Mapping[str, JsonValue]]
    library: str
    space: SearchSpace | None = None
    learns_p: bool = False
    has_p: bool = False
    requires: tuple[str, str] | None = None
    script_needs: str = "torch and numpy"
