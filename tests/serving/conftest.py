from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

from fastapi import FastAPI
from fastapi.testclient import TestClient

from fastmunit.config import Config
from fastmunit.serving.app import create_app
from fastmunit.serving.limits import Limits
from fastmunit.serving.model import Model
from fastmunit.systems import registry
from fastmunit.systems.base import System
from tests.runs.conftest import one_thread  # noqa: F401 - a fixture

SMALL = ["gen.dim=4", "gen.mlp_dim=8", "gen.n_res=1", "dis.dim=4", "dis.n_layer=2", "display_size=2"]


def system(name: str = "munit", *overrides: str) -> System:
    """Return a small system with random weights. The random state of torch is kept."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        cls = registry.system_named(name)
        return cls(Config.load(cls.demo_recipe, [*SMALL, *overrides]))


def model_of(trainer: System) -> Model:
    translators = {direction: trainer.evaluation_translator(direction) for direction in trainer.directions}
    return Model("tiny", trainer.name, translators, (64, 64))


def upload(height: int = 24, width: int = 20, seed: int = 0, file_format: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return encoded(Image.fromarray(pixels), file_format)


def encoded(image: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def pixels_of(png: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(png))
    assert image.format == "PNG"
    return np.asarray(image)


def levels_of(image: torch.Tensor) -> np.ndarray:
    """Return an image (C, H, W) in [-1, 1] as a picture (H, W, C) with values of 8 bits, or (H, W) for one channel."""
    return ((image + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).squeeze(-1).numpy()


@pytest.fixture(scope="session")
def trainer() -> System:
    """MUNIT with gray images in domain A."""
    return system("munit", "input_dim_a=1")


@pytest.fixture(scope="session")
def model(trainer: System) -> Model:
    return model_of(trainer)


@pytest.fixture(scope="module")
def app(model: Model) -> FastAPI:
    return create_app(model, Limits(styles=8, upload_bytes=2**20, upload_pixels=10**6, pixels=256 * 256))


@pytest.fixture(scope="module")
def client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app) as client:
        yield client
