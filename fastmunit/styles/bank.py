"""A bank of styles: the centers of clusters of style codes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastmunit.errors import DataError
from fastmunit.image_files.packages import needed
from fastmunit.systems.code_checks import require_codes, require_integer

_RESTARTS = 10
MAX_SEED = 2**32 - 1
"""Largest seed that scikit-learn takes."""


@dataclass(frozen=True)
class Bank:
    """Clusters of style codes, the largest first.

    Attributes:
        codes: The centers (K, style_dim, 1, 1).
        labels: Cluster of each code (S,), int64.
        medoids: Index of the code next to each center. Of all codes of its cluster, it has the smallest sum of squared
            distances to the others.
    """

    codes: Tensor
    labels: Tensor
    medoids: list[int]

    @property
    def sizes(self) -> list[int]:
        """Number of codes in each cluster."""
        return torch.bincount(self.labels, minlength=len(self.codes)).tolist()


def make_bank(codes: Tensor, count: int, seed: int = 0) -> Bank:
    """Group style codes by k-means: Lloyd's iterations from k-means++ starts, the best of ten.

    Sources: Lloyd, Least squares quantization in PCM, IEEE Transactions on Information Theory 28, 1982; Arthur and
    Vassilvitskii, k-means++: The Advantages of Careful Seeding, SODA 2007. Computed by scikit-learn in float64.

    Args:
        codes: Style codes (S, style_dim, 1, 1).
        count: Number of clusters K.
        seed: Seed of the starts, below 2^32.

    Raises:
        DataError: If the codes have a wrong shape or NaN or infinite values, fewer than K of them are different, or
            scikit-learn is not installed.
        ConfigError: If the count or the seed is not an integer in its range.
    """
    require_codes(codes)
    require_integer("count", count, 1)
    require_integer("seed", seed, 0, MAX_SEED)
    cluster = needed("sklearn.cluster", "styles", "a bank of styles")
    values = codes.detach().flatten(1).double().cpu()
    different = len(torch.unique(values, dim=0))
    if count > different:
        raise DataError(
            f"a bank of {count} styles needs at least as many different ones, got {different}: lower the number, or "
            "add images."
        )
    result = cluster.KMeans(count, n_init=_RESTARTS, random_state=seed).fit(values.numpy())
    labels = torch.from_numpy(result.labels_).long()
    order = torch.bincount(labels, minlength=count).argsort(descending=True, stable=True)
    labels = order.argsort()[labels]
    centers = torch.stack([values[labels == cluster].mean(0) for cluster in range(count)])
    distances = (values - centers[labels]).norm(dim=1)
    medoids = [int(distances.where(labels == cluster, torch.inf).argmin()) for cluster in range(count)]
    return Bank(centers.to(codes.dtype)[..., None, None], labels, medoids)
