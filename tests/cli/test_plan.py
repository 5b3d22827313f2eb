"""`fastmunit train --plan`."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastmunit.config import Config
from fastmunit.planning.estimate import Estimator, Use
from fastmunit.planning.trace import Settings
from tests.cli.conftest import Command


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def gigabyte_per_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the estimate by one gigabyte for each image, so that nothing is traced."""

    def use(self: Estimator, settings: Settings) -> Use:
        images = settings.batch_size // settings.micro_batches // self.processes
        return Use("an iteration", {"maps": 10**9 * images})

    def initialize(self: Estimator, config: Config, device: str, processes: int) -> None:
        self.config, self.device, self.processes = config, device, processes

    monkeypatch.setattr(Estimator, "__init__", initialize)
    monkeypatch.setattr(Estimator, "use", use)


def test_a_plan_writes_nothing_and_needs_no_images(
    fastmunit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastmunit.planning.plan._LARGEST_GROWTH", 1)
    sizes = ("gen.dim=4", "gen.n_res=1", "dis.dim=4", "dis.n_layer=2", "dis.num_scales=1", "display_size=1")
    sizes += ("crop_image_height=64", "crop_image_width=64")
    overrides = [word for size in sizes for word in ("--set", size)]
    found = fastmunit("train", "--config", "demo", "--data", "nowhere", "--plan", "--memory", "1TB", *overrides)
    assert found.status == 0
    assert "maps saved for backward" in found.out
    assert "fits in 1,000.00 GB" in found.out
    assert not found.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("gigabyte_per_image")
def test_status_and_suggestions(fastmunit: Command) -> None:
    plan = ("train", "--config", "edges2shoes", "--plan", "--device", "cuda", "--set", "batch_size=4")
    fits = fastmunit(*plan, "--memory", "10GB")
    assert fits.status == 0
    assert "4.00 GB at the peak" in fits.out
    assert "8.00 GB  --set batch_size=8" in fits.out
    too_large = fastmunit(*plan, "--memory", "4GiB")
    assert too_large.status == 1
    assert "2.00 GB  --set micro_batches=2" in too_large.out
    shared = fastmunit(*plan, "--memory", "4GiB", "--devices", "2")
    assert shared.status == 0
    assert "batch 4 on 2 processes" in shared.out
    free = fastmunit(*plan[:4], "--device", "cpu")
    assert free.status in (0, 1)
    assert "1.00 GB at the peak" in free.out


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("--plan", "--memory", "8"), 2, "such as 8GB"),
        (("--memory", "8GB", "--output", "out"), 2, "it is for --plan"),
        ((), 2, "--output"),
        (("--plan", "--resume"), 2, "--output"),
        (("--plan", "--devices", "3", "--memory", "8GB"), 1, "does not divide equally by 3 processes"),
        (("--plan", "--set", "crop_image_height=8"), 1, "crop_image_height"),
    ],
    ids=str,
)
def test_wrong_usage(fastmunit: Command, arguments: tuple[str, ...], status: int, message: str) -> None:
    found = fastmunit("train", "--config", "edges2shoes", *arguments)
    assert found.status == status
    assert message in found.err
    assert "Traceback" not in found.err
