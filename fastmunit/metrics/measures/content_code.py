"""Content code distance: whether the outputs keep the content code of their input."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastmunit.errors import DataError
from fastmunit.metrics.measure import Measure, register
from fastmunit.metrics.results import Score

if TYPE_CHECKING:
    from torch import Tensor

    from fastmunit.metrics.sample import Sample


@register
class ContentCodeDistance(Measure):
    """Content code distance; see `content_code_distance`."""

    name = "content-code"
    title = "content code distance"
    summary = "mean\\|c' - c\\| / mean\\|c\\| of the content codes c of the input and c' of an output"
    default = True
    order = 60

    def check(self) -> dict[str, str]:
        if self.task.backward is None:
            return {self.name: f"a {self.task.config.system} model does not translate back"}
        if not self.task.has_content_code:
            return {self.name: f"a {self.task.config.system} model has no content code that both domains share"}
        return {}

    def observe(self, sample: Sample) -> float:
        from fastmunit.metrics.sample import content_code

        assert self.task.backward is not None
        code = content_code(self.task.backward, sample.translated[0])
        return float(content_code_distance(sample.content_code, code))

    def scores(self, observed: list[float]) -> list[Score]:
        return [Score("content code distance", self.task.mean(observed), "lower", per_input=observed)]


def content_code_distance(code: Tensor, code_of_output: Tensor) -> Tensor:
    """Return mean|c' - c| / mean|c| of each image, (N,): 0 if the output has the content code of the input.

    The source encoder computes the code c of the input, the target encoder the code c' of the output. The numerator is
    the content reconstruction loss of the MUNIT paper, section 3.2. The ratio makes models comparable whose codes have
    different scales.

    Args:
        code: Content codes c of the inputs (N, C, H, W).
        code_of_output: Content codes c' of the outputs, same shape.

    Raises:
        DataError: If the shapes differ.
    """
    if code.shape != code_of_output.shape:
        raise DataError(
            f"content codes have shapes {tuple(code.shape)} and {tuple(code_of_output.shape)}: this system has no "
            "content code that both domains share."
        )
    difference = (code_of_output.double() - code.double()).abs().flatten(1).mean(dim=1)
    return difference / code.double().abs().flatten(1).mean(dim=1).clamp_min(1e-12)
