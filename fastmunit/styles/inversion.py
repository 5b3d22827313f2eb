"""Inversion: the style code whose reconstruction of a photo is nearest to it, found by optimization."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastmunit.errors import DataError, FastmunitError
from fastmunit.metrics.images import rgb
from fastmunit.styles.extract import require_style_encoder
from fastmunit.systems.code_checks import require_integer
from fastmunit.systems.translators import Translator


@dataclass(frozen=True)
class Distance:
    """The distance of a reconstruction from a photo.

    Attributes:
        l1: Mean absolute difference of values in [-1, 1].
        lpips: LPIPS, or None if it is not measured.
    """

    l1: float
    lpips: float | None


@dataclass(frozen=True)
class Inversion:
    """The result of an inversion.

    Attributes:
        encoded: Style code of the encoder (1, style_dim, 1, 1).
        code: Style code that was found (1, style_dim, 1, 1).
        before: Reconstruction (C', H, W) with `encoded`, on the CPU.
        after: Reconstruction (C', H, W) with `code`, on the CPU.
        distance_before: Distance of `before` from the photo.
        distance_after: Distance of `after` from the photo.
    """

    encoded: Tensor
    code: Tensor
    before: Tensor
    after: Tensor
    distance_before: Distance
    distance_after: Distance


@torch.inference_mode(mode=False)
def invert(
    translator: Translator,
    photo: Tensor,
    content: Tensor,
    *,
    lpips: nn.Module | None = None,
    steps: int = 100,
    starts: int = 4,
    rate: float = 0.05,
    seed: int = 0,
    advance: Callable[[float], object] = lambda done: None,
) -> Inversion:
    """Find the style code s that minimizes L1(decode(content, s), photo) + LPIPS(decode(content, s), photo).

    Adam, with a learning rate that falls to 0 along half a cosine, runs from the encoder's code and from random codes
    at the same time. The code with the smallest loss of all steps is returned, so the loss is never larger than that
    of the encoder's code. On a CPU, the same arguments give the same bits. Source of optimizing a latent code against
    pixels and a perceptual distance: Abdal et al., Image2StyleGAN, ICCV 2019.

    Args:
        translator: The model, whose outputs are of the photo's domain.
        photo: Image (C', H, W) in [-1, 1].
        content: What `translator.encode` returns for an image that shows the same: the content code (1, ...) of the
            photo itself from `own_content`, or that of an image of the source domain from `content_of`.
        lpips: A `fastmunit.metrics.lpips.LPIPS`, or None to minimize L1 alone.
        steps: Number of steps.
        starts: Number of codes that are optimized. The first is the encoder's, the others are drawn.
        rate: First learning rate of Adam.
        seed: Seed of the drawn codes.
        advance: Called with the part that is done after each step.

    Raises:
        FastmunitError: If the model has no style encoder or cannot be differentiated, the content has another size,
            the loss is NaN, or there are fewer steps than 0 or starts than 1.
    """
    require_integer("steps", steps, 0)
    require_integer("starts", starts, 1)
    require_style_encoder(translator)
    # Without inference mode, gradients flow through tensors that were computed in it only as copies.
    target, content = photo[None].to(translator.device).clone(), content.clone()
    size = translator.padded(target).shape[-2:]
    encoded = translator.style_of(photo).clone()
    drawn = translator.random_styles(starts - 1, torch.Generator().manual_seed(seed)).float()
    styles = torch.cat([encoded, drawn]).requires_grad_(True)

    def reconstruct(codes: Tensor) -> Tensor:
        images = translator.decode(content, codes.to(translator.dtype)).float()
        if images.shape[-2:] != size:
            raise FastmunitError(
                f"the content gives images of {_text(images)}, and a photo of {_text(photo)} (height x width) needs "
                f"{size[0]}x{size[1]}: give a content of the size of the photo."
            )
        return images[..., : target.shape[-2], : target.shape[-1]]

    def losses(images: Tensor) -> tuple[Tensor, Tensor | None]:
        l1 = (images - target).abs().mean(dim=(1, 2, 3))
        return l1, None if lpips is None else lpips(rgb(images), rgb(target.expand_as(images)))

    optimizer = torch.optim.Adam([styles], lr=rate)
    best, best_loss = styles.detach().clone(), styles.new_full((len(styles),), torch.inf)
    for step in range(steps + 1):  # after the last step, its result is measured alone
        optimizer.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * step / max(steps, 1))) / 2
        images = reconstruct(styles)
        if not images.requires_grad:
            raise FastmunitError("an export has no gradients, which an inversion needs: give its run folder or model.")
        l1, perceptual = losses(images)
        loss = l1 if perceptual is None else l1 + perceptual
        if step == 0 and not bool(loss.isfinite().any()):
            raise DataError("the loss is NaN or infinite: give a photo and a content without such values.")
        improved = loss.detach() < best_loss
        best = torch.where(improved[:, None, None, None], styles.detach(), best)
        best_loss = torch.where(improved, loss.detach(), best_loss)
        if step < steps:
            (styles.grad,) = torch.autograd.grad(loss.sum(), styles)
            optimizer.step()
        advance((step + 1) / (steps + 1))

    code = best[best_loss.argmin()][None]
    with torch.no_grad():
        images = reconstruct(torch.cat([encoded, code]))
        l1, perceptual = losses(images)
    distances = [Distance(float(l1[k]), None if perceptual is None else float(perceptual[k])) for k in (0, 1)]
    return Inversion(encoded.cpu(), code.cpu(), images[0].cpu(), images[1].cpu(), *distances)


@torch.no_grad()
def content_of(translator: Translator, image: Tensor, photo: Tensor) -> Tensor:
    """Return the content (1, ...) of an image of the source domain that shows the same as a photo.

    Raises:
        DataError: If one is larger than the other, as then their pixels do not belong to each other.
    """
    if image.shape[-2:] != photo.shape[-2:]:
        raise DataError(
            f"the content has {_text(image)} pixels and the photo has {_text(photo)} (height x width): give an image "
            "of the size of the photo as content (--content)."
        )
    return translator.encode(translator.padded(image[None]))


@torch.no_grad()
def own_content(backward: Translator, photo: Tensor) -> Tensor:
    """Return the content code (1, ...) of a photo, from the translator of the other direction.

    Raises:
        FastmunitError: If the system has no content codes.
    """
    require_content_codes(backward)
    return backward.encode(backward.padded(photo[None]))


def require_content_codes(translator: Translator) -> None:
    """Raise FastmunitError if a system has no content codes, from which a photo could be reconstructed."""
    if not translator.encodes:
        raise FastmunitError(
            "this system has no content codes, so a photo cannot be reconstructed from itself: give the image of the "
            "source domain that belongs to it as content (--content)."
        )


def _text(image: Tensor) -> str:
    return f"{image.shape[-2]}x{image.shape[-1]}"
