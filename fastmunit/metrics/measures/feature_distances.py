"""Fréchet and kernel distance: how far the outputs are from real images, in the features of a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from fastmunit.metrics.measure import Measure, register
from fastmunit.metrics.results import Score

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import Self

    from fastmunit.metrics.confidence import Estimate
    from fastmunit.metrics.features import FeatureNet
    from fastmunit.metrics.load import Networks
    from fastmunit.metrics.real_images import RealImages
    from fastmunit.metrics.sample import Sample
    from fastmunit.nn.networks.imagenet import Backbone

_FEATURE_NAMES = {"alexnet": "AlexNet", "vgg16": "VGG16"}


class FeatureDistance(Measure):
    """A distance between the features of outputs and those of real test images."""

    prefix: str
    options = {"network": tuple(_FEATURE_NAMES)}
    reference = "real training images"
    default = True
    feature_net: FeatureNet

    def __init__(self, network: FeatureNet) -> None:
        self.name = f"{self.prefix}-{network.name}".lower()
        self.feature_net = network

    @classmethod
    def backbones(cls, **options: str) -> tuple[Backbone, ...]:
        return ("alexnet",) if options["network"] == "alexnet" else ("vgg16",)

    @classmethod
    def load(cls, networks: Networks, **options: str) -> Self:
        from fastmunit.metrics.features import FeatureNet

        return cls(networks.get(FeatureNet, _FEATURE_NAMES[options["network"]]))

    def prepare(self, real: RealImages) -> None:
        self.test, self.training = real.features(self.feature_net)

    def observe(self, sample: Sample) -> Tensor:
        return sample.features(self.feature_net)

    def score(
        self, outputs: Tensor, estimate: Estimate, distance: Callable[[Tensor, Tensor], float], note: str
    ) -> list[Score]:
        """Return the score of outputs (I, S, d), compared with the distance of real training images."""
        from fastmunit.metrics.confidence import Estimate

        references = {}
        if self.training is not None:
            value = distance(self.test, self.training)
            references["real training images"] = Estimate(value, count=len(self.training))
        counts = f"{len(outputs)} inputs × {outputs.shape[1]} outputs against {len(self.test)} real test images"
        return [Score(f"{self.prefix}-{self.feature_net.name}", estimate, "lower", references, counts + note)]


@register
class FrechetDistance(FeatureDistance):
    """Fréchet distance; see `distances.frechet_distance`."""

    prefix = "FD"
    name = "fd-{network}"
    title = "FD (Fréchet distance)"
    summary = "‖μ₁ - μ₂‖² + tr(Σ₁ + Σ₂ - 2 (Σ₁ Σ₂)^½) of features of outputs and of real test images; biased upward"
    order = 20

    def scores(self, observed: list[Tensor]) -> list[Score]:
        import torch

        from fastmunit import distributed
        from fastmunit.metrics.distances import frechet_distance, frechet_estimate

        outputs, dimensions = torch.stack(observed), self.feature_net.num_features
        estimate = frechet_estimate(self.test, outputs, seed=self.task.seed, each=distributed.each)
        few = min(len(self.test), outputs.shape[0] * outputs.shape[1]) <= dimensions
        note = f"; fewer images than the {dimensions} features, so biased upward" if few else ""
        return self.score(outputs, estimate, frechet_distance, note)


@register
class KernelDistance(FeatureDistance):
    """Kernel distance; see `distances.kernel_distance`."""

    prefix = "KID"
    name = "kid-{network}"
    title = "KID (kernel distance)"
    summary = "MMD² with the kernel (x·y / d + 1)³ of the same features; unbiased"
    order = 30

    def scores(self, observed: list[Tensor]) -> list[Score]:
        import torch

        from fastmunit.metrics.distances import kernel_distance, kernel_estimate

        outputs = torch.stack(observed)
        estimate = kernel_estimate(self.test, outputs, seed=self.task.seed)
        note = "; unbiased, so around 0 and sometimes negative for similar sets"
        return self.score(outputs, estimate, kernel_distance, note)
