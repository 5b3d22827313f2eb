"""The view that discriminators have of images in a half of an iteration: augmented, with a record of the real ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastmunit.nn.networks.discriminators import MultiScale

Images = Tensor | Sequence[Tensor]
"""Images (N, C, H, W), or several that a conditional discriminator sees together, the one that it judges last."""

Augment = Callable[[nn.Module, Tensor], Tensor]


class Real(NamedTuple):
    """A record of real images and of what a discriminator has returned for them.

    Attributes:
        dis: The discriminator.
        images: What it has seen together.
        outputs: Its maps (N, 1, h, w), finest scale first.
    """

    dis: MultiScale
    images: Sequence[Tensor]
    outputs: Sequence[Tensor]


class View:
    """A view of images by the discriminators of a system.

    Args:
        augment: Augments images for a discriminator. None shows them as they are.

    Attributes:
        reals: The real images that discriminators have seen, and their outputs.
    """

    def __init__(self, augment: Augment | None) -> None:
        self.augment = augment
        self.reals: list[Real] = []


_view: ContextVar[View | None] = ContextVar("fastmunit_discriminator_view", default=None)


@contextmanager
def viewing(view: View) -> Iterator[None]:
    """Let discriminators see images through `view` inside the with-block, in this thread."""
    token = _view.set(view)
    try:
        yield
    finally:
        _view.reset(token)


def seen_by(dis: nn.Module, images: Images) -> list[Tensor]:
    """Return the images that a discriminator sees. Those that it sees together are augmented in the same way."""
    parts = [images] if isinstance(images, Tensor) else list(images)
    view = _view.get()
    return parts if view is None or view.augment is None else [view.augment(dis, part) for part in parts]


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Return images as one tensor, with the channels of all."""
    return parts[0] if len(parts) == 1 else torch.cat([*parts], dim=1)


def record_real(dis: MultiScale, images: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
    """Record real images in the active view, if there is one.

    Args:
        dis: The discriminator.
        images: Real images, as `seen_by` has returned them.
        outputs: Maps that end with those of the real images.
    """
    view = _view.get()
    if view is not None:
        count = len(images[-1])
        view.reals.append(Real(dis, images, [output[len(output) - count :] for output in outputs]))
