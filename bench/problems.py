"""The fused ops as benchmarks run them: inputs, functions and the minimum number of bytes to move."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from bench.harness import DEVICE, Comparison
from fastmunit import functional, reference
from fastmunit.testing import make_map

Function = Callable[..., Any]


def name_of(dtype: torch.dtype) -> str:
    """Return a dtype's name without "torch."."""
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Problem:
    """One pass of an op on one set of inputs.

    Attributes:
        op: Name of the op and pass, for tables.
        case: Shape, layout and dtype, for tables.
        group: Name of a group of cases, for which tables have the geometric mean of the ratios.
        ours: The public function.
        reference: The function in plain PyTorch with the same signature.
        tensors: Inputs and gradients of the results; None where absent.
        run: Runs a function with this signature on tensors such as `tensors` and returns its results and gradients.
        bytes_moved: Bytes that the pass must read and write: each input once, each output once.
        scales: Scales of the errors of the results; see `fastmunit.testing.assert_as_exact_as`.
    """

    op: str
    case: str
    group: str
    ours: Function
    reference: Function
    tensors: Sequence[Tensor | None]
    run: Callable[[Function, Sequence[Tensor | None]], Sequence[Tensor]]
    bytes_moved: int
    scales: Sequence[float | None] | None = None

    def results(self, function: Function) -> Sequence[Tensor]:
        """Return the results of `function`."""
        return self.run(function, self.tensors)

    def exact(self) -> Sequence[Tensor]:
        """Return the results of plain PyTorch in float64."""
        return self.run(self.reference, [None if t is None else t.double() for t in self.tensors])

    def fresh(self) -> "Problem":
        """Return the same problem in other memory."""
        return replace(self, tensors=[None if t is None else t.clone() for t in self.tensors])

    def comparison(self) -> Comparison:
        """Return the comparison of the public function with its reference, eager and compiled."""
        compiled = torch.compile(self.reference, dynamic=False)
        return Comparison(
            op=self.op,
            case=self.case,
            group=self.group,
            ours=lambda: self.results(self.ours),
            reference=lambda: self.results(self.reference),
            exact=self.exact,
            compiled=lambda: self.results(compiled),
            bytes_moved=self.bytes_moved,
            scales=self.scales,
        )


@dataclass(frozen=True)
class FusedNormCase:
    """A call of `fused_norm` on a map.

    Attributes:
        name: Name of the op, for tables.
        shape: Shape (N, C, H, W) of the result before padding.
        dtype: Dtype of x, the residual and the gradients.
        layout: "nchw" or "channels_last".
        options: Keyword arguments of `fused_norm`: statistics, activation, pad, pixel_shuffle.
        backward: Run the backward pass too.
        parameters: Shapes of weight and bias; None where absent.
        parameters_learn: Compute the gradients of weight and bias too.
        residual: Add a residual: the interior of a map with a padding of 1, as the previous block writes it.
    """

    name: str
    shape: tuple[int, int, int, int]
    dtype: torch.dtype
    layout: str
    options: dict[str, Any] = field(default_factory=dict)
    backward: bool = False
    parameters: tuple[tuple[int, ...] | None, tuple[int, ...] | None] = (None, None)
    parameters_learn: bool = False
    residual: bool = False

    @property
    def passes(self) -> str:
        """Either "forward" or "forward+backward"."""
        return "forward+backward" if self.backward else "forward"

    def problem(self, device: str = DEVICE) -> Problem:
        """Return the case with random inputs on `device`."""
        n, c, h, w = self.shape
        pad = self.options.get("pad", 0)
        pixel_shuffle = self.options.get("pixel_shuffle", False)
        padded = (n, c, h + 2 * pad, w + 2 * pad)
        x = _map((n, 4 * c, h // 2, w // 2) if pixel_shuffle else self.shape, self.dtype, self.layout, 0, device)
        upstream = _map(padded, self.dtype, self.layout, 1, device) if self.backward else None
        residual = _map((n, c, h + 2, w + 2), self.dtype, self.layout, 2, device) if self.residual else None
        generator = torch.Generator().manual_seed(3)
        weight, bias = (
            None if size is None else torch.randn(size, generator=generator).to(device) for size in self.parameters
        )
        return Problem(
            op=f"{self.name} {self.passes}",
            case=f"{self.shape} {self.layout} {name_of(self.dtype)}",
            group=name_of(self.dtype),
            ours=self._padded(functional.fused_norm),
            reference=self._padded(partial(functional.fused_norm, implementation="reference")),
            tensors=(x, weight, bias, residual, upstream),
            run=self._run,
            bytes_moved=self._bytes_moved(math.prod(self.shape), math.prod(padded)),
            scales=self._scales(math.prod(padded)),
        )

    def _padded(self, function: Function) -> Function:
        """Return `function` with the case's options and the padded map as its only result.

        If the map before padding were also a result, a compiled reference would have to write it as well.
        """

        def padded(x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None, **more: Any) -> Any:
            return function(x, weight, bias, residual=residual, **self.options, **more)[0]

        return padded

    def _run(self, function: Function, tensors: Sequence[Tensor | None]) -> Sequence[Tensor]:
        x, weight, bias, residual, upstream = tensors
        assert x is not None
        if residual is not None:
            residual = residual[:, :, 1:-1, 1:-1]
        if not self.backward:
            with torch.no_grad():
                return [function(x, weight, bias, residual)]
        x = x.detach().requires_grad_()
        weight, bias = (None if t is None else t.detach().requires_grad_(self.parameters_learn) for t in (weight, bias))
        residual = None if residual is None else residual.detach().requires_grad_()
        padded = function(x, weight, bias, residual)
        learning = [t for t in (x, weight, bias, residual) if t is not None and t.requires_grad]
        return [padded.detach(), *torch.autograd.grad(padded, learning, upstream)]

    def _bytes_moved(self, inner: int, padded: int) -> int:
        """Return the bytes of the maps, of `inner` or `padded` values; weight and bias are too small to count."""
        values = inner + padded + (inner if self.residual else 0)
        if self.backward:
            values += 2 * inner + padded + (inner if self.residual else 0)
        return values * self.dtype.itemsize

    def _scales(self, padded: int) -> list[float | None]:
        """Return scales for the gradients of weight and bias, whose terms cancel: four times the number of terms."""
        if not self.backward:
            return [None]
        learning = [size for size in self.parameters if size is not None] if self.parameters_learn else []
        parameter_scales = [4.0 * padded / math.prod(size) for size in learning]
        return [None, None, *parameter_scales, *([None] if self.residual else [])]


@lru_cache(maxsize=2)
def _map(shape: tuple[int, int, int, int], dtype: torch.dtype, layout: str, seed: int, device: str) -> Tensor:
    """Return a random map. The passes of a case share it, as generating it takes long."""
    return make_map(shape, dtype, layout, seed=seed, device=device)


def instance_norm_stats_problem(
    shape: tuple[int, int, int, int], dtype: torch.dtype, layout: str, *, backward: bool, device: str = DEVICE
) -> Problem:
    """Return `instance_norm_stats` on a random map."""
    x = make_map(shape, dtype, layout, device=device)
    upstream = [make_map((*shape[:2], 1, 1), seed=seed, device=device).flatten(1) for seed in (1, 2)]

    def run(function: Function, tensors: Sequence[Tensor | None]) -> Sequence[Tensor]:
        x, *gradients = tensors
        assert x is not None
        if not backward:
            return function(x)
        x = x.detach().requires_grad_()
        return torch.autograd.grad(function(x), x, gradients)

    return Problem(
        op=f"instance_norm_stats forward{'+backward' if backward else ''}",
        case=f"{shape} {layout} {name_of(dtype)}",
        group=name_of(dtype),
        ours=functional.instance_norm_stats,
        reference=reference.instance_norm_stats,
        tensors=(x, *upstream),
        run=run,
        bytes_moved=(3 if backward else 1) * x.numel() * x.element_size(),
        scales=None if backward else (float(x.double().abs().max()), None),
    )


# The outputs of a discriminator at 256², per scale: those of MUNIT and of CycleGAN and BicycleGAN.
GAN_SIDES = {"munit": (16, 8, 4), "patch": (30, 14)}


def gan_loss_problem(system: str, batch: int, dtype: torch.dtype, gan_type: str, device: str = DEVICE) -> Problem:
    """Return `gan_loss`, forward and backward, as in the discriminators' half of a step: two domains, all scales."""
    shapes = [(2 * batch, 1, side, side) for side in GAN_SIDES[system]] * 2
    tensors = [make_map(shape, dtype, seed=seed, device=device) for seed, shape in enumerate(shapes)]

    def run(function: Function, tensors: Sequence[Tensor | None]) -> Sequence[Tensor]:
        leaves = [t.detach().requires_grad_() for t in tensors if t is not None]
        values, total = function(leaves, ["fake_real"] * len(leaves), [1.0] * len(leaves), gan_type)
        return values.detach(), total.detach(), *torch.autograd.grad(total, leaves)

    return Problem(
        op="gan_loss forward+backward",
        case=f"{system} {gan_type} batch {batch} {name_of(dtype)}",
        group=name_of(dtype),
        ours=functional.gan_loss,
        reference=reference.gan_loss,
        tensors=tensors,
        run=run,
        bytes_moved=3 * sum(t.numel() * t.element_size() for t in tensors),
    )


# The pairs of a MUNIT step at 256²: images, content codes and style codes of both domains.
L1_SHAPES = ((3, 256, 256), (3, 256, 256), (256, 64, 64), (256, 64, 64), (8, 1, 1), (8, 1, 1))
_L1_WEIGHTS = [10.0, 10.0, 1.0, 1.0, 1.0, 1.0]
# Content codes get gradients as targets too; images and sampled styles do not.
_L1_TARGETS_LEARN = (False, False, True, True, False, False)


def weighted_l1_problem(
    shapes: Sequence[tuple[int, int, int]], batch: int, dtype: torch.dtype, layout: str, device: str = DEVICE
) -> Problem:
    """Return `weighted_l1`, forward and backward, over six random pairs of `shapes` (C, H, W)."""
    pairs = len(_L1_WEIGHTS)
    tensors = [
        make_map((batch, *shape), dtype, layout, seed=seed + k, device=device)
        for seed in (0, 10)
        for k, shape in enumerate(shapes)
    ]
    learns = (*(True,) * pairs, *_L1_TARGETS_LEARN)

    def run(function: Function, tensors: Sequence[Tensor | None]) -> Sequence[Tensor]:
        leaves = [t.detach().requires_grad_(learn) for t, learn in zip(tensors, learns, strict=True) if t is not None]
        values, total = function(leaves[:pairs], leaves[pairs:], _L1_WEIGHTS)
        return values.detach(), total.detach(), *torch.autograd.grad(total, [t for t in leaves if t.requires_grad])

    sizes = [t.numel() * t.element_size() for t in tensors]
    return Problem(
        op="weighted_l1 forward+backward",
        case=f"batch {batch} {layout} {name_of(dtype)}",
        group=name_of(dtype),
        ours=functional.weighted_l1,
        reference=reference.weighted_l1,
        tensors=tensors,
        run=run,
        bytes_moved=sum(sizes) + sum(size for size, learn in zip(sizes, learns, strict=True) if learn),
    )
