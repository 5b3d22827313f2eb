"""Edge agreement: whether the outputs keep the edges of their input."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastmunit.metrics.measure import Measure, register
from fastmunit.metrics.results import Score

if TYPE_CHECKING:
    from torch import Tensor

    from fastmunit.metrics.sample import Sample
    from fastmunit.systems.translators import Translator

_LUMA = (0.299, 0.587, 0.114)
_SOBEL = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))
# Standard deviation of the blur as a fraction of the shorter side. Edges this far apart still agree.
_BLUR = 1 / 64


@register
class EdgeAgreement(Measure):
    """Edge agreement; see `edge_agreement`."""

    name = "edge-agreement"
    title = "edge agreement"
    summary = "correlation of the blurred edge strengths of input and output"
    reference = "outputs of other inputs"
    default = True
    order = 50

    def check(self) -> dict[str, str]:
        reason = why_no_edges(self.task.forward)
        return {self.name: reason} if reason else {}

    def observe(self, sample: Sample) -> tuple[float, float | None]:
        outputs = sample.set_outputs
        agreement = float(edge_agreement(sample.input.expand_as(outputs), outputs).mean())
        other = sample.other_output
        if other is None or other.shape != sample.input.shape:
            return agreement, None
        return agreement, float(edge_agreement(sample.input[None], other[None]))

    def scores(self, observed: list[tuple[float, float | None]]) -> list[Score]:
        own = [agreement for agreement, _ in observed]
        others = [agreement for _, agreement in observed if agreement is not None]
        references = {"outputs of other inputs": self.task.mean(others)} if others else {}
        return [Score("edge agreement", self.task.mean(own), "higher", references, per_input=own)]


def why_no_edges(translator: Translator) -> str:
    """Return the reason why edges of inputs and outputs of a model cannot be compared, or "" if they can."""
    for images, channels in (("inputs", translator.channels), ("outputs", translator.target_channels)):
        if channels not in (1, 3):
            return f"its {images} have {channels} channels, and edges are those of RGB or gray images"
    return ""


def edge_agreement(x: Tensor, y: Tensor) -> Tensor:
    """Return the Pearson correlation of blurred edge strengths g(x) and g(y) over the pixels of each pair of images.

    g = blur(√(s_h² + s_v²)), where s_h and s_v are the Sobel derivatives of the luminance. The blur is Gaussian with a
    standard deviation of 1/64 of the shorter side: the two flanks of a drawn line then agree with the single edge of a
    photo. This measure is fastmunit's own, as the papers report none for content. Compare its value with the value of
    the same images in another order, and of real pairs if there are some.

    Args:
        x: Inputs (N, 3, H, W) in [-1, 1].
        y: Outputs, same shape.

    Returns:
        Correlations (N,) in [-1, 1]: 1 for equal edges, 0 for images without edges.

    Raises:
        DataError: If the shapes differ, the images are not RGB or smaller than 8 pixels, or contain NaN.
    """
    from fastmunit.metrics.images import check_images, check_same_shape

    for images in (x, y):
        check_images(images, "edge agreement", 8)
    check_same_shape(x, y, "edge agreement")
    g, h = (edge_strengths(images).flatten(1) for images in (x, y))
    g, h = g - g.mean(dim=1, keepdim=True), h - h.mean(dim=1, keepdim=True)
    norms = g.norm(dim=1) * h.norm(dim=1)
    return ((g * h).sum(dim=1) / norms.clamp_min(1e-9)).where(norms > 1e-9, 0.0)


def edge_strengths(images: Tensor) -> Tensor:
    """Return the blurred edge strengths g (N, 1, H, W) of images (N, 3, H, W); see `edge_agreement`."""
    import torch.nn.functional as F

    luminance = (images.float() * images.new_tensor(_LUMA).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
    horizontal = images.new_tensor(_SOBEL).view(1, 1, 3, 3)
    padded = F.pad(luminance, (1, 1, 1, 1), mode="replicate")
    strength = (
        F.conv2d(padded, horizontal).square() + F.conv2d(padded, horizontal.transpose(2, 3)).square()
    ).sqrt()  # fmt: skip
    return _blur(strength, min(images.shape[-2:]) * _BLUR)


def _blur(x: Tensor, deviation: float) -> Tensor:
    import torch.nn.functional as F

    radius = max(1, min(round(3 * deviation), min(x.shape[-2:]) - 1))
    offsets = x.new_tensor(range(-radius, radius + 1))
    kernel = (-0.5 * (offsets / deviation).square()).exp()
    kernel = kernel / kernel.sum()
    x = F.conv2d(F.pad(x, (radius, radius, 0, 0), mode="reflect"), kernel.view(1, 1, 1, -1))
    return F.conv2d(F.pad(x, (0, 0, radius, radius), mode="reflect"), kernel.view(1, 1, -1, 1))
