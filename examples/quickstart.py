"""Train MUNIT on built-in drawings and photos of fruit for a minute, then color a drawing in ten random styles.

    python examples/quickstart.py

Run it again to train for another minute. A CPU is enough.
"""

from pathlib import Path

import torch

import fastmunit
from fastmunit import Config, data
from fastmunit.runs import ProgressBar


def main(folder: Path = Path("runs/quickstart"), seconds: float = 60) -> None:
    """Write the drawing and its ten translations, side by side, to styles.png in `folder`."""
    images = data.unpack_demo(folder / "images")
    config = Config.load("demo", [f"data_root={images}"])
    result = fastmunit.train(
        config, folder / "run", time_limit=seconds, resume=True, callbacks=[ProgressBar(timed=True)]
    )

    drawing = data.read_image(data.list_images(images / "testA")[0], channels=3)
    outputs = fastmunit.translate(result.trainer, drawing, styles=10)  # (10, 3, 64, 64) in [-1, 1]
    data.save_image(torch.cat([drawing, *outputs], dim=-1), folder / "styles.png")
    print(f"Look at {folder / 'styles.png'} and {folder / 'run/report.html'}.")


if __name__ == "__main__":
    main()
