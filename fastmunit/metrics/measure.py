"""The interface of a measure, and the registry. The command line imports both, so they must not import torch."""

from __future__ import annotations

import difflib
import itertools
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from fastmunit.errors import ConfigError
from fastmunit.metrics import measures

if TYPE_CHECKING:
    from typing_extensions import Self

    from fastmunit.metrics.features import FeatureNet
    from fastmunit.metrics.load import Networks
    from fastmunit.metrics.real_images import RealImages
    from fastmunit.metrics.results import Score
    from fastmunit.metrics.sample import Sample
    from fastmunit.metrics.task import Task
    from fastmunit.nn.networks.imagenet import Backbone

_M = TypeVar("_M", bound="type[Measure]")
_registered: list[type[Measure]] = []


class Measure(ABC):
    """A measure of one direction of a model.

    `evaluate` makes a copy for each evaluation, sets its `task`, and calls `check`, `prepare`, `observe` once per
    input, and `scores`, in this order. `check`, `prepare` and `scores` run in every process. `observe` runs in one
    process per input, so it must not rely on earlier calls; its results are sent to all processes.

    The class attributes describe the measure in the registry, `--help` and docs/how_to/evaluation.md.

    Attributes:
        name: Name for `--metrics`. A class with options has their values in braces: "fd-{network}".
        options: Possible values per option; the first of each are the default.
        title: Name in docs/how_to/evaluation.md.
        summary: Definition in one phrase.
        reference: Value to compare with; "–" if there is none.
        default: True to measure it, with its default options, if no measure is named.
        needs_classifier: True if it needs a classifier of the classes of the target domain.
        order: Position in reports; measures with smaller values come first.
        feature_net: Network whose features the measure compares. Reports list measures of one network together, and
            contact sheets search for the nearest real images in the features of the first.
        task: The evaluation in progress: model, images, direction, seed.
    """

    name: str
    options: ClassVar[dict[str, tuple[str, ...]]] = {}
    title: ClassVar[str]
    summary: ClassVar[str]
    reference: ClassVar[str] = "–"
    default: ClassVar[bool] = False
    needs_classifier: ClassVar[bool] = False
    order: ClassVar[int] = 100
    feature_net: FeatureNet | None = None
    task: Task

    @classmethod
    def load(cls, networks: Networks, **options: str) -> Self:
        """Return a measure with its networks.

        Args:
            networks: Loads networks; measures share them.
            options: One value per option.
        """
        return cls()

    @classmethod
    def backbones(cls, **options: str) -> tuple[Backbone, ...]:
        """Return the ImageNet networks whose weights `load` needs, given one value per option."""
        return ()

    def check(self) -> dict[str, str]:
        """Refuse what cannot be measured, before any other work.

        Returns:
            Reason per part of the measure that the model does not support. The name of the measure as a key leaves
            it out of the evaluation.

        Raises:
            FastmunitError: If the images, or the networks of the measure, do not fit the model or each other.
        """
        return {}

    def prepare(self, real: RealImages) -> None:  # noqa: B027 (optional)
        """Measure real images of the target domain, and keep what `scores` needs of them on `self`."""

    @abstractmethod
    def observe(self, sample: Sample) -> Any:
        """Return the values of one input and its outputs: numbers, and tensors on the CPU, in any container."""

    @abstractmethod
    def scores(self, observed: list[Any]) -> list[Score]:
        """Return the scores, given what `observe` returned for each input."""


def register(measure: _M) -> _M:
    """Register a measure; a class decorator.

    Raises:
        ValueError: If a measure of this name is registered already.
    """
    if any(measure.name == other.name for other in _registered):
        raise ValueError(f"a measure named {measure.name!r} is registered already: choose another name")
    _registered.append(measure)
    return measure


def registered() -> list[type[Measure]]:
    """Return all measures, in the order of reports."""
    for module in pkgutil.iter_modules(measures.__path__):
        import_module(f"{measures.__name__}.{module.name}")
    return sorted(_registered, key=lambda measure: measure.order)


def variants() -> dict[str, tuple[type[Measure], dict[str, str]]]:
    """Return class and options of every measure by its full name, such as "fd-alexnet"."""
    return {
        measure.name.format(**options): (measure, options)
        for measure in registered()
        for values in itertools.product(*measure.options.values())
        for options in [dict(zip(measure.options, values, strict=True))]
    }


def names(with_classifier: bool, default: bool = False) -> list[str]:
    """Return the names of all measures, or of the default ones, for use with or without a classifier."""
    return [
        name
        for name, (measure, options) in variants().items()
        if (with_classifier or not measure.needs_classifier)
        and (not default or (measure.default and all(measure.options[k][0] == v for k, v in options.items())))
    ]


def check_names(names: Iterable[str]) -> None:
    """Raise ConfigError for an unknown measure, with the nearest name."""
    known = variants()
    for name in names:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
            hint = f"; did you mean {nearest[0]}?" if nearest else "."
            raise ConfigError(f"metric {name!r} is none of {', '.join(known)}{hint}")


def name_pattern(measure: type[Measure]) -> str:
    """Return the names of a measure in the notation of shells, such as "fd-{alexnet,vgg16}"."""
    return measure.name.format(**{option: "{" + ",".join(values) + "}" for option, values in measure.options.items()})


def documentation() -> str:
    """Return the table of all measures in docs/how_to/evaluation.md."""
    rows = ["| measure | `--metrics` | definition | compare with |", "|---|---|---|---|"]
    for measure in registered():
        rows.append(f"| {measure.title} | `{name_pattern(measure)}` | {measure.summary} | {measure.reference} |")
    return "\n".join(rows) + "\n"
