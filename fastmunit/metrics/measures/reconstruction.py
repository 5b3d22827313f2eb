"""Reconstruction: the difference between an input and its reconstruction or its translation back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastmunit.errors import DataError, FastmunitError
from fastmunit.metrics.measure import Measure, register
from fastmunit.metrics.results import Score

if TYPE_CHECKING:
    from torch import Tensor

    from fastmunit.metrics.sample import Sample
    from fastmunit.systems.translators import Translator


@register
class Reconstruction(Measure):
    """L1 of reconstruction and of the cycle; see `reconstruction_l1`."""

    name = "reconstruction"
    title = "reconstruction L1, cycle L1"
    summary = "mean\\|x' - x\\|, with x' the input x decoded in its own domain, or translated there and back"
    default = True
    order = 70

    def check(self) -> dict[str, str]:
        if self.task.backward is None:
            return {self.name: f"a {self.task.config.system} model does not translate back"}
        if not self.task.has_content_code:
            reason = f"a {self.task.config.system} model has no content code that both domains share"
            return {f"{self.name} within the domain": reason}
        return {}

    def observe(self, sample: Sample) -> tuple[float | None, float]:
        backward, x = self.task.backward, sample.image
        assert backward is not None
        style = style_back(backward, x, self.task.seed)
        cycle = float(reconstruction_l1(x[None], backward.translate(sample.translated[0], style)))
        if not self.task.has_content_code:
            return None, cycle
        decoded = backward.decode(sample.content_code, style).float().cpu()[..., : x.shape[1], : x.shape[2]]
        return float(reconstruction_l1(x[None], decoded)), cycle

    def scores(self, observed: list[tuple[float | None, float]]) -> list[Score]:
        source, target = (domain.upper() for domain in self.task.domains)
        decoded = [value for value, _ in observed if value is not None]
        cycles = [value for _, value in observed]
        scores = [Score(f"reconstruction L1 {source} → {source}", self.task.mean(decoded), "lower")] if decoded else []
        return [*scores, Score(f"cycle L1 {source} → {target} → {source}", self.task.mean(cycles), "lower")]


def reconstruction_l1(x: Tensor, reconstruction: Tensor) -> Tensor:
    """Return mean|x' - x| over channels and pixels of each image, (N,).

    Within a domain, x' = G(E_c(x), E_s(x)) is the image reconstruction of the MUNIT paper, section 3.2. For a cycle,
    x is translated with a random style and back with its own: the paper's style-augmented cycle consistency.

    Args:
        x: Images (N, C, H, W) in [-1, 1].
        reconstruction: Reconstructed images x', same shape.

    Raises:
        DataError: If the shapes differ, or the reconstruction contains NaN.
    """
    if x.shape != reconstruction.shape or x.ndim != 4:
        raise DataError(
            f"reconstruction L1: expected images of one shape, got {tuple(x.shape)} and {tuple(reconstruction.shape)}."
        )
    if not bool(reconstruction.isfinite().all()):
        raise DataError("the reconstruction contains NaN: the network that made it has diverged.")
    return (reconstruction.double() - x.double()).abs().flatten(1).mean(dim=1)


def style_back(backward: Translator, image: Tensor, seed: int) -> Tensor:
    """Return the style code to translate an image back with: its own, or a random one if the system has no own ones."""
    from fastmunit.data.seeding import named_generator

    if backward.style_dim:
        try:
            return backward.style_of(image)
        except FastmunitError:  # the system cannot extract it
            pass
    return backward.random_styles(1, named_generator("back", seed))
