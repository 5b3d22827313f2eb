"""IS and CIS: into how many classes the outputs fall."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastmunit.errors import DataError
from fastmunit.metrics.measure import Measure, register
from fastmunit.metrics.results import Score

if TYPE_CHECKING:
    from torch import Tensor

    from fastmunit.data.paths import Domain
    from fastmunit.data.value_range import PixelValues, ValueRange
    from fastmunit.metrics.classifier import Classifier
    from fastmunit.metrics.load import Networks
    from fastmunit.metrics.sample import Sample


@register
class InceptionScores(Measure):
    """IS and CIS; see `inception_score`."""

    name = "is-cis"
    title = "CIS, IS"
    summary = (
        "mean KL divergence of the class probabilities of an output from their mean over the outputs of the same "
        "input (CIS) or of all inputs (IS), and its exponential"
    )
    reference = "accuracy of the classifier, stated in the report"
    default = True
    needs_classifier = True
    order = 40

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier

    @classmethod
    def load(cls, networks: Networks, **options: str) -> InceptionScores:
        return cls(networks.classifier)

    def check(self) -> dict[str, str]:
        """Measure the accuracy on the test images. Raise DataError if their classes or values are not its own."""
        from fastmunit import distributed
        from fastmunit.data.paths import domain_files
        from fastmunit.data.value_range import PixelValues
        from fastmunit.metrics.classifier_training import accuracy_on

        source, target = self.task.domains
        values = PixelValues.of(self.task.config, target)
        self._require_range(values, target)
        classes, others = self._class_names(target), self._class_names(source)
        if classes and classes != others == set(self.classifier.classes):
            raise DataError(
                f"{self.task.direction} makes images of domain {target.upper()}, but the classifier has the classes "
                f"of domain {source.upper()}: give one of domain {target.upper()}, or measure the other direction."
            )
        known, held_out = self.classifier.accuracy, self.classifier.held_out
        self.accuracy = f"classifier of {len(self.classifier.classes)} classes: accuracy "
        self.accuracy += "not known" if known is None else f"{100 * known:.1f} % on {held_out} held-out images"
        if classes:
            accuracy, count = accuracy_on(
                self.classifier,
                domain_files(self.task.config, "test", target).source,
                max_pixels=self.task.config.max_pixels,
                reasons=self.task.readable.reasons,
                each=distributed.each,
                channels=3 if values.range is None else self.task.forward.target_channels,
                values=values,
            )
            self.accuracy += f", {100 * accuracy:.1f} % on {count} test images"
        return {}

    def observe(self, sample: Sample) -> Tensor:
        return self.classifier.probabilities(sample.outputs)

    def scores(self, observed: list[Tensor]) -> list[Score]:
        import torch

        from fastmunit.metrics.inception_score import conditional_inception_score, inception_score

        p = torch.stack(observed)
        cis, score = conditional_inception_score(p, self.task.seed), inception_score(p, self.task.seed)
        note = f"{p.shape[0]} inputs × {p.shape[1]} outputs; {self.accuracy}"
        return [
            Score("CIS (KL)", cis.kl, "higher", {}, f"exp(KL) = {cis.exponential:.4g}; {note}", cis.per_input),
            Score("IS (KL)", score.kl, "higher", {}, f"exp(KL) = {score.exponential:.4g}; {note}"),
        ]

    def _require_range(self, values: PixelValues, domain: Domain) -> None:
        """Check that the classifier saw the values that networks of a domain compute."""
        if self.classifier.value_range != values.range:
            raise DataError(
                f"the classifier was trained on {_range_text(self.classifier.value_range)}, but domain "
                f"{domain.upper()} of the model has {_range_text(values.range)}: train it with `fastmunit "
                f"train-classifier --config RUN/config.yaml --domain {domain}`."
            )

    def _class_names(self, domain: Domain) -> set[str]:
        """Return the class folders of a domain's test images; empty if they are not sorted into classes."""
        from fastmunit.data.paths import domain_files
        from fastmunit.metrics.classifier_training import class_folders

        if self.task.given is not None:
            return set()
        folder = domain_files(self.task.config, "test", domain).source
        names = {path.name for path in class_folders(folder)} if folder.is_dir() else set()
        return names if len(names) >= 2 else set()


def _range_text(values: ValueRange | None) -> str:
    if values is None:
        return "no value range"
    return f"the value range [{values.low}, {values.high}]" + (
        "" if values.nodata is None else f", nodata {values.nodata}"
    )
