"""Tests that training with `MUNIT.step` stays close to the public trainer's algorithm in plain PyTorch and float32.

All runs start from the same weights and use the same batches of the demo data. A second reference run with other random
styles measures the accepted difference: the difference between two users of the public trainer with different seeds.
Our runs must stay within

- a quarter of it in losses: each loss_*, averaged over windows of iterations; root mean square of relative differences;
- one and a half of it in statistics: mean and standard deviation of each channel of translated test images; root mean
  square. Weights that differ by 3e-7 alone reach 0.6 to 0.9 of it after 200 iterations, and 1.1 with other sums;
- all of it in images: mean absolute difference of the translated test images, for fixed styles.

Planted errors show that a wrong run exceeds these bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from fastmunit.config import Config
from fastmunit.data import TrainingPairs, datasets, display_images, unpack_demo
from fastmunit.nn.layers.blocks import AdaINParameters
from fastmunit.systems.munit import MUNIT
from fastmunit.testing.reference_step import reference_step

Step = Callable[[MUNIT, Tensor, Tensor], None]

NETWORKS = ["gen.dim=8", "gen.mlp_dim=32", "dis.dim=8", "batch_size=2", "lr=0.0001"]


class Length(NamedTuple):
    iterations: int
    window: int
    overrides: list[str]


SHORT = Length(20, 5, [*NETWORKS, "gen.n_res=1", "new_size=32", "crop_image_height=32", "crop_image_width=32"])
LONG = Length(200, 20, NETWORKS)


class Run(NamedTuple):
    """The losses (windows,) by name and the translated images (directions, N, C, H, W) of a run."""

    losses: dict[str, Tensor]
    images: Tensor


class Distance(NamedTuple):
    losses: float
    statistics: float
    images: float


BANDS = Distance(losses=0.25, statistics=1.5, images=1)


class Experiment:
    """Runs of one length on the demo data."""

    def __init__(self, folder: Path, length: Length) -> None:
        self.folder = unpack_demo(folder / "demo")
        self.length = length
        config = self.config()
        self.batches = list(islice(TrainingPairs(config).batches(), length.iterations))
        self.inputs = [display_images(dataset, 8) for dataset in datasets.test_datasets(config)]
        self.styles = torch.randn(8, config.gen.style_dim, 1, 1, generator=torch.Generator().manual_seed(0))
        self.reference = self.run(reference_step)
        self.other_styles = self.distance(self.run(reference_step, seed=2))

    def config(self, *overrides: str) -> Config:
        return Config.load("demo", [f"data_root={self.folder}", *self.length.overrides, *overrides])

    def run(self, step: Step, *overrides: str, seed: int = 1) -> Run:
        torch.manual_seed(0)
        trainer = MUNIT(self.config(*overrides))
        torch.manual_seed(seed)
        losses: list[dict[str, float]] = []
        for x_a, x_b in self.batches:
            step(trainer, x_a, x_b)
            losses.append({name: float(loss) for name, loss in trainer.losses().items() if isinstance(loss, Tensor)})
        with torch.no_grad():
            c_a, c_b = (g.enc_content(x) for g, x in zip((trainer.gen_a, trainer.gen_b), self.inputs, strict=True))
            images = torch.stack([trainer.gen_b.decode(c_a, self.styles), trainer.gen_a.decode(c_b, self.styles)])
        windows = {name: torch.tensor([values[name] for values in losses]) for name in losses[0]}
        return Run({name: values.view(-1, self.length.window).mean(1) for name, values in windows.items()}, images)

    def distance(self, run: Run) -> Distance:
        """Return the distance from the reference run."""
        assert run.losses.keys() == self.reference.losses.keys()
        relative = [run.losses[name] / expected - 1 for name, expected in self.reference.losses.items()]
        statistics = statistics_of(run.images) - statistics_of(self.reference.images)
        difference = (run.images - self.reference.images).abs().mean()
        return Distance(rms(torch.cat(relative)), rms(statistics), float(difference))

    def outside(self, run: Run) -> dict[str, float]:
        """Return the figures outside their bounds, as multiples of the difference that other styles make."""
        figures = zip(Distance._fields, self.distance(run), self.other_styles, BANDS, strict=True)
        return {name: own / other for name, own, other, band in figures if not own <= band * other}


def statistics_of(images: Tensor) -> Tensor:
    return torch.stack([images.mean((1, 3, 4)), images.std((1, 3, 4))])


def rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


@pytest.fixture(
    scope="module", params=[pytest.param(SHORT, id="20"), pytest.param(LONG, id="200", marks=pytest.mark.slow)]
)
def experiment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Experiment]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Experiment(tmp_path_factory.mktemp("convergence"), request.param)
    torch.set_num_threads(threads)


def test_reference_learns(experiment: Experiment) -> None:
    """A reference that does not learn would be close to every run."""
    for name in ("loss_gen_recon_x_a", "loss_gen_recon_x_b", "loss_gen_total"):
        windows = experiment.reference.losses[name]
        assert windows[-1] < 0.9 * windows[0], name
    assert all(figure > 0 for figure in experiment.other_styles)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_step_stays_with_the_reference(experiment: Experiment, precision: str) -> None:
    run = experiment.run(MUNIT.step, f"precision={precision}")
    assert experiment.outside(run) == {}


def test_swapped_adain_parameters_leave_the_bands(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    take = AdaINParameters.take
    monkeypatch.setattr(AdaINParameters, "take", lambda self, num_features: take(self, num_features)[::-1])
    assert {"statistics", "images"} <= experiment.outside(experiment.run(MUNIT.step)).keys()


def test_ten_times_the_learning_rate_leaves_the_bands(experiment: Experiment) -> None:
    assert experiment.outside(experiment.run(MUNIT.step, "lr=0.001")).keys() == {"losses", "statistics", "images"}


def test_missing_loss_weight_leaves_the_bands(experiment: Experiment) -> None:
    assert "losses" in experiment.outside(experiment.run(MUNIT.step, "recon_x_w=5"))
