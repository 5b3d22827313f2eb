"""The estimated time grows with the work, and measuring changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fastmunit.out_of_core import time_estimate
from fastmunit.out_of_core.engine import OutOfCoreTranslation, Settings
from fastmunit.out_of_core.pixels import TensorSource
from fastmunit.out_of_core.time_estimate import estimated_seconds, in_words
from tests.out_of_core.models import picture, styles_of, translated, untrained, whole


@pytest.mark.parametrize("name", ["munit", "unit with noise"])
def test_estimate(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that counts its readings, and a disk of known speed, the estimate follows from the sizes."""
    ticks = iter(range(10**6))
    monkeypatch.setattr(time_estimate.time, "perf_counter", lambda: next(ticks))
    translator = untrained(name)

    def seconds(side: int, write: float, read: float) -> float:
        monkeypatch.setattr(time_estimate, "_disk_rates", lambda _: (write, read))
        source = TensorSource(picture(translator.channels, side, side))
        settings = Settings(20_000, tile=(32, 32))
        work = OutOfCoreTranslation(translator, source, styles_of(translator, 1), settings)
        return estimated_seconds(work.passes, work.placement, tmp_path / "none", translator.device)

    fast = float("inf")
    small, large = seconds(128, fast, fast), seconds(256, fast, fast)
    assert small > 0
    assert large == pytest.approx(4 * small, rel=0.1)
    assert seconds(128, 1000, fast) > small < seconds(128, fast, 1000)


def test_measuring_leaves_no_statistics() -> None:
    translator = untrained("munit")
    image, styles = picture(3, 40, 48), styles_of(translator, 1)
    work = OutOfCoreTranslation(translator, TensorSource(image), styles, Settings(20_000, tile=(16, 24)))
    assert "s" in work.describe()
    assert all(reduction.moments is None for step in work.passes for x in step.computed() for reduction in x.reductions)
    result = translated(translator, image, styles, (16, 24), 20_000)
    torch.testing.assert_close(result, whole(translator, image, styles), rtol=0, atol=1e-12)


def test_the_disk_is_measured(tmp_path: Path) -> None:
    write, read = time_estimate._disk_rates(tmp_path)
    assert 0 < write < float("inf")
    assert 0 < read < float("inf")
    assert not list(tmp_path.iterdir())
    assert time_estimate._disk_rates(tmp_path / "none") == (float("inf"), float("inf"))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.01, "about 1 s"),
        (89, "about 89 s"),
        (90, "about 1.5 min"),
        (1200, "about 20 min"),
        (5400, "about 1.5 h"),
        (172_800, "about 2.0 days"),
    ],
)
def test_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
