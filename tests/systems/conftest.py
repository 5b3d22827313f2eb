from __future__ import annotations

from typing import Any

import pytest
import torch


@pytest.fixture
def hyperparameters() -> dict[str, Any]:
    """Return a mapping like those of public YAML files, with tiny networks."""
    return {
        "display_size": 2,
        "lr_policy": "step",
        "step_size": 4,
        "gamma": 0.5,
        "gen": {"dim": 4, "mlp_dim": 8, "style_dim": 3, "n_res": 1},
        "dis": {"dim": 4, "n_layer": 2, "num_scales": 2},
    }


@pytest.fixture
def images() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x_a, x_b = (torch.rand(2, 3, 32, 32, generator=generator) * 2 - 1 for _ in range(2))
    return x_a, x_b
