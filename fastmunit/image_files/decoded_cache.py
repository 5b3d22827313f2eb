"""The latest decoded parts of a file, as neighboring regions need the same ones."""

from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np

MAX_BYTES = 1 << 26
"""Bytes of the arrays that a cache keeps."""


class DecodedCache:
    """Arrays by key, up to 64 MiB. The ones that were used longest ago are dropped first."""

    def __init__(self) -> None:
        self._arrays: OrderedDict[tuple[int, ...], np.ndarray] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: tuple[int, ...]) -> np.ndarray | None:
        """Return an array, or None if it is not stored."""
        with self._lock:
            array = self._arrays.get(key)
            if array is not None:
                self._arrays.move_to_end(key)
            return array

    def put(self, key: tuple[int, ...], array: np.ndarray) -> None:
        """Store an array, unless it is larger than the whole cache."""
        with self._lock:
            if key in self._arrays or array.nbytes > MAX_BYTES:
                return
            self._arrays[key] = array
            self._bytes += array.nbytes
            while self._bytes > MAX_BYTES:
                self._bytes -= self._arrays.popitem(last=False)[1].nbytes
