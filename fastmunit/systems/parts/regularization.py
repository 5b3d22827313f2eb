"""Regularization of discriminators: augmentation, adaptive augmentation, and the R1 penalty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fastmunit import distributed
from fastmunit.config import Config
from fastmunit.functional.streams import used_by_all, used_here
from fastmunit.systems.parts import augmentation
from fastmunit.systems.parts.augmentation_probability import AugmentationProbability, overfitting_sign
from fastmunit.systems.parts.discriminator_view import Augment, View, viewing
from fastmunit.systems.parts.r1_penalty import r1_penalty
from fastmunit.systems.parts.stepper import LossFunction, Weights
from fastmunit.systems.parts.terms import Losses


class Regularization(nn.Module):
    """The regularization of discriminators by a configuration: dis_augment, dis_augment_target and r1_w.

    Discriminators see real and fake images through `discriminator_view`. Image i of a batch is augmented with the same
    numbers whether it is real or fake, and each discriminator has numbers of its own; they are new in each half of an
    iteration.

    Args:
        config: The configuration.
        names: Names of the discriminators.

    Attributes:
        probability: Probability of each policy of dis_augment with dis_augment_target, else None.
    """

    def __init__(self, config: Config, names: Sequence[str]) -> None:
        super().__init__()
        self.config, self.names = config, tuple(names)
        self._columns = augmentation.count_numbers(config.dis_augment)
        target = config.dis_augment_target
        self.probability: AugmentationProbability | None = None
        if target is not None:
            self.probability = AugmentationProbability(len(self.names), target, config.dis_augment_ramp)

    @property
    def term_names(self) -> tuple[str, ...]:
        """Names of the values that it adds to those of a system: R1 penalties and probabilities."""
        probabilities = [f"dis_augment_{name}" for name in self.names] if self.probability is not None else []
        return (*self.penalty_names, *probabilities)

    @property
    def penalty_names(self) -> list[str]:
        """Names of R1 penalties, which not every iteration computes."""
        return [f"dis_r1_{name}" for name in self.names] if self.config.r1_w > 0 else []

    def penalizes(self, step: int) -> bool:
        """Return True if a step of the discriminators, counted from 0, has the R1 penalty."""
        return self.config.r1_w > 0 and step % self.config.r1_iter == 0

    def draw(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the tensors of a half, followed by the random numbers of its augmentation, if there is one.

        They are (N, discriminators, columns), drawn on the CPU from torch's global generator, for all processes.
        """
        if not self._columns:
            return tensors
        policies = len(augmentation.NUMBERS) if self.probability is not None else 0
        shape = (len(self.names), self._columns + policies)
        numbers = distributed.draw(lambda count: torch.rand(count, *shape), len(tensors[0]), self.config.micro_batches)
        return (*tensors, numbers.to(tensors[0]))

    def own(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the tensors that were given to `draw`."""
        return tensors[:-1] if self._columns else tensors

    def terms(
        self,
        half: str,
        loss_of: LossFunction,
        discriminators: Mapping[str, nn.Module],
        penalized: bool,
        tensors: Sequence[Tensor],
        weights: Weights,
    ) -> Losses:
        """Return the loss of a half with augmented images, and of the discriminators' half with its own terms.

        Args:
            half: "dis" or "gen".
            loss_of: Computes the loss of the system.
            discriminators: The discriminators by name.
            penalized: Add the R1 penalty, in the half "dis".
            tensors: What `draw` has returned.
            weights: Loss weights of the system.

        Raises:
            ValueError: If a discriminator has seen no real images through `discriminator_adversarial`.
        """
        augment: Augment | None = None
        if self._columns:
            augment = self._augment(discriminators, tensors[-1])
            tensors = tensors[:-1]
        view = View(augment)
        with viewing(view):
            losses = loss_of(tensors, weights)
        if half == "gen":
            return losses
        total, values = losses.total, dict(losses.terms)
        for name, dis in discriminators.items():
            reals = [real for real in view.reals if real.dis is dis]
            if not reals:
                raise ValueError(
                    f"dis_augment and r1_w need losses of discriminators that discriminator_adversarial returns, but "
                    f"{name!r} has none: call it in discriminator_terms, or leave these keys out."
                )
            for real in reals:
                used_here([*real.images, *real.outputs])
            if penalized:
                penalty = torch.stack([r1_penalty(real.dis, real.images) for real in reals]).sum()
                total = total + self.config.r1_w / 2 * self.config.r1_iter * penalty
                values[f"r1_{name}"] = penalty.detach()
            if self.probability is not None:
                signs = [overfitting_sign(real.outputs, self.config.dis.gan_type) for real in reals]
                values[f"augment_{name}"] = torch.stack(signs).mean()
        return losses._replace(total=total, terms=values)

    def adapt(self, losses: Losses, images: int) -> Losses:
        """Move the probabilities, and return the losses with them in the place of the signs of `terms`.

        Args:
            losses: Losses of the discriminators' half, averaged over micro-batches and processes.
            images: Number of real images that each discriminator has seen.
        """
        if self.probability is None:
            return losses
        keys = [f"augment_{name}" for name in self.names]
        self.probability.adapt(torch.stack([losses.terms[key] for key in keys]), images)
        probabilities = self.probability.p.to(losses.total, copy=True).unbind()
        return losses._replace(terms=losses.terms | dict(zip(keys, probabilities, strict=True)))

    def _augment(self, discriminators: Mapping[str, nn.Module], numbers: Tensor) -> Augment:
        numbers, gates = numbers[..., : self._columns], numbers[..., self._columns :]
        applied = None
        if self.probability is not None:
            applied = gates < self.probability.p[:, None]
        used_by_all([numbers] if applied is None else [numbers, applied])
        places = {id(dis): place for place, dis in enumerate(discriminators.values())}
        # Channels that are neighboring slices of a volume have no color.
        change = partial(augmentation.augment, policies=self.config.dis_augment, rgb=self.config.slices == 1)

        def augment(dis: nn.Module, x: Tensor) -> Tensor:
            place = places[id(dis)]
            return change(x, numbers=numbers[:, place], applied=None if applied is None else applied[:, place])

        return augment

    def state(self) -> dict[str, Any]:
        """Return what exact resume needs."""
        return {} if self.probability is None else {"augmentation": self.probability.state()}

    def load_state(self, state: Mapping[str, Any]) -> list[str]:
        """Restore `state`, and return a sentence if there is none.

        Raises:
            CheckpointError: If it is damaged.
        """
        if self.probability is None:
            return []
        if "augmentation" not in state:
            return ["the checkpoint has no probability of dis_augment, so it starts at 0."]
        self.probability.load_state(state["augmentation"])
        return []
