"""Batch norm over the batch of all processes."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fastmunit import distributed
from fastmunit.distributed.collectives import explained


class BatchNorm2d(nn.BatchNorm2d):
    """torch's batch norm, with statistics over the images of all processes in distributed training.

    x: (N, C, H, W) in any floating-point dtype; the result has the same shape and dtype. With several processes, which
    must hold equal numbers of images, mean and variance are summed over all of them in two passes, in float32 or
    wider. torch's SyncBatchNorm supports GPUs only.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and distributed.is_active()):
            return super().forward(x)
        wide = x if x.dtype == torch.float64 else x.float()
        count = x.numel() // x.shape[1] * distributed.world_size()
        mean = _sum_over_processes(wide.sum((0, 2, 3))) / count
        centered = wide - mean.view(1, -1, 1, 1)
        variance = _sum_over_processes(centered.square().sum((0, 2, 3))) / count
        self._update_averages(mean.detach(), variance.detach() * (count / max(1, count - 1)))
        scale = torch.rsqrt(variance + self.eps)
        y = centered * (scale if self.weight is None else scale * self.weight).view(1, -1, 1, 1)
        return (y if self.bias is None else y + self.bias.view(1, -1, 1, 1)).to(x.dtype)

    @torch.no_grad()
    def _update_averages(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean), share)
        self.running_var.lerp_(variance.to(self.running_var), share)


class _Sum(torch.autograd.Function):
    """The sum of a tensor over all processes, whose gradient is the sum of their gradients."""

    @staticmethod
    def forward(_context: Any, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        with explained("sum statistics of batch norm"):
            dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> Tensor:
        return _sum_over_processes(gradient)


def _sum_over_processes(x: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(x)
    return total
