"""Translators: one direction of a trained system, for single images of any size."""

from __future__ import annotations

import hashlib
import os
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastmunit.config import Config
from fastmunit.errors import FastmunitError
from fastmunit.memory import is_out_of_memory
from fastmunit.model_folder.load import find_folder
from fastmunit.model_folder.save import Model
from fastmunit.nn.layers.dropout import Dropout, draw_mask, masks_from
from fastmunit.nn.networks.autoencoders import AdaINGen, VAEGen, min_size
from fastmunit.nn.networks.latent_encoder import LatentEncoder
from fastmunit.systems.parts import pretrained
from fastmunit.systems.parts.inference_autocast import inference_autocast
from fastmunit.systems.style_distributions import StyleDistribution

_PIXELS_PER_BATCH = 1 << 20


class Translator(pretrained.Shareable):
    """One direction of a trained system: images of one domain to images of the other.

    An image is padded to a size that the networks support, by reflection at its right and bottom edges, and the result
    is cropped back. A subclass defines `encode`, `decode` and, if it has style codes, `encode_style`. If `decode` draws
    random numbers from style codes, it also defines `draws` and `render`, so that it can be exported.

    Args:
        network: One of the networks. All of them have the same device and dtype. None stands for a model that runs
            elsewhere and exchanges float32 on the CPU.
        multiple: The height and width of a network's input must be multiples of this.
        min_size: Minimum height and width of a network's input.
        channels: Channels of the images to translate and of the results.
        style_dim: Length of a style code; 0 if the system has one output per image.

    Attributes:
        direction: "a2b" or "b2a", for a translator that a system or `fastmunit.load_translator` has built.
        config: Configuration of the system that has built the translator.
        about: Facts about the model, for `save_pretrained`.
        precision: Default precision of convolutions and matrix products: "float32", "bfloat16" or "float16".
        style_distribution: What `random_styles` draws from. None is N(0, I).
    """

    direction: str | None = None
    config: Config | None = None
    style_distribution: StyleDistribution | None = None

    takes_references: bool = False
    """True if `encode_style` computes the style code of an image of the target domain."""

    encodes: bool = True
    """False if `encode` returns the images themselves."""

    dropout_rate: float = 0.0
    """Rate of the dropout whose masks are among `draws`."""

    def __init__(
        self, network: nn.Module | None, multiple: int, min_size: int, channels: tuple[int, int], style_dim: int
    ) -> None:
        weight = torch.empty(0) if network is None else next(network.parameters())
        self.device, self.dtype = weight.device, weight.dtype
        self.channels, self.target_channels = channels
        self.style_dim = style_dim
        self.precision: str = "float32"
        self.multiple, self.min_size = multiple, min_size

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """Return what all outputs of an image share, (1, ...), for an image (1, C, H, W)."""

    @abstractmethod
    def decode(self, content: Tensor, styles: Tensor) -> Tensor:
        """Return images (S, C', H, W) in [-1, 1] for one content (1, ...) and styles (S, style_dim, 1, 1)."""

    def draws(self, content: Tensor, styles: Tensor) -> dict[str, Tensor]:
        """Return what the networks read besides the content, by name, for S styles: (S, ...) each.

        These are "styles" (S, style_dim, 1, 1), or what `decode` draws with the style codes as seeds: "noise", in the
        shape of the content, and "mask_0", "mask_1", ... of dropout. Without style codes there is nothing.
        """
        return {"styles": styles} if self.style_dim else {}

    def render(self, content: Tensor, draws: Mapping[str, Tensor]) -> Tensor:
        """Return the images of `decode` for given `draws`. Without `draws`, the content may be a batch (N, ...)."""
        styles = draws["styles"] if draws else content.new_zeros(content.shape[0], 0, 1, 1)
        return self.decode(content, styles)

    def run_each(self, images: Tensor, styles: Tensor) -> Tensor:
        """Return outputs (N, C', H, W) of images (N, C, H, W) that need no padding, each with its own style code."""
        pairs = zip(images.split(1), styles.split(1), strict=True)
        return torch.cat([self.decode(self.encode(image), style) for image, style in pairs])

    def encode_style(self, images: Tensor) -> Tensor:
        """Return the style codes (N, style_dim, 1, 1) of images (N, C', H, W) of the target domain."""
        raise FastmunitError("this system has no style codes, so an image cannot serve as a reference.")

    def networks(self) -> dict[str, nn.Module]:
        """Return the networks that this direction needs, by name in gen_*.pt: "b", or "a.enc" for a part of "a"."""
        raise FastmunitError(f"{type(self).__name__} does not define networks, so it cannot be saved or exported.")

    def digest(self) -> str:
        """Return a SHA-256 of the weights in float32, by which files of style codes know their model.

        A model has the same digest in every kind of file that stores its weights exactly. An export has that of the
        model it was made from.
        """
        digest = hashlib.sha256()
        for network, module in self.networks().items():
            for key, value in module.state_dict().items():
                digest.update(f"{network}.{key}".encode())
                digest.update(value.detach().float().cpu().contiguous().numpy())
        return digest.hexdigest()

    @classmethod
    def from_pretrained(
        cls, name: str | os.PathLike[str], *, direction: str | None = None, device: str | torch.device = "cpu"
    ) -> Translator:
        """Load a translator from a model folder.

        Args:
            name: A folder that `save_pretrained` of a translator or system has written, the name of a packaged model,
                or OWNER/NAME or OWNER/NAME@REVISION of a model on the Hugging Face Hub, which is downloaded.
            direction: "a2b" or "b2a". None is the direction of the folder; "a2b" if it has both.
            device: Device to compute on.

        Raises:
            CheckpointError: If there is no such folder, its files are damaged, or it has only the other direction.
            ConfigError: If the configuration is wrong.
        """
        folder = find_folder(name)
        return pretrained.load_translator(folder, folder.config, direction, device)

    def _as_model(self) -> Model:
        return pretrained.model_of_translator(self)

    def random_styles(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw style codes (count, style_dim, 1, 1) from `style_distribution`, or N(0, I), with a CPU generator."""
        if self.style_distribution is not None:
            return self.style_distribution.sample(count, generator).to(self.device, self.dtype)
        return torch.randn(count, self.style_dim, 1, 1, generator=generator).to(self.device, self.dtype)

    @torch.no_grad()
    def style_of(self, image: Tensor, *, precision: str | None = None) -> Tensor:
        """Return the style code (1, style_dim, 1, 1) of an image (C', H, W) of the target domain.

        Args:
            image: Image in [-1, 1].
            precision: Precision of this call. None is the translator's own.

        Raises:
            FastmunitError: If the system has no style codes, or there is not enough memory.
        """
        with _memory_errors(image), self._autocast(precision):
            return self.encode_style(self.padded(image[None])).float()

    @torch.no_grad()
    def translate(
        self, image: Tensor, styles: Tensor, batch_size: int | None = None, *, precision: str | None = None
    ) -> Tensor:
        """Translate one image with many styles. The image is encoded once.

        Args:
            image: Image (C, H, W) of the source domain in [-1, 1], in any floating-point dtype.
            styles: Style codes (S, style_dim, 1, 1).
            batch_size: Number of styles per batch. None chooses about one megapixel per batch.
            precision: Precision of this call. None is the translator's own.

        Returns:
            Images (S, C', H, W) in [-1, 1] on the CPU.

        Raises:
            FastmunitError: If the image does not have the model's channels, or there is not enough memory.
            ValueError: If there are no styles.
        """
        if not len(styles):
            raise ValueError(f"expected styles (S, style_dim, 1, 1) with S of at least 1, got {tuple(styles.shape)}")
        self._require_channels(image)
        height, width = image.shape[1:]
        with _memory_errors(image), self._autocast(precision):
            padded = self.padded(image[None])
            batch = batch_size or max(1, _PIXELS_PER_BATCH // (padded.shape[-1] * padded.shape[-2]))
            content = self.encode(padded)
            outputs = [self.decode(content, part).float().cpu() for part in styles.split(batch)]
            return torch.cat([output[..., :height, :width] for output in outputs])

    @torch.no_grad()
    def translate_each(self, images: Tensor, styles: Tensor, *, precision: str | None = None) -> Tensor:
        """Translate a batch of images, each with its own style code.

        Args:
            images: Images (N, C, H, W) of the source domain in [-1, 1], in any floating-point dtype.
            styles: Style codes (N, style_dim, 1, 1).
            precision: Precision of this call. None is the translator's own.

        Returns:
            Images (N, C', H, W) in [-1, 1], float32 on the device of the translator.

        Raises:
            FastmunitError: If the images do not have the model's channels, or there is not enough memory.
            ValueError: If the numbers of images and style codes differ.
        """
        if len(images) != len(styles):
            raise ValueError(f"expected a style code for each of {len(images)} images, got {len(styles)}")
        self._require_channels(images[0])
        height, width = images.shape[2:]
        with _memory_errors(images[0]), self._autocast(precision):
            return self.run_each(self.padded(images), styles)[..., :height, :width].float()

    def _require_channels(self, image: Tensor) -> None:
        if len(image) != self.channels:
            raise FastmunitError(
                f"the image has {len(image)} channels and the model takes {self.channels}: convert it, or use the "
                "other direction."
            )

    def _autocast(self, precision: str | None) -> AbstractContextManager[object]:
        chosen = self.precision if precision is None else precision
        return inference_autocast(self.device.type, None if chosen == "float32" else getattr(torch, chosen))

    def padded(self, images: Tensor) -> Tensor:
        """Return images (N, C, H, W) on the device of the networks, padded to a size that they support."""
        x = images.to(self.device, self.dtype)
        for axis in (-1, -2):
            size = x.shape[axis]
            target = max(-(-size // self.multiple) * self.multiple, self.min_size)
            x = _extend(x, axis, target - size)
        return x


class StyleTranslator(Translator):
    """One direction of a trained MUNIT: content from one domain, style from the other.

    Args:
        generators: An `AdaINGen` per domain, "a" and "b".
        config: Their configuration.
        direction: "a2b" or "b2a".
    """

    takes_references = True

    def __init__(self, generators: Mapping[str, nn.Module], config: Config, direction: str) -> None:
        source, target = (cast(AdaINGen, generators[domain]) for domain in direction.split("2"))
        multiple = 2**config.gen.n_downsample
        super().__init__(target.dec, multiple, min_size(config.gen), config.channels(direction), config.gen.style_dim)
        self._source, self._target = source, target
        self._names = direction.split("2")

    def networks(self) -> dict[str, nn.Module]:
        (source, target), decoder = self._names, self._target
        parts = {"enc_style": decoder.enc_style, "mlp": decoder.mlp, "dec": decoder.dec}
        return {
            f"{source}.enc_content": self._source.enc_content,
            **{f"{target}.{name}": part for name, part in parts.items()},
        }

    def encode(self, images: Tensor) -> Tensor:
        return self._source.enc_content(images)

    def decode(self, content: Tensor, styles: Tensor) -> Tensor:
        return self._target.decode(content, styles)

    def run_each(self, images: Tensor, styles: Tensor) -> Tensor:
        return self.decode(self.encode(images), styles)

    def encode_style(self, images: Tensor) -> Tensor:
        return self._target.enc_style(images)


class VAETranslator(Translator):
    """One direction of a trained UNIT, which decodes the mean of the latent code or samples of it.

    With `noise_at_test` a style is the seed of the noise that is added to the code. Without it there are no styles and
    one output per image.

    Args:
        generators: A `VAEGen` per domain, "a" and "b".
        config: Their configuration.
        direction: "a2b" or "b2a".
        noise_at_test: Decode samples instead of the mean.
    """

    def __init__(
        self, generators: Mapping[str, nn.Module], config: Config, direction: str, noise_at_test: bool
    ) -> None:
        source, target = (cast(VAEGen, generators[domain]) for domain in direction.split("2"))
        multiple = 2**config.gen.n_downsample
        # The encoder's residual blocks pad by reflection, which needs maps of at least 2 × 2.
        super().__init__(target.dec, multiple, 2 * multiple, config.channels(direction), int(noise_at_test))
        self._source, self._target = source, target
        self._names = direction.split("2")

    def networks(self) -> dict[str, nn.Module]:
        source, target = self._names
        return {f"{source}.enc": self._source.enc, f"{target}.dec": self._target.dec}

    def random_styles(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw seeds of noise, (count, 1, 1, 1) in int64. Without `noise_at_test`, return an empty (count, 0, 1, 1)."""
        if self.style_dim == 0:
            return super().random_styles(count, generator)
        return random_seeds(count, generator)

    def encode(self, images: Tensor) -> Tensor:
        return self._source.enc(images)

    def decode(self, content: Tensor, styles: Tensor) -> Tensor:
        images = self.render(content, self.draws(content, styles))
        return images if self.style_dim else images.expand(len(styles), -1, -1, -1)

    def run_each(self, images: Tensor, styles: Tensor) -> Tensor:
        return super().run_each(images, styles) if self.style_dim else self.render(self.encode(images), {})

    def draws(self, content: Tensor, styles: Tensor) -> dict[str, Tensor]:
        return {"noise": noise_of(styles, content)} if self.style_dim else {}

    def render(self, content: Tensor, draws: Mapping[str, Tensor]) -> Tensor:
        return self._target.decode(add_noise(content, draws["noise"]) if draws else content)


class LatentTranslator(Translator):
    """One direction of CycleGAN or BicycleGAN. Style codes are the generator's latent vectors.

    With dropout at test, a style code also determines the masks, so equal codes give equal images. A generator without
    other noise takes codes of length 1 for the masks alone.

    Args:
        generator: Network that takes images and latent vectors, or None instead of the vectors.
        latent_dim: Length of the latent vectors; 0 if there are none.
        multiple: The height and width of the generator's input must be multiples of this.
        min_size: Minimum height and width of the generator's input.
        channels: Channels of the images to translate and of the results.
        encoder: Network that encodes an image of the target domain as a latent vector, if there is one.
    """

    encodes = False

    def __init__(
        self,
        generator: nn.Module,
        latent_dim: int,
        multiple: int,
        min_size: int,
        channels: tuple[int, int],
        encoder: LatentEncoder | None = None,
    ) -> None:
        rates = [m.rate for m in generator.modules() if isinstance(m, Dropout) and m.at_test]
        self.dropout_rate = max(rates, default=0.0)
        super().__init__(generator, multiple, min_size, channels, latent_dim or int(self.dropout_rate > 0))
        self._generator, self._latent_dim, self._encoder = generator, latent_dim, encoder
        self.takes_references = encoder is not None

    def networks(self) -> dict[str, nn.Module]:
        target = (self.direction or "a2b")[-1]
        return {target: self._generator, **({} if self._encoder is None else {"encoder": self._encoder})}

    def encode(self, images: Tensor) -> Tensor:
        """Return the images: the generator takes them together with the latent vector."""
        return images

    def decode(self, content: Tensor, styles: Tensor) -> Tensor:
        """Return images (S, C', H, W) for one image (1, C, H, W) and latent vectors (S, style_dim, 1, 1)."""
        if not self.dropout_rate:
            return self._translated(content, styles)
        outputs = []
        for style in styles.split(1):
            with masks_from(mask_generator(style, self.device)):
                outputs.append(self._translated(content, style))
        return torch.cat(outputs)

    def run_each(self, images: Tensor, styles: Tensor) -> Tensor:
        return super().run_each(images, styles) if self.dropout_rate else self._translated(images, styles)

    def draws(self, content: Tensor, styles: Tensor) -> dict[str, Tensor]:
        drawn = {"styles": styles} if self._latent_dim else {}
        if self.dropout_rate:
            masks = zip(*(self._masks(content, style) for style in styles.split(1)), strict=True)
            drawn |= {f"mask_{level}": torch.cat(of_level) for level, of_level in enumerate(masks)}
        return drawn

    def render(self, content: Tensor, draws: Mapping[str, Tensor]) -> Tensor:
        if not draws:
            return self._generator(content, None)
        masks = (mask for name, mask in draws.items() if name.startswith("mask_"))
        with masks_from(lambda _x, _rate: next(masks)):
            return self._translated(content, draws["styles"] if self._latent_dim else next(iter(draws.values())))

    def encode_style(self, images: Tensor) -> Tensor:
        """Return the mean latent vectors (N, style_dim, 1, 1) of images (N, C', H, W) of the target domain."""
        if self._encoder is None:
            return super().encode_style(images)
        return self._encoder(images)[0][..., None, None]

    def _translated(self, content: Tensor, styles: Tensor) -> Tensor:
        images = content.expand(styles.shape[0], -1, -1, -1)
        return self._generator(images, styles.flatten(1) if self._latent_dim else None)

    def _masks(self, content: Tensor, style: Tensor) -> list[Tensor]:
        """Return the masks of all layers for one style, in the order of the layers."""
        generator, masks = mask_generator(style, self.device), list[Tensor]()

        def recorded(x: Tensor, rate: float) -> Tensor:
            masks.append(draw_mask(x, rate, generator))
            return masks[-1]

        with masks_from(recorded):
            self._translated(content, style)
        return masks


def random_seeds(count: int, generator: torch.Generator) -> Tensor:
    """Draw style codes that are seeds of noise, (count, 1, 1, 1) in int64."""
    return torch.randint(2**62, (count, 1, 1, 1), generator=generator)


def noise_of(seeds: Tensor, latent: Tensor) -> Tensor:
    """Draw noise from N(0, I) for one latent code (1, ...) and each of S seeds: (S, ...)."""
    noises = [torch.randn(latent.shape, generator=torch.Generator().manual_seed(int(seed))) for seed in seeds]
    return torch.cat(noises).to(latent.device)


def mask_generator(style: Tensor, device: torch.device) -> torch.Generator:
    """Return the generator of all dropout masks of one style."""
    return torch.Generator(device).manual_seed(_seed(style))


def add_noise(latent: Tensor, noise: Tensor) -> Tensor:
    """Return latent + noise in the dtype of the latent code."""
    return latent + noise.to(latent.dtype)


def value_mapping(stretch: bool) -> Callable[[Tensor], Tensor]:
    """Return the function that maps outputs in [-1, 1] to pictures in [-1, 1].

    Args:
        stretch: Stretch each image from its minimum to its maximum, as the public test.py does, instead of returning
            it unchanged.
    """

    def stretched(image: Tensor) -> Tensor:
        low, high = image.min(), image.max()
        return (image - low) / (high - low).clamp_min(1e-5) * 2 - 1

    return stretched if stretch else lambda image: image


def _seed(style: Tensor) -> int:
    """Compute a seed from the bits of a style code."""
    seed = 0
    for value in style.float().flatten().view(torch.int32).tolist():
        seed = (seed * 1_000_003 + value) % 2**63
    return seed


@contextmanager
def _memory_errors(image: Tensor) -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        height, width = image.shape[1:]
        raise FastmunitError(
            f"not enough memory for an image of {height}x{width}: lower --batch-size, or resize with --size."
        ) from error


def _extend(x: Tensor, axis: int, amount: int) -> Tensor:
    """Pad the far end of an axis by reflection, or by repeating the edge if the image is too small to reflect."""
    while amount > 0:
        size = x.shape[axis]
        mode, step = ("reflect", min(amount, size - 1)) if size > 1 else ("replicate", amount)
        x = F.pad(x, (0, step, 0, 0) if axis == -1 else (0, 0, 0, step), mode=mode)
        amount -= step
    return x
