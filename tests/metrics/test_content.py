from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastmunit import data
from fastmunit.errors import DataError
from fastmunit.metrics.measures.content_code import content_code_distance
from fastmunit.metrics.measures.edge_agreement import edge_agreement
from fastmunit.metrics.measures.reconstruction import reconstruction_l1


def square(top: int, left: int, side: int = 64, inside: float = -1.0) -> Tensor:
    image = torch.ones(1, 3, side, side)
    image[:, :, top : top + side // 3, left : left + side // 3] = inside
    return image


def test_equal_edges_agree_of_any_colors() -> None:
    x = square(10, 10)
    assert float(edge_agreement(x, x)) == pytest.approx(1, abs=1e-5)
    assert float(edge_agreement(x, -x)) == pytest.approx(1, abs=1e-5)
    assert float(edge_agreement(x, 0.3 * x + 0.1)) == pytest.approx(1, abs=1e-5)


def test_agreement_falls_with_the_distance_of_the_edges() -> None:
    values = [float(edge_agreement(square(10, 10), square(10, 10 + shift))) for shift in (0, 1, 3, 30)]
    assert values == sorted(values, reverse=True)
    assert values[1] > 0.8 and values[3] < 0.1


def test_images_without_edges() -> None:
    assert float(edge_agreement(square(10, 10), torch.zeros(1, 3, 64, 64))) == 0
    assert float(edge_agreement(torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8))) == 0


def test_drawings_agree_with_their_own_photos(tmp_path) -> None:
    root = data.unpack_demo(tmp_path)
    drawings, photos = (
        torch.stack([data.read_image(path, 3) for path in data.list_images(root / part)[:30]])
        for part in ("testA", "testB")
    )
    own = float(edge_agreement(drawings, photos).mean())
    others = float(edge_agreement(drawings, photos.roll(1, dims=0)).mean())
    assert own > 0.6 > 0.45 > others


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(1, 1, 64, 64), torch.zeros(1, 1, 64, 64), "gray images"),
        (torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 32, 32), "one shape"),
        (torch.zeros(1, 3, 4, 64), torch.zeros(1, 3, 4, 64), "at least 8 pixels"),
    ],
)
def test_unusable_images(x: Tensor, y: Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        edge_agreement(x, y)


def test_content_code_distance() -> None:
    code = torch.tensor([[1.0, -3.0], [2.0, 2.0]]).view(2, 2, 1, 1)
    moved = torch.tensor([[1.0, -1.0], [2.0, 2.0]]).view(2, 2, 1, 1)
    assert content_code_distance(code, moved).tolist() == [pytest.approx(0.5), 0]
    with pytest.raises(DataError, match="no content code that both domains share"):
        content_code_distance(torch.zeros(1, 3, 8, 8), torch.zeros(1, 256, 2, 2))


def test_reconstruction() -> None:
    x = torch.zeros(2, 3, 4, 4)
    other = x.clone()
    other[1, 0] = 0.6
    assert reconstruction_l1(x, other).tolist() == [0, pytest.approx(0.2)]
    with pytest.raises(DataError, match="one shape"):
        reconstruction_l1(x, other[:1])
    with pytest.raises(DataError, match="NaN"):
        reconstruction_l1(x, other / 0)
