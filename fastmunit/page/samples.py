"""Sample pictures of both domains for the page."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torchvision.transforms import functional

from fastmunit import data
from fastmunit.config import Config
from fastmunit.data.images import encode_image
from fastmunit.data.pixels import read_pixels
from fastmunit.data.value_range import PixelValues
from fastmunit.errors import DataError
from fastmunit.page.settings import Samples

FOLDER = "samples"
_COUNT = 8
_WHITE, _BLACK = "#ffffff", "#000000"
_BORDER_SHARE = 0.5
_LICENSE = "LICENSE.txt"


@dataclass(frozen=True)
class SampleFiles:
    """Sample pictures as files.

    Attributes:
        samples: What page.json says about them.
        contents: Bytes by path, relative to the page: PNG files, and the license of the data if they have one.
    """

    samples: Samples = field(default_factory=Samples)
    contents: Mapping[str, bytes] = field(default_factory=dict)

    def write(self, page: Path) -> None:
        """Write the files into a page."""
        (page / FOLDER).mkdir(parents=True)
        for path, content in self.contents.items():
            (page / path).write_bytes(content)


def sample_files(config: Config, size: tuple[int, int]) -> SampleFiles:
    """Return pictures of the run's test set; those of the demo data if the run has none any more.

    Args:
        config: Configuration of the run.
        size: Height and width of the pictures, which are resized and cropped to it.
    """
    contents = dict[str, bytes]()
    with tempfile.TemporaryDirectory(prefix="fastmunit-") as temporary:
        folders = _test_folders(config)
        if not any(folders.values()):
            root = data.unpack_demo(Path(temporary) / "data")
            folders = {"a": root / "testA", "b": root / "testB"}
        files, colors = dict[str, list[str]](), dict[str, tuple[str, str]]()
        for domain, channels in zip("ab", config.channels("a2b"), strict=True):
            values = PixelValues.of(config, domain)
            pictures = _pictures(folders[domain], channels, size, config.max_pixels, values)
            files[domain] = [f"{FOLDER}/{domain}{index}.png" for index in range(len(pictures))]
            for name, picture in zip(files[domain], pictures, strict=True):
                contents[name] = encode_image(picture, "PNG", name)
            colors[domain] = _colors(pictures)
        licenses = [folder.parent / _LICENSE for folder in folders.values() if folder is not None]
        found = next((path for path in licenses if path.is_file()), None)
        if found is not None:
            contents[f"{FOLDER}/{_LICENSE}"] = found.read_bytes()
    return SampleFiles(Samples(files, colors, found is not None), contents)


def _test_folders(config: Config) -> dict[str, Path | None]:
    """Return the folders of the test images that are still there."""
    folders = dict[str, Path | None]()
    for domain, given in (("a", config.data_folder_test_a), ("b", config.data_folder_test_b)):
        folder = Path(given) if given else None
        if folder is None and config.data_root:
            folder = Path(config.data_root) / f"test{domain.upper()}"
        folders[domain] = folder if folder is not None and folder.is_dir() else None
    return folders


def _pictures(
    folder: Path | None, channels: int, size: tuple[int, int], max_pixels: int | None, values: PixelValues
) -> list[Tensor]:
    """Return pictures spread evenly over a folder, without those that cannot be read."""
    if folder is None:
        return []
    pictures = []
    paths = data.list_images(folder)
    count = min(_COUNT, len(paths))
    for index in range(count):
        try:
            image = read_pixels(paths[index * len(paths) // count], channels, max_pixels, values)
            pictures.append(_fitted(image, size))
        except DataError:
            continue
    return pictures


def _fitted(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the center of an image, resized to fill the size."""
    scale = max(size[0] / image.shape[1], size[1] / image.shape[2])
    if scale != 1:
        sides = [max(target, round(scale * side)) for target, side in zip(size, image.shape[1:], strict=True)]
        image = functional.resize(image, sides, antialias=True).clamp(-1, 1)
    return functional.center_crop(image, list(size))


def _colors(pictures: list[Tensor]) -> tuple[str, str]:
    """Return the colors of paper and ink: white on black if the pictures' borders are mostly dark."""
    if not pictures:
        return _WHITE, _BLACK
    borders = torch.cat([torch.cat([picture[:, 0].flatten(), picture[:, -1].flatten()]) for picture in pictures])
    dark = float((borders < 0).float().mean()) > _BORDER_SHARE
    return (_BLACK, _WHITE) if dark else (_WHITE, _BLACK)
