"""The reference: each fused op in plain PyTorch, with the names of `fastmunit.functional`.

It runs on any device, in any floating-point dtype up to float64, and can be differentiated any number of times. Tests
and benchmarks compare the kernels with it. It also runs on devices without a kernel.
"""

from fastmunit.reference.fused_norm import fused_norm
from fastmunit.reference.gan_loss import gan_loss
from fastmunit.reference.instance_norm import instance_norm
from fastmunit.reference.instance_norm_stats import instance_norm_stats
from fastmunit.reference.layer_norm_munit import layer_norm_munit
from fastmunit.reference.upsample_conv2d import upsample_conv2d
from fastmunit.reference.weighted_l1 import weighted_l1

__all__ = [
    "fused_norm",
    "gan_loss",
    "instance_norm",
    "instance_norm_stats",
    "layer_norm_munit",
    "upsample_conv2d",
    "weighted_l1",
]
