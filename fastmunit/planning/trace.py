"""A training traced without data: networks, an iteration and sample grids on fake tensors."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from fastmunit.config import Config
from fastmunit.data.datasets import test_crop
from fastmunit.data.paths import DOMAINS
from fastmunit.ops import border_windows, phase_taps
from fastmunit.planning.live_memory import GRADIENTS, WEIGHTS, LiveMemory, Peak, Workspace
from fastmunit.systems import registry
from fastmunit.systems.parts.perceptual import PerceptualLoss

ADAM = "Adam's averages"
EMA = "averaged weights (ema_decay)"
IMAGES = "images"


@dataclass(frozen=True)
class Settings:
    """Settings of a training that change its memory, but not its networks.

    Attributes:
        batch_size: Images of each domain per iteration, of one process.
        micro_batches: Parts in which a batch is computed.
        recompute: Value of this key.
        checkpointing: Value of this key.
    """

    batch_size: int
    micro_batches: int
    recompute: Literal["auto", "always", "never"]
    checkpointing: bool


class TracedTraining:
    """The training of a configuration on fake tensors, which have shapes and no data.

    It runs the code that trains, so it follows changes of that code. Networks are not compiled, iterations not
    replayed, and float16 is traced as bfloat16, whose values are as large. Fake tensors are on the CPU, because
    autograd needs a real device for others; maps are the same on a GPU.

    Args:
        config: Configuration of the training.
        workspace: Memory that an op takes besides its results.

    Raises:
        ConfigError: If the configuration is invalid.
    """

    def __init__(self, config: Config, workspace: Workspace) -> None:
        self._config = config
        traced = config.model_copy(
            update={
                "vgg_w": 0.0,
                "compile": False,
                "cuda_graph": False,
                "r1_iter": 1,  # the iteration with the peak is one with the penalty
                "precision": "float32" if config.precision == "float32" else "bfloat16",
            },
            deep=True,
        )
        self._mode = FakeTensorMode()
        self._memory = LiveMemory(workspace)
        with self._traced():
            self._system = registry.system_of(config)(traced)
            if config.vgg_w > 0:
                self._system.vgg = PerceptualLoss.without_weights()
                traced.vgg_w = config.vgg_w
            self._memory.assign((*self._system.parameters(), *self._system.buffers()), WEIGHTS)
            self._displays = self._display_images()
            self._memory.assign(self._system.fill_pools(), IMAGES)
            self._memory.assign([image for pair in self._displays for image in pair], IMAGES)
        for parameter in self._system.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self._assign_gradient)
        self._stepped = False

    def iteration(self, settings: Settings) -> Peak:
        """Return the peak of an iteration, in which the optimizers have their states already."""
        config = self._system.config
        config.batch_size, config.micro_batches = settings.batch_size, settings.micro_batches
        config.recompute, config.checkpointing = settings.recompute, settings.checkpointing
        with self._traced():
            if not self._stepped:  # creates the states of the optimizers
                self._step(settings.batch_size)
                self._assign_states()
                self._stepped = True
            self._memory.reset()
            self._step(settings.batch_size)
        return self._memory.peak()

    def sample_grids(self) -> Peak:
        """Return the peak of drawing the sample grids, which can be above that of an iteration."""
        with self._traced():
            self._memory.reset()
            for images in self._displays:
                rows = self._system.sample(*images)
                del rows
        return self._memory.peak()

    @contextmanager
    def _traced(self) -> Iterator[None]:
        with self._mode, self._memory, warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor", category=UserWarning)
            _clear_tables()
            try:
                yield
            finally:
                _clear_tables()

    def _step(self, batch_size: int) -> None:
        config = self._config
        size = (config.crop_image_height, config.crop_image_width)
        x_a, x_b = (torch.empty(batch_size, channels, *size) for channels in (config.input_dim_a, config.input_dim_b))
        self._memory.assign((x_a, x_b), IMAGES)
        self._system.step(x_a, x_b)

    def _display_images(self) -> list[tuple[Tensor, Tensor]]:
        """Return the images of the sample grids: those for testing and those for training."""
        config = self._config
        train = (config.crop_image_height, config.crop_image_width)
        sizes_a, sizes_b = ((test_crop(config, domain, self._system.any_size), train) for domain in DOMAINS)
        return [
            (
                torch.empty(config.display_size, config.input_dim_a, *size_a),
                torch.empty(config.display_size, config.input_dim_b, *size_b),
            )
            for size_a, size_b in zip(sizes_a, sizes_b, strict=True)
        ]

    def _assign_gradient(self, parameter: Tensor) -> None:
        if parameter.grad is not None:
            self._memory.assign([parameter.grad], GRADIENTS)

    def _assign_states(self) -> None:
        system = self._system
        for optimizer in system.optimizers().values():
            states = (value for state in optimizer.state.values() for value in state.values())
            self._memory.assign([value for value in states if isinstance(value, Tensor)], ADAM)
        if system.averages is not None:
            self._memory.assign(system.averages.values(system.generators()).values(), EMA)


def _clear_tables() -> None:
    """Clear the tables that ops keep between calls: fake and real tensors must not meet."""
    for module in (border_windows, phase_taps):
        for function in vars(module).values():
            if hasattr(function, "cache_clear"):
                function.cache_clear()
