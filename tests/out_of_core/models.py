"""Untrained translators of all systems, and images, for the tests of translation out of core."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from fastmunit.config import Config
from fastmunit.nn.layers.init import weights_init
from fastmunit.out_of_core.engine import OutOfCoreTranslation, Settings
from fastmunit.out_of_core.pixels import TensorSource
from fastmunit.region import Region
from fastmunit.systems import registry
from fastmunit.systems.translators import Translator

SMALL = ["gen.dim=4", "gen.n_res=1", "gen.mlp_dim=4"]
UNET = ["gen.dim=4", "options.generator=unet", "options.num_downs=5"]
MODELS = {
    "munit": ("demo", SMALL),
    "munit, zeros and LeakyReLU": ("demo", [*SMALL, "gen.pad_type=zero", "gen.activ=lrelu"]),
    "munit, replicate and PReLU": ("demo", [*SMALL, "gen.pad_type=replicate", "gen.activ=prelu"]),
    "munit, SELU": ("demo", [*SMALL, "gen.activ=selu", "gen.n_res=2"]),
    "unit": ("demo_unit", SMALL),
    "unit with noise": ("demo_unit", [*SMALL, "options.noise_at_test=true"]),
    "cyclegan": ("demo_cyclegan", SMALL),
    "cyclegan with noise": ("demo_cyclegan_noise", ["gen.dim=4", "gen.n_res=1"]),
    "cyclegan with dropout": ("demo_cyclegan", [*SMALL, "options.dropout=0.5", "options.dropout_at_test=true"]),
    "cyclegan, bilinear unet": ("demo_cyclegan", [*UNET, "options.upsample=bilinear"]),
    "cyclegan, unet with dropout": (
        "demo_cyclegan",
        [*UNET, "options.num_downs=6", "options.dropout=0.5", "options.dropout_at_test=true"],
    ),
    "bicyclegan": ("demo_bicyclegan", [*UNET, "options.encoder_dim=4", "options.encoder_blocks=2"]),
    "bicyclegan, z everywhere": ("demo_bicyclegan", [*UNET, "options.encoder_dim=4", "options.inject=all"]),
    "pix2pix_noise": ("demo_bicyclegan", [*UNET, "options.variant=pix2pix_noise"]),
}


def untrained(name: str, dtype: torch.dtype = torch.float64) -> Translator:
    recipe, changes = MODELS[name]
    config = Config.load(recipe, changes)
    torch.manual_seed(0)
    system = registry.system_of(config)
    generators = {name: network.eval() for name, network in system.build_generators(config).items()}
    for network in generators.values():
        network.apply(weights_init("kaiming"))
        network.to(dtype)
    return system.directed_translator(generators, config, "a2b")


def picture(channels: int, height: int, width: int, dtype: torch.dtype = torch.float64) -> Tensor:
    random = torch.rand(channels, height, width, generator=torch.Generator().manual_seed(1), dtype=dtype)
    return (random + torch.linspace(0, 1, width, dtype=dtype)) - 1


def styles_of(translator: Translator, count: int = 2) -> Tensor:
    return translator.random_styles(count if translator.style_dim else 1, torch.Generator().manual_seed(2))


class Canvas:
    """A sink that keeps the dtype, and notes whether each pixel is written once."""

    def __init__(self, channels: int, height: int, width: int, dtype: torch.dtype) -> None:
        self.image = torch.zeros(channels, height, width, dtype=dtype)
        self.writes = torch.zeros(height, width)

    def write(self, tile: Tensor, region: Region) -> None:
        rows, columns = region.slices
        self.image[:, rows, columns] = tile[0]
        self.writes[rows, columns] += 1


def canvases(translator: Translator, image: Tensor, styles: Tensor) -> list[Canvas]:
    return [Canvas(translator.target_channels, *image.shape[1:], image.dtype) for _ in styles]


def translated(
    translator: Translator,
    image: Tensor,
    styles: Tensor,
    tile: tuple[int, int] | None,
    memory: int = 10**9,
    scratch: Path | None = None,
) -> Tensor:
    """Translate out of core: (S, C', H, W)."""
    sinks = canvases(translator, image, styles)
    settings = Settings(memory, scratch=scratch, tile=tile)
    OutOfCoreTranslation(translator, TensorSource(image), styles, settings).run(sinks)
    assert all(bool((sink.writes == 1).all()) for sink in sinks)
    return torch.stack([sink.image for sink in sinks])


@torch.no_grad()
def whole(translator: Translator, image: Tensor, styles: Tensor) -> Tensor:
    """Translate as a whole, in the dtype of the model: (S, C', H, W)."""
    height, width = image.shape[1:]
    content = translator.encode(translator.padded(image[None]))
    return torch.cat([translator.decode(content, style) for style in styles.split(1)])[..., :height, :width]
