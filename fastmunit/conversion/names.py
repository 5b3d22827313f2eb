"""Names of the files of the public CycleGAN and pix2pix repository."""

from __future__ import annotations

import os
from pathlib import Path

from fastmunit.errors import FastmunitError

EPOCH = "latest"
"""Default beginning of the names: that of the files that a public training wrote last."""

GENERATORS = {"a": "G_B", "b": "G_A"}
"""Public names of CycleGAN's generators by the domain of the images that they produce."""
DISCRIMINATORS = {"a": "D_B", "b": "D_A"}
"""Public names of CycleGAN's discriminators by the domain of their images."""
LONE_GENERATOR, LONE_DISCRIMINATOR = "G", "D"
"""Public names of the networks of pix2pix, and of a generator on its own."""


def path_of(folder: str | os.PathLike[str], epoch: str, network: str) -> Path:
    """Return the path of a public file, such as latest_net_G_A.pth.

    Raises:
        FastmunitError: If `epoch` cannot be a part of a file name.
    """
    if not epoch.isalnum() or len(epoch) > 40:
        raise FastmunitError(f"epoch {epoch[:40]!r} is not part of a file name: give latest, or a number such as 200.")
    return Path(folder) / f"{epoch}_net_{network}.pth"
