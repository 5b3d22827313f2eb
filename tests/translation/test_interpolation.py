"""Linear and spherical interpolation against rotations that are computed independently."""

from __future__ import annotations

import math

import pytest
import torch

from fastmunit.translation.interpolation import interpolate


def code(*values: float, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype)[None, :, None, None]


@pytest.mark.parametrize("dim", [2, 3, 8, 17])
@pytest.mark.parametrize("count", [2, 3, 6])
def test_an_arc_is_a_rotation_in_the_plane_of_its_ends(dim: int, count: int) -> None:
    generator = torch.Generator().manual_seed(dim)
    ends = torch.randn(2, dim, generator=generator, dtype=torch.float64)
    a, b = ends / ends.norm(dim=1, keepdim=True)
    found = interpolate(a[None, :, None, None], b[None, :, None, None], count, "spherical").flatten(1)
    # Gram-Schmidt: the unit vector in the plane that is orthogonal to a.
    orthogonal = b - (a @ b) * a
    orthogonal /= orthogonal.norm()
    angle = math.acos(float(a @ b))
    for step, result in enumerate(found):
        turned = angle * step / (count - 1)
        torch.testing.assert_close(result, math.cos(turned) * a + math.sin(turned) * orthogonal, rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", ["linear", "spherical"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_ends_are_included(method: str, dtype: torch.dtype) -> None:
    first, second = code(3, -1, 2, dtype=dtype), code(0.5, 4, 1, dtype=dtype)
    found = interpolate(first, second, 5, method)  # type: ignore[arg-type]
    assert (found.shape, found.dtype) == ((5, 3, 1, 1), dtype)
    torch.testing.assert_close(found[[0, -1]], torch.cat([first, second]))


def test_a_straight_line_has_equal_steps() -> None:
    found = interpolate(code(1, 0), code(0, 2), 5)
    torch.testing.assert_close(found.flatten(1).diff(dim=0), torch.tensor([[-0.25, 0.5]] * 4, dtype=torch.float64))


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-5, 1.1e-4, 1e-3])
def test_styles_in_nearly_one_direction(angle: float) -> None:
    found = interpolate(code(1, 0), code(2 * math.cos(angle), 2 * math.sin(angle)), 3, "spherical")
    # sin(Ω / 2) / sin Ω = 1 / (2 cos(Ω / 2)).
    expected = (found[0] + found[2]).flatten() / (2 * math.cos(angle / 2))
    torch.testing.assert_close(found[1].flatten(), expected, rtol=1e-8, atol=0)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (code(0, 0), code(1, 0), "a style of zeros has no direction"),
        (code(1, 0), code(0, 0), "a style of zeros has no direction"),
        (code(1, 2), code(-2, -4), "opposite, so there is no shortest arc"),
    ],
)
def test_arcs_that_do_not_exist(first: torch.Tensor, second: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        interpolate(first, second, 3, "spherical")
    assert interpolate(first, second, 3, "linear").isfinite().all()


def test_another_method() -> None:
    with pytest.raises(ValueError, match="expected interpolation linear or spherical, got cubic"):
        interpolate(code(1), code(2), 3, "cubic")  # type: ignore[arg-type]
