"""Draw the translations of docs/concepts: `python -m tools.draw_translations SYSTEM MODEL`.

The model is the packaged `fruit` (MUNIT) or the folder of a run with the demo data. Inputs are held-out drawings. The
styles of MUNIT come from held-out photos; BicycleGAN gets the code of the photo that belongs to a drawing, and random
ones.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from torch import Tensor
from torchvision.io import write_jpeg

import fastmunit
from fastmunit.data import unpack_demo
from fastmunit.data.images import decode_image
from fastmunit.translation.contact_sheet import labeled_sheet

FOLDER = Path(__file__).parents[1] / "docs/concepts"
DRAWINGS, PHOTOS, RANDOM_STYLES = (0, 16, 27, 58), (5, 22, 37, 32, 29), 4


def images(folder: Path, numbers: tuple[int, ...]) -> list[Tensor]:
    """Return images of a folder by their numbers."""
    paths = sorted(folder.iterdir())
    return [decode_image(paths[number], 3).float() / 127.5 - 1 for number in numbers]


def rows_of(system: str, model: str, data: Path) -> tuple[list[list[Tensor]], list[str]]:
    """Return the rows of a sheet and the labels of its columns."""
    drawings = images(data / "testA", DRAWINGS)
    if system == "munit":
        photos = images(data / "testB", PHOTOS)
        outputs = fastmunit.translate(model, torch.stack(drawings), styles=photos)
        return [[torch.ones_like(photos[0]), *photos], *([d, *o] for d, o in zip(drawings, outputs, strict=True))], []
    if system == "bicyclegan":
        targets = images(data / "testB", DRAWINGS)
        encoded = [fastmunit.translate(model, d, styles=[t]) for d, t in zip(drawings, targets, strict=True)]
        outputs = fastmunit.translate(model, torch.stack(drawings), styles=RANDOM_STYLES)
        rows = [[d, t, *e, *o] for d, t, e, o in zip(drawings, targets, encoded, outputs, strict=True)]
        return rows, ["drawing", "photo", "its code", *["random code"] * RANDOM_STYLES]
    outputs = fastmunit.translate(model, torch.stack(drawings))
    return [drawings, [output[0] for output in outputs]], []


def main() -> None:
    """Write the sheet of a system."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("system", choices=["munit", "unit", "cyclegan", "bicyclegan"])
    parser.add_argument("model", help="fruit, or the folder of a run")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows, labels = rows_of(arguments.system, arguments.model, unpack_demo(folder))
    large = [[image.repeat_interleave(2, 1).repeat_interleave(2, 2) for image in row] for row in rows]
    write_jpeg(labeled_sheet(large, labels), str(FOLDER / f"{arguments.system}.jpg"), quality=88)


if __name__ == "__main__":
    main()
