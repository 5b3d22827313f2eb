"""Execution of a system's networks: precision, memory format, checkpointing and compilation."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor

from fastmunit import distributed, functional
from fastmunit.errors import ConfigError
from fastmunit.functional.recompute import recompute
from fastmunit.functional.streams import Place, at, without_forks
from fastmunit.nn.fused.iteration_cache import active_cache, iteration_cache
from fastmunit.nn.layers.batch_norm import BatchNorm2d
from fastmunit.nn.layers.spectral_norm import SpectralNorm
from fastmunit.systems.definition import SystemDefinition
from fastmunit.systems.parts.inference_autocast import inference_autocast
from fastmunit.systems.parts.perceptual import PerceptualLoss

_DTYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Execution(SystemDefinition):
    """A system whose networks run as its configuration says."""

    compat: bool
    vgg: PerceptualLoss | None

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next(self.parameters()).device

    def autocast(self) -> AbstractContextManager[object]:
        """Return the autocast region of the configured precision. It has no effect for float32."""
        dtype = _DTYPES[self.config.precision]
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype=dtype)

    def inference_autocast(self) -> AbstractContextManager[object]:
        """Return the counterpart of `autocast` for inference, possibly in another thread than the training."""
        return inference_autocast(self.device.type, _DTYPES[self.config.precision])

    def checkpointed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that, with `checkpointing`, saves only its inputs and runs again in backward.

        Without it, return `function` itself.
        """
        if not (self.config.checkpointing and torch.is_grad_enabled()):
            return function
        implementation, cache = functional.default_implementation(), active_cache()

        def run(where: Place | None, *inputs: Tensor) -> Any:
            # Backward runs it again in a thread of autograd's, which does not have the settings of this one.
            with (
                recompute(False),
                functional.use_implementation(implementation),
                iteration_cache(cache),
                at(where),
            ):
                return function(*inputs)

        def checkpoint(*inputs: Tensor) -> Any:
            again = partial(run, without_forks())
            return torch.utils.checkpoint.checkpoint(again, *inputs, use_reentrant=False, preserve_rng_state=False)

        return checkpoint

    def perceptual_loss(self, translated: Tensor, source: Tensor) -> Tensor:
        """Return the distance between the VGG-16 features of two images (N, 3, H, W). See `PerceptualLoss`."""
        if self.vgg is None:
            self.vgg = PerceptualLoss(self.config.vgg_model_path).to(self.device)
        return self.vgg(translated, source)

    def choose_memory_format(self) -> None:
        """Convert the networks to channels_last if the configuration asks for it."""
        low_precision = self.config.precision != "float32"
        if self.config.memory_format == "channels_last" or (self.config.memory_format == "auto" and low_precision):
            for network in (*self.generators().values(), *self.discriminators().values()):
                for tensor in (*network.parameters(), *network.buffers()):
                    if tensor.dim() == 4:  # `network.to` would do the same, but cannot convert fake tensors
                        tensor.data = tensor.data.to(memory_format=torch.channels_last)

    def compile_networks(self) -> None:
        """Compile each of `compiled_networks` as one graph.

        Raises:
            ConfigError: If several processes train with batch norm, whose statistics a compiled graph cannot share.
        """
        if distributed.is_active() and any(isinstance(module, BatchNorm2d) for module in self.modules()):
            raise ConfigError(
                "dis.norm bn computes statistics over the images of all processes, which a compiled network cannot do: "
                "set compile to false, or dis.norm to none, in, ln or sn."
            )
        for network in self.compiled_networks():
            if self.compat and any(isinstance(module, SpectralNorm) for module in network.modules()):
                continue  # a compiled graph keeps the u and v of each forward pass, and so has the correct gradient
            network.compile(fullgraph=True, dynamic=False)
