"""Steps of optimizers: micro-batches, loss scaling, averages over processes, replay as CUDA graphs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from fastmunit import distributed
from fastmunit.config import Config
from fastmunit.functional.recompute import recompute
from fastmunit.functional.streams import ParallelStreams, place
from fastmunit.nn.fused.iteration_cache import IterationCache, iteration_cache
from fastmunit.nn.fused.weight_copies import ReadWeights
from fastmunit.systems.parts import resume_checks
from fastmunit.systems.parts.captured_halves import CapturedHalves
from fastmunit.systems.parts.terms import Losses

Weights = Mapping[str, float]
LossFunction = Callable[[Sequence[Tensor], Weights], Losses]


class Stepper:
    """The runner of optimizer steps of a system, as its configuration says.

    Args:
        config: The configuration of the system.

    Attributes:
        scalers: Loss scalers by the names of their optimizers. Only float16 uses them.
        streams: The streams on which independent networks run.
        graphs: Captured iterations and halves of iterations.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.scalers: dict[str, torch.amp.GradScaler] = {}
        self.streams = ParallelStreams(config.parallel_streams)
        self.graphs = CapturedHalves(self.streams)
        self._overlaps: dict[str, distributed.OverlappedAverage] = {}
        self._read: defaultdict[str, ReadWeights] = defaultdict(ReadWeights)

    def descend(
        self,
        name: str,
        optimizer: torch.optim.Optimizer,
        loss_of: LossFunction,
        tensors: Sequence[Tensor],
        weights: Weights,
        cache: IterationCache | None,
    ) -> Losses:
        """Take one step down the mean loss of a batch, which is computed in `micro_batches` parts.

        Args:
            name: Name of the optimizer.
            optimizer: The optimizer to step.
            loss_of: Computes the loss of a part: a mean over its samples.
            tensors: Tensors (N, ...) whose samples belong together. `loss_of` gets a part of each.
            weights: Loss weights for `loss_of`.
            cache: What the layers share in this iteration. None: nothing.

        Returns:
            The loss of the whole batch on all processes, without graph, and the outputs of this process.

        Raises:
            ValueError: If the batch cannot be split into `micro_batches` equal parts.
        """
        parts = self.config.micro_batches
        for tensor in tensors:
            if len(tensor) % parts:
                raise ValueError(f"a batch of {len(tensor)} does not split into micro_batches = {parts} equal parts.")
        _clear_gradients(optimizer)
        scaler = self.scaler(name, optimizer) if self.config.precision == "float16" else None
        overlap = self._overlap(name, optimizer)
        results: list[Losses] = []
        chunks = [tensors] if parts == 1 else list(zip(*(tensor.chunk(parts) for tensor in tensors), strict=True))
        for number, part in enumerate(chunks, start=1):
            with recompute(self._recomputes()), iteration_cache(cache, self._read[name]):
                losses = loss_of(part, weights)
            mean = losses.total if parts == 1 else losses.total / parts
            with overlap.during_backward() if overlap is not None and number == parts else nullcontext():
                (mean if scaler is None else scaler.scale(mean)).backward()
            results.append(losses._replace(total=losses.total.detach()))
        total = _mean([losses.total for losses in results])
        terms = {key: _mean([losses.terms[key] for losses in results]) for key in results[0].terms}
        # Before the scaler checks the gradients, so that all processes find the same ones infinite.
        self._average_over_processes([] if overlap is not None else _gradients(optimizer), [total, *terms.values()])
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
        # torch's fused optimizers, and those that write through `data`, do not count their writes.
        torch.autograd.graph.increment_version([p for p in _parameters(optimizer) if p.grad is not None])
        outputs = zip(*(losses.outputs for losses in results), strict=True)
        return Losses(total, terms, tuple(torch.cat(output) for output in outputs))

    def scaler(self, name: str, optimizer: torch.optim.Optimizer) -> torch.amp.GradScaler:
        """Return the loss scaler of an optimizer."""
        if name not in self.scalers:
            self.scalers[name] = torch.amp.GradScaler(_parameters(optimizer)[0].device.type)
        return self.scalers[name]

    def state(self) -> dict[str, Any]:
        """Return what exact resume needs, by the names of the optimizers."""
        return {name: scaler.state_dict() for name, scaler in self.scalers.items()}

    def load_state(self, state: Mapping[Any, Any], optimizers: Mapping[str, torch.optim.Optimizer]) -> None:
        """Restore `state`.

        Raises:
            CheckpointError: If a scale is damaged or does not belong to one of `optimizers`. Nothing has changed then.
        """
        states = {name: resume_checks.scaler(state, name, optimizers) for name in state}
        for name, scaler_state in states.items():
            self.scaler(name, optimizers[name]).load_state_dict(scaler_state)

    def _recomputes(self) -> bool:
        """Return True if layers keep only the result of their convolution: less memory for 1 % of a step's time."""
        return self.config.recompute == "always" or (
            self.config.recompute == "auto" and self.config.precision == "float32"
        )

    def _average_over_processes(self, gradients: Sequence[Tensor], losses: Sequence[Tensor]) -> None:
        """Replace gradients and losses by their means over the processes, whose shares of a batch are equal."""
        if self._sent_dtype is None:
            distributed.average([*gradients, *losses])
        else:
            distributed.average(gradients, self._sent_dtype)
            distributed.average(losses)

    @property
    def _sent_dtype(self) -> torch.dtype | None:
        return torch.bfloat16 if self.config.gradient_compression == "bfloat16" else None

    def _overlap(self, name: str, optimizer: torch.optim.Optimizer) -> distributed.OverlappedAverage | None:
        """Return what averages gradients during backward.

        None if that is switched off, in a captured iteration, and with several streams, which fill one bucket.
        """
        if not (self.config.overlap_communication and distributed.has_group()) or place() is not None:
            return None
        parameters = _parameters(optimizer)
        if parameters[0].device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return None
        if name not in self._overlaps or not self._overlaps[name].averages(parameters):
            self._overlaps[name] = distributed.OverlappedAverage(parameters, self._sent_dtype)
        return self._overlaps[name]


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _clear_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Do what `optimizer.zero_grad()` does. torch's own sets the gradients to None inside a mark for profilers."""
    if getattr(optimizer.zero_grad, "__func__", None) is not torch.optim.Optimizer.zero_grad:
        optimizer.zero_grad()
        return
    for parameter in _parameters(optimizer):
        parameter.grad = None


def _gradients(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p.grad for p in _parameters(optimizer) if p.grad is not None]


def _mean(values: Sequence[Tensor]) -> Tensor:
    return values[0] if len(values) == 1 else torch.stack(list(values)).mean()
