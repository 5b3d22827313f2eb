"""Tools for tests and benchmarks: the feature maps of a MUNIT step, input factories and comparators."""

from fastmunit.testing.comparators import assert_as_exact_as, assert_same_nonfinite
from fastmunit.testing.inputs import DTYPES, LAYOUTS, make_map, uninitialized_memory_is_nan
from fastmunit.testing.maps import BATCHES, Map, munit_maps
from fastmunit.testing.saved import saved_bytes

__all__ = [
    "BATCHES",
    "DTYPES",
    "LAYOUTS",
    "Map",
    "assert_as_exact_as",
    "assert_same_nonfinite",
    "make_map",
    "munit_maps",
    "saved_bytes",
    "uninitialized_memory_is_nan",
]
