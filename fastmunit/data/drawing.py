"""Edge drawings of the demo's photos, by the rule that made its other drawings (tools/make_demo_data.py)."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

# Edges are drawn this many times larger than the photo and reduced, which gives smooth lines.
_OVERSAMPLING = 4
# Line width in pixels of the photo.
_LINE_WIDTH = 1.75
# Grey levels of a drawing.
_LEVELS = 4
# What is darker than white by more than this, of 255, is fruit.
_WHITE = 14
# Lines inside the shape: pixels from its edge, blur, and thresholds that keep stems, calyxes and highlights.
_INSIDE, _BLUR, _WEAK, _STRONG, _SHORT = 4.5, 1.6, 0.04, 0.09, 10


def draw_edges(photos: Tensor) -> Tensor:
    """Black outline and strongest inner lines of fruits on white: uint8 (N, 3, H, W) to uint8 (N, 1, H, W).

    The outline is the inner rim of the shape, so it is always closed. Inner lines are Canny's (1986), those longer than
    ten pixels.
    """
    large = _enlarged(photos / 255.0)
    shape = _silhouettes(photos)
    depth = _squared_distance(~shape, _INSIDE * _OVERSAMPLING)
    width = _LINE_WIDTH * _OVERSAMPLING
    rim = shape & (depth <= width**2)
    lines = _inner_lines(_lightness(large), depth > (_INSIDE * _OVERSAMPLING) ** 2)
    inner = _squared_distance(lines, width / 2) <= (width / 2) ** 2
    ink = F.avg_pool2d((rim | inner).float()[:, None], _OVERSAMPLING)
    return ((1 - ink) * (_LEVELS - 1)).round().mul(255 / (_LEVELS - 1)).round().to(torch.uint8)


def _enlarged(images: Tensor) -> Tensor:
    return F.interpolate(images, scale_factor=_OVERSAMPLING, mode="bicubic", antialias=True).clamp(0, 1)


def _silhouettes(photos: Tensor) -> Tensor:
    """The fruit's shape, enlarged: whatever is not white, its holes filled, the largest piece, smoothed. (N, H, W)."""
    fruit = photos.min(dim=1).values < 255 - _WHITE
    ground = _components(~fruit, diagonal=False)
    border = torch.zeros_like(fruit)
    border[:, [0, -1]] = True
    border[:, :, [0, -1]] = True
    outside = torch.zeros(int(ground.max()) + 2, dtype=torch.bool)
    outside[ground[border & ~fruit]] = True
    filled = ~outside[ground] | fruit
    pieces = _components(filled, diagonal=True)
    sizes = torch.bincount(pieces.flatten() + 1)[1:]
    whole = torch.where(filled, sizes[pieces.clamp_min(0)], 0)
    largest = filled & (whole == whole.amax(dim=(1, 2), keepdim=True))
    smooth = _blurred(_enlarged(largest.float()[:, None]), 0.5 * _OVERSAMPLING)
    return smooth[:, 0] > 0.5


def _lightness(images: Tensor) -> Tensor:
    """CIELAB lightness over 100 of sRGB images (N, 3, H, W) in [0, 1], rounded to eight bits: (N, H, W)."""
    levels = torch.arange(256) / 255
    linear = torch.where(levels > 0.04045, ((levels + 0.055) / 1.055) ** 2.4, levels / 12.92)
    red, green, blue = linear[(images * 255).round().int()].unbind(dim=1)
    luminance = 0.212671 * red + 0.715160 * green + 0.072169 * blue
    cube_root = torch.where(luminance > 0.008856, luminance.clamp_min(1e-6) ** (1 / 3), 7.787 * luminance + 16 / 116)
    return 1.16 * cube_root - 0.16


def _inner_lines(lightness: Tensor, inside: Tensor) -> Tensor:
    """Canny's edges of (N, H, W) where `inside`, one pixel wide, without those shorter than `_SHORT`."""
    mask = inside.float()[:, None]
    weight = _blurred(mask, _BLUR * _OVERSAMPLING, "constant") + 1e-6
    smooth = _blurred(lightness[:, None] * mask, _BLUR * _OVERSAMPLING, "constant") / weight
    sobel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    kernels = torch.stack([sobel, sobel.T])[:, None]
    d_x, d_y = F.conv2d(F.pad(smooth, (1, 1, 1, 1), mode="reflect"), kernels).unbind(dim=1)
    strength = torch.hypot(d_x, d_y) * (F.max_pool2d(1 - mask, 3, 1, 1)[:, 0] == 0)
    weak = _is_ridge(strength, d_x, d_y) & (strength >= _WEAK)
    pieces = _components(weak, diagonal=True)
    found = pieces[weak]
    count = int(pieces.max()) + 1
    sizes = torch.bincount(found, minlength=count)
    strong = torch.zeros(count, dtype=torch.bool)
    strong[pieces[weak & (strength >= _STRONG)]] = True
    kept = strong & (sizes > _SHORT * _OVERSAMPLING)
    return weak & torch.cat([kept, torch.tensor([False])])[pieces]


def _is_ridge(strength: Tensor, d_x: Tensor, d_y: Tensor) -> Tensor:
    """Where the strength (N, H, W) is not exceeded one pixel further up or down the gradient, between neighbours."""
    padded = F.pad(strength, (1, 1, 1, 1))
    height, width = strength.shape[1:]

    def neighbour(down: int, right: int) -> Tensor:
        return padded[:, 1 + down : 1 + down + height, 1 + right : 1 + right + width]

    steep = d_y.abs() > d_x.abs()
    share = torch.where(steep, d_x.abs() / d_y.abs().clamp_min(1e-12), d_y.abs() / d_x.abs().clamp_min(1e-12))
    same = d_x * d_y >= 0
    ridge = strength > 0
    for sign in (1, -1):
        straight = torch.where(steep, neighbour(sign, 0), neighbour(0, sign))
        steep_diagonal = torch.where(same, neighbour(sign, sign), neighbour(sign, -sign))
        flat_diagonal = torch.where(same, neighbour(sign, sign), neighbour(-sign, sign))
        diagonal = torch.where(steep, steep_diagonal, flat_diagonal)
        ridge &= strength >= share * diagonal + (1 - share) * straight
    return ridge


def _blurred(x: Tensor, sigma: float, mode: str = "reflect") -> Tensor:
    """(N, 1, H, W) under a Gaussian."""
    along_height, along_width = (_blur_matrix(size, sigma, mode) for size in x.shape[2:])
    return along_height @ x @ along_width.T


@lru_cache
def _blur_matrix(size: int, sigma: float, mode: str) -> Tensor:
    """The Gaussian as a matrix on a row of pixels: for kernels this wide faster than a convolution of one channel."""
    radius = math.ceil(4 * sigma)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    padded = F.pad(torch.eye(size)[:, None], (radius, radius), mode=mode)
    return F.conv1d(padded, (kernel / kernel.sum()).view(1, 1, -1))[:, 0].T.contiguous()


def _squared_distance(marked: Tensor, most: float) -> Tensor:
    """Squared distance of each pixel (N, H, W) to the nearest marked one, where it is at most `most`; else more."""
    reach = math.floor(most)
    distance = torch.where(marked, 0, (reach + 1) ** 2).to(torch.int16)
    for axis in (1, 2):
        size = distance.shape[axis]
        nearest = distance.clone()
        for step in range(1, min(reach, size - 1) + 1):
            here, there = distance.narrow(axis, 0, size - step), distance.narrow(axis, step, size - step)
            first, last = nearest.narrow(axis, 0, size - step), nearest.narrow(axis, step, size - step)
            torch.minimum(first, there + step**2, out=first)
            torch.minimum(last, here + step**2, out=last)
        distance = nearest
    return distance


def _components(mask: Tensor, diagonal: bool) -> Tensor:
    """Numbers from 0 of the connected pieces of a mask (N, H, W), over all of them; -1 outside."""
    nodes = mask.flatten().nonzero()[:, 0]
    place = torch.full((mask.numel(),), -1)
    place[nodes] = torch.arange(len(nodes))
    place = place.view(mask.shape)
    ends = []
    for down, right in ((0, 1), (1, 0), *(((1, 1), (1, -1)) if diagonal else ())):
        height, width = mask.shape[1] - down, mask.shape[2] - abs(right)
        start, stop = max(0, -right), max(0, right)
        one = place[:, :height, start : start + width]
        other = place[:, down:, stop : stop + width]
        joined = (one >= 0) & (other >= 0)
        ends.append(torch.stack([one[joined], other[joined]]))
    one, other = torch.cat(ends, dim=1)
    label = torch.arange(len(nodes))
    while True:
        least = torch.minimum(label[one], label[other])
        lower = label.scatter_reduce(0, label[one], least, "amin").scatter_reduce(0, label[other], least, "amin")
        lower = lower[lower]
        if torch.equal(lower, label):
            break
        label = lower
    numbers = torch.unique(label, return_inverse=True)[1] if len(nodes) else label
    result = torch.full((mask.numel(),), -1)
    result[nodes] = numbers
    return result.view(mask.shape)
