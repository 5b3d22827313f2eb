"""From measured values to the figures of a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from fastmunit import distributed
from fastmunit.metrics.distances import frechet_distance, frechet_estimate, kernel_distance, kernel_estimate
from fastmunit.metrics.inception_score import conditional_inception_score, inception_score
from fastmunit.metrics.inputs import InputValues
from fastmunit.metrics.intervals import Estimate, mean_estimate
from fastmunit.metrics.real_images import RealValues
from fastmunit.metrics.requirements import Plan
from fastmunit.metrics.results import Figure
from fastmunit.metrics.task import Task

_UNBIASED = "; unbiased, so around 0, and below it too, where sets are alike"


class Figures:
    """The figures of one evaluation.

    Args:
        task: What is measured.
        plan: Its inputs.
        values: What was measured of each input.
        real: What was measured of real images.
    """

    def __init__(self, task: Task, plan: Plan, values: Sequence[InputValues], real: RealValues) -> None:
        self._task, self._plan, self._values, self._real = task, plan, values, real
        self._probabilities = [found.probabilities for found in values if found.probabilities is not None]
        self._edges = [found.edges for found in values if found.edges is not None]
        self._codes = [found.code for found in values if found.code is not None]

    def all(self, tell: Callable[[float, str], None]) -> list[Figure]:
        """Return all figures, in the order of the report.

        Args:
            tell: Is called with the fraction of the evaluation that is done, and what is being done.
        """
        return [*self._diversity(), *self._set_distances(tell), *self._scores(), *self._content(), *self._ways_back()]

    def per_input(self) -> list[dict[str, Any]]:
        """Return for each input its file and its values."""
        names = [measure.name for measure in self._task.measures.lpips]
        columns = {
            **{f"{name} diversity": [found.lpips[name] for found in self._values] for name in names},
            "edge agreement": self._edges,
            "content code distance": self._codes,
        }
        if self._probabilities:
            columns["CIS (KL)"] = list(conditional_inception_score(torch.stack(self._probabilities)).per_input)
        rows = []
        for place, index in enumerate(self._plan.chosen):
            row: dict[str, Any] = {"file": str(self._task.sources.label(index))}
            row |= {name: values[place] for name, values in columns.items() if values}
            rows.append(row)
        return rows

    def _diversity(self) -> list[Figure]:
        return [
            Figure(
                f"{measure.name} diversity",
                self._mean([found.lpips[measure.name] for found in self._values]),
                "higher",
                {"real pairs": self._real.pairs[measure.name]},
                f"{self._task.samples // 2} random pairs of outputs for each of {len(self._values)} inputs",
            )
            for measure in self._task.measures.lpips
        ]

    def _set_distances(self, tell: Callable[[float, str], None]) -> list[Figure]:
        figures = []
        measures, seed = self._task.measures, self._task.seed
        for name, network in measures.features.items():
            outputs = torch.stack([found.features[name] for found in self._values])
            real, known = self._real.features[name]
            counts = f"{len(outputs)} inputs × {outputs.shape[1]} outputs against {len(real)} real test images"
            few = min(len(real), outputs.shape[0] * outputs.shape[1]) <= network.num_features
            biased = f"; fewer images than the {network.num_features} features, so biased upward" if few else ""
            tell(0.85, f"distances in {name} features")
            known = known if known is not None and len(known) > 1 else None
            if name in measures.frechet:
                found = frechet_estimate(real, outputs, seed=seed, each=distributed.each)
                references = {} if known is None else _reference(frechet_distance(real, known), len(known))
                figures.append(Figure(f"FD-{name}", found, "lower", references, counts + biased))
            if name in measures.kernel:
                found = kernel_estimate(real, outputs, seed=seed)
                references = {} if known is None else _reference(kernel_distance(real, known), len(known))
                figures.append(Figure(f"KID-{name}", found, "lower", references, counts + _UNBIASED))
        return figures

    def _scores(self) -> list[Figure]:
        if not self._probabilities:
            return []
        p = torch.stack(self._probabilities)
        within, total = conditional_inception_score(p, self._task.seed), inception_score(p, self._task.seed)
        counts = f"{p.shape[0]} inputs × {p.shape[1]} outputs; {self._plan.accuracy}"
        return [
            Figure("CIS (KL)", within.kl, "higher", {}, f"exp(KL) = {within.exponential:.4g}; {counts}"),
            Figure("IS (KL)", total.kl, "higher", {}, f"exp(KL) = {total.exponential:.4g}; {counts}"),
        ]

    def _content(self) -> list[Figure]:
        figures = []
        if self._edges:
            others = [found.other_edges for found in self._values if found.other_edges is not None]
            references = {"outputs of other inputs": self._mean(others)} if others else {}
            figures.append(Figure("edge agreement", self._mean(self._edges), "higher", references))
        if self._codes:
            figures.append(Figure("content code distance", self._mean(self._codes), "lower"))
        return figures

    def _ways_back(self) -> list[Figure]:
        source, target = (domain.upper() for domain in self._task.domains)
        reconstructed = [found.reconstructed for found in self._values if found.reconstructed is not None]
        cycled = [found.cycled for found in self._values if found.cycled is not None]
        figures = []
        if reconstructed:
            figures.append(Figure(f"reconstruction L1 {source} → {source}", self._mean(reconstructed), "lower"))
        if cycled:
            figures.append(Figure(f"cycle L1 {source} → {target} → {source}", self._mean(cycled), "lower"))
        return figures

    def _mean(self, values: Sequence[float]) -> Estimate:
        return mean_estimate(values, seed=self._task.seed)


def _reference(value: float, count: int) -> dict[str, Estimate]:
    return {"real training images": Estimate(value, count=count)}
