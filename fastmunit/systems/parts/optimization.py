"""Optimizers and learning rate schedules of a system."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from fastmunit.config import Config
from fastmunit.systems.definition import SystemDefinition
from fastmunit.systems.parts.adam import Adam
from fastmunit.systems.parts.lr_schedule import make_scheduler


class Optimization(SystemDefinition):
    """A system with one optimizer per half of an iteration, and their schedules."""

    compat: bool
    fused_adam: bool
    gen_opt: torch.optim.Optimizer
    dis_opt: torch.optim.Optimizer

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Return the optimizers by their names in optimizer.pt."""
        return {"gen": self.gen_opt, "dis": self.dis_opt}

    def schedulers(self) -> dict[str, LRScheduler | None]:
        """Return the learning rate schedules by the names of their optimizers."""
        return {name: getattr(self, f"{name}_scheduler") for name in self.optimizers()}

    def make_optimizer(self, modules: Iterable[nn.Module], lr: float) -> torch.optim.Adam:
        """Return Adam over the trained parameters of `modules`, each once, in order, with coupled weight decay."""
        config = self.config
        parameters = {id(p): p for module in modules for p in module.parameters() if p.requires_grad}
        return Adam(
            parameters.values(),
            lr=lr,
            betas=(config.beta1, config.beta2),
            weight_decay=config.weight_decay,
            fused=True if self.fused_adam else None,
        )

    def make_schedulers(self, config: Config, iterations: int = 0) -> None:
        """Create the schedules as they are after `iterations` iterations."""
        for name, optimizer in self.optimizers().items():
            scheduler = make_scheduler(optimizer, config, config.learning_rate(name), iterations, self.compat)
            setattr(self, f"{name}_scheduler", scheduler)

    def update_learning_rate(self) -> None:
        """Step the schedules. Call it at the start of an iteration, as the public training script does."""
        for scheduler in self.schedulers().values():
            if scheduler is None:
                continue
            if scheduler._step_count > 1:
                scheduler.step()
                continue
            with warnings.catch_warnings():
                # The public order is schedule first, optimizer second; torch warns about it at the first call.
                warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step", category=UserWarning)
                scheduler.step()
