"""Inversion of translators whose best style is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fastmunit
from fastmunit.errors import DataError, FastmunitError
from fastmunit.metrics.lpips import LPIPS
from fastmunit.styles import extract, invert
from fastmunit.styles.inversion import content_of, own_content, require_content_codes
from fastmunit.systems.translators import Translator


class Tinted(Translator):
    """A translator whose outputs have the color of the style. Its encoder is off by a constant."""

    takes_references = True

    def __init__(self, channels: int = 3) -> None:
        super().__init__(nn.Linear(1, 1), 1, 1, (channels, channels), channels)

    def encode(self, images: Tensor) -> Tensor:
        return images

    def decode(self, content: Tensor, styles: Tensor) -> Tensor:
        return 0 * content + styles

    def encode_style(self, images: Tensor) -> Tensor:
        return images.mean((2, 3), keepdim=True) + 0.3


def photo(*size: int, seed: int = 0) -> Tensor:
    return torch.rand(*size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_l1_alone_is_minimized_by_the_median(channels: int) -> None:
    image, translator = photo(channels, 5, 7), Tinted(channels)
    found = invert(translator, image, image[None], steps=400)
    median = image.flatten(1).median(1).values  # of an odd number of pixels
    torch.testing.assert_close(found.code.flatten(), median, rtol=0, atol=0.03)
    torch.testing.assert_close(found.encoded.flatten(), image.mean((1, 2)) + 0.3)
    assert found.distance_after.l1 < found.distance_before.l1
    assert found.distance_before.lpips is None
    torch.testing.assert_close(found.before, found.encoded[0].expand_as(image))
    assert found.distance_before.l1 == pytest.approx(float((found.before - image).abs().mean()))


def lpips() -> LPIPS:
    """Return LPIPS with a network of random weights, whose first map is all zeros for dark images."""
    sizes = [(3, 64), (64, 192), (192, 384), (384, 256), (256, 256)]
    modules: list[nn.Module] = []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for index, (before, after) in enumerate(sizes):
            modules += [nn.Conv2d(before, after, 1), nn.ReLU(), *([nn.Identity()] if index < 2 else [])]
    nn.init.constant_(modules[0].bias, -5.0)  # type: ignore[arg-type]
    heads = [torch.full((channels,), 0.1) for _, channels in sizes]
    return LPIPS(backbone=nn.Sequential(*modules), heads=heads)


def test_the_gradient_of_lpips_is_finite_where_all_features_are_zero() -> None:
    x = torch.full((1, 3, 32, 32), 0.01).requires_grad_(True)
    measure = lpips()
    assert not measure.backbone[:2]((x - measure.shift) / measure.scale).any()
    (gradient,) = torch.autograd.grad(measure(x, photo(1, 3, 32, 32)).sum(), x)
    assert gradient.isfinite().all()


def test_lpips_is_reported_and_never_worse_in_sum() -> None:
    image = photo(3, 32, 33)
    found = invert(Tinted(), image, image[None], lpips=lpips(), steps=10, starts=1)
    before, after = found.distance_before, found.distance_after
    assert before.lpips is not None
    assert after.lpips is not None
    assert after.l1 + after.lpips < before.l1 + before.lpips
    gray = invert(Tinted(1), image[:1], image[None, :1], lpips=lpips(), steps=2)
    assert gray.distance_after.lpips is not None


def test_the_style_of_an_exact_encoder_is_kept() -> None:
    class Exact(Tinted):
        def encode_style(self, images: Tensor) -> Tensor:
            return images.flatten(2).median(2).values[..., None, None]

    image = photo(3, 5, 5)
    found = invert(Exact(), image, image[None], steps=3, starts=2)
    assert torch.equal(found.code, found.encoded)


def test_a_trained_model_bit_for_bit() -> None:
    translator, backward = (fastmunit.load_translator("fruit", direction=way, device="cpu") for way in ("a2b", "b2a"))
    image = photo(3, 30, 41)  # no multiple of 4
    content = own_content(backward, image)
    results = [invert(translator, image, content, steps=3, starts=2, seed=5) for _ in range(2)]
    assert torch.equal(results[0].code, results[1].code)
    assert results[0].after.shape == image.shape
    assert results[0].distance_after.l1 < results[0].distance_before.l1
    with torch.inference_mode():
        inside = invert(translator, image, own_content(backward, image), steps=3, starts=2, seed=5)
    assert torch.equal(inside.code, results[0].code)


def test_refusals() -> None:
    class Frozen(Tinted):
        def decode(self, content: Tensor, styles: Tensor) -> Tensor:
            return super().decode(content, styles).detach()

    class WithoutContent(Tinted):
        encodes = False

    class WithoutEncoder(Tinted):
        takes_references = False

    image = photo(3, 8, 8)
    with pytest.raises(FastmunitError, match="an export has no gradients"):
        invert(Frozen(), image, image[None], steps=1)
    for other in (image[:, :4], photo(3, 8, 12)):
        message = f"images of {other.shape[1]}x{other.shape[2]}, and a photo of 8x8 .* needs 8x8"
        with pytest.raises(FastmunitError, match=message):
            invert(Tinted(), image, other[None], steps=1)
        with pytest.raises(DataError, match=f"has {other.shape[1]}x{other.shape[2]} pixels and the photo has 8x8"):
            content_of(Tinted(), other, image)
    with pytest.raises(FastmunitError, match="the loss is NaN or infinite: give a photo"):
        invert(Tinted(), image * torch.nan, image[None], steps=1)
    with pytest.raises(FastmunitError, match="expected starts as an integer of at least 1, got 0"):
        invert(Tinted(), image, image[None], starts=0)
    with pytest.raises(FastmunitError, match="expected steps as an integer of at least 0, got -1"):
        invert(Tinted(), image, image[None], steps=-1)
    with pytest.raises(FastmunitError, match="expected images or folders, got none"):
        extract(Tinted(), [])
    with pytest.raises(FastmunitError, match="expected size as an integer of at least 1, got 0"):
        extract(Tinted(), "a.png", size=0)
    with pytest.raises(FastmunitError, match="has no content codes"):
        require_content_codes(WithoutContent())
    with pytest.raises(FastmunitError, match="has no style encoder"):
        invert(WithoutEncoder(), image, image[None])
