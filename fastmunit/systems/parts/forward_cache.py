"""What the discriminators' half of an iteration has computed of the generators, for the generators' half."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastmunit import functional


def _call(network: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    return network(*inputs)


class _Encoding(NamedTuple):
    images: tuple[Tensor, ...]
    versions: tuple[Any, ...]
    codes: tuple[Tensor, ...]


class ContentCodes:
    """Keeps the codes of the last batches, with their graph, until they are taken or something has changed.

    They are given out only for the same image tensors, unmodified, networks whose parameters have not been written to
    since, and the same mode, implementation and autocast. Writing through `parameter.data` leaves no trace: call
    `clear` after it. Copies and pickles of it are empty.
    """

    def __init__(self) -> None:
        self._kept: _Encoding | None = None

    def without_graph(
        self,
        images: Iterable[Tensor],
        encoders: Iterable[nn.Module],
        *,
        keep: bool = True,
        run: Callable[..., Tensor] = _call,
    ) -> tuple[Tensor, ...]:
        """Codes of images[i] by encoders[i] for a half that needs no graph; with theirs they are kept if `keep`.

        run(encoder, images) calls an encoder.
        """
        images, encoders = tuple(images), tuple(encoders)
        with torch.set_grad_enabled(keep and torch.is_grad_enabled()):
            codes = tuple(run(encoder, x) for encoder, x in zip(encoders, images, strict=True))
        self.keep(images, encoders, codes)
        return tuple(code.detach() for code in codes)

    def with_graph(
        self, images: Iterable[Tensor], encoders: Iterable[nn.Module], *, run: Callable[..., Tensor] = _call
    ) -> tuple[Tensor, ...]:
        """The same codes with their graph: those of `without_graph` where they are still right, else computed."""
        images, encoders = tuple(images), tuple(encoders)
        kept = self.take(images, encoders)
        return kept or tuple(run(encoder, x) for encoder, x in zip(encoders, images, strict=True))

    def keep(self, images: Iterable[Tensor], networks: Iterable[nn.Module], codes: Iterable[Tensor]) -> None:
        """Keep `codes`, of `images` by `networks`, in place of those before; only with a graph they are of use."""
        images, codes = tuple(images), tuple(codes)
        self.clear()
        if all(code.requires_grad for code in codes) and not any(image.is_inference() for image in images):
            self._kept = _Encoding(images, _versions(images, networks), codes)

    def take(self, images: Iterable[Tensor], networks: Iterable[nn.Module]) -> tuple[Tensor, ...] | None:
        """The codes of exactly this, once; None where they are not kept or no longer right."""
        kept, images = self._kept, tuple(images)
        self.clear()
        if kept is None or not torch.is_grad_enabled():
            return None
        same = len(images) == len(kept.images) and all(a is b for a, b in zip(images, kept.images, strict=True))
        return kept.codes if same and _versions(images, networks) == kept.versions else None

    def clear(self) -> None:
        """Forget the codes, and free their graph."""
        self._kept = None

    def __reduce__(self) -> tuple[type[ContentCodes], tuple[()]]:
        """Copy and pickle as an empty one."""
        return ContentCodes, ()


def _versions(images: tuple[Tensor, ...], networks: Iterable[nn.Module]) -> tuple[Any, ...]:
    networks = tuple(networks)
    parameters = [p for network in networks for p in network.parameters()]
    written = tuple((p.data_ptr(), p._version, p.requires_grad) for p in parameters)
    modes = (*(network.training for network in networks), functional.default_implementation())
    return (*(image._version for image in images), written, modes, functional.autocast_dtype(images[0].device.type))
