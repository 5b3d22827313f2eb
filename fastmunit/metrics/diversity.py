"""Diversity: mean distance of pairs of outputs of one input, and of pairs of real images."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from fastmunit.errors import DataError
from fastmunit.metrics.confidence import Estimate, bootstrap, counts_of_resample, spread_estimate

Distance = Callable[[Tensor, Tensor], Tensor]

INPUTS, PAIRS = 100, 19
"""Protocol of the papers: 19 random pairs of outputs for each of 100 inputs."""

_PIXELS_AT_ONCE = 1 << 19


@torch.inference_mode()
def pair_distances(distance: Distance, outputs: Tensor) -> Tensor:
    """Return distances (S // 2,) of the pairs (0, 1), (2, 3), … of the outputs of one input.

    Outputs are independent draws, so disjoint pairs are independent too. Their mean is the diversity of the input.
    Source: Zhu et al., Toward Multimodal Image-to-Image Translation, NIPS 2017, section 5.3; MUNIT paper, section 5.2.

    Args:
        distance: Distances (N,) of two batches (N, C, H, W), usually an `LPIPS`.
        outputs: Outputs (S, C, H, W) with independent random styles.

    Raises:
        DataError: If there are fewer than two outputs.
    """
    if outputs.ndim != 4 or len(outputs) < 2:
        raise DataError(f"diversity: expected at least 2 outputs per input, got shape {tuple(outputs.shape)}.")
    pairs = len(outputs) // 2
    batch = max(1, _PIXELS_AT_ONCE // (outputs.shape[-1] * outputs.shape[-2]))
    first, second = outputs[0 : 2 * pairs : 2], outputs[1 : 2 * pairs : 2]
    return torch.cat([distance(x, y).cpu() for x, y in zip(first.split(batch), second.split(batch), strict=True)])


@torch.inference_mode()
def real_diversity(
    distance: Distance,
    images: Tensor,
    pairs: int = INPUTS * PAIRS,
    seed: int = 0,
    each: Callable[..., Iterable[Tensor]] = map,
) -> Estimate:
    """Return the mean distance of random pairs of different real images: the row "real data" of the papers.

    The interval assumes independent images, not independent pairs: an image is resampled with all its pairs. A
    resample without any pair is drawn again. Images that are in no pair do not count.

    Args:
        distance: Distances (N,) of two batches (N, C, H, W), usually an `LPIPS`.
        images: Real images (N, C, H, W) of the target domain.
        pairs: Number of pairs.
        seed: Seed of the pairs and of the resampling.
        each: Applies a function to each item of a list. `distributed.each` divides the batches among processes.

    Raises:
        DataError: If there are fewer than two images, or no pair.
    """
    if len(images) < 2 or pairs < 1:
        raise DataError(f"pairs of real images: expected at least 2 images and 1 pair, got {len(images)} and {pairs}.")
    generator = torch.Generator().manual_seed(seed)
    # Random cycles through all images use each image equally often and pair none with itself.
    rounds = -(-pairs // len(images))
    orders = [torch.randperm(len(images), generator=generator) for _ in range(rounds)]
    chosen = torch.stack([torch.cat(orders), torch.cat([order.roll(1) for order in orders])])[:, :pairs]
    batch = max(1, _PIXELS_AT_ONCE // (images.shape[-1] * images.shape[-2]))

    def measured(places: Tensor) -> Tensor:
        first, second = places
        return distance(images[first], images[second]).cpu()

    distances = torch.cat(list(each(measured, chosen.split(batch, dim=1)))).double()

    def resampled(random: torch.Generator) -> float:
        while True:
            drawn = counts_of_resample(len(images), random)
            weights = drawn[chosen[0]] * drawn[chosen[1]]
            if weights.any():
                return float((weights * distances).sum() / weights.sum())

    return spread_estimate(float(distances.mean()), len(chosen.unique()), bootstrap(resampled, seed))
