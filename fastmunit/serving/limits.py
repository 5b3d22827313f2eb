"""Limits on what a server accepts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits on requests.

    Attributes:
        upload_bytes: Bytes of a request's body.
        upload_pixels: Pixels of an uploaded picture. It is checked before the picture is decoded.
        pixels: Pixels of an image that the model translates, after the resize to `size`.
        styles: Styles per request, and per batch of requests that share an image.
        queue: Requests that are decoded, wait or are computed at the same time.
        timeout: Seconds for receiving a request, and again for answering it.
    """

    upload_bytes: int = 16 * 2**20
    upload_pixels: int = 4096 * 4096
    pixels: int = 1024 * 1024
    styles: int = 32
    queue: int = 32
    timeout: float = 60.0
