from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fastmunit.errors import DataError, FastmunitError
from fastmunit.metrics.distances import frechet_distance, frechet_estimate, kernel_distance, kernel_estimate
from fastmunit.metrics.features import FeatureNet, features_of


def vectors(count: int, dimensions: int, seed: int, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dimensions, dimensions, generator=torch.Generator().manual_seed(seed // 10)).double()
    return torch.randn(count, dimensions, generator=generator).double() @ mixing / dimensions**0.5 + shift


@pytest.fixture
def torchmetrics() -> None:
    pytest.importorskip("torchmetrics", reason="needs torchmetrics")


@pytest.mark.parametrize(("n", "m", "d"), [(300, 200, 16), (40, 60, 64), (500, 500, 8)])
def test_equal_to_torch_fidelity(n: int, m: int, d: int, torchmetrics: None) -> None:
    pytest.importorskip("torch_fidelity", reason="needs torch-fidelity")
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

    x, y = vectors(n, d, 1), vectors(m, d, 2, shift=0.3)
    statistics = [fid_features_to_statistics(features) for features in (x, y)]
    expected = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert frechet_distance(x, y) == pytest.approx(expected, abs=1e-4, rel=1e-6)
    # Sets of equal size make one subset. For others, the mean over random subsets is close.
    size = min(n, m)
    options = {"kid_subset_size": size, "kid_subsets": 1, "verbose": False}
    expected = kid_features_to_metric(x[:size], y[:size], **options)[KEY_METRIC_KID_MEAN]
    assert kernel_distance(x[:size], y[:size]) == pytest.approx(expected, abs=1e-4, rel=1e-9)
    many = kid_features_to_metric(x, y, kid_subset_size=30, kid_subsets=1000, verbose=False)
    assert kernel_distance(x, y) == pytest.approx(many[KEY_METRIC_KID_MEAN], rel=0.1)


@pytest.mark.filterwarnings("ignore::UserWarning")  # about its buffers
def test_equal_to_torchmetrics(torchmetrics: None) -> None:
    from torchmetrics.image.kid import KernelInceptionDistance

    class Given(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    x, y = vectors(50, 12, 1), vectors(50, 12, 2)
    metric = KernelInceptionDistance(feature=Given(), subsets=1, subset_size=50)
    metric.update(x, real=True)
    metric.update(y, real=False)
    assert kernel_distance(x, y) == pytest.approx(float(metric.compute()[0]), abs=1e-9)


def test_frechet_distance_of_known_gaussians(torchmetrics: None) -> None:
    """The vectors have known mean and covariance: d² = 2² + (√9 - √4)² + (√1 - √25)²."""
    base = torch.randn(400, 2, generator=torch.Generator().manual_seed(0)).double()
    base = base - base.mean(dim=0)
    white = base @ torch.linalg.inv(torch.linalg.cholesky(base.T @ base / 399)).T
    x = white * torch.tensor([3.0, 1.0])
    y = white.flip(0) * torch.tensor([2.0, 5.0]) + torch.tensor([2.0, 0.0])
    assert frechet_distance(x, y) == pytest.approx(4 + 1 + 16, rel=1e-9)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)


def test_kernel_distance_by_hand() -> None:
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [0.0]])
    within_x, within_y = 1.0, 1.0  # (0·1 + 1)³ and (2·0 + 1)³
    across = (1 + 1 + 27 + 1) / 4
    assert kernel_distance(x, y) == pytest.approx(within_x + within_y - 2 * across)


def test_kernel_distance_is_unbiased() -> None:
    """For two samples of one distribution it is 0 on average, so it is negative about half of the time."""
    generator = torch.Generator().manual_seed(0)
    values = torch.tensor([kernel_distance(*torch.randn(2, 20, 4, generator=generator)) for _ in range(300)])
    assert abs(float(values.mean())) < 4 * float(values.std()) / 300**0.5
    assert values.min() < 0


def test_estimates(torchmetrics: None) -> None:
    real, outputs = vectors(60, 8, 1), vectors(120, 8, 2, shift=0.5).view(30, 4, 8)
    for estimate, value in (
        (frechet_estimate(real, outputs), frechet_distance(real, outputs.flatten(0, 1))),
        (kernel_estimate(real, outputs), kernel_distance(real, outputs.flatten(0, 1))),
    ):
        assert estimate.value == pytest.approx(value, rel=1e-12)
        assert estimate.low is not None and estimate.high is not None and estimate.low < value < estimate.high
        assert estimate.count == 30
    assert frechet_estimate(real, outputs, seed=1) == frechet_estimate(real, outputs, seed=1)


def test_interval_of_the_kernel_distance_covers() -> None:
    """The distance of N(0, 1) and N(1, 1) follows from E (xy + 1)³, which the moments of x and y give."""
    # E(xy + 1)³ = E(xy)³ + 3 E(xy)² + 3 E(xy) + 1, with E(xy)^p = E x^p E y^p. The moments of N(0, 1) are 0, 1, 0,
    # those of N(1, 1) are 1, 2, 4. So E is 4 for N(0, 1) twice, 32 for N(1, 1) twice, and 3·2 + 1 = 7 for both.
    truth = 4 + 32 - 14
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for trial in range(60):
        real = torch.randn(80, 1, generator=generator).double()
        outputs = torch.randn(80, 1, 1, generator=generator).double() + 1
        estimate = kernel_estimate(real, outputs, seed=trial)
        assert estimate.low is not None and estimate.high is not None
        covered += estimate.low <= truth <= estimate.high
    assert 49 <= covered <= 60


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
@pytest.mark.parametrize(
    ("real", "outputs", "message"),
    [
        (torch.zeros(1, 8), torch.zeros(5, 8), r"at least 2 real images, got features \(1, 8\)"),
        (torch.zeros(5, 8), torch.zeros(0, 8), "at least 2 output images"),
        (torch.zeros(5, 8), torch.zeros(5, 9), "8 and 9 dimensions"),
        (torch.zeros(5, 8), torch.full((5, 8), torch.nan), "output features with NaN"),
    ],
)
def test_unusable_features(distance, real: Tensor, outputs: Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        distance(real, outputs)


def test_without_torchmetrics(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in [name for name in sys.modules if name.startswith("torchmetrics")]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    with pytest.raises(FastmunitError, match=r"fastmunit\[eval\]"):
        frechet_distance(torch.zeros(3, 2), torch.ones(3, 2))


def test_feature_networks(alexnet: nn.Sequential, vgg16: nn.Sequential) -> None:
    images = torch.rand(5, 3, 64, 48) * 2 - 1
    normalized = ((images + 1) / 2 - torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).view(1, 3, 1, 1)
    for name, backbone, depth, channels in (("AlexNet", alexnet, 12, 256), ("VGG16", vgg16, 30, 512)):
        network = FeatureNet(name, backbone=backbone)
        features = features_of(network, images, batch_size=2)
        assert features.shape == (5, channels) == (5, network.num_features)
        torch.testing.assert_close(features, backbone[:depth](normalized).mean((2, 3)), rtol=1e-4, atol=1e-5)
        assert features.min() >= 0
    with pytest.raises(DataError, match="feature network AlexNet: expected RGB images, got gray"):
        FeatureNet("AlexNet", backbone=alexnet)(torch.zeros(1, 1, 64, 64))
    with pytest.raises(DataError, match="at least 31 pixels"):
        FeatureNet("AlexNet", backbone=alexnet)(torch.zeros(1, 3, 28, 28))
    with pytest.raises(FastmunitError, match="AlexNet or VGG16, got Inception"):
        FeatureNet("Inception")  # type: ignore[arg-type]


def test_real_feature_networks_distinguish_photos_from_noise(weights: Path, tmp_path: Path, torchmetrics: None) -> None:
    from fastmunit import data

    paths = data.list_images(data.unpack_demo(tmp_path) / "testB")[:40]
    photos = torch.stack([data.read_image(path, 3) for path in paths])
    network = FeatureNet("AlexNet", weights)
    half, other = features_of(network, photos).split(20)
    noisy = features_of(network, (photos[:20] + 0.5 * torch.randn(20, 3, 64, 64)).clamp(-1, 1))
    assert kernel_distance(half, other) < 0.2 * kernel_distance(half, noisy)
    assert frechet_distance(half, other) < frechet_distance(half, noisy)
