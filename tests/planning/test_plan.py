"""Plans: what fits, what would fit, and what planning leaves alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from fastmunit.config import Config
from fastmunit.errors import ConfigError
from fastmunit.planning import workspace
from fastmunit.planning.available import bytes_of, free_memory
from fastmunit.planning.estimate import GRIDS, LIBRARIES, Estimator, Use
from fastmunit.planning.live_memory import COPIES, SAVED, TEMPORARY, WEIGHTS
from fastmunit.planning.plan import MARGIN, plan
from fastmunit.planning.text import lines_of
from fastmunit.planning.trace import ADAM, EMA, IMAGES, Settings, TracedTraining
from fastmunit.systems import registry

TINY: dict[str, Any] = {
    "crop_image_height": 32,
    "crop_image_width": 32,
    "new_size": 32,
    "batch_size": 2,
    "display_size": 1,
    "gen": {"dim": 4, "n_res": 1, "mlp_dim": 8, "n_downsample": 1},
    "dis": {"dim": 4, "n_layer": 1, "num_scales": 1},
}
OPTIONS: dict[str, dict[str, Any]] = {
    "bicyclegan": {"num_downs": 3, "encoder_dim": 4, "encoder_blocks": 1},
    "cyclegan": {"pool_size": 50},
}


def tiny(**changes: Any) -> Config:
    return Config.from_dict(TINY | changes)


@pytest.fixture(scope="module")
def estimator() -> Estimator:
    return Estimator(tiny(precision="bfloat16"), "cpu")


@pytest.mark.parametrize("system", registry.names())
def test_every_system(system: str) -> None:
    pairs = "folders" if registry.system_named(system).paired else "unpaired"
    config = tiny(system=system, pairs=pairs, options=OPTIONS.get(system, {}), ema_decay=0.9)
    training = TracedTraining(config, workspace.on_cpu)
    parts = training.iteration(Settings(2, 1, "auto", False)).parts
    with torch.random.fork_rng(devices=[]):
        networks = registry.system_named(system)(config)
    tensors = {id(tensor): tensor for tensor in (*networks.parameters(), *networks.buffers())}
    expected = sum(tensor.nbytes for tensor in tensors.values())
    assert parts[WEIGHTS] == expected
    trained = sum(p.nbytes for p in networks.parameters())
    steps = 4 * sum(1 for _ in networks.parameters())
    assert parts[ADAM] == 2 * trained + steps
    generators = networks.generators().values()
    averaged = {id(t): t for network in generators for t in (*network.parameters(), *network.buffers())}
    assert parts[EMA] == sum(t.nbytes for t in averaged.values())
    image = 3 * 32 * 32 * 4
    pools = 100 if system == "cyclegan" else 0
    assert parts[IMAGES] == image * (4 + 4 + pools)
    assert training.sample_grids().parts[WEIGHTS] == expected


def test_more_images_take_more_and_options_that_save_memory_take_less(estimator: Estimator) -> None:
    one, two = (estimator.use(Settings(batch, 1, "never", False)) for batch in (1, 2))
    assert one.total < two.total
    # Near-equal peaks split the maps differently, so both kinds are added.
    one_maps, two_maps = (use.parts[SAVED] + use.parts[TEMPORARY] for use in (one, two))
    assert two_maps == pytest.approx(2 * one_maps, rel=0.1)
    assert two.parts[COPIES] > 0
    for settings in (Settings(2, 2, "never", False), Settings(2, 1, "always", False), Settings(2, 1, "never", True)):
        assert estimator.use(settings).total < two.total


def test_peaks_include_the_r1_penalty() -> None:
    settings = Settings(2, 1, "auto", False)
    without, with_penalty = (TracedTraining(tiny(r1_w=w), workspace.on_cpu).iteration(settings) for w in (0, 1))
    assert with_penalty.parts[SAVED] > without.parts[SAVED]
    assert sum(with_penalty.parts.values()) > sum(without.parts.values())


class Formula:
    """A stand-in for `Estimator`: a kilobyte for the weights, and one for each image that is computed at once."""

    def __init__(self, config: Config, device: str, processes: int) -> None:
        self.config, self.device, self.processes = config, device, processes

    def use(self, settings: Settings) -> Use:
        images = settings.batch_size / settings.micro_batches / self.processes
        factor = 0.25 if settings.checkpointing else 0.5 if settings.recompute == "always" else 1.0
        low = 0.5 if self.config.precision != "float32" else 1.0
        grids = 1000 * self.config.display_size
        parts = {"weights": 1000, "maps": int(1000 * images * factor * low), "grids": grids}
        return Use("an iteration", parts)


def settings_that_fit(available: float, **changes: Any) -> list[dict[str, str]]:
    found = plan(tiny(**{"batch_size": 4} | changes), int(MARGIN * available) + 1)
    choices = found.larger if found.fits else found.smaller
    assert all(MARGIN * choice.use.total <= found.available for choice in choices)
    return [choice.changes for choice in choices]


def test_plans_name_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastmunit.planning.plan.Estimator", Formula)
    assert settings_that_fit(20_000) == [{"batch_size": "8"}, {"batch_size": "16"}]
    assert settings_that_fit(6000) == [], "4 images fit, 8 do not"
    assert settings_that_fit(4000) == [{"micro_batches": "2"}, {"checkpointing": "true"}, {"batch_size": "2"}]
    assert settings_that_fit(3000) == [{"micro_batches": "4"}, {"checkpointing": "true"}, {"batch_size": "1"}]
    assert settings_that_fit(2600) == [
        {"micro_batches": "2", "checkpointing": "true"},
        {"batch_size": "1", "checkpointing": "true"},
    ]
    assert settings_that_fit(1900) == [], "nothing fits"
    assert settings_that_fit(3000, precision="bfloat16")[0] == {"recompute": "always"}
    assert settings_that_fit(2130, batch_size=1, display_size=1) == [{"precision": "bfloat16", "checkpointing": "true"}]
    assert settings_that_fit(3000, batch_size=1, display_size=3) == [{"display_size": "1"}]


def test_the_text_of_a_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastmunit.planning.plan.Estimator", Formula)
    config = tiny(batch_size=4)
    lines = [*lines_of(plan(config, 5000), config, "cpu", 1)]
    assert lines[0].startswith("munit, 32x32, batch 4, float32, cpu: about 0.00 GB at the peak, during an iteration")
    assert "    0.00 GB  --set micro_batches=2: the same step, in 2 parts" in lines
    nothing = [*lines_of(plan(config, 1), config, "cpu", 1)]
    assert "lower crop_image_height" in nothing[-1]


def test_processes_share_batches_on_a_gpu(estimator: Estimator) -> None:
    config = tiny(batch_size=4)
    shared = Estimator(config, "cuda", 4).use(Settings(4, 1, "auto", False))
    assert shared.parts[IMAGES] == 3 * 32 * 32 * 4 * (2 + 4), "one image of each domain, and the sample grids'"
    assert GRIDS in shared.parts
    assert LIBRARIES not in shared.parts
    assert LIBRARIES in estimator.use(Settings(1, 1, "never", False)).parts
    with pytest.raises(ConfigError, match=r"batch_size 4 .* 3 processes"):
        plan(config, 10**9, "cpu", 3)


def test_vgg_needs_no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FASTMUNIT_WEIGHTS", str(tmp_path))
    weights = [TracedTraining(tiny(vgg_w=w), workspace.on_cpu).sample_grids().parts[WEIGHTS] for w in (1.0, 0.0)]
    assert weights[0] - weights[1] == 4 * 14_714_688, "VGG-16 without its classifier"


def test_training_after_a_plan_is_unchanged() -> None:
    config = tiny()
    x_a, x_b = torch.linspace(-1, 1, 2 * 2 * 3 * 32 * 32).view(2, 2, 3, 32, 32).unbind()

    def losses() -> list[float]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            system = registry.system_of(config)(config)
            system.step(x_a, x_b)
        return [float(value) for value in system.losses().values()]

    before, random = losses(), torch.get_rng_state()
    TracedTraining(config, workspace.on_cpu).iteration(Settings(2, 1, "auto", False))
    assert torch.equal(torch.get_rng_state(), random)
    assert losses() == before


@pytest.mark.parametrize(
    ("text", "size"), [("8GB", 8 * 10**9), ("1.5 GiB", 3 * 2**29), ("512mib", 2**29), ("1kb", 1000)]
)
def test_sizes(text: str, size: int) -> None:
    assert bytes_of(text) == size


@pytest.mark.parametrize("text", ["", "8", "GB", "-1GB", "0GB", "8 bytes", "1e3GB", "9" * 40 + "GB"])
def test_wrong_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="such as 8GB"):
        bytes_of(text)


def test_free_memory_of_the_cpu() -> None:
    assert 2**20 < free_memory(torch.device("cpu")) < 2**50


TRAINING = """
import json, sys
import torch
from fastmunit.config import Config
from fastmunit.systems import registry

def memory(name):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(name))

torch.set_num_threads(1)
config = Config.from_dict(json.loads(sys.argv[1]))
system_class = registry.system_of(config)
before = memory("VmRSS")
system = system_class(config)
size = (config.crop_image_height, config.crop_image_width)
batch = [torch.rand(config.batch_size, 3, *size) for _ in range(2)]
for _ in range(3):
    system.step(*batch)
print(memory("VmHWM") - before)
"""
SMALL = {"crop_image_height": 128, "crop_image_width": 128, "display_size": 1, "options": {}}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from Linux's /proc")
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("edges2shoes", {}),
        ("edges2shoes", {"batch_size": 2, "precision": "bfloat16"}),
        ("edges2shoes", {"batch_size": 4, "checkpointing": True}),
        ("edges2shoes", {"batch_size": 4, "micro_batches": 4}),
        ("unit_edges2shoes", {"batch_size": 2}),
        ("cyclegan", {"batch_size": 2, "options": {"pool_size": 0}}),
        ("demo", {"batch_size": 8, "crop_image_height": 64, "crop_image_width": 64}),
    ],
    ids=str,
)
def test_estimates_are_within_15_percent_of_the_growth_of_a_process(name: str, changes: dict[str, Any]) -> None:
    config = Config.from_dict(Config.load(name).to_dict() | SMALL | changes)
    estimator = Estimator(config, "cpu")
    settings = Settings(config.batch_size, config.micro_batches, config.recompute, config.checkpointing)
    estimate = estimator.growth(settings)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", TRAINING, json.dumps(config.to_dict())]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    measured = int(run.stdout)
    assert abs(estimate - measured) <= 0.15 * measured, f"{estimate / 1e6:,.0f} MB, measured {measured / 1e6:,.0f} MB"


def documented_batches() -> dict[int, list[str]]:
    """Return the rows of the table of batches in memory.md: GB in bfloat16 and float32, then with checkpointing."""
    lines = (Path(__file__).parents[2] / "docs/how_to/memory.md").read_text().splitlines()
    start = lines.index("| batch | bfloat16 | float32 | bfloat16, checkpointing | float32, checkpointing |") + 2
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start : lines.index("", start)]]
    return {int(batch): cells for batch, *cells in rows}


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 2, 4, 8, 16])
def test_the_documented_batches(batch: int) -> None:
    computed = []
    for checkpointing in (False, True):
        for precision in ("bfloat16", "float32"):
            config = Config.load("edges2shoes", [f"precision={precision}"])
            use = Estimator(config, "cuda").use(Settings(batch, 1, config.recompute, checkpointing))
            computed.append(f"{use.total / 1e9:.1f}")
    documented = documented_batches()[batch]
    assert documented == [new if old else "" for old, new in zip(documented, computed, strict=True)]
