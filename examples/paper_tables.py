"""Tables 1 and 2 of the MUNIT paper in miniature: real photos of fruit at 64x64, minutes a model instead of weeks.

    python examples/paper_tables.py --data FRUITS_360/train --output runs/tables --minutes 10 --weights WEIGHTS

FRUITS_360/train holds apple, tomato and cherry with files named VARIETY__ROTATION_FRAME_100.jpg. Table 1 is edges to
fruit photos: quality (KID to held-out photos, in place of the paper's workers) and LPIPS diversity. Table 2 is the six
directions between the three families: CIS and IS by a classifier of varieties. Every system is trained by
`fastmunit.training.train` with the configuration shipped for it. What is done already is not done again, and a training
that was cut short goes on where it stopped: run the same command.

Writes tables.md, tables.html and tables.json, with the spread over seeds and the paper's own figures beside.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shlex
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fruit_data
from table_report import write_report
from tqdm import tqdm

from fastmunit.cli.bar import Bar
from fastmunit.config import Config
from fastmunit.errors import FastmunitError
from fastmunit.files import load_tensors, write_text
from fastmunit.inference import model_files
from fastmunit.metrics.classifier import load_classifier, save_classifier, train_classifier
from fastmunit.metrics.evaluation import evaluate
from fastmunit.metrics.measures import Measures, load_measures
from fastmunit.models import checkpoint, registry
from fastmunit.training import RunFolder, train
from fastmunit.training.device import has_fast_bfloat16, resolve_device


@dataclass(frozen=True)
class Recipe:
    """How a row of a table is trained.

    Attributes:
        config: name of the shipped configuration.
        changes: "key=value" for keys that differ from it.
        paired: whether it learns from pairs.
    """

    config: str
    changes: tuple[str, ...] = ()
    paired: bool = False


# The paper's UNIT is random by the noise of its latent code.
RECIPES: dict[str, Recipe] = {
    "UNIT": Recipe("demo_unit", ("options.noise_at_test=true",)),
    "CycleGAN": Recipe("demo_cyclegan"),
    "CycleGAN* with noise": Recipe("demo_cyclegan_noise"),
    "MUNIT without x reconstruction": Recipe("demo", ("recon_x_w=0",)),
    "MUNIT without c reconstruction": Recipe("demo", ("recon_c_w=0",)),
    "MUNIT without s reconstruction": Recipe("demo", ("recon_s_w=0",)),
    "MUNIT": Recipe("demo"),
    "BicycleGAN (paired)": Recipe("demo_bicyclegan", paired=True),
}
TABLE_1 = tuple(RECIPES)
TABLE_2 = ("CycleGAN", "CycleGAN* with noise", "UNIT", "MUNIT")

QUALITY = "kid-vgg16"
DIVERSITY = "lpips-alex-v0.1"


class Program:
    """One run of this program."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.output: Path = options.output
        self.device = resolve_device(options.device)
        self.missing: list[str] = []

    def run(self) -> None:
        """Train and measure what is not done yet, and write the tables."""
        results: list[dict[str, Any]] = []
        if 1 in self.options.tables:
            results += self.table_1()
        if 2 in self.options.tables:
            results += self.table_2()
        settings = {
            "minutes a model": self.options.minutes,
            "seeds": self.options.seeds,
            "inputs": self.options.inputs,
            "outputs of each": self.options.samples,
            "quality": QUALITY,
            "diversity": DIVERSITY,
            "missing": self.missing,
            "command": shlex.join(["python", *sys.argv]),
        }
        write_text(self.output / "tables.json", json.dumps({"settings": settings, "results": results}, indent=1) + "\n")
        write_report(self.output, settings, results)
        print(f"Look at {self.output / 'tables.md'} and {self.output / 'tables.html'}.")

    def table_1(self) -> list[dict[str, Any]]:
        """Edges to fruit photos."""
        unpaired, paired = fruit_data.edges_data(
            self.options.data, self.output / "data", self.options.train_per_variety, self.options.test_pairs, seed=0
        )
        results = []
        measures: Measures | None = None
        for name, seed in self._wanted(TABLE_1):
            recipe = RECIPES[name]
            config = self._config(recipe, seed)
            if config is None:
                continue
            config.data_root = str((paired if recipe.paired else unpaired).absolute())
            folder = self.output / "table_1" / _slug(name) / f"seed_{seed}"
            if not (folder / "result.json").is_file():
                self._train(config, folder, f"table 1, {name}, seed {seed}")
                measures = measures or load_measures(
                    [DIVERSITY, QUALITY], weights=self.options.weights, device=self.device
                )
                self._measure(config, folder, "a2b", measures)
            results.append({"table": 1, "system": name, "seed": seed, **_read(folder)})
        return results

    def table_2(self) -> list[dict[str, Any]]:
        """The six directions between three families of fruit."""
        families = fruit_data.family_data(self.options.data, self.output / "data", seed=0)
        results = []
        for (a, b), (name, seed) in itertools.product(
            itertools.combinations(fruit_data.FAMILIES, 2), self._wanted(TABLE_2)
        ):
            config = self._config(RECIPES[name], seed)
            if config is None:
                continue
            for domain, family in (("a", a), ("b", b)):
                for part in ("train", "test"):
                    setattr(config, f"data_folder_{part}_{domain}", str((families[family] / part).absolute()))
            folder = self.output / "table_2" / f"{a}_{b}" / _slug(name) / f"seed_{seed}"
            for direction, source, target in (("a2b", a, b), ("b2a", b, a)):
                place = folder / direction
                if not (place / "result.json").is_file():
                    self._train(config, folder, f"table 2, {a} and {b}, {name}, seed {seed}")
                    classifier = self._classifier(families[target], target)
                    measures = load_measures(["is-cis"], classifier=classifier, device=self.device)
                    self._measure(config, folder, direction, measures, place)
                results.append(
                    {"table": 2, "system": name, "seed": seed, "direction": f"{source} to {target}", **_read(place)}
                )
        return results

    def _wanted(self, names: Iterable[str]) -> list[tuple[str, int]]:
        chosen = [name for name in names if not self.options.systems or name in self.options.systems]
        return list(itertools.product(chosen, self.options.seeds))

    def _config(self, recipe: Recipe, seed: int) -> Config | None:
        """The shipped configuration with the recipe's changes; None where none is shipped."""
        if recipe.config not in Config.shipped():
            if recipe.config not in self.missing:
                print(f"no configuration {recipe.config} is shipped: rows that need it are left out.", file=sys.stderr)
                self.missing.append(recipe.config)
            return None
        config = Config.load(recipe.config, recipe.changes)
        config.seed = seed
        config.precision = "bfloat16" if has_fast_bfloat16(self.device) else "float32"
        return config

    def _train(self, config: Config, folder: Path, what: str) -> None:
        """Train up to the time limit, counting what earlier calls spent."""
        run = RunFolder(folder)
        newest = checkpoint.latest(run.checkpoints) if run.checkpoints.is_dir() else None
        spent = 0.0 if newest is None else float(load_tensors(run.state(newest))["seconds"])
        left = 60 * self.options.minutes - spent
        if newest is not None and left < 1:
            return
        print(f"{what}: training for {left / 60:.1f} minutes", flush=True)
        resume = run.config.is_file()
        result = train(config, folder, resume=resume, device=self.options.device, time_limit=left, keep=1,
                       progress=Bar(timed=True))  # fmt: skip
        if result.interrupted:
            raise SystemExit("interrupted; the same command goes on from here.")

    def _measure(
        self, config: Config, folder: Path, direction: str, measures: Measures, place: Path | None = None
    ) -> None:
        file, settings = model_files(folder)
        with tqdm(total=1.0, bar_format="measuring {percentage:3.0f}%|{bar}|{postfix}", disable=None) as bar:

            def show(fraction: float, text: str) -> None:
                bar.n = fraction
                bar.set_postfix_str(text)

            found = evaluate(
                registry.load_translator(file, settings, direction, self.device),
                settings,
                measures,
                direction=direction,
                inputs=self.options.inputs,
                samples=self.options.samples,
                progress=show,
            )
        iterations = checkpoint.latest(RunFolder(folder).checkpoints)
        report = {"iterations": iterations, "config": config.system, "figures": found.to_dict()["figures"]}
        write_text((place or folder) / "result.json", json.dumps(report, indent=1) + "\n")

    def _classifier(self, family: Path, name: str) -> Path:
        """A classifier of the family's varieties, trained once."""
        file = self.output / "classifiers" / f"{name}.pt"
        if not file.is_file():
            with tqdm(total=1.0, bar_format="{desc} {percentage:3.0f}%|{bar}|{postfix}", disable=None) as bar:
                bar.set_description_str(f"classifier of {name} varieties")

                def show(fraction: float, text: str) -> None:
                    bar.n = fraction
                    bar.set_postfix_str(text)

                model = train_classifier(
                    family / "train",
                    size=fruit_data.SIZE,
                    epochs=self.options.classifier_epochs,
                    weights=self.options.weights,
                    device=self.device,
                    progress=show,
                )
            save_classifier(model, file)
        accuracy = load_classifier(file).accuracy
        assert accuracy is not None
        print(f"classifier of {name} varieties: {100 * accuracy:.1f} % right on held-out frames", flush=True)
        return file


def _read(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return content


def _slug(name: str) -> str:
    return "_".join("".join(c if c.isalnum() else " " for c in name).lower().split())


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with apple, tomato, cherry: Fruits-360 photos")
    parser.add_argument("--output", type=Path, required=True, help="folder for data, models and tables")
    parser.add_argument("--minutes", type=float, default=10.0, help="training time of each model")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one model each")
    parser.add_argument("--tables", type=int, nargs="+", choices=(1, 2), default=[1, 2], help="which tables")
    parser.add_argument("--systems", nargs="+", choices=TABLE_1, help="which rows (all)")
    parser.add_argument("--weights", type=Path, help="folder with alexnet_features.pth and vgg16_features.pth")
    parser.add_argument("--inputs", type=int, default=100, help="test images measured")
    parser.add_argument("--samples", type=int, default=38, help="outputs of each")
    parser.add_argument("--train-per-variety", type=int, default=25, help="photos a variety and domain in table 1")
    parser.add_argument("--test-pairs", type=int, default=200, help="held-out pairs in table 1")
    parser.add_argument("--classifier-epochs", type=int, default=12, help="passes over the photos")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, …")
    return parser.parse_args(given)


if __name__ == "__main__":
    try:
        Program(arguments()).run()
    except FastmunitError as error:
        raise SystemExit(f"error: {error}") from error
