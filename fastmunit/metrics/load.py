"""Load measures by name, with the networks that they share."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TypeVar, cast

import torch
from torch import nn

from fastmunit.errors import ConfigError
from fastmunit.metrics.classifier import Classifier, load_classifier
from fastmunit.metrics.measure import Measure, check_names, variants
from fastmunit.metrics.measure import names as measure_names

_Network = TypeVar("_Network", bound=nn.Module)


class Networks:
    """A cache of the networks of measures, on one device.

    Args:
        weights: Folder with ImageNet weights; see `imagenet.convolution_weights`.
        classifier: File written by `fastmunit train-classifier`.
        device: Device of the networks.
    """

    def __init__(
        self,
        weights: str | os.PathLike[str] | None = None,
        classifier: str | os.PathLike[str] | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self._weights, self._classifier, self._device = weights, classifier, device
        self._loaded: dict[tuple[object, ...], nn.Module] = {}

    def get(self, network: Callable[..., _Network], *arguments: str) -> _Network:
        """Return `network(*arguments, weights=…)`; the same network for the same arguments."""
        key = (network, *arguments)
        if key not in self._loaded:
            self._loaded[key] = network(*arguments, weights=self._weights).to(self._device)
        return cast(_Network, self._loaded[key])

    @cached_property
    def classifier(self) -> Classifier:
        """The classifier of the target domain."""
        if self._classifier is None:
            raise ConfigError("this measure needs a classifier: give one with --classifier.")
        return load_classifier(self._classifier).to(self._device)


def load_measures(
    names: Sequence[str] | None = None,
    *,
    weights: str | os.PathLike[str] | None = None,
    classifier: str | os.PathLike[str] | None = None,
    device: str | torch.device = "cpu",
) -> list[Measure]:
    """Load measures with their networks.

    Args:
        names: Names of measures, such as "fd-alexnet". None loads the default ones; those that need a classifier are
            among them if one is given.
        weights: Folder with ImageNet weights; see `imagenet.convolution_weights`.
        classifier: File written by `fastmunit train-classifier`.
        device: Device to measure on.

    Raises:
        ConfigError: If a name is unknown, or a measure needs a classifier and none is given.
        CheckpointError: If weights are missing; the message says which file to put where.
    """
    chosen = list(dict.fromkeys(measure_names(classifier is not None, default=True) if names is None else names))
    check_names(chosen)
    known = variants()
    networks = Networks(weights, classifier, device)
    judging = [name for name in chosen if known[name][0].needs_classifier]
    if judging and classifier is None:
        raise ConfigError(
            f"{judging[0]} needs a classifier of the target domain's classes: make one with `fastmunit "
            "train-classifier` and give it with --classifier."
        )
    if judging:
        _ = networks.classifier  # first: the file is small and the user's own, other networks may be downloaded
    return [measure.load(networks, **options) for measure, options in (known[name] for name in chosen)]
