"""Registration of the fused ops with torch: schema, fake kernel, autograd and dispatch, one file per op, no math.

Importing this package registers the ops of the `torch.ops.fastmunit` namespace, and loads the native extension if it
was built. It compiles nothing and does not touch CUDA.
"""

from fastmunit.ops import (
    fused_norm,
    gan_loss,
    instance_norm_stats,
    phase_kernels,
    upsample_conv2d,
    weighted_l1,
)

__all__ = ["fused_norm", "gan_loss", "instance_norm_stats", "phase_kernels", "upsample_conv2d", "weighted_l1"]
