"""Muon of PyTorch for the matrices of a model and AdamW for the rest, as a baseline."""

from __future__ import annotations

from typing import Final

from search_spaces import get_preset
from service.optimizers.entry import OptimizerEntry

MUON: Final = OptimizerEntry(
    name="muon",
    build="service.optimizers.muon_with_adamw:build_muon",
    config=dict,
    library="torch.optim.Muon",
    space=get_preset("muon"),
)
