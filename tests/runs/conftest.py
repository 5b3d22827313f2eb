from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fastmunit.runs import train
from tests.runs.tiny import make_images, tiny_config


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="session")
def uninterrupted(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of seven iterations."""
    folder = tmp_path_factory.mktemp("runs") / "uninterrupted"
    train(tiny_config(images), folder, device="cpu")
    return folder
