"""Diversity: how different the outputs for one input are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from fastmunit.errors import DataError
from fastmunit.metrics.intervals import Estimate, counts_of_resample, mean_estimate, resampled_estimate

Distance = Callable[[Tensor, Tensor], Tensor]

INPUTS, PAIRS = 100, 19
"""The papers' protocol: 19 random pairs of outputs for each of 100 inputs."""

_PIXELS_AT_ONCE = 1 << 19


@dataclass(frozen=True)
class Diversity:
    """Mean distance of random pairs of outputs of one input.

    Attributes:
        estimate: over the inputs; the interval takes inputs as independent, not their pairs.
        per_input: mean over the pairs of each input.
    """

    estimate: Estimate
    per_input: list[float]


def pair_distances(distance: Distance, outputs: Tensor) -> Tensor:
    """Distances (S // 2,) of the pairs (0, 1), (2, 3), … of the outputs (S, C, H, W) of one input.

    Outputs are independent draws, so that disjoint pairs are too. Batches are limited to about half a megapixel.

    Raises:
        DataError: fewer than two outputs.
    """
    if outputs.ndim != 4 or len(outputs) < 2:
        raise DataError(f"diversity needs at least 2 outputs of each input, got shape {tuple(outputs.shape)}.")
    pairs = len(outputs) // 2
    batch = max(1, _PIXELS_AT_ONCE // (outputs.shape[-1] * outputs.shape[-2]))
    first, second = outputs[0 : 2 * pairs : 2], outputs[1 : 2 * pairs : 2]
    return torch.cat([distance(x, y).cpu() for x, y in zip(first.split(batch), second.split(batch), strict=True)])


@torch.inference_mode()
def diversity(distance: Distance, outputs: Iterable[Tensor]) -> Diversity:
    """Mean over inputs of the mean distance of `PAIRS` random pairs of outputs.

    Source: Zhu et al., Toward Multimodal Image-to-Image Translation, NIPS 2017, section 5.3; MUNIT paper, section 5.2.

    Args:
        distance: usually an `LPIPS`, (N, C, H, W), (N, C, H, W) → (N,).
        outputs: for each input (`INPUTS` of them) its outputs (2 · `PAIRS`, C, H, W) for independent random styles.

    Raises:
        DataError: no input, or an input with fewer than two outputs.
    """
    per_input = [float(pair_distances(distance, batch).mean()) for batch in outputs]
    if not per_input:
        raise DataError("diversity needs at least one input.")
    return Diversity(mean_estimate(per_input), per_input)


@torch.inference_mode()
def real_diversity(
    distance: Distance,
    images: Tensor,
    pairs: int = INPUTS * PAIRS,
    seed: int = 0,
    each: Callable[..., Iterable[Tensor]] = map,
) -> Estimate:
    """Mean distance of random pairs of different real images (N, C, H, W): the papers' row "real data".

    The interval takes images as independent, not pairs: an image is resampled with all its pairs, and a resample that
    holds no pair is drawn again. Images that are in no pair do not count.

    Args:
        distance: as in `diversity`.
        images: real images of the target domain.
        pairs: how many pairs.
        seed: of the choice of pairs.
        each: computes a function of each item of a list; `distributed.each` divides the pairs by the processes.

    Raises:
        DataError: fewer than two images, or no pair.
    """
    if len(images) < 2 or pairs < 1:
        raise DataError(f"pairs of real images need at least 2 images and 1 pair, got {len(images)} and {pairs}.")
    generator = torch.Generator().manual_seed(seed)
    # Rounds of random cycles through all images use each equally often, and pair none with itself.
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

    return resampled_estimate(float(distances.mean()), len(chosen.unique()), resampled, seed=seed)
