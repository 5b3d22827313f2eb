"""Contracts of the fused ops: schema, fake, autograd and device dispatch; one file per op, and no mathematics.

Importing this package registers the ops of the `torch.ops.fastmunit` namespace and loads the native extension where it
was built. It compiles nothing and does not touch CUDA.
"""

from fastmunit.ops.fused_norm import fused_norm
from fastmunit.ops.instance_norm_stats import instance_norm_stats
from fastmunit.ops.upsample_conv2d import upsample_conv2d
from fastmunit.ops.weighted_l1 import weighted_l1

__all__ = ["fused_norm", "instance_norm_stats", "upsample_conv2d", "weighted_l1"]
