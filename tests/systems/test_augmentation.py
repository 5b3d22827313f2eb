"""Tests of differentiable augmentation against loops over pixels in float64, and of its adaptive probability."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from fastmunit.config import Config
from fastmunit.errors import CheckpointError, ConfigError
from fastmunit.systems.parts import augmentation
from fastmunit.systems.parts.augmentation import NUMBERS, augment, count_numbers
from fastmunit.systems.parts.augmentation_probability import AugmentationProbability, overfitting_sign

ALL = list(NUMBERS)
ALMOST_ONE = 1 - 2**-24


def images(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(*shape, generator=generator, dtype=torch.float64) * 2 - 1).to(dtype)


def numbers(count: int, columns: int, seed: int = 1) -> Tensor:
    return torch.rand(count, columns, generator=torch.Generator().manual_seed(seed))


def expected_color(image: np.ndarray, u: np.ndarray, rgb: bool) -> np.ndarray:
    """Return the result of the formulas of section 3.1 and of the paper's code, as its text describes them."""
    result = image + u[0] - 0.5
    if rgb:
        for row in range(image.shape[1]):
            for column in range(image.shape[2]):
                pixel = result[:, row, column]
                gray = sum(pixel) / len(pixel)
                result[:, row, column] = [gray + (value - gray) * (u[1] * 2) for value in pixel]
    average = float(np.average(result))
    return average + (result - average) * (u[2] + 0.5)


def expected_translation(image: np.ndarray, u: np.ndarray) -> np.ndarray:
    limits = [math.floor(n / 8 + 0.5) for n in image.shape[1:]]
    down, right = (range(-m, m + 1)[math.floor(float(v) * (2 * m + 1))] for v, m in zip(u, limits, strict=True))
    result = np.zeros_like(image)
    for row in range(image.shape[1]):
        for column in range(image.shape[2]):
            if 0 <= row + down < image.shape[1] and 0 <= column + right < image.shape[2]:
                result[:, row + down, column + right] = image[:, row, column]
    return result


def expected_cutout(image: np.ndarray, u: np.ndarray) -> np.ndarray:
    result = image.copy()
    ranges = []
    for v, n in zip(u, image.shape[1:], strict=True):
        k = math.floor(n / 2 + 0.5)
        first = math.floor(float(v) * (n + 1 - k % 2)) - k // 2
        ranges.append(range(max(first, 0), min(first + k, n)))
    for row in ranges[0]:
        for column in ranges[1]:
            result[:, row, column] = 0
    return result


def expected(image: Tensor, policies: list[str], u: Tensor, rgb: bool) -> Tensor:
    result, rest = image.numpy().copy(), u.double().numpy()
    for policy, function in (("color", None), ("translation", expected_translation), ("cutout", expected_cutout)):
        if policy not in policies:
            continue
        part, rest = rest[: NUMBERS[policy]], rest[NUMBERS[policy] :]
        result = expected_color(result, part, rgb) if function is None else function(result, part)
    return torch.from_numpy(result)


@pytest.mark.parametrize("policies", [["color"], ["translation"], ["cutout"], ["cutout", "color"], ALL])
@pytest.mark.parametrize("shape", [(3, 3, 16, 24), (2, 1, 9, 13), (2, 5, 17, 8), (1, 3, 1, 1), (2, 3, 5, 1)])
def test_policies_are_the_formulas(policies: list[str], shape: tuple[int, ...]) -> None:
    x, u = images(*shape), numbers(shape[0], count_numbers(policies))
    y = augment(x, policies, u)
    assert y.dtype == torch.float64
    for k in range(len(x)):
        reference = expected(x[k], policies, u[k], rgb=shape[1] == 3)
        torch.testing.assert_close(y[k], reference, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("u", [0.0, 0.5, ALMOST_ONE])
@pytest.mark.parametrize("size", [(8, 8), (7, 130)])
def test_extreme_numbers_stay_in_range(u: float, size: tuple[int, int]) -> None:
    x, drawn = images(1, 3, *size), torch.full((1, 7), u)
    y = augment(x, ALL, drawn)
    torch.testing.assert_close(y[0], expected(x[0], ALL, drawn[0], rgb=True), rtol=1e-12, atol=1e-12)
    moved = augment(x, ["translation"], drawn[:, :2])
    assert (moved == 0).all(1).sum() == x[0, 0].numel() - math.prod(
        n - abs(round((u - 0.5) * 2 * math.floor(n / 8 + 0.5))) for n in size
    )
    covered = (augment(x, ["cutout"], drawn[:, :2]) == 0).all(1)
    assert covered.any() and not covered.all()


def test_a_gray_image_and_other_channels_have_no_saturation() -> None:
    u = numbers(2, 3)
    other = torch.stack([u[:, 0], 1 - u[:, 1], u[:, 2]], 1)
    for channels in (1, 2, 4, 12):
        x = images(2, channels, 6, 5)
        assert torch.equal(augment(x, ["color"], u), augment(x, ["color"], other)), channels
    x = images(2, 3, 6, 5)
    assert not torch.equal(augment(x, ["color"], u), augment(x, ["color"], other))
    assert torch.equal(augment(x, ["color"], u, rgb=False), augment(x, ["color"], other, rgb=False))
    neutral = torch.full((2, 3), 0.5)
    torch.testing.assert_close(augment(x, ["color"], neutral), x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("policies", [ALL, ["translation"]])
def test_gradients_are_those_of_finite_differences(policies: list[str]) -> None:
    x, u = images(2, 3, 8, 9).requires_grad_(), numbers(2, count_numbers(policies))
    applied = torch.tensor([[True, True, True], [False, True, False]])
    assert torch.autograd.gradcheck(lambda x: augment(x, policies, u, applied), (x,))
    assert torch.autograd.gradgradcheck(lambda x: augment(x, policies, u, applied), (x,))


def test_a_policy_is_applied_where_it_should_be() -> None:
    x, u = images(8, 3, 8, 8), numbers(8, 7)
    applied = torch.tensor([[bool(k & 1), bool(k & 2), bool(k & 4)] for k in range(8)])
    y = augment(x, ALL, u, applied)
    for k in range(8):
        chosen = [policy for place, policy in enumerate(ALL) if applied[k, place]]
        columns = [range(3), range(3, 5), range(5, 7)]
        own = [c for place, part in enumerate(columns) if applied[k, place] for c in part]
        assert torch.equal(y[k], augment(x[k : k + 1], chosen, u[k : k + 1, own])[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_other_types_and_layouts(dtype: torch.dtype) -> None:
    x, u = images(3, 3, 9, 16, dtype=dtype), numbers(3, 7)
    y = augment(x, ALL, u)
    assert y.dtype == dtype
    torch.testing.assert_close(
        y, augment(x.double(), ALL, u).to(dtype), rtol=1e-2 if dtype != torch.float32 else 1e-5, atol=1e-5
    )
    for other in (x.to(memory_format=torch.channels_last), x.transpose(2, 3).contiguous().transpose(2, 3)):
        torch.testing.assert_close(augment(other, ALL, u), y)
    empty = augment(x[:0], ALL, u[:0])
    assert empty.shape == (0, 3, 9, 16)


def test_pixels_without_a_value_spread_no_further_than_the_colors() -> None:
    x, u = images(2, 3, 8, 8), numbers(2, 4)
    x[0, :, 0, 0] = torch.nan
    y = augment(x, ["translation", "cutout"], u)
    assert y[0].isnan().sum() <= 3
    assert not y[1].isnan().any()


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"dis_augment": ["colors"]}, "dis_augment.*a list of color, translation, cutout"),
        ({"dis_augment": ["color", "color"]}, "dis_augment.*each at most once"),
        ({"dis_augment": "colors"}, "dis_augment.*a list of color"),
        ({"dis_augment": "color,color"}, "dis_augment.*each at most once"),
        ({"dis_augment": ""}, "dis_augment.*a list of color"),
        ({"dis_augment": 1}, "dis_augment.*a list of color"),
        ({"dis_augment": [["color"]]}, "dis_augment.*a list of color"),
        ({"dis_augment_target": 0.6}, "dis_augment_target needs dis_augment"),
        ({"dis_augment": ["color"], "dis_augment_target": 1}, "dis_augment_target"),
        ({"dis_augment_ramp": 0}, "dis_augment_ramp"),
        ({"r1_w": -1}, "r1_w"),
        ({"r1_iter": 0}, "r1_iter"),
        ({"r1_w": 1, "dis": {"norm": "bn"}}, "r1_w > 0 needs dis.norm none, in, ln or sn"),
        ({"lr_dis": 0}, "lr_dis"),
        ({"lr_warmup": -1}, "lr_warmup"),
    ],
)
def test_wrong_keys_are_refused(values: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        Config.from_dict(values)


def test_the_order_of_policies_has_no_meaning() -> None:
    assert Config.load("demo", ["dis_augment=[cutout, color]"]).dis_augment == ["color", "cutout"]
    assert Config.from_dict({"dis_augment": ("translation",)}).dis_augment == ["translation"]
    assert Config.load("demo", ["dis_augment=color"]).dis_augment == ["color"]
    assert Config.load("demo", ["dis_augment=cutout,color"]).dis_augment == ["color", "cutout"]
    assert Config().dis_augment == []


@pytest.mark.parametrize(("gan_type", "threshold"), [("lsgan", 0.5), ("nsgan", 0), ("hinge", 0)])
def test_overfitting_sign(gan_type: str, threshold: float) -> None:
    maps = [images(2, 1, 3, 5) + threshold, images(2, 1, 1, 2, seed=1) + threshold]
    means = [np.mean([1 if value > threshold else -1 for value in output.flatten().tolist()]) for output in maps]
    assert float(overfitting_sign(maps, gan_type)) == pytest.approx(np.mean(means))
    assert float(overfitting_sign([torch.full((1, 1, 2, 2), threshold)], gan_type)) == 0


def test_the_probability_follows_the_rule() -> None:
    generator = torch.Generator().manual_seed(0)
    rule = AugmentationProbability(2, target=0.2, ramp=100)
    p, window = [0.0, 0.0], []
    for iteration in range(60):
        signs = torch.rand(2, generator=generator) * 2 - (1 if iteration < 40 else 1.9)
        signs[1] = 1.0
        rule.adapt(signs, images=3)
        window.append(signs.tolist())
        if len(window) == 4:
            for k in range(2):
                mean = sum(sign[k] for sign in window) / 4
                p[k] = min(1.0, max(0.0, p[k] + (0.12 if mean > 0.2 else -0.12)))
            window = []
        assert rule.p.tolist() == pytest.approx(p, abs=1e-6)
        if iteration == 30:
            state, rule = rule.state(), AugmentationProbability(2, target=0.2, ramp=100)
            rule.load_state(state)
    assert rule.p[1] == 1 and rule.p[0] < 1


def test_a_damaged_probability_is_refused() -> None:
    rule = AugmentationProbability(2, target=0.2, ramp=100)
    for changes in (
        {"p": torch.zeros(3)},
        {"p": None},
        {"signs": torch.full((2,), math.nan)},
        {"p": torch.zeros(2).int()},
    ):
        with pytest.raises(CheckpointError):
            rule.load_state({**rule.state(), **changes})
    with pytest.raises(CheckpointError):
        rule.load_state([])


def test_moves_need_no_scattered_sums() -> None:
    """The gradient of a translation is a translation, so it has the same bits on every device."""
    x = images(1, 1, 8, 8).requires_grad_()
    y = augmentation.translate(x, torch.tensor([[0.0, 0.99]], dtype=torch.float64))
    (gradient,) = torch.autograd.grad(y, x, torch.ones_like(y))
    assert set(gradient.unique().tolist()) == {0.0, 1.0}
    assert gradient.sum() == 7 * 7
