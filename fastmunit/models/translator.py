"""Translating single images with trained generators."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from fastmunit.config import STYLE_DOWNSAMPLE, GeneratorConfig
from fastmunit.errors import FastmunitError
from fastmunit.nn.generator import AdaINGen

_PIXELS_PER_BATCH = 1 << 20


class Translator:
    """One direction of a trained MUNIT: content of one domain, style of the other.

    Images of any size are padded, reflecting their right and bottom edges, to sides that the networks can halve, and
    the result is cropped back.

    Args:
        source: generator of the domain to translate from.
        target: generator of the domain to translate to.
        config: the `gen` section of their configuration.
    """

    def __init__(self, source: AdaINGen, target: AdaINGen, config: GeneratorConfig) -> None:
        self._source, self._target = source, target
        self._device = next(target.parameters()).device
        self._style_dim = config.style_dim
        self._multiple = 2**config.n_downsample
        # Each stride-2 convolution of the style encoder, and the content encoder's residual blocks, pad a map of at
        # least 2 by reflection.
        self._least = max(2**STYLE_DOWNSAMPLE, 2 * self._multiple)

    def random_styles(self, count: int, generator: torch.Generator) -> Tensor:
        """Style codes drawn from N(0, 1), (count, style_dim, 1, 1); `generator` is a CPU one."""
        return torch.randn(count, self._style_dim, 1, 1, generator=generator).to(self._device)

    @torch.inference_mode()
    def style_of(self, image: Tensor) -> Tensor:
        """Style code (1, style_dim, 1, 1) of an image (C, H, W) of the target domain.

        Raises:
            FastmunitError: there is not enough memory.
        """
        with _memory_errors(image):
            return self._target.enc_style(self._padded(image))

    @torch.inference_mode()
    def translate(self, image: Tensor, styles: Tensor, batch_size: int | None = None) -> Tensor:
        """Translate one image with many styles; it is encoded once.

        Args:
            image: (C, H, W) in [-1, 1], of the source domain.
            styles: (S, style_dim, 1, 1).
            batch_size: styles decoded at once; None chooses by the image's size (about a megapixel).

        Returns:
            (S, C', H, W) in [-1, 1], on the CPU.

        Raises:
            FastmunitError: there is not enough memory.
        """
        height, width = image.shape[1:]
        with _memory_errors(image):
            padded = self._padded(image)
            batch = batch_size or max(1, _PIXELS_PER_BATCH // (padded.shape[-1] * padded.shape[-2]))
            content = self._source.enc_content(padded)
            outputs = [
                self._target.decode(content.expand(len(part), -1, -1, -1), part).float().cpu()
                for part in styles.split(batch)
            ]
            return torch.cat(outputs)[..., :height, :width]

    def _padded(self, image: Tensor) -> Tensor:
        x = image[None].to(self._device)
        for axis in (-1, -2):
            size = x.shape[axis]
            wanted = max(-(-size // self._multiple) * self._multiple, self._least)
            x = _extend(x, axis, wanted - size)
        return x


def value_mapping(stretch: bool) -> Callable[[Tensor], Tensor]:
    """How outputs in [-1, 1] become pictures.

    False: as they are, by (x+1)/2 when saved. True: each image is stretched from its minimum to its maximum first, as
    the public test.py does.
    """

    def stretched(image: Tensor) -> Tensor:
        low, high = image.min(), image.max()
        return (image - low) / (high - low).clamp_min(1e-5) * 2 - 1

    return stretched if stretch else lambda image: image


@contextmanager
def _memory_errors(image: Tensor) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        # The CPU's allocator has no exception of its own.
        if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
            raise
        height, width = image.shape[1:]
        raise FastmunitError(
            f"not enough memory for an image of {height}x{width}: lower --batch-size, or resize with --size."
        ) from error


def _extend(x: Tensor, axis: int, amount: int) -> Tensor:
    """Pad the far end of an axis: by reflection, and by repeating the edge where the image is too small to reflect."""
    while amount > 0:
        size = x.shape[axis]
        mode, step = ("reflect", min(amount, size - 1)) if size > 1 else ("replicate", amount)
        x = F.pad(x, (0, step, 0, 0) if axis == -1 else (0, 0, 0, step), mode=mode)
        amount -= step
    return x
