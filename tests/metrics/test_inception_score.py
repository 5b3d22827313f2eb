from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmunit.errors import DataError
from fastmunit.metrics.inception_score import conditional_inception_score, inception_score, mean_divergence


def certain(labels: Any, classes: int) -> torch.Tensor:
    return F.one_hot(torch.tensor(labels), classes).double()


def test_one_mode_is_zero() -> None:
    p = certain([[2] * 8] * 12, 5)
    for score in (inception_score(p), conditional_inception_score(p)):
        assert (score.kl.value, score.kl.low, score.kl.high, score.exponential) == (0, 0, 0, 1)


@pytest.mark.parametrize("k", [2, 3, 7])
def test_k_equally_likely_modes_are_log_k(k: int) -> None:
    p = certain([[j % k for j in range(3 * k)]] * 12, 9)
    for score in (inception_score(p), conditional_inception_score(p)):
        assert score.kl.value == pytest.approx(math.log(k), abs=1e-12)
        assert score.exponential == pytest.approx(k, abs=1e-9)


def test_diversity_over_inputs_counts_for_is_but_not_for_cis() -> None:
    """In a deterministic model, all outputs of an input are in one class."""
    p = certain([[i % 4] * 6 for i in range(20)], 4)
    assert inception_score(p).kl.value == pytest.approx(math.log(4), abs=1e-12)
    score = conditional_inception_score(p)
    assert score.kl.value == 0 and score.per_input == (0,) * 20


def test_unequal_modes_are_the_entropy() -> None:
    p = certain([[0, 0, 0, 1]] * 10, 2)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert conditional_inception_score(p).kl.value == pytest.approx(entropy, abs=1e-12)


def test_uncertain_rows_by_hand() -> None:
    p = torch.tensor([[[0.9, 0.1], [0.2, 0.8]]])
    marginal = (0.55, 0.45)
    by_hand = [sum(q * math.log(q / m) for q, m in zip(row, marginal, strict=True)) for row in [(0.9, 0.1), (0.2, 0.8)]]
    assert inception_score(p).kl.value == pytest.approx(sum(by_hand) / 2, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 4), st.integers(2, 5), st.integers(2, 6), st.integers(0, 2**31), st.floats(0.01, 20)
)  # fmt: skip
def test_bounds(inputs: int, outputs: int, classes: int, seed: int, sharpness: float) -> None:
    logits = torch.randn(inputs, outputs, classes, generator=torch.Generator().manual_seed(seed)).double()
    p = (sharpness * logits).softmax(dim=2)
    total, within = inception_score(p).kl.value, conditional_inception_score(p).kl.value
    # IS is CIS plus the divergence of the means of the inputs from the mean over all.
    assert total == pytest.approx(within + mean_divergence(p.mean(dim=1)), abs=1e-9)
    assert 0 <= within <= total + 1e-9 <= math.log(classes) + 2e-9
    assert within <= math.log(outputs) + 1e-9


@pytest.mark.filterwarnings("ignore::UserWarning")  # about its buffers, and the deviation over one split
def test_equals_torchmetrics() -> None:
    module = pytest.importorskip("torchmetrics.image.inception", reason="needs torchmetrics")

    class Given(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    logits = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)).double()
    metric = module.InceptionScore(feature=Given(), splits=1)
    metric.update(logits)
    expected = float(metric.compute()[0])
    assert inception_score(logits.softmax(1)[None]).exponential == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("p", "message"),
    [
        (torch.full((4, 3), 1 / 3), r"\(inputs, outputs, classes\), got \(4, 3\)"),
        (torch.zeros(0, 2, 3), r"got \(0, 2, 3\)"),
        (torch.ones(2, 2, 1), "at least 2 classes, got 1"),
        (torch.full((2, 2, 3), 0.5), "sum to 1"),
        (torch.tensor([[[1.5, -0.5], [0.5, 0.5]]]), "at least 0"),
        (torch.full((2, 2, 2), torch.nan), "probabilities"),
    ],
)
def test_no_probabilities(p: torch.Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        inception_score(p)


def test_cis_of_single_outputs() -> None:
    with pytest.raises(DataError, match="at least 2 outputs"):
        conditional_inception_score(torch.full((5, 1, 2), 0.5))
