"""Translating single images with trained generators."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastmunit.errors import FastmunitError
from fastmunit.memory import is_out_of_memory
from fastmunit.systems.parts.inference_autocast import inference_autocast

_PIXELS_PER_BATCH = 1 << 20


class Translator(ABC):
    """One direction of a trained system: images of one domain to images of the other.

    Images of any size are padded, reflecting their right and bottom edges, to sides that the networks can halve, and
    the result is cropped back. A subclass gives `encode` and `decode` and, where it has style codes, `encode_style`.

    Args:
        network: one of the networks: all are on its device, in its type.
        multiple: what the sides of a network's input must be multiples of.
        least: the least side that the networks take.
        channels: of the images to translate, and of those that come out.
        style_dim: values of a style code; 0 for a system with one output an image.

    Attributes:
        direction: "a2b" or "b2a", for a translator that a system or `fastmunit.load_translator` has built.
        precision: of convolutions and matrix products where a call names none: "float32", "bfloat16" or "float16".
    """

    direction: str | None = None

    def __init__(
        self, network: nn.Module, multiple: int, least: int, channels: tuple[int, int], style_dim: int
    ) -> None:
        weight = next(network.parameters())
        self.device, self.dtype = weight.device, weight.dtype
        self.channels, self.target_channels = channels
        self.style_dim = style_dim
        self.precision: str = "float32"
        self._multiple, self._least = multiple, least

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """What the outputs of an image share, computed once: (1, …) of an image (1, C, H, W)."""

    @abstractmethod
    def decode(self, content: Tensor, styles: Tensor) -> Tensor:
        """Images (S, C', H, W) in [-1, 1] with the content (1, …) of one image and styles (S, style_dim, 1, 1)."""

    takes_references: bool = False
    """Whether the style of an image of the target domain can be taken: `encode_style` is there."""

    def encode_style(self, images: Tensor) -> Tensor:
        """Style codes (N, style_dim, 1, 1) of images (N, C', H, W) of the target domain."""
        raise FastmunitError("this system has no style codes, so an image cannot serve as a reference.")

    def random_styles(self, count: int, generator: torch.Generator) -> Tensor:
        """Style codes drawn from N(0, 1), (count, style_dim, 1, 1); `generator` is a CPU one."""
        return torch.randn(count, self.style_dim, 1, 1, generator=generator).to(self.device, self.dtype)

    @torch.no_grad()
    def style_of(self, image: Tensor, *, precision: str | None = None) -> Tensor:
        """Style code (1, style_dim, 1, 1) of an image (C', H, W) of the target domain.

        Args:
            image: in [-1, 1].
            precision: for this call; None is the translator's own.

        Raises:
            FastmunitError: the system has no style codes, or there is not enough memory.
        """
        with _memory_errors(image), self._autocast(precision):
            return self.encode_style(self._padded(image)).float()

    @torch.no_grad()
    def translate(
        self, image: Tensor, styles: Tensor, batch_size: int | None = None, *, precision: str | None = None
    ) -> Tensor:
        """Translate one image with many styles; it is encoded once.

        Args:
            image: (C, H, W) in [-1, 1], of the source domain; any floating point type.
            styles: (S, style_dim, 1, 1).
            batch_size: styles decoded at once; None chooses by the image's size (about a megapixel).
            precision: for this call; None is the translator's own.

        Returns:
            (S, C', H, W) in [-1, 1], on the CPU.

        Raises:
            FastmunitError: the image has other channels than the model, or there is not enough memory.
        """
        if len(image) != self.channels:
            raise FastmunitError(
                f"the image has {len(image)} channels and the model takes {self.channels}: convert it, or use the "
                "other direction."
            )
        height, width = image.shape[1:]
        with _memory_errors(image), self._autocast(precision):
            padded = self._padded(image)
            batch = batch_size or max(1, _PIXELS_PER_BATCH // (padded.shape[-1] * padded.shape[-2]))
            content = self.encode(padded)
            outputs = [self.decode(content, part).float().cpu() for part in styles.split(batch)]
            return torch.cat([output[..., :height, :width] for output in outputs])

    def _autocast(self, precision: str | None) -> AbstractContextManager[object]:
        chosen = self.precision if precision is None else precision
        return inference_autocast(self.device.type, None if chosen == "float32" else getattr(torch, chosen))

    def _padded(self, image: Tensor) -> Tensor:
        x = image[None].to(self.device, self.dtype)
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
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
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
