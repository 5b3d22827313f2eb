"""Tables 1 and 2 of the MUNIT paper in miniature: real photos of fruit at 64x64, minutes a model instead of weeks.

    python examples/paper_tables.py --data FRUITS_360/train --output runs/tables --minutes 10 --weights WEIGHTS

FRUITS_360/train holds apple, tomato and cherry with files named VARIETY__ROTATION_FRAME_100.jpg. Table 1 is edges to
fruit photos: quality (KID to held-out photos, in place of the paper's workers) and LPIPS diversity. Table 2 is the six
directions between the three families: CIS and IS by a classifier of varieties. Every system is trained by
`fastmunit.runs.train` with the configuration shipped for it. What is done already is not done again, and a training
that was cut short goes on where it stopped: run the same command. What was made with other settings is refused, or
measured again where only the measuring differs.

Writes tables.md, tables.html and tables.json, with the spread over seeds and the paper's own figures beside.

The work can be shared by processes that write to one --output, and by machines:

    python examples/paper_tables.py --data FRUITS_360/train --output runs/tables --prepare
    python examples/paper_tables.py --output runs/tables --minutes 10 --train-only --tables 1 --systems MUNIT &
    python examples/paper_tables.py --output runs/tables --minutes 10 --train-only --tables 2 --pairs apple_tomato &
    python examples/paper_tables.py --output runs/tables --minutes 10 --measure-only --weights WEIGHTS

Prepared data need no --data; training needs no weights and no package of metrics. To measure elsewhere, take data/ and
of every model training.json, config.yaml and checkpoints/gen_*.pt.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shlex
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fruit_data
from table_model import Model
from table_report import write_report
from tqdm import tqdm

from fastmunit.config import Config
from fastmunit.errors import FastmunitError
from fastmunit.files import write_text
from fastmunit.metrics.classifier import load_classifier, save_classifier, train_classifier
from fastmunit.metrics.evaluation import evaluate
from fastmunit.metrics.measures import Measures, load_measures
from fastmunit.runs import describe_device, resolve_device
from fastmunit.runs.device import has_fast_bfloat16
from fastmunit.systems import registry


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
PAIRS = {f"{a}_{b}": (a, b) for a, b in itertools.combinations(fruit_data.FAMILIES, 2)}

_WITHOUT_END = 1_000_000_000
_INTERVALS = ("image_save_iter", "image_display_iter", "snapshot_save_iter", "log_iter")

QUALITY = "kid-vgg16"
DIVERSITY = "lpips-alex-v0.1"


class Program:
    """One run of this program."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.output: Path = options.output
        self.data = self.output / "data"
        self.device = resolve_device(options.device)
        self.missing: list[str] = []
        self.untrained: list[str] = []
        self.scores: dict[str, tuple[Measures, dict[str, Any]]] = {}

    def run(self) -> None:
        """Train and measure what is not done yet, and write the tables; or that part of it that is asked for."""
        results: list[dict[str, Any]] = []
        if 1 in self.options.tables:
            results += self.table_1()
        if 2 in self.options.tables:
            results += self.table_2()
        if self.options.prepare or self.options.train_only:
            return
        if not results:
            raise FastmunitError(f"nothing to tabulate: {self.output} has no trained model of those asked for.")
        settings = {
            "minutes a model": self.options.minutes,
            "seeds": self.options.seeds,
            "inputs": self.options.inputs,
            "outputs of each": self.options.samples,
            "quality": QUALITY,
            "diversity": DIVERSITY,
            "changed keys": self.options.set,
            "missing": self.missing,
            "untrained": self.untrained,
            "command": shlex.join(["python", *sys.argv]),
        }
        write_text(self.output / "tables.json", json.dumps({"settings": settings, "results": results}, indent=1) + "\n")
        write_report(self.output, settings, results)
        print(f"Look at {self.output / 'tables.md'} and {self.output / 'tables.html'}.")

    def table_1(self) -> list[dict[str, Any]]:
        """Edges to fruit photos."""
        unpaired, paired = fruit_data.edges_data(
            self.options.data, self.data, self.options.train_per_variety, self.options.test_pairs, seed=0
        )
        results: list[dict[str, Any]] = []
        if self.options.prepare:
            return results
        loaded: list[Measures] = []

        def measures() -> tuple[Measures, dict[str, Any]]:
            if not loaded:
                loaded.append(load_measures([DIVERSITY, QUALITY], weights=self.options.weights, device=self.device))
            return loaded[0], {}

        for name, seed in self._wanted(TABLE_1):
            recipe = RECIPES[name]
            config = self._config(recipe, seed)
            if config is None:
                continue
            root = paired if recipe.paired else unpaired
            config.data_root = str(root.absolute())
            folder = self.output / "table_1" / _slug(name) / f"seed_{seed}"
            model = self._model(f"table 1, {name}, seed {seed}", folder, config, recipe, fruit_data.facts(root))
            wanted = {"measures": [DIVERSITY, QUALITY]}
            result = self._result(model, folder, "a2b", wanted, measures)
            if result is not None:
                results.append({"table": 1, "system": name, "seed": seed, **result})
        return results

    def table_2(self) -> list[dict[str, Any]]:
        """The six directions between three families of fruit."""
        pairs = [PAIRS[name] for name in dict.fromkeys(self.options.pairs)]
        families = fruit_data.family_data(self.options.data, self.data, 0, dict.fromkeys(itertools.chain(*pairs)))
        results: list[dict[str, Any]] = []
        if self.options.prepare:
            return results
        for (a, b), (name, seed) in itertools.product(pairs, self._wanted(TABLE_2)):
            config = self._config(RECIPES[name], seed)
            if config is None:
                continue
            for domain, family in (("a", a), ("b", b)):
                for part in ("train", "test"):
                    setattr(config, f"data_folder_{part}_{domain}", str((families[family] / part).absolute()))
            folder = self.output / "table_2" / f"{a}_{b}" / _slug(name) / f"seed_{seed}"
            facts = {family: fruit_data.facts(families[family]) for family in (a, b)}
            model = self._model(f"table 2, {a} and {b}, {name}, seed {seed}", folder, config, RECIPES[name], facts)
            wanted = {"measures": ["is-cis"], "classifier epochs": self.options.classifier_epochs}
            for direction, source, target in (("a2b", a, b), ("b2a", b, a)):

                def measures(target: str = target) -> tuple[Measures, dict[str, Any]]:
                    return self._scores(families[target], target)

                result = self._result(model, folder / direction, direction, wanted, measures)
                if result is not None:
                    results.append(
                        {"table": 2, "system": name, "seed": seed, "direction": f"{source} to {target}", **result}
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
        # Time ends the training. Where iterations are short, the shipped intervals would be spent on writing.
        every = 10 if self.device.type == "cuda" else 1
        shipped = Config.load(recipe.config)
        place = [
            f"seed={seed}",
            f"precision={'bfloat16' if has_fast_bfloat16(self.device) else 'float32'}",
            f"max_iter={_WITHOUT_END}",
            *(f"{key}={every * getattr(shipped, key)}" for key in _INTERVALS),
        ]
        return Config.load(recipe.config, [*place, *recipe.changes, *self.options.set])

    def _model(self, title: str, folder: Path, config: Config, recipe: Recipe, facts: dict[str, Any]) -> Model:
        settings = {
            "minutes": self.options.minutes,
            "config": recipe.config,
            "changes": [*recipe.changes, *self.options.set],
            "data": facts,
        }
        return Model(title, folder, config, settings, self.options.device)

    def _result(
        self,
        model: Model,
        place: Path,
        direction: str,
        wanted: dict[str, Any],
        measures: Callable[[], tuple[Measures, dict[str, Any]]],
    ) -> dict[str, Any] | None:
        """Train and measure what is not done yet; None where there is nothing to measure, or it is not asked for.

        `wanted` has to be found in a result that is there already; `measures` gives what to measure, and what a result
        says about it.
        """
        wanted = {**wanted, "inputs": self.options.inputs, "outputs of each": self.options.samples}
        result = model.result(place, wanted)
        if result is not None:
            return result
        if not model.trained:
            if self.options.measure_only:
                self.untrained.append(model.title)
                print(f"{model.title}: not trained, so it is left out", file=sys.stderr)
                return None
            model.train()
        if self.options.train_only:
            return None
        chosen, about = measures()
        generators = model.generators()
        with tqdm(total=1.0, bar_format="measuring {percentage:3.0f}%|{bar}|{postfix}", disable=None) as bar:

            def show(fraction: float, text: str) -> None:
                bar.n = fraction
                bar.set_postfix_str(text)

            found = evaluate(
                registry.load_translator(generators, model.config, direction, self.device),
                model.config,
                chosen,
                direction=direction,
                inputs=self.options.inputs,
                samples=self.options.samples,
                progress=show,
            )
        measuring = {**wanted, **about, "device": describe_device(self.device)}
        return model.write_result(place, measuring, found.to_dict()["figures"])

    def _scores(self, family: Path, name: str) -> tuple[Measures, dict[str, Any]]:
        """IS and CIS by a classifier of the family's varieties, which is trained once."""
        if name in self.scores:
            return self.scores[name]
        epochs = self.options.classifier_epochs
        file = self.output / "classifiers" / f"{name}_{epochs}_epochs.pt"
        if not file.is_file():
            with tqdm(total=1.0, bar_format="{desc} {percentage:3.0f}%|{bar}|{postfix}", disable=None) as bar:
                bar.set_description_str(f"classifier of {name} varieties")

                def show(fraction: float, text: str) -> None:
                    bar.n = fraction
                    bar.set_postfix_str(text)

                model = train_classifier(
                    family / "train",
                    size=fruit_data.SIZE,
                    epochs=epochs,
                    weights=self.options.weights,
                    device=self.device,
                    progress=show,
                )
            save_classifier(model, file)
        classifier = load_classifier(file)
        if self.options.weights is not None and classifier.architecture == "small":
            raise FastmunitError(
                f"{file} was trained without ImageNet weights: delete it to train one with {self.options.weights}."
            )
        accuracy = classifier.accuracy
        assert accuracy is not None
        print(f"classifier of {name} varieties: {100 * accuracy:.1f} % right on held-out frames", flush=True)
        measures = load_measures(["is-cis"], classifier=file, device=self.device)
        self.scores[name] = measures, {"classifier accuracy": accuracy}
        return self.scores[name]


def _slug(name: str) -> str:
    return "_".join("".join(c if c.isalnum() else " " for c in name).lower().split())


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data",
        type=Path,
        help="folder with apple, tomato, cherry: Fruits-360 photos; not needed where the data are prepared",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for data, models and tables")
    parser.add_argument("--minutes", type=_positive, default=10.0, help="training time of each model")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one model each")
    parser.add_argument("--tables", type=int, nargs="+", choices=(1, 2), default=[1, 2], help="which tables")
    parser.add_argument("--systems", nargs="+", choices=TABLE_1, help="which rows (all)")
    parser.add_argument("--pairs", nargs="+", choices=tuple(PAIRS), default=list(PAIRS), help="of table 2: which (all)")
    part = parser.add_mutually_exclusive_group()
    part.add_argument("--prepare", action="store_true", help="make the data, nothing else")
    part.add_argument("--train-only", action="store_true", help="train what is not trained, measure nothing")
    part.add_argument("--measure-only", action="store_true", help="leave out what is not trained")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="change keys of every configuration")
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
