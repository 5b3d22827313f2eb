"""Linear rescaling of stored values, as NIfTI and DICOM define it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Rescale(NamedTuple):
    """The values of a file are `slope * stored + intercept`."""

    slope: float = 1.0
    intercept: float = 0.0

    def dtype(self, stored: np.dtype, low: float, high: float) -> np.dtype:
        """Return the type of the values.

        Integers stay integers if slope and intercept are, in the smallest signed type. Others are float32, or float64
        if float32 cannot represent the stored values.

        Args:
            stored: Type of the stored values.
            low: Lowest stored value that is possible.
            high: Highest stored value that is possible.
        """
        if self == (1.0, 0.0):
            return stored
        if stored.kind in "iu" and self.slope == 1 and float(self.intercept).is_integer():
            for kind in (np.int16, np.int32):
                limits = np.iinfo(kind)
                if limits.min <= low + self.intercept and high + self.intercept <= limits.max:
                    return np.dtype(kind)
        return np.dtype(np.float32 if stored.itemsize <= 2 or stored == np.float32 else np.float64)

    def decode(self, stored: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """Return the values of stored ones."""
        if self == (1.0, 0.0):
            return stored.astype(dtype, copy=False)
        return (stored.astype(np.float64) * self.slope + self.intercept).astype(dtype)

    def encode(self, values: np.ndarray, stored: np.dtype, low: float, high: float) -> np.ndarray:
        """Return the integers to store for values, rounded and clipped to [low, high]. NaN becomes `low`."""
        scaled = np.rint((values.astype(np.float64) - self.intercept) / self.slope)
        return np.clip(np.nan_to_num(scaled, nan=low), low, high).astype(stored)

    def fitted(self, lowest: float, highest: float, low: float, high: float) -> Rescale:
        """Return this rescaling if it can store a range of values, otherwise one that can.

        Args:
            lowest: Lowest value to store.
            highest: Highest value to store.
            low: Lowest stored value that is possible.
            high: Highest stored value that is possible.
        """
        if lowest > highest:  # no finite value was written
            return self
        ends = sorted(((lowest - self.intercept) / self.slope, (highest - self.intercept) / self.slope))
        if low - 0.5 <= ends[0] and ends[1] <= high + 0.5:
            return self
        if float(lowest).is_integer() and float(highest).is_integer() and highest - lowest <= high - low:
            return Rescale(1.0, lowest - low)
        slope = (highest - lowest) / (high - low)
        return Rescale(slope, lowest - slope * low)


def limits(dtype: np.dtype, bits: int | None = None) -> tuple[int, int]:
    """Return the lowest and the highest value of integers of a type, or of its lowest `bits` bits."""
    used = bits or dtype.itemsize * 8
    return (-(1 << (used - 1)), (1 << (used - 1)) - 1) if dtype.kind == "i" else (0, (1 << used) - 1)
