"""Small systems of every kind, for tests of model folders."""

from __future__ import annotations

import torch

from fastmunit.config import Config
from fastmunit.systems import registry
from fastmunit.systems.base import System

SIZES = ["gen.dim=4", "gen.mlp_dim=8", "gen.n_res=2", "dis.dim=4", "dis.n_layer=2", "display_size=2"]
CASES = {
    "munit": ("demo", ["input_dim_a=1"]),
    "unit": ("demo_unit", ["options.share_latent_blocks=1"]),
    "cyclegan_noise": ("demo_cyclegan_noise", []),
    "bicyclegan": ("demo_bicyclegan", ["options.encoder_dim=4"]),
    "pix2pix_noise": ("demo_pix2pix_noise", []),
}


def small_config(case: str, *changes: str) -> Config:
    recipe, extra = CASES[case]
    return Config.load(recipe, [*SIZES, *extra, *changes])


def small_system(case: str = "munit", *changes: str) -> System:
    """Return a system whose averages differ from its weights, if it has averages."""
    torch.manual_seed(0)
    config = small_config(case, *changes)
    system = registry.system_of(config)(config)
    if system.averages is not None:
        system.update_averages()
        with torch.no_grad():
            for network in system.generators().values():
                for parameter in network.parameters():
                    parameter.add_(0.01)
        system.update_averages()
    return system


def picture(channels: int, size: tuple[int, int] = (64, 64)) -> torch.Tensor:
    return torch.rand(channels, *size, generator=torch.Generator().manual_seed(1)) * 2 - 1
