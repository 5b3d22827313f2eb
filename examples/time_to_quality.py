"""Measure how good the pictures of MUNIT are after some minutes of training, for several ways to train it.

The demo data are edge drawings and photos of fruit. Each arm is trained with several seeds, and measured every half
minute: KID of VGG-16 features and LPIPS diversity of translations of held-out drawings. The arms are

- plain: every iteration is `fastmunit.testing.reference_step`, in float32: the computations of the
  public trainer in plain PyTorch;
- defaults: the configuration `demo`, in bfloat16 where the processor is fast at it, as `fastmunit demo` runs it;
- recipe: the same with all changes of `CHANGES`;
- without_lr and the like: the recipe without one of its changes;
- augment, translation: the recipe with augmented images for the discriminators, by all policies or one, for small data;
- adaptive: the same by all policies with an adaptive probability; r1: the recipe with the R1 penalty;
- unit, cyclegan, cyclegan_noise, bicyclegan, pix2pix_noise: the demo configurations of the other systems.

Minutes are iterations times the seconds per iteration of the arm, which `calibrate` measures on a machine with nothing
else to do. So a busy machine changes neither the result nor its minutes.

    pip install "fastmunit[eval]" scikit-learn
    python -m examples.time_to_quality calibrate --output quality
    python -m examples.time_to_quality run --output quality --arms plain,defaults,recipe --seeds 3
    python -m examples.time_to_quality table --output quality

`run` writes quality/results/ARM_SEED.json, and continues where it stopped. `--images N` trains on the first N images of
each domain only. `--split validation` holds out the last sixth of each turn of the turntable from the training images,
and measures on them: choose settings with it, so that the test images stay unseen. docs/how_to/evaluation.md says where
to get ImageNet weights.
"""

from __future__ import annotations

import json
import re
import shutil
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

import fastmunit
from examples.experiment import train_run
from fastmunit import Config, data
from fastmunit.errors import FastmunitError
from fastmunit.files import write_text
from fastmunit.metrics.confidence import Estimate, mean_estimate
from fastmunit.metrics.distances import kernel_estimate
from fastmunit.metrics.diversity import pair_distances
from fastmunit.metrics.features import FeatureNet, features_of
from fastmunit.metrics.lpips import LPIPS
from fastmunit.runs.callbacks import Callback, Status
from fastmunit.runs.device import has_fast_bfloat16
from fastmunit.systems.base import System
from fastmunit.systems.munit import MUNIT
from fastmunit.systems.parts.hyperparameters import Hyperparameters
from fastmunit.systems.registry import register
from fastmunit.systems.translators import Translator
from fastmunit.testing.reference_step import reference_step

INPUTS, STYLES = 100, 4
"""Number of held-out drawings, and of random styles of each."""
HELD_OUT = 6
"""One of this many photos of each turn, the last ones, are for validation."""
CALIBRATION, RESULTS = "calibration.json", "results"

CHANGES: dict[str, Callable[[int], dict[str, Any]]] = {
    "ema": lambda iterations: {"ema_decay": 0.995, "ema_warmup": True},
    "share_fakes": lambda iterations: {"share_fakes": True},
    "lr": lambda iterations: {"lr": 0.002},
    "warmup": lambda iterations: {"lr_warmup": iterations // 10},
    "decay": lambda iterations: {"lr_policy": "linear", "step_size": max(1, iterations // 2)},
}
"""The changes of the recipe, as keys of the configuration for a training of so many iterations."""
_POLICIES = ["color", "translation", "cutout"]
SMALL_DATA: dict[str, dict[str, Any]] = {
    "augment": {"dis_augment": _POLICIES},
    "translation": {"dis_augment": ["translation"]},
    "adaptive": {"dis_augment": _POLICIES, "dis_augment_target": 0.1, "dis_augment_ramp": 5000},
    "r1": {"r1_w": 10},
}
"""Arms of the recipe with a key against discriminators that overfit."""
SYSTEMS = ("unit", "cyclegan", "cyclegan_noise", "bicyclegan", "pix2pix_noise")
"""The arms that train with the demo configurations of these names."""


class PlainMUNIT(MUNIT):
    """MUNIT whose iterations compute what the public trainer does, in plain PyTorch."""

    def step(self, x_a: Tensor, x_b: Tensor, hyperparameters: Hyperparameters | None = None) -> None:
        """Run one iteration with the weights of the configuration."""
        reference_step(self, x_a, x_b)


class Split(str, Enum):
    """The images that are held out of training."""

    TEST = "test"
    VALIDATION = "validation"


def arm_names() -> list[str]:
    """Return the names of all arms."""
    return ["plain", "defaults", "recipe", *(f"without_{name}" for name in CHANGES), *SMALL_DATA, *SYSTEMS]


def arm_config(arm: str, iterations: int) -> Config:
    """Return the configuration of an arm for a training of so many iterations.

    Raises:
        FastmunitError: If there is no such arm.
    """
    if arm not in arm_names():
        raise FastmunitError(f"arm {arm!r} is none of {', '.join(arm_names())}.")
    config = Config.load(f"demo_{arm}" if arm in SYSTEMS else "demo")
    config.max_iter = iterations
    if arm == "plain":
        register("munit_plain")(PlainMUNIT)
        config.system = "munit_plain"
    elif has_fast_bfloat16(torch.device("cpu")):  # as `fastmunit demo` chooses
        config.precision = "bfloat16"
    if arm in ("recipe", *SMALL_DATA) or arm.startswith("without_"):
        for name, changes in CHANGES.items():
            if arm != f"without_{name}":
                for key, value in changes(iterations).items():
                    setattr(config, key, value)
    for key, value in SMALL_DATA.get(arm, {}).items():
        setattr(config, key, value)
    return config


def unpack(output: Path, pairs: str) -> Path:
    """Unpack the demo data for a value of the key `pairs`, and return their folder. The test images are the same."""
    return data.unpack_demo(output / "data") if pairs == "unpaired" else data.unpack_paired_demo(output / "pairs")


def images(root: Path, split: Split, count: int | None) -> dict[str, list[Path]]:
    """Return the training and held-out images of a split.

    Args:
        root: Folder of the demo data.
        split: TEST holds out the test images, VALIDATION a part of the training images.
        count: Number of training images of each domain. None is all of them.
    """
    train = {domain: data.list_images(root / f"train{domain}") for domain in "AB"}
    held_out = {domain: data.list_images(root / f"test{domain}") for domain in "AB"}
    if split is Split.VALIDATION:
        for domain, paths in train.items():
            train[domain], held_out[domain] = _without_ends_of_turns(paths)
    return {
        **{f"train{domain}": paths[:count] for domain, paths in train.items()},
        **{f"test{domain}": paths for domain, paths in held_out.items()},
    }


def _without_ends_of_turns(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Divide photos into those for training, and the last ones of each turn of the turntable, in their order."""
    turns = defaultdict(list)
    for path in paths:
        found = re.fullmatch(r"\d+_(.+)_(\d+)", path.stem)
        if found is None:
            raise FastmunitError(f"{path.name} is not named NUMBER_VARIETY_FRAME: use the built-in demo data.")
        turns[found[1]].append((int(found[2]), path))
    last = {path for turn in turns.values() for _, path in sorted(turn)[-max(1, len(turn) // HELD_OUT) :]}
    return [path for path in paths if path not in last], [path for path in paths if path in last]


class Measures:
    """KID-VGG16 and LPIPS diversity of translations of held-out drawings, in the same styles at every call.

    Args:
        drawings: Held-out drawings.
        photos: Held-out photos, which translations are compared with.
        weights: Folder of ImageNet weights.
    """

    def __init__(self, drawings: Sequence[Path], photos: Sequence[Path], weights: Path | None) -> None:
        self._drawings = [data.read_image(path, 3) for path in drawings[:INPUTS]]
        self._features = FeatureNet("VGG16", weights)
        self._lpips = LPIPS("alex", weights=weights)
        self._real = features_of(self._features, torch.stack([data.read_image(path, 3) for path in photos]))

    @torch.inference_mode()
    def __call__(self, translator: Translator) -> dict[str, Estimate]:
        """Measure a model."""
        random = torch.Generator().manual_seed(0)
        styles = translator.random_styles(STYLES * len(self._drawings), random).split(STYLES)
        outputs = [translator.translate(x, codes) for x, codes in zip(self._drawings, styles, strict=True)]
        features = torch.stack([features_of(self._features, x) for x in outputs])
        distances = [float(pair_distances(self._lpips, x).mean()) for x in outputs]
        return {"kid": kernel_estimate(self._real, features), "diversity": mean_estimate(distances)}


class Measuring(Callback):
    """Measures the trained model every so many iterations, and writes the results.

    Args:
        file: File of the results. It is continued if it exists.
        facts: What the results are of.
        interval: Iterations between measurements.
        measures: The measures.
    """

    def __init__(self, file: Path, facts: dict[str, Any], interval: int, measures: Measures) -> None:
        self._file, self._facts, self._interval, self._measures = file, facts, interval, measures
        self._points: list[dict[str, Any]] = []
        if file.exists():
            earlier = json.loads(file.read_text())
            self._points = earlier.pop("points")
            if earlier != facts:
                raise FastmunitError(f"{file} has other settings: give another --output, or remove the file.")

    @property
    def done(self) -> bool:
        """True if the whole training has been measured."""
        return bool(self._points) and self._points[-1]["iterations"] == self._facts["max_iter"]

    def iteration(self, status: Status, trainer: System) -> None:
        """Measure if it is time to."""
        if status.iterations % self._interval:
            return
        found = self._measures(trainer.evaluation_translator("a2b"))
        # After a kill between a measurement and a checkpoint, the iteration is trained and measured again.
        self._points = [point for point in self._points if point["iterations"] < status.iterations]
        minutes = round(status.iterations * self._facts["seconds_per_iteration"] / 60, 3)
        values = {name: estimate.to_dict() for name, estimate in found.items()}
        self._points.append({"iterations": status.iterations, "minutes": minutes, **values})
        self._file.parent.mkdir(parents=True, exist_ok=True)
        write_text(self._file, json.dumps({**self._facts, "points": self._points}, indent=1) + "\n")


app = typer.Typer(add_completion=False, help=__doc__.split("\n\n")[0])
Output = Annotated[Path, typer.Option(help="Folder of the experiment.", metavar="FOLDER")]
Arms = Annotated[str, typer.Option(help="Arms, separated by commas.", metavar="NAMES")]


@app.command()
def calibrate(output: Output, arms: Arms = "plain,defaults,recipe", rounds: int = 3, seconds: float = 15.0) -> None:
    """Measure the seconds per iteration of arms in turn, with nothing else running."""
    times: dict[str, list[float]] = {arm: [] for arm in arms.split(",")}
    for _ in range(rounds):
        for arm, measured in times.items():
            config = arm_config(arm, 10**6)
            config.data_root = str(unpack(output, config.pairs))
            folder = output / "calibration"
            shutil.rmtree(folder, ignore_errors=True)
            # Sample grids and checkpoints are not part of an iteration's time.
            config.image_display_iter = config.image_save_iter = config.snapshot_save_iter = 10**6
            result = fastmunit.train(config, folder, device="cpu", time_limit=seconds)
            measured.append(1 / result.iterations_per_second)
            print(f"{arm}: {1000 * measured[-1]:.1f} ms per iteration", flush=True)
    shutil.rmtree(output / "calibration")
    file = output / CALIBRATION
    known = json.loads(file.read_text()) if file.exists() else {}
    write_text(file, json.dumps({**known, **{a: statistics.median(t) for a, t in times.items()}}, indent=1) + "\n")


@app.command()
def run(
    output: Output,
    arms: Arms = "plain,defaults,recipe",
    seeds: int = 3,
    minutes: float = 5.0,
    interval: Annotated[float, typer.Option(help="Minutes between measurements.")] = 0.5,
    images_per_domain: Annotated[int | None, typer.Option("--images", help="Training images of each domain.")] = None,
    split: Annotated[Split, typer.Option(help="Images to measure on.")] = Split.TEST,
    weights: Annotated[Path | None, typer.Option(help="Folder of ImageNet weights.")] = None,
) -> None:
    """Train and measure arms, one seed after the other."""
    file = output / CALIBRATION
    if not file.exists():
        raise FastmunitError(f"{file} is missing: run `calibrate` first, with nothing else running.")
    calibration = json.loads(file.read_text())
    held_out = images(unpack(output, "unpaired"), split, None)
    measures = Measures(held_out["testA"], held_out["testB"], weights)
    for seed in range(seeds):
        for arm in arms.split(","):
            if arm not in calibration:
                raise FastmunitError(f"{file} has no time of {arm}: run `calibrate --arms {arm}` first.")
            every = round(60 * interval / calibration[arm])
            config = arm_config(arm, every * round(minutes / interval))
            config.seed = seed
            config.snapshot_save_iter = every
            config.image_display_iter = config.image_save_iter = 10**6
            facts = {
                "arm": arm,
                "seed": seed,
                "split": split.value,
                "images": images_per_domain,
                "max_iter": config.max_iter,
                "seconds_per_iteration": calibration[arm],
            }
            measuring = Measuring(output / RESULTS / f"{arm}_{seed}.json", facts, every, measures)
            if measuring.done:
                continue
            print(f"{arm}, seed {seed}: {config.max_iter:,} iterations", flush=True)
            chosen = images(unpack(output, config.pairs), split, images_per_domain)
            train_run(config, output / "runs" / arm / str(seed), "cpu", [measuring], chosen)


@app.command()
def table(
    output: Output,
    arms: Arms | None = None,
    at: Annotated[str | None, typer.Option(help="Minutes of the rows, separated by commas.")] = None,
) -> None:
    """Print the median over the seeds of each arm, and the smallest and largest value; of one seed, its interval."""
    chosen = None if at is None else {float(minutes) for minutes in at.split(",")}
    print("| arm | seeds | minutes | iterations | KID-VGG16 | LPIPS diversity |\n|---|---|---|---|---|---|")
    for arm, runs in results(output, arms).items():
        for points in zip(*(run["points"] for run in runs), strict=False):
            if chosen is not None and round(points[0]["minutes"], 1) not in chosen:
                continue
            kid, diversity = _summary(points, "kid"), _summary(points, "diversity")
            cells = [
                arm,
                f"{len(runs)}",
                f"{points[0]['minutes']:.1f}",
                f"{points[0]['iterations']:,}",
                f"{kid[1]:.2f} ({kid[0]:.2f} … {kid[2]:.2f})",
                f"{diversity[1]:.3f} ({diversity[0]:.3f} … {diversity[2]:.3f})",
            ]
            print(f"| {' | '.join(cells)} |")


@app.command()
def chart(
    output: Output,
    file: Annotated[Path, typer.Option(help="SVG file to write.", metavar="FILE")],
    arms: Arms | None = None,
) -> None:
    """Draw KID and diversity over minutes: the values of `table`, as lines and bands."""
    try:
        from matplotlib import pyplot
        from matplotlib.ticker import LogLocator, NullLocator
    except ImportError as error:
        raise FastmunitError('the chart needs matplotlib: pip install "fastmunit[examples]".') from error
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.7), layout="constrained")
    for axis, name, label in zip(axes, ("kid", "diversity"), ("KID-VGG16", "LPIPS diversity"), strict=True):
        for arm, runs in results(output, arms).items():
            together = list(zip(*(run["points"] for run in runs), strict=False))
            minutes = [points[0]["minutes"] for points in together]
            low, median, high = zip(*(_summary(points, name) for points in together), strict=True)
            (line,) = axis.plot(minutes, median, label=arm)
            axis.fill_between(minutes, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        axis.set(xlabel="minutes of training", ylabel=label)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yscale("log")
    axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes[0].yaxis.set_major_formatter("{x:g}")
    axes[0].yaxis.set_minor_locator(NullLocator())
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False)
    with pyplot.rc_context({"svg.fonttype": "none", "svg.hashsalt": "fastmunit"}):
        figure.savefig(file, metadata={"Date": None})


def results(output: Path, arms: str | None = None) -> dict[str, list[dict[str, Any]]]:
    """Return the results of each arm, one per seed.

    Args:
        output: Folder of the experiment.
        arms: Names, separated by commas. None is all arms that have results, in the order of `arm_names`.

    Raises:
        FastmunitError: If there are none.
    """
    found = defaultdict(list)
    for file in sorted((output / RESULTS).glob("*.json")):
        result = json.loads(file.read_text())
        found[result["arm"]].append(result)
    wanted = [arm for arm in arm_names() if arm in found] if arms is None else arms.split(",")
    missing = [arm for arm in wanted if arm not in found]
    if missing or not wanted:
        raise FastmunitError(
            f"{output / RESULTS} has no results of {', '.join(missing) or 'any arm'}: use `run` first."
        )
    return {arm: found[arm] for arm in wanted}


def _summary(points: Sequence[dict[str, Any]], name: str) -> tuple[float, float, float]:
    """Return the smallest value of one measure over the seeds, the median, and the largest.

    With one seed, they are the ends of its interval, and its value.
    """
    values = [point[name]["value"] for point in points]
    if len(points) == 1:
        return points[0][name]["low"], values[0], points[0][name]["high"]
    return min(values), statistics.median(values), max(values)


if __name__ == "__main__":
    app()
