"""The networks of translators as maps."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastmunit.errors import FastmunitError
from fastmunit.nn.fused.chain import plan
from fastmunit.nn.fused.layers import Convolution, has_hooks
from fastmunit.nn.layers.blocks import AdaINParameters, chain_of, linear
from fastmunit.nn.layers.dropout import Dropout
from fastmunit.nn.networks.autoencoders import MLP
from fastmunit.nn.networks.decoder import Decoder
from fastmunit.nn.networks.encoders import ContentEncoder, StyleEncoder
from fastmunit.nn.networks.latent_encoder import LatentEncoder, PooledResBlock
from fastmunit.nn.networks.resnet import ResNetGenerator
from fastmunit.nn.networks.unet import UNet
from fastmunit.out_of_core.drawn import Drawn, Masks, Noise
from fastmunit.out_of_core.lowering import Lowering
from fastmunit.out_of_core.maps import Added, Joined, Map, Planes, Pointwise, Reduction
from fastmunit.out_of_core.windows import AveragePooled
from fastmunit.systems.translators import LatentTranslator, StyleTranslator, Translator, VAETranslator, mask_generator

_N = TypeVar("_N", bound=nn.Module)


class Encoding(NamedTuple):
    """A style code that is computed from the mean of a map over all pixels.

    Attributes:
        reduction: Statistics of the map.
        code: Function from the mean (1, C, 1, 1) to the style code (1, style_dim, 1, 1).
    """

    reduction: Reduction
    code: Callable[[Tensor], Tensor]


class TranslatorMaps(ABC):
    """The maps of one translator.

    Args:
        networks: Its networks by name, without the names of domains.
        lowering: What makes the maps.
    """

    def __init__(self, networks: dict[str, nn.Module], lowering: Lowering) -> None:
        self._networks, self._lowering = networks, lowering

    @abstractmethod
    def output(self, image: Map, style: Tensor) -> Map:
        """Return the translation of an image into a style (1, style_dim, 1, 1)."""

    def encoding(self, image: Map) -> Encoding:
        """Return how the style code of an image of the target domain is computed."""
        raise FastmunitError("this system has no style codes, so an image cannot serve as a reference.")

    def _network(self, name: str, kind: type[_N]) -> _N:
        """Return a network, whose forward must be that of its class."""
        network = self._networks[name]
        if type(network).forward is not kind.forward or has_hooks(network) or "forward" in vars(network):
            raise _unsupported(network)
        return cast(_N, network)


class StyleMaps(TranslatorMaps):
    """The maps of MUNIT."""

    def output(self, image: Map, style: Tensor) -> Map:
        scope = style_key(style)
        encoder, decoder = self._network("enc_content", ContentEncoder), self._network("dec", Decoder)
        content = self._lowering.chain(chain_of(encoder.model), image, "enc_content")
        parameters = AdaINParameters(self._network("mlp", MLP)(style))
        return self._lowering.chain(chain_of(decoder.model, parameters), content, "dec", scope)

    def encoding(self, image: Map) -> Encoding:
        chain = chain_of(self._network("enc_style", StyleEncoder).model)
        averaged, rest = self._lowering.until_average(chain, image, "enc_style")
        return Encoding(self._lowering.reduction(averaged), rest.run)


class VAEMaps(TranslatorMaps):
    """The maps of UNIT."""

    def output(self, image: Map, style: Tensor) -> Map:
        encoder, decoder = self._network("enc", ContentEncoder), self._network("dec", Decoder)
        latent = self._lowering.chain(chain_of(encoder.model), image, "enc")
        scope = ""
        if style.numel():
            scope = style_key(style)
            shape = (latent.channels, latent.height, latent.width)
            noise = self._lowering.once(
                ("noise", latent, scope),
                "noise",
                lambda: Drawn(latent, Noise(shape, int(style)), torch.float32, scope),
            )
            content = latent
            latent = self._lowering.once(("sum", latent, noise), "latent", lambda: Added(content, noise))
        return self._lowering.chain(chain_of(decoder.model), latent, "dec", scope)


class LatentMaps(TranslatorMaps):
    """The maps of CycleGAN and BicycleGAN."""

    def output(self, image: Map, style: Tensor) -> Map:
        scope = style_key(style) if style.numel() else ""
        generator = self._networks["generator"]
        rates = [m for m in generator.modules() if isinstance(m, Dropout) and m.active]
        masks = None
        if rates:
            device = self._lowering.device
            masks = Masks(mask_generator(style, device).initial_seed(), device)
        if isinstance(generator, UNet):
            return self._unet(self._network("generator", UNet), image, style, scope, masks)
        resnet = self._network("generator", ResNetGenerator)
        image = self._with_latent(image, style.flatten() if resnet.latent_dim else None, "generator.0", scope)
        return self._lowering.chain(chain_of(resnet.model), image, "generator", scope, masks)

    def encoding(self, image: Map) -> Encoding:
        if "encoder" not in self._networks:
            return super().encoding(image)
        encoder = self._network("encoder", LatentEncoder)
        x = self._lowering.chain(plan([Convolution(encoder.first)]), image, "encoder.first")
        for number, block in enumerate(encoder.blocks):
            x = self._pooled_block(cast(PooledResBlock, block), x, f"encoder.{number}")
        last = x
        rectified = self._lowering.once(
            ("leaky_relu", last), "encoder.last", lambda: Pointwise(last, lambda tile: F.leaky_relu(tile, 0.2))
        )

        def code(mean: Tensor) -> Tensor:
            return linear(encoder.mean, mean.flatten(1))[..., None, None]

        return Encoding(self._lowering.reduction(rectified), code)

    def _pooled_block(self, block: PooledResBlock, x: Map, name: str) -> Map:
        main, shortcut = block.chains()
        processed = self._lowering.chain(main, x, f"{name}.main")
        pooled = self._lowering.once(("pool", x), f"{name}.pool", lambda: AveragePooled(x))
        short = self._lowering.chain(shortcut, pooled, f"{name}.shortcut")
        return self._lowering.once(("sum", processed, short), f"{name}.sum", lambda: Added(processed, short))

    def _unet(self, unet: UNet, image: Map, style: Tensor, scope: str, masks: Masks | None) -> Map:
        z = style.flatten() if unet.latent_dim else None
        rectified = None if z is None or unet.inject != "all" else F.leaky_relu(z, 0.2)
        x = self._with_latent(image, z, "input", scope)
        skips = []
        for level, down in enumerate(unet.downs):
            if level:
                x = self._with_latent(x, rectified, f"down{level}.input", scope)
            x = self._lowering.chain(chain_of([down]), x, f"down{level}", scope)
            skips.append(x)
        skips.pop()
        for level, (up, dropout) in reversed(list(enumerate(zip(unet.ups, unet.dropouts, strict=True)))):
            layers = [up, dropout] if cast(Dropout, dropout).active else [up]
            x = self._lowering.chain(chain_of(layers), x, f"up{level}", scope, masks)
            if skips:
                x = self._joined(x, skips.pop(), f"up{level}")
        return x

    def _joined(self, x: Map, skip: Map, name: str) -> Map:
        rectified = self._lowering.once(("relu", skip), f"{name}.skip", lambda: Pointwise(skip, F.relu_))
        return self._lowering.once(("join", x, rectified), f"{name}.join", lambda: Joined([x, rectified]))

    def _with_latent(self, x: Map, z: Tensor | None, name: str, scope: str) -> Map:
        if z is None:
            return x
        planes = Planes(z.to(x.dtype), x.height, x.width, scope)
        return self._lowering.once(("latent", x, scope), f"{name}.latent", lambda: Joined([x, planes]))


_KINDS: dict[type[Translator], type[TranslatorMaps]] = {
    StyleTranslator: StyleMaps,
    VAETranslator: VAEMaps,
    LatentTranslator: LatentMaps,
}


def maps_of(translator: Translator, lowering: Lowering) -> TranslatorMaps:
    """Return the maps of a translator.

    Raises:
        FastmunitError: If its class has networks that this package does not know.
    """
    kind = _KINDS.get(type(translator))
    if kind is None:
        raise FastmunitError(
            f"a {type(translator).__name__} translates images as a whole only: give more --memory, or use the trained "
            "model of a system that comes with the package."
        )
    networks = {name.split(".", 1)[-1]: network for name, network in translator.networks().items()}
    if isinstance(translator, LatentTranslator):
        networks = {"encoder" if name == "encoder" else "generator": network for name, network in networks.items()}
    return kind(networks, lowering)


def style_key(style: Tensor) -> str:
    """Return a text that is the same for equal style codes only."""
    values = style.detach().cpu()
    values = values.double() if values.is_floating_point() else values
    return "style-" + hashlib.sha256(values.numpy().tobytes()).hexdigest()[:12]


def _unsupported(network: nn.Module) -> FastmunitError:
    return FastmunitError(
        f"the network {type(network).__name__} has a forward pass or hooks of its own, so it cannot be computed region "
        "by region: give more --memory, so that the image is translated as a whole."
    )
