"""Train and measure the models of both tables, and write the tables."""

from __future__ import annotations

import argparse
import itertools
import json
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

import fastmunit
from examples.paper_tables import data
from examples.paper_tables.model import Model
from examples.paper_tables.report import write_report
from fastmunit import Config
from fastmunit.errors import FastmunitError
from fastmunit.files import write_text
from fastmunit.metrics.classifier import load_classifier, save_classifier
from fastmunit.metrics.classifier_training import train_classifier
from fastmunit.metrics.evaluate import evaluate
from fastmunit.metrics.load import load_measures
from fastmunit.metrics.measure import Measure
from fastmunit.runs import describe_device, resolve_device
from fastmunit.runs.device import has_fast_bfloat16


@dataclass(frozen=True)
class Recipe:
    """The training configuration of a table row.

    Attributes:
        config: Name of the shipped configuration.
        changes: "key=value" for keys that differ from it.
        paired: True if it trains on pairs.
    """

    config: str
    changes: tuple[str, ...] = ()
    paired: bool = False


# The paper's UNIT is random through the noise of its latent code.
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
PAIRS = {f"{a}_{b}": (a, b) for a, b in itertools.combinations(data.FAMILIES, 2)}

_MAX_ITER = 1_000_000_000
"""Never reached: time ends the training."""
_INTERVALS = ("image_save_iter", "image_display_iter", "snapshot_save_iter", "log_iter")

QUALITY = "kid-vgg16"
DIVERSITY = "lpips-alex-v0.1"


class Program:
    """A run of the program.

    Args:
        options: The parsed command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.output: Path = options.output
        self.data = self.output / "data"
        self.device = resolve_device(options.device)
        self.missing: list[str] = []
        self.untrained: list[str] = []
        self.scores: dict[str, tuple[list[Measure], dict[str, Any]]] = {}

    def run(self) -> None:
        """Do the requested part of the work that is not done yet: prepare, train, measure, write the tables."""
        results: list[dict[str, Any]] = []
        if 1 in self.options.tables:
            results += self.table_1()
        if 2 in self.options.tables:
            results += self.table_2()
        if self.options.prepare or self.options.train_only:
            return
        if not results:
            raise FastmunitError(f"nothing to tabulate: {self.output} has no trained model of the requested ones.")
        settings = {
            "minutes per model": self.options.minutes,
            "seeds": self.options.seeds,
            "inputs": self.options.inputs,
            "outputs of each": self.options.samples,
            "quality": QUALITY,
            "diversity": DIVERSITY,
            "changed keys": self.options.set,
            "missing": self.missing,
            "untrained": self.untrained,
            "command": shlex.join(["python", "-m", "examples.paper_tables", *sys.argv[1:]]),
        }
        write_text(self.output / "tables.json", json.dumps({"settings": settings, "results": results}, indent=1) + "\n")
        write_report(self.output, settings, results)
        print(f"Look at {self.output / 'tables.md'} and {self.output / 'tables.html'}.")

    def table_1(self) -> list[dict[str, Any]]:
        """Return the results of table 1: edges to fruit photos."""
        unpaired, paired = data.edges_data(
            self.options.data, self.data, self.options.train_per_variety, self.options.test_pairs, seed=0
        )
        results: list[dict[str, Any]] = []
        if self.options.prepare:
            return results
        loaded: list[list[Measure]] = []

        def measures() -> tuple[list[Measure], dict[str, Any]]:
            if not loaded:
                loaded.append(load_measures([DIVERSITY, QUALITY], weights=self.options.weights, device=self.device))
            return loaded[0], {}

        for name, seed in self._rows(TABLE_1):
            recipe = RECIPES[name]
            config = self._config(recipe, seed)
            if config is None:
                continue
            root = paired if recipe.paired else unpaired
            config.data_root = str(root.absolute())
            folder = self.output / "table_1" / _slug(name) / f"seed_{seed}"
            model = self._model(f"table 1, {name}, seed {seed}", folder, config, recipe, data.facts(root))
            measuring = {"measures": [DIVERSITY, QUALITY]}
            result = self._result(model, folder, "a2b", measuring, measures)
            if result is not None:
                results.append({"table": 1, "system": name, "seed": seed, **result})
        return results

    def table_2(self) -> list[dict[str, Any]]:
        """Return the results of table 2: the six directions between three families of fruit."""
        pairs = [PAIRS[name] for name in dict.fromkeys(self.options.pairs)]
        families = data.family_data(self.options.data, self.data, 0, dict.fromkeys(itertools.chain(*pairs)))
        results: list[dict[str, Any]] = []
        if self.options.prepare:
            return results
        for (a, b), (name, seed) in itertools.product(pairs, self._rows(TABLE_2)):
            config = self._config(RECIPES[name], seed)
            if config is None:
                continue
            for domain, family in (("a", a), ("b", b)):
                for part in ("train", "test"):
                    setattr(config, f"data_folder_{part}_{domain}", str((families[family] / part).absolute()))
            folder = self.output / "table_2" / f"{a}_{b}" / _slug(name) / f"seed_{seed}"
            facts = {family: data.facts(families[family]) for family in (a, b)}
            model = self._model(f"table 2, {a} and {b}, {name}, seed {seed}", folder, config, RECIPES[name], facts)
            measuring = {"measures": ["is-cis"], "classifier epochs": self.options.classifier_epochs}
            for direction, source, target in (("a2b", a, b), ("b2a", b, a)):

                def measures(target: str = target) -> tuple[list[Measure], dict[str, Any]]:
                    return self._scores(families[target], target)

                result = self._result(model, folder / direction, direction, measuring, measures)
                if result is not None:
                    results.append(
                        {"table": 2, "system": name, "seed": seed, "direction": f"{source} to {target}", **result}
                    )
        return results

    def _rows(self, names: Iterable[str]) -> list[tuple[str, int]]:
        chosen = [name for name in names if not self.options.systems or name in self.options.systems]
        return list(itertools.product(chosen, self.options.seeds))

    def _config(self, recipe: Recipe, seed: int) -> Config | None:
        """Return the shipped configuration with the changes of the recipe, or None if there is none."""
        if recipe.config not in Config.shipped():
            if recipe.config not in self.missing:
                print(f"no configuration {recipe.config} is shipped: rows that need it are left out.", file=sys.stderr)
                self.missing.append(recipe.config)
            return None
        # With short iterations, most of the time would be spent on writing at the shipped intervals.
        factor = 10 if self.device.type == "cuda" else 1
        shipped = Config.load(recipe.config)
        overrides = [
            f"seed={seed}",
            f"precision={'bfloat16' if has_fast_bfloat16(self.device) else 'float32'}",
            f"max_iter={_MAX_ITER}",
            *(f"{key}={factor * getattr(shipped, key)}" for key in _INTERVALS),
        ]
        return Config.load(recipe.config, [*overrides, *recipe.changes, *self.options.set])

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
        folder: Path,
        direction: str,
        measuring: dict[str, Any],
        measures: Callable[[], tuple[list[Measure], dict[str, Any]]],
    ) -> dict[str, Any] | None:
        """Train and measure a model unless that is done. Return None if it is not trained or not to be measured.

        Args:
            model: The model.
            folder: Folder of the result.
            direction: "a2b" or "b2a".
            measuring: Settings of the measurement. A result with other settings is measured again.
            measures: Returns the measures, and facts about them for the result.
        """
        measuring = {**measuring, "inputs": self.options.inputs, "outputs of each": self.options.samples}
        result = model.result(folder, measuring)
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
        chosen, facts = measures()
        generators = model.generators()
        with _progress("measuring") as show:
            found = evaluate(
                fastmunit.load_translator(generators, model.config, direction=direction, device=self.device),
                model.config,
                chosen,
                direction=direction,
                inputs=self.options.inputs,
                samples=self.options.samples,
                progress=show,
            )
        measuring = {**measuring, **facts, "device": describe_device(self.device)}
        return model.write_result(folder, measuring, found.to_dict()["figures"])

    def _scores(self, family: Path, name: str) -> tuple[list[Measure], dict[str, Any]]:
        """Return IS and CIS by a classifier of the family's varieties, which is trained once."""
        if name in self.scores:
            return self.scores[name]
        epochs = self.options.classifier_epochs
        file = self.output / "classifiers" / f"{name}_{epochs}_epochs.pt"
        if not file.is_file():
            with _progress(f"classifier of {name} varieties") as show:
                model = train_classifier(
                    family / "train",
                    size=data.SIZE,
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


@contextmanager
def _progress(title: str) -> Iterator[Callable[[float, str], None]]:
    """Show a progress bar. Yields a function that sets the fraction done and a text."""
    with tqdm(total=1.0, desc=title, bar_format="{desc} {percentage:3.0f}%|{bar}|{postfix}", disable=None) as bar:

        def show(fraction: float, text: str) -> None:
            bar.n = fraction
            bar.set_postfix_str(text)

        yield show


def _slug(name: str) -> str:
    return "_".join("".join(c if c.isalnum() else " " for c in name).lower().split())
