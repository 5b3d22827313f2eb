"""Content codes that the discriminators' half of an iteration hands to the generators' half."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class _Encoding(NamedTuple):
    images: tuple[Tensor, ...]
    versions: tuple[Any, ...]
    codes: tuple[Tensor, ...]


class ContentCodes:
    """Keeps the codes of the last batches, with their graph, until they are taken or something has changed.

    They are given out only for the same image tensors, unmodified, encoders whose parameters have not been written to
    since, and the same `context` (whatever else the codes depend on). Writing through `parameter.data` leaves no
    trace: call `clear` after it. Copies and pickles of it are empty.
    """

    def __init__(self) -> None:
        self._kept: _Encoding | None = None

    def keep(
        self, images: Iterable[Tensor], encoders: Iterable[nn.Module], context: Any, codes: Iterable[Tensor]
    ) -> None:
        """Keep `codes`, of `images` by `encoders`, in place of those before; only with a graph they are of use."""
        images, codes = tuple(images), tuple(codes)
        self.clear()
        if all(code.requires_grad for code in codes) and not any(image.is_inference() for image in images):
            self._kept = _Encoding(images, _versions(images, encoders, context), codes)

    def take(self, images: Iterable[Tensor], encoders: Iterable[nn.Module], context: Any) -> tuple[Tensor, ...] | None:
        """The codes of exactly this, once; None where they are not kept or no longer right."""
        kept, images = self._kept, tuple(images)
        self.clear()
        if kept is None or not torch.is_grad_enabled():
            return None
        same = len(images) == len(kept.images) and all(a is b for a, b in zip(images, kept.images, strict=True))
        return kept.codes if same and _versions(images, encoders, context) == kept.versions else None

    def clear(self) -> None:
        """Forget the codes, and free their graph."""
        self._kept = None

    def __reduce__(self) -> tuple[type[ContentCodes], tuple[()]]:
        """Copy and pickle as an empty one."""
        return ContentCodes, ()


def _versions(images: tuple[Tensor, ...], encoders: Iterable[nn.Module], context: Any) -> tuple[Any, ...]:
    parameters = [p for encoder in encoders for p in encoder.parameters()]
    written = tuple((p.data_ptr(), p._version, p.requires_grad) for p in parameters)
    return (*(image._version for image in images), written, context)
