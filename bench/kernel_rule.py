"""The number of kernels that a dispatched op launches on a GPU, by a rule. Counted, not measured.

- A convolution is one kernel, and one more that adds the bias, as torch calls cuDNN. Its backward is one per gradient
  that it computes. Kernels that cuDNN adds by itself, for conversions of layouts and sums of split reductions, do not
  count: which ones it needs depends on the algorithm that it finds. This is why a profile shows more kernels
  (docs/project/benchmarks.md).
- fused_norm and its backward are as many as their launchers start for the map (csrc/fused_norm/plan.h on the emulator).
- An op on lists of tensors follows the chunks of torch's multi_tensor_apply, or is one kernel per tensor where its
  fast path does not apply.
- Composite ops are the ops that they consist of (`bench.dispatch.COMPOSITES`).
- Padding with a constant, and the gradients of slices and of padding, are two: one fills, one writes.
- Every other op is one.
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence

from bench.dispatch import COMPOSITES, Call, Form
from fastmunit.fused_norm_options import FusedNormOptions
from tests.cuda.fused_norm_requests import Device, Plan, plan_of

CHUNK = 65536
MAX_BLOCKS = 2240
MAX_TENSORS = (770, 448, 336, 252, 210)
"""The limits of a launch of multi_tensor_apply, by number of lists, for CUDA 13 (ATen's MultiTensorApply.cuh)."""

_VECTOR_BYTES = 16

CATEGORIES = (
    ("fused_norm, forward", r"^fastmunit\.fused_norm(_triton)?\."),
    ("fused_norm, backward", r"^fastmunit\.fused_norm_backward"),
    ("other kernels of fastmunit", r"^fastmunit"),
    ("convolution, forward", r"convolution\."),
    ("convolution, backward", r"convolution_backward"),
    ("matrix product", r"\b(mm|addmm|bmm|baddbmm|mv|addmv|dot)\b"),
    ("optimizer", r"adam"),
    ("foreach", r"_foreach"),
    ("pad", r"_pad|slice_backward|select_backward"),
    ("pooling and resizing", r"pool|upsample|interpolate"),
    ("fill", r"\b(new_)?(zeros|ones|full)(_like)?\b|fill|zero_"),
    ("copy", r"copy|clone|cat\b|stack|flip|roll|pixel_(un)?shuffle|repeat|index"),
    ("reduction", r"\b(sum|mean|norm|amax|max|min|var|std|prod|linalg_vector_norm)\b|batch_norm|_norm\b"),
)
"""Categories of ops: the first whose pattern is found in the name; casts come before all others; else "elementwise"."""


def category_of(call: Call) -> str:
    """Return the category of an op, for tables."""
    if call.is_cast:
        return "cast"
    return next((category for category, pattern in CATEGORIES if re.search(pattern, call.name)), "elementwise")


def kernels_of(call: Call, device: Device) -> int:
    """Return the number of kernels of an op on a GPU.

    Raises:
        KeyError: If it is an op of fastmunit without a rule.
    """
    if call.op in COMPOSITES:
        return 0  # the ops inside it count
    packet = call.op.overloadpacket.__name__
    namespace = call.op.namespace
    if namespace == "fastmunit":
        base = packet.removesuffix("_triton")
        if base not in _OURS:
            raise KeyError(f"bench/kernel_rule.py does not say how many kernels fastmunit.{packet} launches: add it.")
        return _OURS[base](call, device)
    if namespace != "aten" or packet in _WITHOUT_KERNEL:
        return 0
    if packet.startswith(("_foreach", "_fused")):
        return _of_lists(call)
    return _TORCH[packet](call) if packet in _TORCH else 1


def _convolution(call: Call) -> int:
    return 1 + (call.arguments[2] is not None)


def _convolution_backward(call: Call) -> int:
    return sum(call.arguments[-1])


def _two(call: Call) -> int:
    return 2


_TORCH: Mapping[str, Callable[[Call], int]] = {
    "convolution": _convolution,
    "convolution_backward": _convolution_backward,
    **dict.fromkeys(
        (
            "constant_pad_nd",
            "slice_backward",
            "select_backward",
            "reflection_pad2d_backward",
            "replication_pad2d_backward",
            "max_pool2d_with_indices_backward",
        ),
        _two,
    ),
}
_WITHOUT_KERNEL = frozenset({"as_strided_", "_unsafe_view", "resize_", "set_"})


# --- Ops on lists of tensors ------------------------------------------------------------------------------------------


def launches_of_lists(sizes: Sequence[int], lists: int) -> int:
    """Return the launches of multi_tensor_apply on `lists` lists of tensors with these numbers of values."""
    launches = blocks = tensors = 0
    for size in sizes:
        if size == 0:
            continue
        tensors += 1
        chunks = -(-size // CHUNK)
        for chunk in range(chunks):
            blocks += 1
            is_last = chunk == chunks - 1
            if blocks == MAX_BLOCKS or (is_last and tensors == MAX_TENSORS[lists - 1]):
                launches += 1
                blocks, tensors = 0, 0 if is_last else 1
    return launches + (blocks > 0)


def _of_lists(call: Call) -> int:
    lists = [value for value in call.arguments if isinstance(value, (list, tuple)) and value]
    lists = [value for value in lists if all(isinstance(each, Form) for each in value)]
    packet = call.op.overloadpacket.__name__
    if packet.startswith("_fused"):
        lists = [values for values in lists[:5] if values[0].shape == lists[0][0].shape]  # the last are step counts
    elif not packet.endswith("_"):
        lists.append(call.outputs)
    sizes = [form.numel for form in lists[0]]
    if not _is_fast(lists, casts=packet == "_foreach_copy_"):
        return sum(size > 0 for size in sizes)
    return launches_of_lists(sizes, len(lists))


def _is_fast(lists: Sequence[Sequence[Form]], *, casts: bool) -> bool:
    """Return True if lists have one dtype, or one each if the op casts, and tensors in the same place equal strides."""
    dtypes = [{form.dtype for form in values} for values in lists]
    if any(len(each) > 1 for each in dtypes) or (not casts and len(set.union(*dtypes)) > 1):
        return False
    return all(len({(form.shape, form.stride) for form in forms}) == 1 for forms in zip(*lists, strict=True))


# --- Ops of fastmunit -------------------------------------------------------------------------------------------------


def _fused_norm(call: Call, device: Device) -> int:
    x, _, _, residual, *values = call.arguments
    options = FusedNormOptions(*values)
    plan = _plan(x, [x, call.outputs[0], residual], options, device, 1)
    return 0 if plan.blocks == 0 else _copies(x, [residual]) + (3 if plan.split else 1)


def _fused_norm_backward(call: Call, device: Device) -> int:
    dpadded, dinterior, x, _, _, weight, bias, wants_weight, wants_bias, _, *values = call.arguments
    options = FusedNormOptions(*values)
    dx, _, _, dresidual = call.outputs
    maps = [x, dx, dresidual if dresidual.numel else None, dpadded, dinterior]
    plan = _plan(x, maps, options, device, 2)
    learning = [p for p, wants in ((weight, wants_weight), (bias, wants_bias)) if p is not None and wants]
    copies = _copies(x, [dpadded, dinterior])
    if plan.split:
        return copies + 3
    of_single_planes = all(len(parameter.shape) == 2 or x.shape[0] == 1 for parameter in learning)
    combines = bool(learning) and not (options.statistics == "instance" and of_single_planes)
    return copies + (plan.blocks > 0) + combines


def _plan(x: Form, maps: Sequence[Form | None], options: FusedNormOptions, device: Device, count: int) -> Plan:
    """Return the plan of a call with `count` maps per tile. All `maps` of the call must take 16-byte accesses."""
    shape = options.result_shape(x.shape)
    vectors = all(_takes_vectors(form, shape[1]) for form in maps if form is not None)
    dtype = str(x.dtype).removeprefix("torch.")
    return _cached_plan(
        device, layout_of(x), options.statistics, shape, dtype, options.pixel_shuffle, vectors=vectors, maps=count
    )


@functools.cache
def _cached_plan(
    device: Device,
    layout: str,
    statistics: str,
    shape: tuple[int, int, int, int],
    dtype: str,
    pixel_shuffle: bool,
    *,
    vectors: bool,
    maps: int,
) -> Plan:
    return plan_of(
        device, layout, statistics, shape, dtype=dtype, pixel_shuffle=pixel_shuffle, vectors=vectors, maps=maps
    )


def layout_of(x: Form) -> str:
    """Return the layout of a dense map; see `fastmunit.ops.layout.dense_format`."""
    if x.stride == _contiguous_stride(x.shape):
        return "nchw"
    return "channels_last" if x.stride[1] == 1 or x.shape[1] == 1 else "nchw"


def _contiguous_stride(shape: Sequence[int]) -> tuple[int, ...]:
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.insert(0, step)
        step *= size
    return tuple(strides)


def _takes_vectors(form: Form, channels: int) -> bool:
    """Return True if 16-byte accesses fit the channels of every pixel. Storage is aligned."""
    values = _VECTOR_BYTES // form.dtype.itemsize
    n, _, h, w = form.stride
    return channels % values == 0 and all(stride % values == 0 for stride in (n, h, w, form.offset))


def _copies(x: Form, maps: Sequence[Form | None]) -> int:
    """Return how many maps the bindings copy, because their inner dimension is not dense in the layout of x."""
    inner = 3 if layout_of(x) == "nchw" else 1
    return sum(form is not None and form.shape[inner] != 1 and form.stride[inner] != 1 for form in maps)


def _fixed(count: int) -> Callable[[Call, Device], int]:
    return lambda call, device: count


_OURS: Mapping[str, Callable[[Call, Device], int]] = {
    "fused_norm": _fused_norm,
    "fused_norm_backward": _fused_norm_backward,
    "gan_loss": _fixed(2),
    "gan_loss_backward": _fixed(1),
    "weighted_l1": _fixed(2),
    "weighted_l1_backward": _fixed(1),
    "instance_norm_stats": _fixed(2),
    "instance_norm_stats_backward": _fixed(1),
}
"""The ops of fastmunit by name."""
