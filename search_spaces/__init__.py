"""What can be tuned: search spaces, presets, overrides, and optimizer configurations made from values.

A :class:`SearchSpace` is a list of parameters, some of which exist only under a condition. A preset is a ready-made
space; ``apply_overrides`` changes it as a user asks; ``warpadam_config`` turns sampled values into a configuration.

The package loads neither torch nor Optuna, because the API process checks spaces without them. Import
``search_spaces.to_optuna`` by its full name.
"""

from __future__ import annotations

from search_spaces.describe import describe
from search_spaces.domains import Choice, Domain, Float, Int, Scalar
from search_spaces.errors import SearchSpaceError
from search_spaces.overrides import apply_overrides
from search_spaces.presets import PRESETS, get_preset
from search_spaces.space import Condition, Parameter, SearchSpace
from search_spaces.to_config import AdamWConfig, adamw_config, joined_betas, warpadam_config

__all__ = [
    "PRESETS",
    "AdamWConfig",
    "Choice",
    "Condition",
    "Domain",
    "Float",
    "Int",
    "Parameter",
    "Scalar",
    "SearchSpace",
    "SearchSpaceError",
    "adamw_config",
    "apply_overrides",
    "describe",
    "get_preset",
    "joined_betas",
    "warpadam_config",
]
