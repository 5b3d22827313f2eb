"""Networks of CycleGAN and BicycleGAN against plain layer-by-layer formulas, and against published sizes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fastmunit import functional
from fastmunit.config import DiscriminatorConfig
from fastmunit.functional.recompute import recompute
from fastmunit.nn.layers.dropout import Dropout
from fastmunit.nn.networks.discriminators import PatchDiscriminator
from fastmunit.nn.networks.latent_encoder import LatentEncoder
from fastmunit.nn.networks.resnet import ResNetGenerator
from fastmunit.nn.networks.unet import UNet
from fastmunit.ops.availability import unavailable
from fastmunit.testing import saved_bytes

IMPLEMENTATIONS: list[functional.Implementation] = ["reference", "auto"]
PUBLISHED = DiscriminatorConfig(dim=64, norm="in", n_layer=3, num_scales=1, pad_type="zero")


def weights(network: nn.Module) -> dict[str, Tensor]:
    return dict(network.named_parameters())


def plain_unet(net: UNet, x: Tensor, z: Tensor | None, inject: str, upsample: str) -> Tensor:
    """Run the U-Net as a recursion over its levels, with torch's own instance norm."""
    w = weights(net)
    last = len(net.downs) - 1

    def with_z(x: Tensor) -> Tensor:
        if z is None:
            return x
        return torch.cat([x, z[:, :, None, None].expand(-1, -1, *x.shape[2:])], dim=1)

    def level(k: int, x: Tensor) -> Tensor:
        h = with_z(x) if k == 0 or inject == "all" else x
        if k:
            h = F.leaky_relu(h, 0.2)
        h = F.conv2d(h, w[f"downs.{k}.conv.weight"], w[f"downs.{k}.conv.bias"], stride=2, padding=1)
        if k not in (0, last):
            h = F.instance_norm(h)
        if k < last:
            h = level(k + 1, h)
        h = F.relu(h)
        weight, bias = w[f"ups.{k}.conv.weight"], w[f"ups.{k}.conv.bias"]
        if upsample == "transposed":
            h = F.conv_transpose2d(h, weight, bias, stride=2, padding=1)
        else:
            h = F.interpolate(h, scale_factor=2, mode="bilinear", align_corners=False)
            h = F.conv2d(F.pad(h, (1,) * 4, mode="reflect"), weight, bias)
        if k == 0:
            return torch.tanh(h)
        return torch.cat([F.instance_norm(h), x], dim=1)

    return level(0, x)


def plain_resnet(net: ResNetGenerator, x: Tensor, n_downsample: int, n_res: int) -> Tensor:
    w = iter(net.parameters())

    def conv(x: Tensor, pad: int, mode: str, stride: int = 1) -> Tensor:
        return F.conv2d(F.pad(x, (pad,) * 4, mode=mode), next(w), next(w), stride=stride)

    x = F.relu(F.instance_norm(conv(x, 3, "reflect")))
    for _ in range(n_downsample):
        x = F.relu(F.instance_norm(conv(x, 1, "constant", 2)))
    for _ in range(n_res):
        h = F.relu(F.instance_norm(conv(x, 1, "reflect")))
        x = x + F.instance_norm(conv(h, 1, "reflect"))
    for _ in range(n_downsample):
        x = F.conv_transpose2d(x, next(w), next(w), stride=2, padding=1, output_padding=1)
        x = F.relu(F.instance_norm(x))
    return torch.tanh(conv(x, 3, "reflect"))


def plain_patch_discriminator(net: PatchDiscriminator, x: Tensor) -> list[Tensor]:
    outputs = []
    for scale in net.cnns:
        w = iter(scale.parameters())
        h = x
        convolutions = len(scale)  # type: ignore[arg-type]
        for k in range(convolutions):
            h = F.conv2d(h, next(w), next(w), stride=1 if k >= convolutions - 2 else 2, padding=1)
            if 0 < k < convolutions - 1:
                h = F.instance_norm(h)
            if k < convolutions - 1:
                h = F.leaky_relu(h, 0.2)
        outputs.append(h)
        x = F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)
    return outputs


def plain_encoder(net: LatentEncoder, x: Tensor) -> tuple[Tensor, Tensor]:
    w = weights(net)
    x = F.conv2d(x, w["first.weight"], w["first.bias"], stride=2, padding=1)
    for k in range(len(net.blocks)):
        p = f"blocks.{k}."
        h = F.leaky_relu(F.instance_norm(x), 0.2)
        h = F.conv2d(h, w[p + "conv1.conv.weight"], w[p + "conv1.conv.bias"], padding=1)
        h = F.leaky_relu(F.instance_norm(h), 0.2)
        h = F.avg_pool2d(F.conv2d(h, w[p + "conv2.weight"], w[p + "conv2.bias"], padding=1), 2)
        x = h + F.conv2d(F.avg_pool2d(x, 2), w[p + "shortcut.weight"], w[p + "shortcut.bias"])
    features = F.leaky_relu(x, 0.2).mean((2, 3))
    return (
        F.linear(features, w["mean.weight"], w["mean.bias"]),
        F.linear(features, w["log_variance.weight"], w["log_variance.bias"]),
    )


def assert_same_function(
    ours: list[Tensor], theirs: list[Tensor], net: nn.Module, inputs: list[Tensor], scale: float = 1e-9
) -> None:
    """Compare results, and the gradients of a random projection of them with respect to inputs and all parameters."""
    torch.manual_seed(5)
    projections = [torch.randn_like(x) for x in theirs]
    sources = [*inputs, *net.parameters()]
    gradients = []
    for results in (ours, theirs):
        total = torch.stack([(x * p).sum() for x, p in zip(results, projections, strict=True)]).sum()
        gradients.append(torch.autograd.grad(total, sources))
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x, y, rtol=scale, atol=scale)
    largest = max(float(g.abs().max()) for g in gradients[1])
    for x, y in zip(*gradients, strict=True):
        torch.testing.assert_close(x, y, rtol=scale, atol=scale * largest)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("upsample", ["transposed", "bilinear"])
@pytest.mark.parametrize(("latent_dim", "inject"), [(0, "input"), (3, "input"), (3, "all")])
def test_unet_is_the_plain_recursion(
    implementation: functional.Implementation, upsample: str, latent_dim: int, inject: str
) -> None:
    torch.manual_seed(0)
    net = UNet(2, 3, 2, 5, latent_dim, inject, upsample).double()  # type: ignore[arg-type]
    x = torch.randn(2, 2, 64, 32, dtype=torch.float64, requires_grad=True)
    z = torch.randn(2, latent_dim, dtype=torch.float64, requires_grad=True) if latent_dim else None
    with functional.use_implementation(implementation):
        assert_same_function([net(x, z)], [plain_unet(net, x, z, inject, upsample)], net, [x] if z is None else [x, z])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("n_downsample", "n_res"), [(2, 2), (1, 0)])
def test_resnet_is_the_plain_chain(implementation: functional.Implementation, n_downsample: int, n_res: int) -> None:
    torch.manual_seed(0)
    net = ResNetGenerator(3, 2, 3, n_downsample, n_res).double()
    x = torch.randn(2, 3, 16, 12, dtype=torch.float64, requires_grad=True)
    with functional.use_implementation(implementation):
        assert_same_function([net(x)], [plain_resnet(net, x, n_downsample, n_res)], net, [x])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("n_layer", "num_scales"), [(3, 1), (2, 2)])
def test_patch_discriminator_is_the_plain_chain(
    implementation: functional.Implementation, n_layer: int, num_scales: int
) -> None:
    torch.manual_seed(0)
    config = DiscriminatorConfig(dim=4, norm="in", n_layer=n_layer, num_scales=num_scales, pad_type="zero")
    net = PatchDiscriminator(3, config).double()
    x = torch.randn(2, 3, 40, 33, dtype=torch.float64, requires_grad=True)
    with functional.use_implementation(implementation):
        assert_same_function(net(x), plain_patch_discriminator(net, x), net, [x])
        fake, real = net.forward_pair(x[:1], x[1:])
        torch.testing.assert_close([torch.cat(pair) for pair in zip(fake, real, strict=True)], net(x))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("size", [(32, 32), (37, 43)])
def test_latent_encoder_is_the_plain_chain(implementation: functional.Implementation, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    net = LatentEncoder(2, 3, 2, 3).double()
    x = torch.randn(2, 2, *size, dtype=torch.float64, requires_grad=True)
    with functional.use_implementation(implementation):
        assert_same_function(list(net(x)), list(plain_encoder(net, x)), net, [x])


@pytest.mark.parametrize(
    ("network", "latent_dim", "parameters", "gmac"),
    [
        (lambda: UNet(3, 3, latent_dim=8, inject="all"), 8, 54_794_627, 6.31),
        (lambda: UNet(3, 3, latent_dim=8), 8, 54_417_795, 6.18),
        # Counting a transposed convolution by the pixels of its result, as some tools do, gives 56.8.
        (lambda: ResNetGenerator(3, 3), 0, 11_378_179, 49.55),
        (lambda: PatchDiscriminator(3, PUBLISHED), 0, 2_764_737, 3.15),
        (lambda: PatchDiscriminator(3, PUBLISHED.model_copy(update={"num_scales": 2})), 0, 3_458_978, 3.34),
        (lambda: LatentEncoder(3, 8), 0, 2_590_032, 4.54),
    ],
    ids=["unet_all", "unet_input", "resnet", "patch", "patch_2", "encoder"],
)
def test_published_sizes(network: type[nn.Module], latent_dim: int, parameters: int, gmac: float) -> None:
    with torch.device("meta"):
        net = network()
        inputs = [torch.empty(1, 3, 256, 256)] + ([torch.empty(1, latent_dim)] if latent_dim else [])
        with functional.use_implementation("reference"), FlopCounterMode(display=False) as counter:
            net(*inputs)
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmac, abs=0.01)


def test_averaging_convolution_needs_fewer_products() -> None:
    with torch.device("meta"):
        net, x = LatentEncoder(3, 8), torch.empty(1, 3, 256, 256)
        with FlopCounterMode(display=False) as counter:
            net(x)
    assert counter.get_total_flops() / 2e9 == pytest.approx(3.03, abs=0.01)


@pytest.mark.parametrize("scales", [1, 2, 3])
@pytest.mark.parametrize("n_layer", [1, 2, 3])
def test_min_size_of_the_discriminator(scales: int, n_layer: int) -> None:
    config = DiscriminatorConfig(dim=2, norm="in", n_layer=n_layer, num_scales=scales, pad_type="zero")
    size = PatchDiscriminator.min_size(config)
    net = PatchDiscriminator(1, config)
    net(torch.rand(1, 1, size, size))
    with pytest.raises((ValueError, RuntimeError)):
        net(torch.rand(1, 1, size - 1, size - 1))


def test_patches_of_the_published_discriminator() -> None:
    """Each output value depends on 70x70 pixels of the image; there are 30x30 values at 256x256 pixels."""
    net = PatchDiscriminator(1, DiscriminatorConfig(dim=1, norm="none", n_layer=3, num_scales=1, pad_type="zero"))
    image = torch.rand(1, 1, 256, 256, requires_grad=True)
    (output,) = net.double()(image.double())
    assert output.shape == (1, 1, 30, 30)
    (gradient,) = torch.autograd.grad(output[0, 0, 15, 15], image)
    rows = gradient[0, 0].abs().sum(1).nonzero()
    assert int(rows.max() - rows.min()) + 1 == 70


needs_native = pytest.mark.skipif(unavailable("native", "cpu") is not None, reason=str(unavailable("native", "cpu")))


@needs_native
@pytest.mark.parametrize("inject", ["input", "all"])
def test_recomputing_changes_no_bit_and_stores_less(inject: str) -> None:
    torch.manual_seed(0)
    net = UNet(3, 3, 8, 4, 2, inject)  # type: ignore[arg-type]
    x, z = torch.randn(2, 3, 32, 32), torch.randn(2, 2)
    gradients, stored = [], []
    for enabled in (True, False):
        with recompute(enabled):
            gradients.append(torch.autograd.grad(net(x, z).square().sum(), [*net.parameters()]))
            stored.append(saved_bytes(lambda: net(x, z), [*net.parameters()]))
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert stored[0] < 0.75 * stored[1]


@pytest.mark.parametrize("make", [lambda **k: UNet(3, 3, 4, 6, **k), lambda **k: ResNetGenerator(3, 3, 4, 1, 2, **k)])
def test_dropout_in_training_and_optionally_at_test(make: type[nn.Module]) -> None:
    x = torch.randn(1, 3, 64, 64)
    usual, at_test = make(dropout=0.5), make(dropout=0.5, dropout_at_test=True)
    assert not torch.equal(usual(x), usual(x))
    torch.manual_seed(1)
    first = usual(x)
    torch.manual_seed(1)
    with functional.use_implementation("reference"):
        torch.testing.assert_close(usual(x), first, rtol=1e-3, atol=1e-4)  # the same masks
    usual.eval(), at_test.eval()
    assert torch.equal(usual(x), usual(x))
    assert not torch.equal(at_test(x), at_test(x))


def test_dropout_keeps_the_mean() -> None:
    x = torch.ones(100_000)
    dropped = Dropout(0.25)(x)
    assert float((dropped == 0).float().mean()) == pytest.approx(0.25, abs=0.01)
    assert float(dropped.mean()) == pytest.approx(1, abs=0.01)
    assert Dropout(0.0)(x) is x


def test_instance_norm_cancels_the_noise_of_a_resnet() -> None:
    """Noise planes add a constant to each channel, also at borders, so noise has an effect in U-Nets only."""
    net = ResNetGenerator(3, 3, 4, 1, 1, latent_dim=2).double()
    x = torch.randn(1, 3, 16, 16, dtype=torch.float64)
    first, second = (net(x, torch.randn(1, 2, dtype=torch.float64)) for _ in range(2))
    torch.testing.assert_close(first, second, rtol=1e-9, atol=1e-9)
    unet = UNet(3, 3, 4, 4, latent_dim=2).double()
    first, second = (unet(x, torch.randn(1, 2, dtype=torch.float64)) for _ in range(2))
    assert float((first - second).detach().abs().max()) > 1e-3


def test_latent_vectors_of_the_wrong_shape() -> None:
    x = torch.rand(2, 3, 16, 16)
    with pytest.raises(ValueError, match=r"expected z to be \(N, 4\) or .*, got None"):
        UNet(3, 3, 2, 4, 4)(x)
    with pytest.raises(ValueError, match=r"expected z to be None, got \(2, 4\)"):
        UNet(3, 3, 2, 4)(x, torch.rand(2, 4))
    with pytest.raises(ValueError, match=r"got \(3, 4\) for a batch of 2"):
        UNet(3, 3, 2, 4, 4)(x, torch.rand(3, 4))
    with pytest.raises(ValueError, match="expected num_downs to be at least 2, got 1"):
        UNet(3, 3, 2, 1)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_hooks_of_the_blocks_of_a_unet_are_called(implementation: functional.Implementation) -> None:
    torch.manual_seed(0)
    net = UNet(3, 2, dim=2, num_downs=3, latent_dim=2, inject="all").double()
    x, z = torch.randn(1, 3, 16, 8).double(), torch.randn(1, 2).double()
    seen: list[str] = []
    with functional.use_implementation(implementation):
        expected = net(x, z)
        for name, block in net.named_modules():
            if name.count(".") == 1:
                block.register_forward_hook(lambda module, args, y, name=name: seen.append(name))
        hooked = net(x, z)
    torch.testing.assert_close(hooked, expected, rtol=1e-9, atol=1e-10)
    assert seen == ["downs.0", "downs.1", "downs.2", "ups.2", "ups.1", "ups.0"]


@pytest.mark.parametrize("size", [(7, 9), (64, 1)])
def test_images_too_small_for_the_latent_encoder_are_named(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"at least 8 × 8 for an encoder of 2 blocks, got {size[0]} × {size[1]}"):
        LatentEncoder(3, 4, dim=4, n_blocks=2)(torch.zeros(1, 3, *size))
