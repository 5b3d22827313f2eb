"""The public fused ops: stateless functions with one reference and several fast implementations.

Every function has an argument `implementation`:

- "auto": the fastest implementation that can run on the device of the tensors (`python -m fastmunit.info` lists them),
- "native": the C++ or CUDA kernel,
- "triton": the Triton kernel,
- "reference": plain PyTorch.

A named implementation that cannot run raises `fastmunit.errors.ImplementationError`; there is no silent fallback.
`use_implementation` sets the meaning of "auto" in a with-block.
"""

from fastmunit.errors import ImplementationError as ImplementationError
from fastmunit.functional.adain_residual_block import adain_residual_block
from fastmunit.functional.fused_norm import adain, bias_act_pad, fused_norm, instance_norm, layer_norm_munit
from fastmunit.functional.gan_loss import GANTarget, gan_loss
from fastmunit.functional.implementation import Implementation, use_implementation
from fastmunit.functional.implementation import default_implementation as default_implementation
from fastmunit.functional.implementation import exact_order as exact_order
from fastmunit.functional.implementation import implementation_of as implementation_of
from fastmunit.functional.implementation import upsamples_unshuffled as upsamples_unshuffled
from fastmunit.functional.instance_norm_stats import instance_norm_stats
from fastmunit.functional.phase_kernels import PhaseKernels, phase_conv2d, phase_kernels
from fastmunit.functional.phase_kernels import compute_dtype as compute_dtype
from fastmunit.functional.phase_kernels import low_resolution_padding as low_resolution_padding
from fastmunit.functional.upsample_conv2d import upsample_conv2d
from fastmunit.functional.weighted_l1 import weighted_l1
from fastmunit.fused_norm_options import Activation, PadMode, Statistics
from fastmunit.ops.autocast import autocast_dtype as autocast_dtype
from fastmunit.ops.layout import dense_format as dense_format

__all__ = [
    "Activation",
    "GANTarget",
    "Implementation",
    "PadMode",
    "PhaseKernels",
    "Statistics",
    "adain",
    "adain_residual_block",
    "bias_act_pad",
    "fused_norm",
    "gan_loss",
    "instance_norm",
    "instance_norm_stats",
    "layer_norm_munit",
    "phase_conv2d",
    "phase_kernels",
    "upsample_conv2d",
    "use_implementation",
    "weighted_l1",
]
