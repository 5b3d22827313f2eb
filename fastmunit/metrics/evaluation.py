"""Measuring one direction of a trained model by the papers' protocols."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastmunit import data
from fastmunit.config import Config
from fastmunit.data.paths import Domain, domain_files
from fastmunit.data.seeding import named_generator
from fastmunit.data.sources import GivenImages, ImageSources, given_images
from fastmunit.errors import ConfigError, DataError, FastmunitError
from fastmunit.metrics.checks import check_images
from fastmunit.metrics.classifier import Classifier, accuracy_on, class_folders
from fastmunit.metrics.content import content_code_distance, edge_agreement
from fastmunit.metrics.distances import frechet_distance, frechet_estimate, kernel_distance, kernel_estimate
from fastmunit.metrics.diversity import INPUTS, PAIRS, pair_distances, real_diversity
from fastmunit.metrics.features import FeatureName, features_of
from fastmunit.metrics.inception_score import conditional_inception_score, inception_score
from fastmunit.metrics.intervals import Estimate, mean_estimate
from fastmunit.metrics.measures import Measures
from fastmunit.metrics.readable import ReadableImages
from fastmunit.metrics.reconstruction import reconstruction_l1
from fastmunit.metrics.results import Evaluation, Figure, Sheet
from fastmunit.metrics.sheets import most, neighbour_sheet
from fastmunit.models.translator import Translator

SAMPLES = 2 * PAIRS
"""Outputs of each input: `PAIRS` disjoint pairs of independent ones."""

# Outputs of each input that go into distances between sets: more of one input add little.
_SET_SAMPLES = 10
# Real images: for features, for pairs, to look for neighbours among; evenly spread where there are more.
_MOST_REAL, _MOST_PAIRED, _MOST_SEARCHED = 1000, 400, 1000
_SHEET_INPUTS, _SHEET_OUTPUTS = 5, 8
_UNBIASED = "; unbiased, so around 0, and below it too, where sets are alike"

Progress = Callable[[float, str], None]


@torch.inference_mode()
def evaluate(
    forward: Translator,
    config: Config,
    measures: Measures,
    *,
    direction: str = "a2b",
    backward: Translator | None = None,
    inputs: int = INPUTS,
    samples: int = SAMPLES,
    seed: int = 0,
    progress: Progress | None = None,
    images: ImageSources | GivenImages | None = None,
) -> Evaluation:
    """Translate test images into random styles and measure the outputs.

    Args:
        forward: the direction to measure.
        config: names the test images, their size and channels.
        measures: what to measure.
        direction: of `forward`.
        backward: the other direction, for what needs a way back; None where the model has none.
        inputs: how many test images, evenly spread over the files; all of them if there are fewer.
        samples: outputs of each, with independent styles; a system without styles has one, counted `samples` times.
        seed: of the styles: input k gets the same ones whatever the number of inputs.
        progress: is called with the fraction done and what is being done.
        images: test images, and those of the training for comparison, in place of those that `config` names.

    Returns:
        The figures, of the images that can be read; `failures` names the others.

    Raises:
        DataError: there are too few images for a measure, or images or outputs that it cannot take.
        ConfigError: the model has nothing of what is to be measured.
        FastmunitError: a package is missing, or there is not enough memory.
    """
    return _Run(forward, backward, config, measures, direction, inputs, samples, seed, progress, images).evaluate()


@torch.inference_mode()
def require_possible(
    forward: Translator,
    config: Config,
    measures: Measures,
    *,
    direction: str = "a2b",
    backward: Translator | None = None,
    images: ImageSources | GivenImages | None = None,
) -> None:
    """Raise what `evaluate` would raise before its first figure, for callers that have other work to do before it.

    Arguments and errors as of `evaluate`.
    """
    _Run(forward, backward, config, measures, direction, 2, 2, 0, None, images).refuse_what_cannot_work()


class _Run:
    """One evaluation on its way."""

    def __init__(
        self,
        forward: Translator,
        backward: Translator | None,
        config: Config,
        measures: Measures,
        direction: str,
        inputs: int,
        samples: int,
        seed: int,
        progress: Progress | None,
        images: ImageSources | GivenImages | None,
    ) -> None:
        if samples < 2:
            raise DataError(f"samples = {samples}: at least 2 outputs of each input are needed for pairs.")
        self.forward, self.backward = forward, backward
        self.config, self.measures, self.direction = config, measures, direction
        self.samples, self.seed = samples, seed
        self._progress = progress
        self.target: Domain = "b" if direction == "a2b" else "a"
        self.given = given_images(config, images)
        if self.given is not None:
            self.given.require_test()
        test_a, test_b = data.test_datasets(config, self.given)
        self.source_set, self.target_set = (test_a, test_b) if direction == "a2b" else (test_b, test_a)
        self.readable = ReadableImages()
        self.chosen = _spread(len(self.source_set), inputs)
        self.skipped: dict[str, str] = {}
        self.real_pairs: dict[str, Estimate] = {}
        self.real_features: dict[FeatureName, tuple[Tensor, Tensor | None]] = {}
        self.lpips: dict[str, list[float]] = {measure.name: [] for measure in measures.lpips}
        self.features: dict[FeatureName, list[Tensor]] = {name: [] for name in measures.features}
        self.probabilities: list[Tensor] = []
        self.edges: list[float] = []
        self.other_edges: list[float] = []
        self.codes: list[float] = []
        self.reconstructed: list[float] = []
        self.cycled: list[float] = []

    def evaluate(self) -> Evaluation:
        self.refuse_what_cannot_work()
        self._measure_real_images()
        previous: Tensor | None = None
        for place, index in enumerate(self.chosen):
            self._tell(0.15 + 0.65 * place / len(self.chosen), f"input {place + 1}/{len(self.chosen)}")
            previous = self._one_input(self.source_set[index], self._outputs(index), previous)
        figures = [*self._diversity(), *self._set_distances(), *self._scores(), *self._content(), *self._ways_back()]
        self._tell(0.97, "sheets")
        sheets = self._sheets()
        self._tell(1.0, "done")
        failures = self.readable.failures
        return Evaluation(self.direction, figures, self.skipped, self._per_input(), sheets, failures)

    def refuse_what_cannot_work(self) -> None:
        """Raise for what would fail later, or leave nothing to measure; fill in what is skipped, and why."""
        for name, images in (("input", self.source_set), ("target", self.target_set)):
            if len(images) < 2:
                raise DataError(f"an evaluation needs at least 2 {name} test images, {len(images)} found: add some.")
        self.chosen = self.readable.inputs(self.source_set, self.chosen)
        if len(self.chosen) < 2:
            reason = next(iter(self.readable.reasons.values()))
            raise DataError(f"an evaluation needs at least 2 input test images that can be read: {reason}")
        if self.forward.target_channels not in (1, 3):
            raise DataError(
                f"the measures take RGB or grey images, and the model makes images of {self.forward.target_channels} "
                "channels."
            )
        if self.measures.content_code or self.measures.reconstruction:
            if self.backward is None:
                reason = f"a {self.config.system} model does not translate back"
                if self.measures.content_code:
                    self.skipped["content-code"] = reason
                if self.measures.reconstruction:
                    self.skipped["reconstruction"] = reason
            elif not self._has_content_code():
                reason = f"a {self.config.system} model has no content code that both domains share"
                if self.measures.content_code:
                    self.skipped["content-code"] = reason
                if self.measures.reconstruction:
                    self.skipped["reconstruction within the domain"] = reason
        if self.skipped and not self._left_to_measure():
            reasons = "; ".join(f"{name}: {reason}" for name, reason in self.skipped.items())
            raise ConfigError(f"nothing is left to measure ({reasons}): name other metrics.")
        classifier = self.measures.classifier
        if classifier is not None:
            self.accuracy = self._accuracy(classifier)

    def _left_to_measure(self) -> bool:
        """Whether anything that is wanted is not skipped."""
        wanted = self.measures
        return bool(
            wanted.lpips
            or wanted.features
            or wanted.classifier is not None
            or wanted.edge_agreement
            or (wanted.content_code and "content-code" not in self.skipped)
            or (wanted.reconstruction and "reconstruction" not in self.skipped)
        )

    def _accuracy(self, classifier: Classifier) -> str:
        """How good the classifier is, in words. Raises DataError when the test images have other classes than it."""
        source: Domain = "a" if self.target == "b" else "b"
        classes, others = self._class_names(self.target), self._class_names(source)
        if classes and classes != others == set(classifier.classes):
            raise DataError(
                f"{self.direction} makes images of domain {self.target.upper()}, and the classifier is of the classes "
                f"of domain {source.upper()}: give one of domain {self.target.upper()}, or measure the other direction."
            )
        known = (
            f"accuracy {100 * classifier.accuracy:.1f} % on {classifier.held_out} held-out images"
            if classifier.accuracy is not None
            else "accuracy not known"
        )
        if classes:
            folder = domain_files(self.config, "test", self.target).source
            reasons = self.readable.reasons
            here, count = accuracy_on(classifier, folder, max_pixels=self.config.max_pixels, reasons=reasons)
            known += f", {100 * here:.1f} % on {count} test images"
        return f"classifier of {len(classifier.classes)} classes: {known}"

    def _class_names(self, domain: Domain) -> set[str]:
        """Of the class folders that the domain's test images lie in; empty where they lie in none."""
        if self.given is not None:
            return set()
        folder = domain_files(self.config, "test", domain).source
        names = {path.name for path in class_folders(folder)} if folder.is_dir() else set()
        return names if len(names) >= 2 else set()

    def _has_content_code(self) -> bool:
        """An encoder whose result has the form of an image hands the image on: it is no code."""
        x = self.source_set[self.chosen[0]]
        code = self._code(self.forward, x)
        assert self.backward is not None
        back = self._code(self.backward, self._outputs(self.chosen[0])[0])
        return code.shape == back.shape and code.shape[2:] != x.shape[1:]

    def _measure_real_images(self) -> None:
        """What the outputs are compared with. Before them, as images that a measure cannot take are found here."""
        count = len(self.chosen) * min(_SET_SAMPLES, self.samples)
        images = None
        if self.measures.lpips:
            images = self._images(self.target_set, _spread(len(self.target_set), _MOST_PAIRED))
        for measure in self.measures.lpips:
            if images is None or len(images) < 2:
                raise self._too_few_targets()
            self._tell(0.0, f"{measure.name} of real pairs")
            self.real_pairs[measure.name] = real_diversity(measure, images, seed=self.seed)
        for name in self.measures.features:
            self._tell(0.1, f"{name} features of real images")
            seen = self._training_images()
            real = self._features(name, self.target_set, _MOST_REAL)
            if real is None:
                raise self._too_few_targets()
            self.real_features[name] = (real, self._features(name, seen, count) if seen is not None else None)

    def _outputs(self, index: int) -> Tensor:
        """(samples, C, H, W) for the test image `index`, on the CPU."""
        x = self.source_set[index]
        generator = named_generator("evaluate", self.seed, index)
        if not self.forward.style_dim:
            single = self.forward.translate(x, self.forward.random_styles(1, generator))
            return single.expand(self.samples, -1, -1, -1)
        return self.forward.translate(x, self.forward.random_styles(self.samples, generator))

    def _one_input(self, x: Tensor, outputs: Tensor, previous: Tensor | None) -> Tensor:
        """Measure one input; returns one of its outputs."""
        device = self.forward.device
        shown = _rgb(outputs).to(device)
        check_images(shown, "an evaluation")
        for measure in self.measures.lpips:
            self.lpips[measure.name].append(float(pair_distances(measure, shown).mean()))
        for name, network in self.measures.features.items():
            self.features[name].append(features_of(network, shown[:_SET_SAMPLES]))
        if self.measures.classifier is not None:
            self.probabilities.append(self.measures.classifier.probabilities(shown))
        if self.measures.edge_agreement:
            image = _rgb(x[None]).to(device)
            few = shown[:_SET_SAMPLES]
            self.edges.append(float(edge_agreement(image.expand_as(few), few).mean()))
            if previous is not None and previous.shape == image.shape[1:]:
                self.other_edges.append(float(edge_agreement(image, previous[None])))
        if self.backward is not None and (self.measures.content_code or self.measures.reconstruction):
            self._back(self.backward, x, outputs[0])
        return shown[0]

    def _back(self, backward: Translator, x: Tensor, y: Tensor) -> None:
        generator = named_generator("back", self.seed)
        style = _own_style(backward, x, generator)
        if self.measures.reconstruction:
            self.cycled.append(float(reconstruction_l1(x[None], backward.translate(y, style))))
        if {"content-code", "reconstruction within the domain"} & set(self.skipped):
            return
        code = self._code(self.forward, x)
        if self.measures.content_code:
            self.codes.append(float(content_code_distance(code, self._code(backward, y))))
        if self.measures.reconstruction:
            again = backward.decode(code, style).float().cpu()[..., : x.shape[1], : x.shape[2]]
            self.reconstructed.append(float(reconstruction_l1(x[None], again)))

    @staticmethod
    def _code(translator: Translator, image: Tensor) -> Tensor:
        return translator.encode(image[None].to(translator.device)).float()

    def _diversity(self) -> list[Figure]:
        figures = []
        for measure in self.measures.lpips:
            figures.append(
                Figure(
                    f"{measure.name} diversity",
                    mean_estimate(self.lpips[measure.name], seed=self.seed),
                    "higher",
                    {"real pairs": self.real_pairs[measure.name]},
                    f"{self.samples // 2} random pairs of outputs for each of {len(self.chosen)} inputs",
                )
            )
        return figures

    def _set_distances(self) -> list[Figure]:
        figures = []
        for name, network in self.measures.features.items():
            outputs = torch.stack(self.features[name])
            real, known = self.real_features[name]
            counts = f"{len(outputs)} inputs × {outputs.shape[1]} outputs against {len(real)} real test images"
            few = min(len(real), outputs.shape[0] * outputs.shape[1]) <= network.num_features
            biased = f"; fewer images than the {network.num_features} features, so biased upward" if few else ""
            self._tell(0.85, f"distances in {name} features")
            for prefix, wanted, estimate, distance, note in (
                ("FD", self.measures.frechet, frechet_estimate, frechet_distance, counts + biased),
                ("KID", self.measures.kernel, kernel_estimate, kernel_distance, counts + _UNBIASED),
            ):
                if name not in wanted:
                    continue
                references = {}
                if known is not None and len(known) > 1:
                    references["real training images"] = Estimate(distance(real, known), count=len(known))
                found = estimate(real, outputs, seed=self.seed)
                figures.append(Figure(f"{prefix}-{name}", found, "lower", references, note))
        return figures

    def _scores(self) -> list[Figure]:
        if not self.probabilities:
            return []
        p = torch.stack(self.probabilities)
        within, total = conditional_inception_score(p, self.seed), inception_score(p, self.seed)
        counts = f"{p.shape[0]} inputs × {p.shape[1]} outputs; {self.accuracy}"
        return [
            Figure("CIS (KL)", within.kl, "higher", {}, f"exp(KL) = {within.exponential:.4g}; {counts}"),
            Figure("IS (KL)", total.kl, "higher", {}, f"exp(KL) = {total.exponential:.4g}; {counts}"),
        ]

    def _content(self) -> list[Figure]:
        figures = []
        if self.edges:
            references = {}
            if self.other_edges:
                references["outputs of other inputs"] = mean_estimate(self.other_edges, seed=self.seed)
            figures.append(Figure("edge agreement", mean_estimate(self.edges, seed=self.seed), "higher", references))
        if self.codes:
            figures.append(Figure("content code distance", mean_estimate(self.codes, seed=self.seed), "lower"))
        return figures

    def _ways_back(self) -> list[Figure]:
        source, target = ("A", "B") if self.direction == "a2b" else ("B", "A")
        figures = []
        if self.reconstructed:
            estimate = mean_estimate(self.reconstructed, seed=self.seed)
            figures.append(Figure(f"reconstruction L1 {source} → {source}", estimate, "lower"))
        if self.cycled:
            estimate = mean_estimate(self.cycled, seed=self.seed)
            figures.append(Figure(f"cycle L1 {source} → {target} → {source}", estimate, "lower"))
        return figures

    def _per_input(self) -> list[dict[str, Any]]:
        columns = {
            **{f"{name} diversity": values for name, values in self.lpips.items()},
            "edge agreement": self.edges,
            "content code distance": self.codes,
        }
        cis = conditional_inception_score(torch.stack(self.probabilities)).per_input if self.probabilities else ()
        rows = []
        for place, index in enumerate(self.chosen):
            row: dict[str, Any] = {"file": str(self.source_set.label(index))}
            row |= {name: values[place] for name, values in columns.items() if values}
            if cis:
                row["CIS (KL)"] = cis[place]
            rows.append(row)
        return rows

    def _sheets(self) -> list[Sheet]:
        half = min(_SHEET_INPUTS, len(self.chosen) // 2)
        if self.lpips:
            name, values = next(iter(self.lpips.items()))
            sheets = []
            for kind, places in (("Most", most(values, half)), ("Least", most([-v for v in values], half))):
                shown = ", ".join(f"{values[place]:.3g}" for place in places)
                rows = [self._row(self.chosen[place]) for place in places]
                sheets.append(Sheet(f"{kind} diverse inputs by {name} ({shown}): input, then outputs", rows))
        else:
            sheets = [Sheet("Inputs, then outputs", [self._row(index) for index in self._some_inputs(_SHEET_INPUTS)])]
        known = self._training_images()
        kind, pool = ("training", known) if known is not None else ("test", self.target_set)
        outputs = [_rgb(self._outputs(index)[:1])[0] for index in self._some_inputs(2 * _SHEET_INPUTS)]
        read = self.readable.all(pool, _spread(len(pool), _MOST_SEARCHED))
        real = [_rgb(image[None])[0] for image in read]
        if not real:
            return sheets
        some = f"of {len(real)} of the {len(pool)} " if len(real) < len(pool) else ""
        network = next(iter(self.measures.features.values()), None)
        return [*sheets, neighbour_sheet(outputs, real, f"{some}{kind} images", network, self.forward.device)]

    def _some_inputs(self, count: int) -> list[int]:
        return [self.chosen[place] for place in _spread(len(self.chosen), count)]

    def _row(self, index: int) -> list[Tensor]:
        return [_rgb(self.source_set[index][None])[0], *_rgb(self._outputs(index)[:_SHEET_OUTPUTS])]

    def _training_images(self) -> data.ImageDataset | None:
        try:
            a, b = data.training_datasets(self.config, self.given)
        except FastmunitError:
            return None
        return b if self.target == "b" else a

    def _features(self, name: FeatureName, images: data.ImageDataset, most: int) -> Tensor | None:
        """Features of images; None where fewer than two can be read."""
        network = self.measures.features[name]
        indices = _spread(len(images), most)
        parts = (self._images(images, indices[start : start + 32]) for start in range(0, len(indices), 32))
        found = [features_of(network, part) for part in parts if part is not None]
        return torch.cat(found) if sum(map(len, found)) > 1 else None

    def _images(self, images: data.ImageDataset, indices: Sequence[int]) -> Tensor | None:
        """Those of the images that can be read, on the model's device; None where none can be."""
        stacked = self.readable.all(images, indices)
        shapes = {tuple(image.shape) for image in stacked}
        if len(shapes) > 1:
            raise DataError(f"test images have several sizes ({sorted(shapes)[:3]}): set new_size, or crop them.")
        return _rgb(torch.stack(stacked)).to(self.forward.device) if stacked else None

    def _too_few_targets(self) -> DataError:
        reason = next(iter(self.readable.reasons.values()), "")
        return DataError(f"an evaluation needs at least 2 target test images that can be read: {reason}")

    def _tell(self, fraction: float, text: str) -> None:
        if self._progress is not None:
            self._progress(fraction, text)


def _rgb(images: Tensor) -> Tensor:
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images


def _own_style(translator: Translator, image: Tensor, generator: torch.Generator) -> Tensor:
    """The image's own style where the system can tell it, else a random one."""
    if translator.style_dim:
        try:
            return translator.style_of(image)
        except FastmunitError:
            pass
    return translator.random_styles(1, generator)


def _spread(count: int, wanted: int) -> list[int]:
    """At most `wanted` of the numbers below `count`, evenly spread."""
    wanted = min(count, wanted)
    return [k * count // wanted for k in range(wanted)]
