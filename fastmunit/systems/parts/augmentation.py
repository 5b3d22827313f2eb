"""Differentiable augmentation of the images that discriminators see.

Source: Zhao et al. 2020, "Differentiable Augmentation for Data-Efficient GAN Training" (DiffAugment). Every function
takes numbers u from [0, 1), which are drawn elsewhere. Images are (N, C, H, W) in [-1, 1]; colors may leave that range,
and pixels without an image are 0.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

NUMBERS = {"color": 3, "translation": 2, "cutout": 2}
"""Numbers that each policy takes per image, in the order in which policies are applied."""


def count_numbers(policies: Collection[str]) -> int:
    """Return how many numbers `augment` takes per image."""
    return sum(count for policy, count in NUMBERS.items() if policy in policies)


def augment(
    x: Tensor, policies: Collection[str], numbers: Tensor, applied: Tensor | None = None, *, rgb: bool = True
) -> Tensor:
    """Apply policies to images, each image with numbers of its own.

    Args:
        x: Images, (N, C, H, W).
        policies: Any of "color", "translation" and "cutout".
        numbers: (N, `count_numbers`) in [0, 1), on the device of x.
        applied: True where a policy is applied, (N, 3), in the order of `NUMBERS`. None applies all policies.
        rgb: The channels are red, green and blue, so that they have a saturation.

    Returns:
        Images in the shape and dtype of x.
    """
    y = x if x.dtype == torch.float64 else x.float()
    functions: dict[str, Any] = {"color": _color_of_rgb if rgb else color, "translation": translate, "cutout": cut_out}
    first = 0
    for place, (policy, count) in enumerate(NUMBERS.items()):
        if policy not in policies:
            continue
        changed = functions[policy](y, numbers[:, first : first + count].to(y.dtype))
        y = changed if applied is None else torch.where(applied[:, place, None, None, None], changed, y)
        first += count
    return y.to(x.dtype)


def color(x: Tensor, u: Tensor, *, rgb: bool = False) -> Tensor:
    """Change brightness, saturation and contrast: u[:, 0], u[:, 1] and u[:, 2].

    Brightness: x + (u - 1/2). Saturation: m + 2u (x - m), with the mean m over the channels of each pixel. Contrast:
    m + (u + 1/2) (x - m), with the mean m over the image. Without `rgb`, the saturation stays: a gray image has none,
    and that of other channels has no meaning.
    """
    brightness, saturation, contrast = (part.view(-1, 1, 1, 1) for part in u.unbind(1))
    x = x + (brightness - 0.5)
    if rgb:
        mean = x.mean(1, keepdim=True)
        x = mean + 2 * saturation * (x - mean)
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + (contrast + 0.5) * (x - mean)


def translate(x: Tensor, u: Tensor) -> Tensor:
    """Move images by whole pixels, down and to the right, and fill with 0.

    Along an axis of n pixels by ⌊u (2m + 1)⌋ - m pixels, with m = ⌊n / 8 + 1/2⌋: u[:, 0] is vertical, u[:, 1]
    horizontal.
    """
    down, right = (_integers(part, 2 * _share(n, 8) + 1) - _share(n, 8) for part, n in _axes(x, u))
    moved: Tensor = _Moved.apply(x, down, right)
    return moved


def cut_out(x: Tensor, u: Tensor) -> Tensor:
    """Set a rectangle of half the height and width to 0, wholly or partly inside the image.

    Along an axis of n pixels it covers k = ⌊n / 2 + 1/2⌋ pixels from o - ⌊k / 2⌋ on, with o = ⌊u (n + 1 - k mod 2)⌋:
    u[:, 0] is vertical, u[:, 1] horizontal.
    """
    covered = []
    for part, n in _axes(x, u):
        k = _share(n, 2)
        first = (_integers(part, n + 1 - k % 2) - k // 2)[:, None]
        position = torch.arange(n, device=x.device)
        covered.append((position >= first) & (position < first + k))
    rows, columns = covered
    return torch.where(rows[:, None, :, None] & columns[:, None, None, :], torch.zeros((), device=x.device).to(x), x)


def _color_of_rgb(x: Tensor, u: Tensor) -> Tensor:
    return color(x, u, rgb=x.shape[1] == 3)


def _axes(x: Tensor, u: Tensor) -> tuple[tuple[Tensor, int], tuple[Tensor, int]]:
    return (u[:, 0], x.shape[2]), (u[:, 1], x.shape[3])


def _share(n: int, of: int) -> int:
    """Return n / of, rounded to the nearest integer."""
    return int(n / of + 0.5)


def _integers(u: Tensor, count: int) -> Tensor:
    """Return ⌊u · count⌋ of numbers in [0, 1), also where the product rounds up to count."""
    return (u * count).long().clamp(max=count - 1)


class _Moved(torch.autograd.Function):
    """Images moved by numbers of pixels (N,) down and to the right. Its gradient is moved back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, down: Tensor, right: Tensor) -> Tensor:
        ctx.save_for_backward(down, right)
        rows = torch.arange(x.shape[2], device=x.device) - down[:, None]
        columns = torch.arange(x.shape[3], device=x.device) - right[:, None]
        inside = ((rows >= 0) & (rows < x.shape[2]))[:, None, :, None]
        inside = inside & ((columns >= 0) & (columns < x.shape[3]))[:, None, None, :]
        samples = torch.arange(len(x), device=x.device)[:, None, None, None]
        channels = torch.arange(x.shape[1], device=x.device)[:, None, None]
        rows, columns = rows.clamp(0, x.shape[2] - 1), columns.clamp(0, x.shape[3] - 1)
        moved = x[samples, channels, rows[:, None, :, None], columns[:, None, None, :]]
        return torch.where(inside, moved, torch.zeros((), device=x.device).to(x))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        down, right = ctx.saved_tensors
        return _Moved.apply(gradient, -down, -right), None, None
