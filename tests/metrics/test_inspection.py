"""Inspections of translators whose inventions are known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fastmunit.config import Config
from fastmunit.errors import ConfigError, DataError
from fastmunit.metrics import inspection
from fastmunit.metrics.inspection import edge_difference, inspect, mean_percentiles
from fastmunit.metrics.measures.edge_agreement import edge_agreement, why_no_edges
from fastmunit.metrics.task import Task
from fastmunit.runs.reports.inspection_report import render
from tests.metrics.translators import Same, Tinted


class Inventive(Same):
    """A translator that draws a dark square into the lower right corner of inputs whose upper left pixel is bright."""

    def decode(self, content: Tensor, styles: Tensor) -> Tensor:
        images = super().decode(content, styles).clone()
        if float(content[0, 0, 0, 0]) > 0:
            images[..., 28:36, 28:36] = -1
        return images


@pytest.fixture
def some_dark(config: Config, tmp_path: Path) -> Config:
    """Every third test image is a white square on black, the others are black squares on white."""
    for part in ("testA", "testB"):
        (tmp_path / part).mkdir()
        for k in range(6):
            pixels = np.full((40, 40, 3), 0 if k % 3 else 255, np.uint8)
            pixels[6:16, 5 + k : 15 + k] = 255 - pixels[0, 0]
            Image.fromarray(pixels).save(tmp_path / part / f"{k}.png")
    return config.model_copy(update={"data_root": str(tmp_path)})


def test_a_translator_that_returns_its_input(config: Config) -> None:
    result = inspect(Same(), config, backward=Same(), inputs=5, samples=4)
    assert [aspect.name for aspect in result.aspects] == ["cycle", "edges"]
    assert result.skipped == {"variation": "this model has no styles, and one output per image"}
    assert len(result.inputs) == len(result.pictures) == 5
    assert all(set(one.scores.values()) == {0.0} and one.mean_percentile == 0 for one in result.inputs)
    assert result.scales == {"cycle": 0, "edges": 0}
    assert all(torch.equal(shown.images["output"], shown.images["back"]) for shown in result.pictures)
    json.dumps(result.to_dict())


def test_inventions_come_first_and_are_found(some_dark: Config) -> None:
    result = inspect(Inventive(), some_dark, backward=Same(), samples=2)
    assert [Path(one.file).name for one in result.inputs] == ["0.png", "3.png", "1.png", "2.png", "4.png", "5.png"]
    for one, shown in zip(result.inputs[:2], result.pictures, strict=False):
        assert one.scores["edges_added"] > one.scores["edges_lost"] > 0
        assert one.scores["cycle_error"] == pytest.approx(2 * 64 / 1600)
        assert shown.maps["cycle"][30, 30] == 2 and shown.maps["cycle"].sum() == pytest.approx(2 * 64)
        assert shown.maps["edges"][26:38, 26:38].max() > 1 > shown.maps["edges"][20:25].abs().max()
        assert shown.maps["edges"].argmax() // 40 >= 26
    assert result.inputs[0].mean_percentile > 0.7 > 0 == result.inputs[2].mean_percentile
    assert result.to_dict()["ranked_by"] == ["cycle_error", "edge_disagreement"]


def test_scores_are_those_of_independent_formulas(config: Config) -> None:
    forward, backward, samples = Tinted(), Tinted(0.1), 6
    result = inspect(forward, config, backward=backward, inputs=4, samples=samples, seed=5)
    task = Task(forward, backward, config, "a2b", samples, 5, None)
    for one, shown in zip(result.inputs, result.pictures, strict=True):
        index = int(Path(one.file).stem)
        x, outputs = task.sources[index], task.outputs(index, task.sources[index])
        assert torch.equal(shown.images["input"], x) and torch.equal(shown.images["output"], outputs[0])
        variation = np.std(outputs.double().numpy(), axis=0, ddof=1).mean()
        assert one.scores["variation"] == pytest.approx(variation, rel=1e-5)
        compared = outputs[: inspection.COMPARED]
        agreement = edge_agreement(x.expand_as(compared), compared).mean()
        assert one.scores["edge_disagreement"] == pytest.approx(1 - float(agreement), abs=1e-5)
        # The own style of the images is 0: the way back only halves the size once more.
        errors = [np.abs(backward.translate(y, torch.zeros(1, 3, 1, 1))[0].numpy() - x.numpy()) for y in compared]
        assert one.scores["cycle_error"] == pytest.approx(float(np.mean(errors)), rel=1e-5)
    largest = max(float(np.quantile(shown.maps["cycle"].numpy(), 0.99)) for shown in result.pictures)
    assert result.scales["cycle"] == pytest.approx(largest, rel=0.05)


def test_edges_of_images_without_edges() -> None:
    generator = torch.Generator().manual_seed(0)
    noise, flat = torch.rand(2, 3, 17, 23, generator=generator) * 2 - 1, torch.full((2, 3, 17, 23), 0.3)
    assert not edge_difference(flat, flat).any()
    for difference, sign in ((edge_difference(flat, noise), 1), (edge_difference(noise, flat), -1)):
        torch.testing.assert_close(difference, sign * edge_difference(flat, noise))
        torch.testing.assert_close(difference.square().mean(dim=(1, 2)) / 2, torch.full((2,), 0.5))
    with pytest.raises(DataError, match="sides of at least 8 pixels"):
        edge_difference(noise[..., :7], noise[..., :7])
    with pytest.raises(DataError, match="expected images of one shape"):
        edge_difference(noise, noise[..., :9])


def test_percentiles() -> None:
    first, second = [3.0, 1, 2, 2, 9], [0.0, 0, 5, 1, 2]
    expected = [
        np.mean([np.mean([v < values[k] for j, v in enumerate(values) if j != k]) for values in (first, second)])
        for k in range(5)
    ]
    assert mean_percentiles([first, second]) == pytest.approx(expected)
    assert mean_percentiles([[1, 0]]) == [1, 0]


def test_what_a_model_lacks_is_left_out(config: Config) -> None:
    result = inspect(Tinted(), config, inputs=3, samples=2)
    assert [aspect.name for aspect in result.aspects] == ["edges", "variation"]
    assert result.skipped == {"cycle": "a munit model does not translate back"}
    assert "back" not in result.pictures[0].images and "cycle_error" not in result.inputs[0].scores
    gray = config.model_copy(update={"input_dim_a": 1, "input_dim_b": 1})
    assert set(inspect(Same((1, 1)), gray, inputs=2, samples=2).skipped) == {"cycle", "variation"}
    with pytest.raises(
        ConfigError, match=r"nothing is left to inspect .*does not translate back; its inputs have 5 ch"
    ):
        inspect(Same((5, 3)), config, inputs=2, samples=2)


@pytest.mark.parametrize("channels", [2, 5])
def test_models_of_many_channels(config: Config, tmp_path: Path, channels: int) -> None:
    random = np.random.default_rng(0)
    for part in ("testA", "testB"):
        (tmp_path / part).mkdir()
        for number in range(3):
            pages = [Image.fromarray(random.integers(0, 255, (40, 40), np.uint8)) for _ in range(channels)]
            pages[0].save(tmp_path / part / f"{number}.tif", save_all=True, append_images=pages[1:])
    settings = config.model_copy(update={"data_root": str(tmp_path), "input_dim_a": channels, "input_dim_b": channels})
    same = Same((channels, channels))
    result = inspect(same, settings, backward=same, inputs=3, samples=2)
    assert [aspect.name for aspect in result.aspects] == ["cycle"]
    assert result.skipped["edges"].startswith(f"its inputs have {channels} channels")
    assert why_no_edges(Same((3, channels))).startswith(f"its outputs have {channels} channels")
    assert result.pictures[0].images["output"].shape == (channels, 40, 40)
    assert render("title", {}, [result]).count("data:image/jpeg") == 3 * 4


def test_without_a_score_that_ranks_inputs_are_sorted_by_variation(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "ASPECTS", [aspect for aspect in inspection.ASPECTS if not aspect.ranks])
    result = inspect(Tinted(), config, inputs=4, samples=3)
    values = [one.scores["variation"] for one in result.inputs]
    assert values == sorted(values, reverse=True)
    assert result.to_dict()["ranked_by"] == ["variation"]


def test_pictures_are_few_and_small(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "_MAX_SIDE", 16)
    monkeypatch.setattr(inspection, "DISPLAYED", 3)
    result = inspect(Tinted(), config, backward=Tinted(), samples=2)
    assert (len(result.inputs), len(result.pictures)) == (12, 3)
    for shown in result.pictures:
        assert {tuple(image.shape) for image in shown.images.values()} == {(3, 16, 16)}
        assert {tuple(values.shape) for values in shown.maps.values()} == {(16, 16)}


def test_scores_do_not_depend_on_the_size_of_pictures(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    full = inspect(Tinted(), config, backward=Tinted(), inputs=3, samples=2)
    monkeypatch.setattr(inspection, "_MAX_SIDE", 16)
    assert inspect(Tinted(), config, backward=Tinted(), inputs=3, samples=2).inputs == full.inputs


def test_a_way_back_with_nan(config: Config) -> None:
    with pytest.raises(DataError, match=r"NaN.*has diverged"):
        inspect(Tinted(), config, backward=Tinted(float("nan")), inputs=2, samples=2)
