"""LPIPS diversity: how different the outputs of one input are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastmunit.metrics.measure import Measure, register
from fastmunit.metrics.results import Score

if TYPE_CHECKING:
    from fastmunit.metrics.load import Networks
    from fastmunit.metrics.lpips import LPIPS
    from fastmunit.metrics.real_images import RealImages
    from fastmunit.metrics.sample import Sample
    from fastmunit.nn.networks.imagenet import Backbone


@register
class LPIPSDiversity(Measure):
    """LPIPS diversity; see `diversity.pair_distances`."""

    name = "lpips-{net}-v{version}"
    options = {"net": ("alex", "vgg"), "version": ("0.1", "0.0")}
    title = "LPIPS diversity"
    summary = "mean LPIPS distance of 19 random pairs of outputs per input, for 100 inputs"
    reference = "random pairs of real images"
    default = True
    order = 10

    def __init__(self, distance: LPIPS) -> None:
        self.name = distance.name.lower()
        self.distance = distance

    @classmethod
    def backbones(cls, **options: str) -> tuple[Backbone, ...]:
        return ("alexnet",) if options["net"] == "alex" else ("vgg16",)

    @classmethod
    def load(cls, networks: Networks, **options: str) -> LPIPSDiversity:
        from fastmunit.metrics.lpips import LPIPS

        return cls(networks.get(LPIPS, options["net"], options["version"]))

    def prepare(self, real: RealImages) -> None:
        from fastmunit import distributed
        from fastmunit.metrics.diversity import real_diversity

        self.real = real_diversity(self.distance, real.for_pairs, seed=self.task.seed, each=distributed.each)

    def observe(self, sample: Sample) -> float:
        from fastmunit.metrics.diversity import pair_distances

        return float(pair_distances(self.distance, sample.outputs).mean())

    def scores(self, observed: list[float]) -> list[Score]:
        name = self.distance.name
        return [
            Score(
                f"{name} diversity",
                self.task.mean(observed),
                "higher",
                {"real pairs": self.real},
                f"{self.task.samples // 2} random pairs of outputs for each of {len(observed)} inputs",
                per_input=observed,
                ranks=f"diverse inputs by {name}",
            )
        ]
