"""Shapes, parameter names, parameter counts and formulas of the networks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fastmunit.config import DiscriminatorConfig, GeneratorConfig
from fastmunit.nn.layers.blocks import AdaINParameters, Conv2dBlock, LinearBlock, ResBlock, make_activation
from fastmunit.nn.networks.autoencoders import AdaINGen, VAEGen, num_adain_params
from fastmunit.nn.networks.discriminators import MsImageDis
from fastmunit.nn.networks.vgg import Vgg16

TINY = GeneratorConfig(dim=4, mlp_dim=8, style_dim=3, n_res=1)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_default_generator_has_the_public_size_and_keys() -> None:
    with torch.device("meta"):
        gen = AdaINGen(3, GeneratorConfig())
    assert count(gen) == 15_026_187
    assert [count(part) for part in (gen.enc_style, gen.enc_content, gen.dec, gen.mlp)] == [
        2_764_936,
        5_385_856,
        5_754_627,
        1_120_768,
    ]
    state = gen.state_dict()
    assert len(state) == 82
    assert len(list(gen.parameters())) == 66
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    assert shapes["enc_style.model.6.weight"] == (8, 256, 1, 1)
    assert shapes["enc_content.model.3.model.3.model.1.conv.weight"] == (256, 256, 3, 3)
    assert shapes["dec.model.2.conv.weight"] == (128, 256, 5, 5)
    assert shapes["dec.model.5.conv.weight"] == (3, 64, 7, 7)
    assert shapes["mlp.model.2.fc.weight"] == (4096, 256)
    keys = list(state)
    block = "dec.model.0.model.0.model.0."
    names = ["norm.running_mean", "norm.running_var", "conv.weight", "conv.bias"]
    assert [key for key in keys if key.startswith(block)] == [block + name for name in names]
    up = [key for key in keys if key.startswith("dec.model.2.")]
    assert up == [f"dec.model.2.{name}" for name in ("norm.gamma", "norm.beta", "conv.weight", "conv.bias")]


def test_default_vae_generator_has_the_public_size_and_keys() -> None:
    with torch.device("meta"):
        gen = VAEGen(3, GeneratorConfig())
    assert count(gen) == 11_140_483
    keys = list(gen.state_dict())
    assert len(keys) == 48
    assert keys[0] == "enc.model.0.conv.weight"
    assert keys[-1] == "dec.model.5.conv.bias"
    assert [key for key in keys if ".norm." in key] == [
        f"dec.model.{block}.norm.{name}" for block in (2, 4) for name in ("gamma", "beta")
    ]


@pytest.mark.parametrize(("height", "width", "n_downsample"), [(32, 40, 2), (33, 47, 2), (18, 24, 1), (23, 31, 3)])
def test_noise_has_the_shape_of_the_latent_code(height: int, width: int, n_downsample: int) -> None:
    gen = VAEGen(2, GeneratorConfig(dim=2, n_downsample=n_downsample, n_res=1))
    hidden, noise = gen.encode(torch.rand(3, 2, height, width))
    assert hidden.shape == noise.shape == (3, 2 * 2**n_downsample, height >> n_downsample, width >> n_downsample)


def test_noise_is_standard_normal_and_the_same_in_all_precisions() -> None:
    gen = VAEGen(1, GeneratorConfig(dim=4, n_downsample=1, n_res=0))
    drawn = {}
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        torch.manual_seed(0)
        hidden, drawn[dtype] = gen.to(dtype).encode(torch.rand(4, 1, 64, 64, dtype=torch.float32).to(dtype))
        assert drawn[dtype].dtype == hidden.dtype == dtype
    noise = drawn[torch.float32]
    count_of_values = noise.numel()
    assert abs(float(noise.mean())) < 5 / count_of_values**0.5
    assert abs(float(noise.square().mean()) - 1) < 5 * (2 / count_of_values) ** 0.5
    assert torch.equal(drawn[torch.float64].float(), noise)
    assert torch.equal(drawn[torch.bfloat16], noise.bfloat16())


def test_vae_generator_adds_noise_in_training_only() -> None:
    gen = VAEGen(3, TINY)
    image = torch.rand(1, 3, 16, 16)
    hidden = gen.enc(image)
    assert torch.equal(gen.eval()(image), gen.decode(hidden))
    torch.manual_seed(2)
    reconstruction = gen.train()(image)
    torch.manual_seed(2)
    noise = torch.randn(hidden.shape)
    assert torch.equal(reconstruction, gen.decode(hidden + noise))
    assert not torch.equal(reconstruction, gen.decode(hidden))


@pytest.mark.parametrize("on_cpu", [False, True])
def test_noise_is_drawn_on_the_device_of_the_images_or_on_the_cpu(on_cpu: bool) -> None:
    images = torch.empty(1, 3, 16, 16, device="meta")
    gen = VAEGen(3, TINY, noise_on_cpu=on_cpu)
    before = torch.get_rng_state()
    noise = gen.draw_noise(images)
    assert noise.device.type == "meta"
    assert torch.equal(torch.get_rng_state(), before) is not on_cpu


def test_default_discriminator_has_the_public_size_and_keys() -> None:
    with torch.device("meta"):
        dis = MsImageDis(3, DiscriminatorConfig())
    assert count(dis) == 8_271_171
    keys = list(dis.state_dict())
    assert len(keys) == 30
    assert keys[:2] == ["cnns.0.0.conv.weight", "cnns.0.0.conv.bias"]
    assert keys[-2:] == ["cnns.2.4.weight", "cnns.2.4.bias"]


@pytest.mark.parametrize(("n_downsample", "n_res"), [(1, 2), (2, 1), (3, 0)])
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_parameter_names_follow_the_depth(n_downsample: int, n_res: int) -> None:
    gen = AdaINGen(2, GeneratorConfig(dim=4, mlp_dim=8, n_downsample=n_downsample, n_res=n_res))
    keys = set(gen.state_dict())
    assert (f"enc_content.model.{n_downsample + 1}.model.0.model.0.conv.weight" in keys) == (n_res > 0)
    assert f"dec.model.{2 * n_downsample + 1}.conv.weight" in keys
    image = torch.rand(2, 2, 32, 40)
    assert gen(image).shape == image.shape
    content, style = gen.encode(image)
    assert content.shape == (2, 4 * 2**n_downsample, 32 // 2**n_downsample, 40 // 2**n_downsample)
    assert style.shape == (2, 8, 1, 1)


@pytest.mark.parametrize("pad_mode", ["reflect", "replicate", "zero"])
@pytest.mark.parametrize("activ", ["relu", "lrelu", "prelu", "selu", "tanh", "none"])
def test_every_pad_and_activation_trains(pad_mode: str, activ: str) -> None:
    config = TINY.model_copy(update={"pad_type": pad_mode, "activ": activ})
    gen = AdaINGen(1, config)
    gen(torch.rand(1, 1, 32, 32)).mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in gen.parameters())


@pytest.mark.parametrize("norm", ["none", "bn", "in", "ln", "sn"])
def test_every_discriminator_norm_trains(norm: str) -> None:
    dis = MsImageDis(5, DiscriminatorConfig(dim=4, norm=norm, n_layer=3, num_scales=2))
    outputs = dis(torch.rand(2, 5, 48, 64))
    assert [tuple(o.shape) for o in outputs] == [(2, 1, 6, 8), (2, 1, 3, 4)]
    torch.stack([o.mean() for o in outputs]).sum().backward()
    assert all(p.grad is not None for p in dis.parameters() if p.requires_grad)


@pytest.mark.filterwarnings("ignore:input's size at dim=0")
@pytest.mark.parametrize("norm", ["none", "bn", "in", "ln", "sn"])
def test_every_linear_norm(norm: str) -> None:
    assert LinearBlock(6, 4, norm=norm, activation="lrelu")(torch.randn(3, 6)).shape == (3, 4)


def test_adain_takes_bias_then_weight_in_module_order() -> None:
    """Layer 0 reads columns [0, C) as bias and [C, 2C) as weight, and layer 1 continues at 2C."""
    block = ResBlock(4, norm="adain", activation="none", pad_mode="zero").double()
    assert num_adain_params(block) == 16
    x = torch.randn(2, 4, 6, 5, dtype=torch.float64)
    parameters = torch.randn(2, 16, dtype=torch.float64)
    y = x
    for layer, conv_block in enumerate(block.model):
        conv = conv_block.conv
        y = F.conv2d(y, conv.weight, conv.bias, padding=1)
        mean = y.mean((2, 3), keepdim=True)
        std = (y.var((2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
        bias, weight = parameters[:, 8 * layer : 8 * layer + 8].chunk(2, dim=1)
        y = (y - mean) / std * weight[:, :, None, None] + bias[:, :, None, None]
    torch.testing.assert_close(block(x, AdaINParameters(parameters)), x + y, rtol=1e-10, atol=1e-10)


def test_adain_without_parameters_is_an_error() -> None:
    block = Conv2dBlock(3, 3, 3, 1, 1, norm="adain")
    with pytest.raises(ValueError, match="AdaIN parameters"):
        block(torch.rand(1, 3, 8, 8))


def test_decode_does_not_change_the_unused_buffers() -> None:
    gen = AdaINGen(3, TINY)
    gen(torch.rand(2, 3, 32, 32))
    buffers = dict(gen.named_buffers())
    assert len(buffers) == 4
    for name, value in buffers.items():
        assert torch.equal(value, torch.zeros_like(value) if name.endswith("mean") else torch.ones_like(value))


def test_adain_generator_can_be_copied_after_use() -> None:
    import copy

    gen = AdaINGen(3, TINY)
    image = torch.rand(1, 3, 32, 32)
    output = gen(image)
    torch.testing.assert_close(copy.deepcopy(gen)(image), output, rtol=0, atol=0)


@pytest.mark.parametrize("call", [lambda: Conv2dBlock(1, 1, 3, 1, pad_mode="mirror"), lambda: make_activation("gelu")])
@pytest.mark.parametrize("other", [lambda: Conv2dBlock(1, 1, 3, 1, norm="gn"), lambda: LinearBlock(1, 1, norm="gn")])
def test_unknown_names_are_errors(call, other) -> None:  # type: ignore[no-untyped-def]
    for build in (call, other):
        with pytest.raises(ValueError, match=r"unknown .*: use"):
            build()


def test_one_pixel_maps_are_an_error() -> None:
    with pytest.raises(ValueError, match="more than one pixel"):
        Conv2dBlock(3, 3, 1, 1, norm="in")(torch.rand(1, 3, 1, 1))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(4, 14), st.integers(4, 14), st.sampled_from([4, 5, 7]))
def test_padding_is_torch_padding(n: int, c: int, h: int, w: int, kernel: int) -> None:
    x = torch.randn(n, c, h, w, dtype=torch.float64)
    for name, mode in (("reflect", "reflect"), ("replicate", "replicate"), ("zero", "constant")):
        block = Conv2dBlock(c, 2, kernel, 1, 3, activation="none", pad_mode=name).double()
        expected = F.conv2d(F.pad(x, (3, 3, 3, 3), mode=mode), block.conv.weight, block.conv.bias)
        torch.testing.assert_close(block(x), expected)


def test_downsampling_ignores_the_padding() -> None:
    dis = MsImageDis(1, DiscriminatorConfig(dim=2, n_layer=2, num_scales=2))
    ones = torch.ones(1, 1, 32, 32)
    assert torch.equal(dis.downsample(ones), torch.ones(1, 1, 16, 16))


def test_vgg_has_the_public_keys_and_three_pools() -> None:
    with torch.device("meta"):
        vgg = Vgg16()
        features: Tensor = vgg(torch.empty(1, 3, 64, 48))
    assert features.shape == (1, 512, 8, 6)
    keys = list(vgg.state_dict())
    assert keys[0] == "conv1_1.weight" and keys[-1] == "conv5_3.bias" and len(keys) == 26
