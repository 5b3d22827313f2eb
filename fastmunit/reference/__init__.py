"""The reference path: each fused op written in plain PyTorch, with the same names as `fastmunit.functional`.

It runs on any device, in any floating-point dtype up to float64, and differentiates as often as PyTorch does. Tests and
benchmarks hold the kernels to it, and it is what runs where no kernel can.
"""

from fastmunit.reference.fused_norm import fused_norm
from fastmunit.reference.instance_norm import instance_norm
from fastmunit.reference.instance_norm_stats import instance_norm_stats
from fastmunit.reference.layer_norm_munit import layer_norm_munit
from fastmunit.reference.upsample_conv2d import upsample_conv2d
from fastmunit.reference.weighted_l1 import weighted_l1

__all__ = [
    "fused_norm",
    "instance_norm",
    "instance_norm_stats",
    "layer_norm_munit",
    "upsample_conv2d",
    "weighted_l1",
]
