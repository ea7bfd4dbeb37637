"""Every test of this folder runs on the CPU, and on CUDA where there is one (marker ``gpu``).

The folder needs torch, numpy, safetensors and pytest only, so that it also runs where nothing else is installed.
"""

from __future__ import annotations

import pytest
import torch

_NEEDS_CUDA = (pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"))


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=_NEEDS_CUDA)])
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)
