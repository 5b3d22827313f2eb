"""The mapping between stored values of pixels and values of networks."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from fastmunit.config import Config
from fastmunit.errors import ConfigError, DataError
from fastmunit.section import brief

# Ranges of types whose values are used as they are if no range is given.
_RANGES = {"uint8": (0.0, 255.0), "uint16": (0.0, 65535.0)}


@dataclass(frozen=True)
class ValueRange:
    """A range of stored values, whose ends are -1 and 1 for networks. Values outside of it are clipped.

    Values without data are NaN, infinite, or equal to `nodata`. Networks see the low end instead.

    Attributes:
        low: Low end, one number or one per channel. If an image has a multiple of them, they repeat (slices).
        high: High end.
        nodata: Value without data, if there is one besides NaN.

    Example:
        >>> values = fastmunit.data.ValueRange(0, 4095)
        >>> values.low, values.high
        (0, 4095)
    """

    low: float | tuple[float, ...]
    high: float | tuple[float, ...]
    nodata: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if not np.all(np.less(self.low, self.high)):
            raise ValueError(f"expected low < high, got {self.low} and {self.high}")

    def to_unit(self, values: np.ndarray | Tensor) -> Tensor:
        """Map stored values (C, H, W) of any real type to float32 in [0, 1], computed in float64."""
        array = np.asarray(values)
        result = torch.empty(array.shape, dtype=torch.float32)
        for channel, plane in enumerate(array):
            low, high = self._ends(channel)
            scaled = (plane.astype(np.float64) - low) / (high - low)
            scaled[self.missing(plane)] = 0.0
            result[channel] = torch.from_numpy(scaled.clip(0.0, 1.0))
        return result

    def to_network(self, values: np.ndarray | Tensor) -> Tensor:
        """Map stored values (C, H, W) of any real type to float32 in [-1, 1]."""
        return self.to_unit(values).mul_(2.0).sub_(1.0)

    def from_network(self, image: Tensor, dtype: np.dtype | type) -> np.ndarray:
        """Map an image (C, H, W) in [-1, 1] to stored values of a type. Integers are rounded; all are clipped.

        Raises:
            DataError: If the image contains NaN.
        """
        if bool(image.isnan().any()):
            raise DataError("the image contains NaN and was not saved: the network has diverged.")
        target = np.dtype(dtype)
        result = np.empty(tuple(image.shape), target)
        smallest, largest = _limits(target)
        for channel, plane in enumerate(image.detach().to("cpu", torch.float64).clamp(-1, 1).numpy()):
            low, high = self._ends(channel)
            values = low + (plane + 1) / 2 * (high - low)
            if target.kind in "iu":
                values = np.rint(values)
            result[channel] = values.clip(smallest, largest).astype(target)
        return result

    def missing(self, values: np.ndarray) -> np.ndarray:
        """Return where values have no data, as booleans in the shape of `values`."""
        missing = ~np.isfinite(values) if values.dtype.kind == "f" else np.zeros(values.shape, np.bool_)
        if self.nodata is not None:
            missing |= values == values.dtype.type(self.nodata) if fits(self.nodata, values.dtype) else False
        return missing

    def _ends(self, channel: int) -> tuple[float, float]:
        low, high = (end if isinstance(end, tuple) else (end,) for end in (self.low, self.high))
        return low[channel % len(low)], high[channel % len(high)]


@dataclass(frozen=True)
class PixelValues:
    """The rules for reading pixels of a domain: their range, their channels, and neighboring slices.

    Attributes:
        range: Range of stored values. None is the range of the type: [0, 255] or [0, 65535], and [0, 1] for floats.
        channel_names: Channels to read from files that name them. Empty reads all channels.
        slices: Number of neighboring slices that form an image.
        keys: End of the names of the configuration keys, for messages: "_a" or "_b".
    """

    range: ValueRange | None = None
    channel_names: tuple[str, ...] = ()
    slices: int = 1
    keys: str = field(default="", compare=False)

    @classmethod
    def of(cls, config: Config, domain: str) -> PixelValues:
        """Return how the pixels of domain "a" or "b" of a configuration are read.

        Raises:
            ConfigError: If the range is "auto": only training replaces it by numbers, in the run folder.
        """
        keys = f"_{domain}"
        values, window = getattr(config, f"value_range{keys}"), getattr(config, f"window{keys}")
        nodata = getattr(config, f"nodata{keys}")
        if values == "auto":
            raise ConfigError(
                f"value_range{keys} is auto, which training replaces by the numbers that it finds: use the config.yaml "
                "of the run folder, or give [low, high]."
            )
        if window is not None:
            values = [window[0] - window[1] / 2, window[0] + window[1] / 2]
        found: ValueRange | None = None
        if values is not None:
            low, high = (tuple(ends) for ends in zip(*values, strict=True)) if isinstance(values[0], list) else values
            found = ValueRange(low, high, nodata=nodata)
        return cls(found, tuple(getattr(config, f"channel_names{keys}") or ()), config.slices, keys)

    @classmethod
    def require_numbers(cls, config: Config) -> None:
        """Raise ConfigError if a value range of a configuration is "auto"."""
        for domain in "ab":
            cls.of(config, domain)

    def range_of(self, dtype: np.dtype, nodata: float | None, name: str) -> ValueRange:
        """Return the range for stored values of a type.

        Args:
            dtype: Type of the values.
            nodata: Value without data that the file declares. That of the configuration replaces it.
            name: Name of the image, for messages.

        Raises:
            DataError: If there is no range, and the type is not uint8, uint16 or a float.
        """
        if self.range is not None:
            own = nodata if self.range.nodata is None else self.range.nodata
            return ValueRange(self.range.low, self.range.high, nodata=own)
        if dtype.kind == "f":
            return ValueRange(0.0, 1.0, nodata=nodata)
        if dtype.name not in _RANGES:
            raise DataError(f"{name} has values of type {dtype}: {self.advice}.")
        return ValueRange(*_RANGES[dtype.name], nodata=nodata)

    @property
    def are_bytes(self) -> bool:
        """True if an 8-bit picture with its values divided by 255 is an image of the domain."""
        return self.slices == 1 and (self.range is None or self.range == ValueRange(*_RANGES["uint8"]))

    @property
    def advice(self) -> str:
        """The words of a message that say how to give a range."""
        return f"set value_range{self.keys or '_a (value_range_b)'} to [low, high] or auto"


def full_range(dtype: np.dtype) -> ValueRange:
    """Return the range that a type has without a configuration: of uint8 and uint16, and [0, 1] for other types."""
    return ValueRange(*_RANGES.get(dtype.name, (0.0, 1.0)))


def fits(value: float, dtype: np.dtype) -> bool:
    """Return True if values of a type can be equal to `value`."""
    if dtype.kind == "f":
        return True
    if dtype.kind == "b":
        return value in (0, 1)
    return value.is_integer() and np.iinfo(dtype).min <= value <= np.iinfo(dtype).max


def _limits(dtype: np.dtype) -> tuple[float, float]:
    """Return the smallest and largest value of a type, as floats that convert to it."""
    if dtype.kind == "f":
        return float(np.finfo(dtype).min), float(np.finfo(dtype).max)
    if dtype.kind not in "iu":
        raise TypeError(f"expected a type of integers or floats, got {brief(dtype)}")
    info = np.iinfo(dtype)
    largest = float(info.max)
    return float(info.min), math.nextafter(largest, 0.0) if int(largest) > info.max else largest
