"""`fastmunit.Augment`: training images of another task, translated into random styles."""

from __future__ import annotations

import copy
import operator
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from fastmunit.data.seeding import named_generator
from fastmunit.errors import ConfigError
from fastmunit.systems.translators import Translator
from fastmunit.translation.domains import source_values, target_values
from fastmunit.translation.styles import style_codes
from fastmunit.translation.translate import Precision, load_translator, require_precision

_PIL_MODES = ("L", "RGB")


def _is_plain_tensor(value: object) -> bool:
    return isinstance(value, Tensor) and not isinstance(value, tv_tensors.TVTensor)


class Augment(v2.Transform):
    """A torchvision v2 transform that translates images into random styles.

    Content stays where it is, so labels, masks and bounding boxes remain valid and pass through unchanged. Images keep
    their type, dtype, size and device, and are translated on that device, a batch (N, C, H, W) in one pass with a style
    per image.

    Called by itself, it draws from torch's global random state, as other transforms do. `at` makes the result a
    function of (seed, index, epoch) alone, for one image and for a batch; `AugmentedDataset` does so for a dataset.

    Args:
        model: A run folder or another checkpoint; see `fastmunit.load_translator`. Or a translator, which computes on
            its own device. The two domains must have the same number of channels.
        styles: None draws styles from N(0, 1). A style file (.safetensors), or codes (S, style_dim, 1, 1), is a bank:
            each image gets one of them at random.
        p: Probability of translating an image. Others are returned as they are.
        seed: Seed of `at`.
        direction: "a2b" or "b2a"; see `fastmunit.load_translator`.
        precision: Precision of convolutions and matrix products. None is the translator's own.

    Inputs:
        Those of every v2 transform: any nesting of tuples, lists and dicts. PIL images (L or RGB), `tv_tensors.Image`,
        or, if there are none of both, the first plain tensor, (C, H, W) or (N, C, H, W): uint8, or floats in [0, 1],
        which are the two ends of the value range of the training, if it had one. The images of one sample get the same
        styles.

    Raises:
        FastmunitError: If the model or the style file cannot be used.
        ValueError: If an argument has a wrong value, or, when called, an image has a wrong shape, mode or values.
        TypeError: If, when called, an image has a wrong dtype, or the sample holds a video, or NumPy arrays and no
            image.
    """

    _transformed_types = (_is_plain_tensor, tv_tensors.Image, tv_tensors.Video, Image.Image)

    def __init__(
        self,
        model: str | os.PathLike[str] | Translator,
        styles: str | os.PathLike[str] | Tensor | None = None,
        *,
        p: float = 0.5,
        seed: int = 0,
        direction: str | None = None,
        precision: Precision | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"expected a probability p in [0, 1], got {p}")
        require_precision(precision)
        self.p, self.seed = p, operator.index(seed)
        self._precision = precision
        self._model = _Model(model, direction, styles)
        self._place: tuple[list[int], int] | None = None

    def at(self, index: SupportsIndex | Iterable[SupportsIndex] | Tensor, epoch: int = 0) -> Augment:
        """Return this transform for certain images of an epoch.

        The result is a function of (seed, index, epoch), without regard to the order of calls, the batch, the worker
        process and torch's random state. (On another device, or in another batch, convolutions may round differently.)

        Args:
            index: Index of the image in the dataset. For a batch (N, C, H, W), N of them.
            epoch: Number of the epoch.
        """
        placed = copy.copy(self)
        given = index.tolist() if isinstance(index, Tensor) else index
        indices = given if isinstance(given, Iterable) else [given]
        placed._place = [operator.index(one) for one in indices], operator.index(epoch)
        return placed

    def extra_repr(self) -> str:
        """Return the arguments that `repr` shows."""
        return f"{self._model.name}, p={self.p}, seed={self.seed}"

    def check_inputs(self, flat_inputs: list[Any]) -> None:
        """Refuse videos, and NumPy images, which would pass through like a sample without images."""
        if any(isinstance(value, tv_tensors.Video) for value in flat_inputs):
            raise TypeError("expected images, got a tv_tensors.Video: give its frames as a tv_tensors.Image")
        taken = (tv_tensors.Image, Image.Image)
        if any(isinstance(value, taken) or _is_plain_tensor(value) for value in flat_inputs):
            return
        if any(isinstance(value, np.ndarray) and value.ndim > 1 for value in flat_inputs):
            raise TypeError("expected a PIL image or a tensor, got a NumPy array: put v2.ToImage() before Augment")

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw which of N images are translated, and their styles. Return these as "chosen" and "styles"."""
        counts = {len(image) if isinstance(image, Tensor) and image.dim() == 4 else 1 for image in flat_inputs}
        if len(counts) > 1:
            raise ValueError(f"expected as many images in each batch of a sample, got {sorted(counts)}")
        generators = [named_generator("augment", self.seed, *key) for key in self._keys(max(counts))] if counts else []
        chosen = [n for n, generator in enumerate(generators) if float(torch.rand((), generator=generator)) < self.p]
        if not chosen:
            return {"chosen": [], "styles": None}
        device = flat_inputs[0].device if isinstance(flat_inputs[0], Tensor) else torch.device("cpu")
        return {"chosen": chosen, "styles": torch.cat([self._model.draw(device, generators[n]) for n in chosen])}

    @torch.inference_mode(mode=False)
    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Translate the chosen ones of the images. `make_params` returns `params`."""
        if isinstance(inpt, Image.Image):
            if inpt.mode not in _PIL_MODES:
                raise ValueError(f"expected a PIL image of mode L or RGB, got {inpt.mode}: convert it before Augment")
            images = v2.functional.pil_to_tensor(inpt)
        else:
            images = inpt.as_subclass(Tensor)
        self._check(images)
        if not params["chosen"]:
            return inpt
        outputs = self._translated(images, **params)
        if isinstance(inpt, Image.Image):
            return v2.functional.to_pil_image(outputs)
        return tv_tensors.wrap(outputs, like=inpt) if isinstance(inpt, tv_tensors.TVTensor) else outputs

    def _keys(self, count: int) -> list[tuple[int, ...]]:
        """Return what the draws of each of `count` images depend on, besides the seed."""
        if self._place is None:
            return [(key,) for key in torch.randint(2**62, (count,)).tolist()]
        indices, epoch = self._place
        if count != len(indices):
            raise ValueError(f"expected an index for each of {count} images, got {len(indices)}: give one per image")
        return [(index, epoch) for index in indices]

    def _translated(self, images: Tensor, chosen: list[int], styles: Tensor) -> Tensor:
        translator = self._model.on(images.device)
        batch = images if images.dim() == 4 else images[None]
        every = len(chosen) == len(batch)
        x = batch if every else batch[chosen]
        unit = x.float() / 255 if x.dtype == torch.uint8 else x
        outputs = translator.translate_each(unit * 2 - 1, styles, precision=self._precision)
        stored = ((outputs + 1) / 2).clamp(0, 1).to(images.device)
        stored = (stored * 255).round().to(torch.uint8) if x.dtype == torch.uint8 else stored.to(x.dtype)
        if not every:
            result = batch.clone()
            result[chosen] = stored
            stored = result
        return stored if images.dim() == 4 else stored[0]

    def _check(self, images: Tensor) -> None:
        if images.dim() not in (3, 4) or 0 in images.shape[-3:]:
            raise ValueError(f"expected images (C, H, W) or (N, C, H, W), got {tuple(images.shape)}")
        found, taken = images.shape[-3], self._model.channels
        if found != taken:
            advice = f"choose {taken} of them before Augment, such as image[..., :{taken}, :, :]"
            if found < taken:
                advice = "give the others, too"
            if {found, taken} == {1, 3}:  # what torchvision can convert
                advice = "put v2.RGB() or v2.Grayscale() before Augment"
            raise ValueError(f"expected images of {taken} channels, which the model takes, got {found}: {advice}")
        if images.is_floating_point():
            low, high = (float(end) for end in torch.aminmax(images.detach())) if images.numel() else (0.0, 1.0)
            if not (low >= 0 and high <= 1):  # NaN is refused, too
                raise ValueError(
                    f"expected floats in [0, 1], got values in [{low:.4g}, {high:.4g}]: put Augment before v2.Normalize"
                )
        elif images.dtype != torch.uint8:
            raise TypeError(
                f"expected images of uint8 or of floats in [0, 1], got {images.dtype}: put v2.ToDtype before Augment"
            )
        elif self._model.has_value_range:
            raise TypeError(
                "expected floats in [0, 1], the ends of the model's value range, got uint8: the model was trained with "
                "value_range_a (value_range_b)"
            )


class _Model:
    """A translator per device, and the bank of styles. A copy in another process loads them again, on first use."""

    def __init__(
        self,
        model: str | os.PathLike[str] | Translator,
        direction: str | None,
        styles: str | os.PathLike[str] | Tensor | None,
    ) -> None:
        self._source, self._direction, self._styles = model, direction, styles
        self._loaded: dict[torch.device, tuple[Translator, Tensor | None]] = {}
        self.name = type(model).__name__ if isinstance(model, Translator) else Path(model).name
        translator = self.on(torch.device("cpu"))
        if isinstance(model, Translator) and direction not in (None, model.direction):
            raise ValueError(f"direction is {direction!r}, but the translator is for {model.direction}: leave it out")
        if translator.channels != translator.target_channels:
            raise ConfigError(
                f"Augment keeps the type of images, but this model translates {translator.channels} channels to "
                f"{translator.target_channels}: use one whose domains have the same number of channels."
            )
        if styles is not None and not translator.style_dim:
            raise ConfigError("styles: this model has none, and one output per image: leave styles out.")
        self.channels = translator.channels
        values = source_values(translator), target_values(translator)
        self.has_value_range = any(value.range is not None for value in values)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": {}}

    def on(self, device: torch.device) -> Translator:
        """Return the translator for images on a device."""
        return self._on(device)[0]

    def draw(self, device: torch.device, generator: torch.Generator) -> Tensor:
        """Return a style code (1, style_dim, 1, 1)."""
        translator, bank = self._on(device)
        if bank is None:
            return translator.random_styles(1, generator)
        return bank[torch.randint(len(bank), (1,), generator=generator).to(bank.device)]

    def _on(self, device: torch.device) -> tuple[Translator, Tensor | None]:
        if device not in self._loaded:
            if isinstance(self._source, Translator):
                translator = self._source
            else:
                translator = load_translator(self._source, direction=self._direction, device=device)
            styles = self._styles
            bank = None if styles is None else style_codes(translator, styles, 0, None)
            self._loaded[device] = translator, bank
        return self._loaded[device]
