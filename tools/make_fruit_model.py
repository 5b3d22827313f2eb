"""Train the packaged model `fruit` on the built-in demo data, and write its model folder with the license of the data.

Usage: python tools/make_fruit_model.py [--minutes N | --iterations N] [--seed N] [--output FOLDER]

The folder has both directions with averaged weights in float16, and must stay below 2.5 MB. Seed and iterations are in
its config.json; with --iterations and the same versions, threads and machine, training gives the same weights again.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

import fastmunit
from fastmunit import data
from fastmunit.model_folder.about import About
from fastmunit.runs import ProgressBar
from fastmunit.runs.reports.image_grid import grid, jpeg
from fastmunit.translation.save_model import save_model

PACKAGED = Path(__file__).resolve().parents[1] / "fastmunit" / "models" / "fruit"
LIMIT = 2_500_000
"""Maximum number of bytes of the folder."""

# A smaller style network than the demo's leaves room for the card and its picture.
CHANGES = ("gen.mlp_dim=32", "ema_decay=0.999", "snapshot_save_iter=2000", "image_save_iter=2000")
DRAWINGS, STYLES = 6, 5
DESCRIPTION = """\
Colors drawings of apples, cherries and tomatoes (domain A: edge drawings, 64×64) as photos (domain B), each in many
styles, and draws photos. The weights come from photos of Fruits-360 by Mihai Oltean, CC BY-SA 4.0, and are shared
under the same license. `tools/make_fruit_model.py` of fastmunit made them."""


def sample_picture(run: Path, images: Path) -> torch.Tensor:
    """Draw held-out drawings (first row) and their translations, one style per row."""
    paths = data.list_images(images / "testA")
    drawings = [data.read_image(paths[k * len(paths) // DRAWINGS], 3) for k in range(DRAWINGS)]
    outputs = fastmunit.translate(run, drawings, STYLES, device="cpu")
    return grid([drawings, *(list(row) for row in torch.as_tensor(outputs).transpose(0, 1))])


def make(
    output: Path,
    *,
    seed: int = 0,
    minutes: float | None = None,
    iterations: int | None = None,
    changes: Sequence[str] = (),
) -> int:
    """Train, and write the model folder. Return its size in bytes.

    Args:
        output: The folder.
        seed: Seed of the training.
        minutes: Time limit of the training.
        iterations: Number of iterations, instead of a time limit.
        changes: Further changes of the configuration `demo`, such as "gen.dim=8".
    """
    with tempfile.TemporaryDirectory() as work:
        run, images = Path(work) / "run", data.unpack_demo(Path(work) / "demo")
        config = fastmunit.Config.load("demo", [*CHANGES, f"data_root={images}", f"seed={seed}", *changes])
        if iterations is not None:
            config.max_iter = iterations
        limit = None if minutes is None else 60 * minutes
        progress = ProgressBar(timed=minutes is not None)
        fastmunit.train(config, run, device="cpu", time_limit=limit, keep=1, callbacks=[progress])
        picture = Path(work) / "sample.jpg"
        picture.write_bytes(jpeg(sample_picture(run, images)))
        about = About(
            title="fruit",
            description=DESCRIPTION,
            data="the demo data of fastmunit: apples, cherries and tomatoes of Fruits-360 by Mihai Oltean",
            license="cc-by-sa-4.0",
            picture=picture,
            data_license=images / "LICENSE.txt",
        )
        save_model(run, output, about=about, dtype="float16", name="fruit")
    return sum(path.stat().st_size for path in output.iterdir())


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, default=30, help="Train for this time [30].")
    length.add_argument("--iterations", type=int, help="Train for this number of iterations instead.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the training [0].")
    parser.add_argument("--output", type=Path, default=PACKAGED, help="Folder to write [the one of the package].")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="Change the configuration.")
    options = parser.parse_args()
    minutes = options.minutes if options.iterations is None else None
    size = make(options.output, seed=options.seed, minutes=minutes, iterations=options.iterations, changes=options.set)
    print(f"{options.output}: {size / 1e6:.2f} MB")
    if size > LIMIT:
        raise SystemExit(f"{options.output} has {size:,} bytes, more than {LIMIT:,}: choose smaller networks.")


if __name__ == "__main__":
    main()
