from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastmunit.config import Config


@pytest.fixture(autouse=True)
def global_random_state_untouched() -> Iterator[None]:
    """Check that no function of fastmunit.data reads or changes torch's global random state."""
    torch.manual_seed(7)
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before)


def photo(seed: int, height: int = 80, width: int = 80) -> Image.Image:
    """Return a random RGB picture that depends on the seed."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    """Create a `data_root` with 7 images in trainA, 10 in trainB, and 3 in testA and testB, all 80x80."""
    root = tmp_path / "root"
    for part, count in {"trainA": 7, "trainB": 10, "testA": 3, "testB": 3}.items():
        (root / part).mkdir(parents=True)
        for index in range(count):
            photo(hash_free_seed(part, index)).save(root / part / f"{index}.png")
    return root


def hash_free_seed(part: str, index: int) -> int:
    return 100 * sum(part.encode()) + index


@pytest.fixture
def make_config(data_root: Path) -> Callable[..., Config]:
    """Return a small configuration of `data_root`. Keywords replace its values."""

    def make(**changes: object) -> Config:
        values: dict[str, object] = {
            "data_root": str(data_root),
            "new_size": 72,
            "crop_image_height": 64,
            "crop_image_width": 64,
            "batch_size": 2,
            "num_workers": 0,
            "display_size": 3,
        }
        return Config.from_dict({**values, **changes})

    return make
