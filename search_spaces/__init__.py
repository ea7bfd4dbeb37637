# The names that users import. Loads neither torch nor Optuna: the API process checks spaces and overrides without them,
# and search_spaces.to_optuna is imported by its full name.
"""What can be tuned: search spaces with conditions, presets, overrides, and optimizer configurations from values."""

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
