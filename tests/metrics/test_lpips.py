from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fastmunit.data import read_image
from fastmunit.errors import CheckpointError, DataError, FastmunitError
from fastmunit.metrics.lpips import LPIPS, published_heads

NETS = {"alex": "alexnet", "vgg": "vgg16"}


def random_heads(net: str) -> list[torch.Tensor]:
    channels = {"alex": (64, 192, 384, 256, 256), "vgg": (64, 128, 256, 512, 512)}[net]
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(c, generator=generator) for c in channels]


@pytest.fixture
def lpips_package() -> Any:
    return pytest.importorskip("lpips", reason="needs the package lpips")


@pytest.mark.filterwarnings("ignore::UserWarning:torchvision")
@pytest.mark.parametrize("version", ["0.0", "0.1"])
@pytest.mark.parametrize("net", ["alex", "vgg"])
@pytest.mark.parametrize("shape", [(2, 3, 40, 40), (1, 3, 33, 47)])
def test_equals_the_public_package(
    net: str, version: str, shape: tuple[int, ...], lpips_package: Any, request: pytest.FixtureRequest
) -> None:
    """Both get the same backbone with random weights, so no download is needed."""
    backbone: nn.Sequential = request.getfixturevalue(NETS[net])
    public = lpips_package.LPIPS(net=net, version=version, pnet_rand=True, verbose=False)
    # The names in its slices are torchvision's indices.
    state = {
        f"slice{slice_name[5:]}.{index}.{kind}": backbone.state_dict()[f"{index}.{kind}"]
        for slice_name, index, kind in (key.split(".") for key in public.net.state_dict())
    }
    public.net.load_state_dict(state)
    ours = LPIPS(net, version, backbone=backbone)
    torch.manual_seed(2)
    x, y = torch.rand(shape) * 2 - 1, torch.rand(shape) * 2 - 1
    with torch.no_grad():
        expected = public(x, y).flatten()
        torch.testing.assert_close(ours(x, y), expected, rtol=0, atol=1e-5)
        assert expected.min() > 1e-3
        close = (x + 0.05 * torch.randn(shape)).clamp(-1, 1)
        torch.testing.assert_close(ours(x, close), public(x, close).flatten(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_heads_are_the_same_in_both_packages(net: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lpips", reason="needs the package lpips")
    pytest.importorskip("torchmetrics", reason="needs torchmetrics")
    import importlib.util

    own = published_heads(net, "0.1")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "lpips" else find(name))
    for head, other in zip(own, published_heads(net, "0.1"), strict=True):
        assert torch.equal(head, other)
    assert not torch.equal(own[0], torch.zeros_like(own[0]))
    with pytest.raises(CheckpointError, match=r"LPIPS-\w+-v0\.0 are in the package lpips, .*fastmunit\[eval\]"):
        published_heads(net, "0.0")


@pytest.mark.parametrize(
    ("net", "version", "expected"),
    [("alex", "0.1", (0.7219, 0.1376)), ("vgg", "0.1", (0.5686, 0.4217))],
)
def test_published_example_images(
    net: str, version: str, expected: tuple[float, float], weights: Path, lpips_package: Any
) -> None:
    files = [weights / f"ex_{name}.png" for name in ("ref", "p0", "p1")]
    if not all(path.is_file() for path in files):
        pytest.skip(f"{weights} has no ex_ref.png, ex_p0.png, ex_p1.png")
    measure = LPIPS(net, version, weights=weights)
    ref, *others = (read_image(path, 3)[None] for path in files)
    assert [float(measure(ref, other)) for other in others] == pytest.approx(expected, abs=1e-3)


def test_formula_by_hand(alexnet: nn.Sequential) -> None:
    heads = random_heads("alex")
    x, y = torch.rand(2, 1, 3, 40, 36) * 2 - 1
    maps = []
    for image in (x, y):
        h, stages = image, []
        for index, module in enumerate(alexnet[:12]):
            h = module(h)
            if index in (1, 4, 7, 9, 11):
                stages.append(h / h.norm(dim=1, keepdim=True).clamp_min(1e-10))
        maps.append(stages)
    expected = sum(
        float(((a - b) ** 2 * w.view(1, -1, 1, 1)).sum(1).mean()) for a, b, w in zip(*maps, heads, strict=True)
    )
    ours = LPIPS("alex", "0.0", backbone=alexnet, heads=heads)
    assert float(ours(x, y)) == pytest.approx(expected, rel=1e-4)
    assert ours.name == "LPIPS-alex-v0.0"


def test_equal_images_are_at_distance_exactly_zero(alexnet: nn.Sequential) -> None:
    ours = LPIPS("alex", backbone=alexnet, heads=random_heads("alex"))
    x = torch.rand(5, 3, 64, 64) * 2 - 1
    assert torch.equal(ours(x, x.clone()), torch.zeros(5))
    constant = torch.zeros(1, 3, 64, 64)
    assert torch.isfinite(ours(constant, -torch.ones_like(constant))).all()


def test_symmetry_and_independence_of_the_batch(alexnet: nn.Sequential) -> None:
    ours = LPIPS("alex", backbone=alexnet, heads=random_heads("alex"))
    x, y = torch.rand(2, 3, 3, 48, 48) * 2 - 1
    torch.testing.assert_close(ours(x, y), ours(y, x))
    torch.testing.assert_close(ours(x, y)[1:2], ours(x[1:2], y[1:2]), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(1, 1, 64, 64), torch.zeros(1, 1, 64, 64), r"LPIPS-alex-v0\.1: expected RGB images, got gray"),
        (torch.zeros(1, 4, 64, 64), torch.zeros(1, 4, 64, 64), "images of 4 channels"),
        (torch.zeros(3, 64, 64), torch.zeros(3, 64, 64), r"got shape \(3, 64, 64\)"),
        (torch.zeros(0, 3, 64, 64), torch.zeros(0, 3, 64, 64), "N at least 1"),
        (torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 64, 32), "expected images of one shape"),
        (torch.zeros(1, 3, 64, 64), torch.zeros(2, 3, 64, 64), "expected images of one shape"),
        (torch.zeros(1, 3, 30, 64), torch.zeros(1, 3, 30, 64), "at least 31 pixels, got 30x64"),
        (torch.full((1, 3, 64, 64), torch.nan), torch.zeros(1, 3, 64, 64), "NaN"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "floating point"),
    ],
)
def test_unusable_images(alexnet: nn.Sequential, x: torch.Tensor, y: torch.Tensor, message: str) -> None:
    ours = LPIPS("alex", backbone=alexnet, heads=random_heads("alex"))
    with pytest.raises(DataError, match=message):
        ours(x, y)


def test_smallest_images(alexnet: nn.Sequential, vgg16: nn.Sequential) -> None:
    for net, backbone, side in (("alex", alexnet, 31), ("vgg", vgg16, 16)):
        ours = LPIPS(net, backbone=backbone, heads=random_heads(net))
        assert torch.isfinite(ours(torch.rand(1, 3, side, side), torch.rand(1, 3, side, side))).all()
        with pytest.raises(DataError, match=f"at least {side} pixels"):
            ours(torch.rand(1, 3, side - 1, side), torch.rand(1, 3, side - 1, side))


def test_unknown_net(alexnet: nn.Sequential) -> None:
    with pytest.raises(FastmunitError, match=r"got squeeze v0\.1"):
        LPIPS("squeeze", backbone=alexnet)  # type: ignore[arg-type]
