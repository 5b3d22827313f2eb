"""The files that the commands of the documents name: small data sets, run folders and checkpoints.

Configurations have the names of those that come with the package: a file takes precedence over them, so that
`--config edges2shoes` trains a network of a few channels for two iterations.
"""

from __future__ import annotations

import shutil
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import fastmunit
from fastmunit.config import Config
from fastmunit.runs import RunFolder
from fastmunit.runs.checkpoints.best import Best, write_best
from fastmunit.systems import registry
from tests.conversion.look_alikes import patch_gan, resnet, trained
from tests.data.videos import make_video
from tests.metrics.conftest import random_backbone
from tests.page.test_build import fake_engine
from tests.runs.tiny import make_images

ITERATIONS = 1_000_000
CONFIGURATIONS = {
    "edges2shoes": "edges2shoes",
    "cyclegan": "demo_cyclegan",
    "bicyclegan": "demo_bicyclegan",
    "demo": "demo",
    "demo_cyclegan_noise": "demo_cyclegan_noise",
}
"""Names of files, and what they are small versions of."""
SMALL = ["new_size=64", "crop_image_height=64", "crop_image_width=64", "batch_size=2", "display_size=1", "max_iter=2"]
SMALL += ["gen.dim=4", "gen.n_res=1", "gen.mlp_dim=8", "dis.dim=4", "dis.n_layer=2", "dis.num_scales=1"]
SMALL += ["num_workers=0"]


def build(root: Path) -> None:
    """Write the files into the folder `root`, which is the working directory of the commands."""
    _images(root)
    for name, recipe in CONFIGURATIONS.items():
        Config.load(recipe, [*SMALL, "data_root=datasets/edges2shoes"]).save(root / name)
    edges2shoes = Config.load(root / "edges2shoes")
    edges2shoes.save(root / "my.yaml")
    edges2shoes.save(root / "configs/edges2shoes_folder.yaml")
    for run in ("runs/shoes", "runs/day2night", "runs/stain", "outputs/edges2shoes_folder"):
        _run(root / run, edges2shoes)
    shutil.copy(root / f"runs/shoes/checkpoints/gen_{ITERATIONS:08d}.pt", root)
    _run(root / "runs/ct", Config.load(root / "edges2shoes", ["value_range_b=[0, 4095]"]))
    _public(root)
    _weights(root / "weights")
    _npm(root / "bin")


def names(root: Path) -> dict[str, Any]:
    """Return what readers have in their own programs when they use a Python block."""
    image = torch.zeros(1, 3, 64, 64)
    photos = [(image[0].byte(), 0)]
    return {
        "__name__": "__main__",
        "batches": [(image, image)],
        "augment": fastmunit.Augment(root / "runs/day2night"),
        "config": Config.load(root / "edges2shoes"),
        "content": image,
        "device": "cpu",
        "epoch": 0,
        "fastmunit": fastmunit,
        "image": image,
        "indexed_loader": [(image, torch.zeros(1), torch.zeros(1, dtype=torch.int64))],
        "loader": [(image, image)],
        "style": torch.zeros(1, 8, 1, 1),
        "numpy": np,
        "output": image[0],
        "photos": photos,
    }


def _images(root: Path) -> None:
    datasets = root / "datasets"
    make_images(datasets / "edges2shoes")
    images = datasets / "edges2shoes/trainA"
    for copy in ("datasets/shoes", "datasets/horse2zebra", "datasets/edges2shoes_pairs", "boots"):
        shutil.copytree(datasets / "edges2shoes", root / copy)
    for folder in ("drawings", "shoes", "frames"):
        shutil.copytree(images, root / folder)
    make_images(root / "photos/varieties", count=10)  # four classes
    for name in ("drawing.png", "photo.jpg", "boot.jpg", "horse.jpg"):
        Image.open(images / "0.png").save(root / name)
    with zipfile.ZipFile(root / "edges.zip", "w") as archive:
        for path in sorted(images.iterdir()):
            archive.write(path, path.name)
    for part in ("train", "val"):
        folder = root / "pix2pix/edges2shoes" / part
        folder.mkdir(parents=True)
        Image.new("RGB", (128, 64)).save(folder / "1_AB.jpg")
    if find_spec("av"):
        make_video(root / "clip.mp4")
    if find_spec("tifffile"):
        import tifffile

        tifffile.imwrite(root / "slide.svs", np.full((600, 600, 3), 99, np.uint8), tile=(128, 128), photometric="rgb")
    np.save(root / "edges.npy", np.zeros((3, 64, 64, 3), np.uint8))


def _npm(folder: Path) -> None:
    """Write a program `npm` that packs a stand-in for the engine of pages."""
    fake_engine(folder / "package/dist")
    program = folder / "npm"
    program.write_text(f"#!/bin/sh\ntar czf package.tgz -C {folder} package\n")
    program.chmod(0o755)


def _run(folder: Path, config: Config) -> None:
    """Write a run folder whose training can go on for one more iteration."""
    run = RunFolder(folder)
    torch.manual_seed(0)
    registry.system_of(config)(config).save(run.checkpoints, ITERATIONS - 1)
    Config.from_dict({**config.to_dict(), "max_iter": ITERATIONS + 1}).save(run.config)
    best = Best(iteration=ITERATIONS, measure="kid-alexnet", score="KID", direction="a2b", value=1, low=None, high=None)
    write_best(run, best)


def _public(root: Path) -> None:
    """Write networks with the names of the public CycleGAN."""
    folder = root / "checkpoints/horse2zebra"
    folder.mkdir(parents=True)
    for seed, (name, network) in enumerate({"G_A": resnet, "G_B": resnet, "D_A": patch_gan, "D_B": patch_gan}.items()):
        torch.save(trained(network(), seed).state_dict(), folder / f"latest_net_{name}.pth")
    shutil.copy(folder / "latest_net_G_A.pth", root / "horse2zebra.pth")


def _weights(folder: Path) -> None:
    """Write backbones with random weights, in the format of the trained ones."""
    folder.mkdir()
    for name in ("alexnet", "vgg16"):
        states = random_backbone(name).half().state_dict()
        torch.save({f"features.{key}": value for key, value in states.items()}, folder / f"{name}_features.pth")
