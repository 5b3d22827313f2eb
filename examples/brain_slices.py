"""Translate a brain volume slice by slice, in one style: T1-weighted MRI → a map of gray matter, as NIfTI.

    pip install "fastmunit[nifti]" nilearn
    python -m examples.brain_slices --minutes 1.5

Run it in the root folder of the repository; run it again to train for longer. The volumes are the MNI152 template in
nilearn's package, at 2 mm. BicycleGAN trains on pairs of regions at the same place in every other slice, and is
measured on the slices between them.

Comes out, in the folder --output:

- t1.nii.gz and gray_matter.nii.gz, the volumes; trainA/ and trainB/, their slices for training;
- run/, the training; translated/t1_style00.nii.gz, the gray matter that the model finds, with the affine of t1.nii.gz;
- brain_slices.jpg: slices of T1, of the translation and of the template's gray matter.

It prints whether the affines are equal, and the correlation with the template's gray matter inside the brain, over the
slices between those of the training.

nilearn's description of the template says "License: unknown". `NOTICE` is that of its authors, which is written
next to the volumes as NOTICE.txt.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from examples.scientific import correlation, gray, needed, save_panels, train, translate
from fastmunit.errors import FastmunitError
from fastmunit.files import write_text

# prose: off
NOTICE = """\
Copyright (C) 1993–2004 Louis Collins, McConnell Brain Imaging Centre, Montreal Neurological Institute, McGill
University. Permission to use, copy, modify, and distribute this software and its documentation for any purpose and
without fee is hereby granted, provided that the above copyright notice appear in all copies. The authors and McGill
University make no representations about the suitability of this software for any purpose. It is provided "as is"
without express or implied warranty. The authors are not responsible for any data loss, equipment damage, property
loss, or injury to subjects or patients resulting from the use or misuse of this software package.
"""
# prose: on
RESOLUTION = 2
"""Length of a voxel's edge in mm."""
CHANGES = {
    **{f"{key}_{domain}": value for key, value in (("input_dim", 1), ("value_range", [0, 1])) for domain in "ab"},
    **{"new_size": None, "flip": False, "batch_size": 2, "lr": 0.001, "image_save_iter": 100_000},
    **{"gen.dim": 16, "dis.dim": 16, "options.num_downs": 5, "options.encoder_dim": 16, "options.encoder_blocks": 2},
}
"""Keys of the configuration that differ from demo_bicyclegan."""
SHOWN = (0.35, 0.5, 0.6, 0.7)
"""Slices in the picture, as fractions of the height of the volume."""


def load_volumes() -> tuple[Any, Any]:
    """Return the T1 template and its gray matter as nibabel images, float32 in [0, 1]. Nothing is downloaded."""
    datasets = needed("nilearn.datasets", "nilearn")
    return datasets.load_mni152_template(RESOLUTION), datasets.load_mni152_gm_template(RESOLUTION)


def save_volume(image: Any, path: Path) -> None:
    """Write a nibabel image as compressed NIfTI, 32-bit floats."""
    nibabel = needed("nibabel", '"fastmunit[nifti]"')
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(image.get_fdata(dtype=np.float32), image.affine), path)


def write_volumes(t1: Any, gray_matter: Any, folder: Path) -> None:
    """Write both volumes, and their even slices for training, under one name because they are pairs."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "NOTICE.txt", NOTICE)
    for image, name, domain in ((t1, "t1", "trainA"), (gray_matter, "gray_matter", "trainB")):
        save_volume(image, folder / f"{name}.nii.gz")
        save_volume(image.slicer[:, :, ::2], folder / domain / "brain.nii.gz")


def compare(t1: Any, translated: Any, gray_matter: Any, picture: Path) -> tuple[bool, float]:
    """Write the picture. Return whether affines are equal, and the correlation with the gray matter in odd slices."""
    volumes = [image.get_fdata(dtype=np.float32) for image in (t1, translated, gray_matter)]
    rows = []
    for part in SHOWN:
        plane = int(part * volumes[0].shape[2]) // 2 * 2 + 1
        rows.append([gray(np.rot90(volume[:, :, plane]), 0, 1) for volume in volumes])
    columns = [np.concatenate(panels, axis=1) for panels in zip(*rows, strict=True)]
    save_panels(picture, [[column] for column in columns], ["T1, its translation, and gray matter of the template"])
    volumes = [volume[:, :, 1::2] for volume in volumes]
    brain = volumes[0] > 0.1
    return bool(np.array_equal(t1.affine, translated.affine)), correlation(volumes[1][brain], volumes[2][brain])


def main(
    output: Annotated[Path, typer.Option("--output", "-o", help="Write everything into this folder.")] = Path(
        "runs/brain_slices"
    ),
    minutes: Annotated[float, typer.Option(min=0.001, help="Train for this time.")] = 1.5,
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights, crops and the style.")] = 0,
) -> None:
    """Write the volumes, train on slices, and translate the T1 volume."""
    try:
        same_affine, agreement = translate_brain(output, minutes, seed)
    except FastmunitError as error:
        raise SystemExit(f"error: {error}") from error
    print(f"affine equal to that of the input: {same_affine}")
    print(f"correlation with the gray matter of the template, other slices: {agreement:.3f}")
    print(f"Look at {output / 'brain_slices.jpg'}.")


def translate_brain(output: Path, minutes: float, seed: int) -> tuple[bool, float]:
    """Do everything, and return the results of `compare`. The arguments are the options of `main`."""
    t1, gray_matter = load_volumes()
    write_volumes(t1, gray_matter, output)
    run = train(output, minutes, seed, CHANGES, "demo_bicyclegan")
    translated = translate(run, output / "t1.nii.gz", output / "translated", "--styles", "1")[0]
    nibabel = needed("nibabel", '"fastmunit[nifti]"')
    return compare(t1, nibabel.load(translated), gray_matter, output / "brain_slices.jpg")


if __name__ == "__main__":
    typer.run(main)
