"""Which measures an evaluation takes, by name, and the networks they need."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import torch

from fastmunit.errors import ConfigError
from fastmunit.metrics.classifier import Classifier, load_classifier
from fastmunit.metrics.features import FeatureName, FeatureNet
from fastmunit.metrics.lpips import LPIPS, Net, Version

_LPIPS: dict[str, tuple[Net, Version]] = {
    f"lpips-{net}-v{version}": (net, version) for net in ("alex", "vgg") for version in ("0.1", "0.0")
}
_FEATURES: dict[str, FeatureName] = {"alexnet": "AlexNet", "vgg16": "VGG16"}
_DISTANCES = tuple(f"{kind}-{name}" for kind in ("fd", "kid") for name in _FEATURES)

NAMES = (*_LPIPS, *_DISTANCES, "is-cis", "edge-agreement", "content-code", "reconstruction")
"""What --metrics takes."""

DEFAULT = ("lpips-alex-v0.1", "fd-alexnet", "kid-alexnet", "edge-agreement", "content-code", "reconstruction")
"""Measured when nothing is named; is-cis too where there is a classifier."""


@dataclass(frozen=True)
class Measures:
    """The measures of an evaluation, their networks loaded.

    Attributes:
        lpips: for diversity.
        features: for FD and KID.
        frechet: names of the feature networks whose Fréchet distance is wanted.
        kernel: names of those whose kernel distance is wanted.
        classifier: for IS and CIS; None leaves them out.
        edge_agreement: whether edges of input and output are compared.
        content_code: whether content codes of input and output are compared.
        reconstruction: whether images are brought back.
    """

    lpips: tuple[LPIPS, ...] = ()
    features: dict[FeatureName, FeatureNet] = field(default_factory=dict)
    frechet: tuple[FeatureName, ...] = ()
    kernel: tuple[FeatureName, ...] = ()
    classifier: Classifier | None = None
    edge_agreement: bool = False
    content_code: bool = False
    reconstruction: bool = False


def check_names(names: Sequence[str]) -> None:
    """Raises ConfigError for a measure that is not known, with the nearest name."""
    for name in names:
        if name not in NAMES:
            nearest = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.4)
            hint = f"; did you mean {nearest[0]}?" if nearest else "."
            raise ConfigError(f"metric {name!r} is none of {', '.join(NAMES)}{hint}")


def load_measures(
    names: Sequence[str] | None = None,
    *,
    weights: str | os.PathLike[str] | None = None,
    classifier: str | os.PathLike[str] | None = None,
    device: str | torch.device = "cpu",
) -> Measures:
    """Load the networks of the named measures.

    Args:
        names: of `NAMES`; None takes `DEFAULT`, and is-cis where a classifier is given.
        weights: folder with ImageNet weights, see `imagenet.convolution_weights`.
        classifier: file of `fastmunit train-classifier`.
        device: to measure on.

    Raises:
        ConfigError: an unknown name, or is-cis without a classifier.
        CheckpointError: weights are not there; the message says what to put where.
    """
    chosen = [*DEFAULT, *(["is-cis"] if classifier is not None else [])] if names is None else list(names)
    check_names(chosen)
    if "is-cis" in chosen and classifier is None:
        raise ConfigError(
            "is-cis needs a classifier of the target domain's classes: make one with `fastmunit train-classifier` and "
            "give it with --classifier."
        )
    # First, because it is a small file of the user's, while the other networks may have to be downloaded.
    judge = load_classifier(cast(str, classifier)).to(device) if "is-cis" in chosen else None
    kinds: dict[str, list[FeatureName]] = {"fd": [], "kid": []}
    for name in chosen:
        kind, _, network = name.partition("-")
        if name in _DISTANCES:
            kinds[kind].append(_FEATURES[network])
    wanted = dict.fromkeys((*kinds["fd"], *kinds["kid"]))
    return Measures(
        lpips=tuple(LPIPS(*_LPIPS[name], weights=weights).to(device) for name in chosen if name in _LPIPS),
        features={name: FeatureNet(name, weights).to(device) for name in wanted},
        frechet=tuple(kinds["fd"]),
        kernel=tuple(kinds["kid"]),
        classifier=judge,
        edge_agreement="edge-agreement" in chosen,
        content_code="content-code" in chosen,
        reconstruction="reconstruction" in chosen,
    )
