"""Whole evaluations of translators whose scores are known."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from fastmunit.config import Config
from fastmunit.errors import CheckpointError, ConfigError, DataError, FastmunitError
from fastmunit.metrics.classifier import Classifier
from fastmunit.metrics.diversity import pair_distances
from fastmunit.metrics.evaluate import evaluate, require_possible
from fastmunit.metrics.features import FeatureNet
from fastmunit.metrics.load import load_measures
from fastmunit.metrics.lpips import LPIPS
from fastmunit.metrics.measure import Measure
from fastmunit.metrics.measures.content_code import ContentCodeDistance
from fastmunit.metrics.measures.edge_agreement import EdgeAgreement
from fastmunit.metrics.measures.feature_distances import FrechetDistance, KernelDistance
from fastmunit.metrics.measures.inception_scores import InceptionScores
from fastmunit.metrics.measures.lpips_diversity import LPIPSDiversity
from fastmunit.metrics.measures.reconstruction import Reconstruction
from fastmunit.metrics.results import Evaluation, Score
from fastmunit.metrics.task import Task
from tests.metrics.test_lpips import random_heads
from tests.metrics.translators import Same, Tinted


@pytest.fixture(scope="module")
def lpips(alexnet: nn.Sequential) -> LPIPS:
    return LPIPS("alex", backbone=alexnet, heads=random_heads("alex"))


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    torch.manual_seed(0)
    classifier = Classifier(["one", "two", "three"], "small", 40).eval()
    classifier.accuracy, classifier.held_out = 0.75, 8
    return classifier


@pytest.fixture(scope="module")
def everything(alexnet: nn.Sequential, lpips: LPIPS, classifier: Classifier) -> list[Measure]:
    features = FeatureNet("AlexNet", backbone=alexnet)
    return [
        LPIPSDiversity(lpips),
        FrechetDistance(features),
        KernelDistance(features),
        InceptionScores(classifier),
        EdgeAgreement(),
        ContentCodeDistance(),
        Reconstruction(),
    ]


def named(evaluation: Evaluation, name: str) -> Score:
    return next(score for score in evaluation.scores if score.name == name)


def test_a_translator_that_returns_its_input(config: Config, everything: list[Measure]) -> None:
    pytest.importorskip("torchmetrics", reason="needs torchmetrics")
    result = evaluate(Same(), config, everything, backward=Same(), inputs=9, samples=4)
    diversity = named(result, "LPIPS-alex-v0.1 diversity")
    assert diversity.estimate.value == 0
    assert diversity.references["real pairs"].value > 0
    assert named(result, "CIS (KL)").estimate.value == 0
    assert named(result, "IS (KL)").estimate.value > 0
    assert (
        "exp(KL) = 1; 9 inputs × 4 outputs; classifier of 3 classes: accuracy 75.0 % on 8 held-out"
        in named(result, "CIS (KL)").note
    )
    edges = named(result, "edge agreement")
    assert edges.estimate.value == pytest.approx(1, abs=1e-5)
    assert edges.references["outputs of other inputs"].value < 0.9
    assert named(result, "cycle L1 A → B → A").estimate.value == 0
    assert "no content code" in result.skipped["content-code"]
    for name in ("FD-AlexNet", "KID-AlexNet"):
        assert math.isfinite(named(result, name).estimate.value)
        assert "real training images" in named(result, name).references
    assert "biased upward" in named(result, "FD-AlexNet").note
    assert [sheet.caption.split(" by ")[0] for sheet in result.sheets[:2]] == [
        "Most diverse inputs",
        "Least diverse inputs",
    ]
    # The first column of each row is the input, and the outputs are equal to it.
    assert all(torch.equal(row[0], image) for sheet in result.sheets[:2] for row in sheet.rows for image in row)
    assert len(result.per_input) == 9 and result.per_input[3]["CIS (KL)"] == 0
    json.dumps(result.to_dict())


def test_a_translator_with_styles(config: Config, everything: list[Measure]) -> None:
    pytest.importorskip("torchmetrics", reason="needs torchmetrics")
    result = evaluate(Tinted(), config, everything, direction="b2a", backward=Tinted(), inputs=9, samples=4)
    weak = evaluate(Tinted(0.01), config, everything, direction="b2a", backward=Tinted(), inputs=9, samples=4)
    name = "LPIPS-alex-v0.1 diversity"
    assert named(result, name).estimate.value > 5 * named(weak, name).estimate.value > 0
    assert result.skipped == {}
    # The codes of input and output differ by the tint only: |0.2 z| over mean|c|.
    distance = named(result, "content code distance").estimate.value
    assert 0.05 < distance < 0.5
    assert named(weak, "content code distance").estimate.value == pytest.approx(distance / 20, rel=0.5)
    back = named(result, "reconstruction L1 B → B").estimate.value
    assert 0 < back < 0.05  # halving the size loses this much
    assert named(result, "cycle L1 B → A → B").estimate.value > back
    values = [row[name] for row in result.per_input]
    assert len(result.sheets[0].rows) == 4
    assert f"({max(values):.3g}," in result.sheets[0].caption


def test_diversity_is_the_mean_over_inputs_of_the_mean_over_pairs(config: Config, lpips: LPIPS) -> None:
    score = evaluate(Tinted(), config, [LPIPSDiversity(lpips)], inputs=3, samples=5).scores[0]
    assert score.estimate.value == pytest.approx(sum(score.per_input) / 3, rel=1e-12)
    task = Task(Tinted(), None, config, "a2b", samples=5, seed=0, images=None)
    image = task.sources[4]  # the second of three among twelve
    assert score.per_input[1] == float(pair_distances(lpips, task.outputs(4, image)).mean())


def test_reports_have_one_order(config: Config, everything: list[Measure], vgg16: nn.Sequential) -> None:
    """Measures of one feature network are listed together, whatever order they were given in."""
    pytest.importorskip("torchmetrics", reason="needs torchmetrics")
    other = FeatureNet("VGG16", backbone=vgg16)
    measures = [KernelDistance(other), *reversed(everything), FrechetDistance(other)]
    scores = evaluate(Tinted(), config, measures, backward=Tinted(), inputs=2, samples=2).scores
    assert [score.name.partition(" ")[0] for score in scores] == [
        "LPIPS-alex-v0.1", "FD-AlexNet", "KID-AlexNet", "FD-VGG16", "KID-VGG16", "CIS", "IS", "edge", "content",
        "reconstruction", "cycle",
    ]  # fmt: skip


def test_styles_do_not_depend_on_the_number_of_inputs(config: Config, lpips: LPIPS) -> None:
    measures = [LPIPSDiversity(lpips)]
    rows = {n: evaluate(Tinted(), config, measures, inputs=n, samples=4).per_input for n in (4, 100)}
    assert len(rows[100]) == 12 and len(rows[4]) == 4
    assert all(row in rows[100] for row in rows[4])
    other = evaluate(Tinted(), config, measures, inputs=4, samples=4, seed=1).per_input
    assert other != rows[4]


def test_the_global_random_state_is_left_alone(config: Config, everything: list[Measure]) -> None:
    pytest.importorskip("torchmetrics", reason="needs torchmetrics")
    before = torch.get_rng_state()
    evaluate(Tinted(), config, everything, backward=Tinted(), inputs=2, samples=2)
    assert torch.equal(before, torch.get_rng_state())


def test_one_way_models_and_gray_outputs(config: Config, lpips: LPIPS) -> None:
    measures = [LPIPSDiversity(lpips), EdgeAgreement(), ContentCodeDistance(), Reconstruction()]
    gray = Config.from_dict({**config.to_dict(), "input_dim_a": 1, "input_dim_b": 1})
    result = evaluate(Same((1, 1)), gray, measures, samples=2)
    assert set(result.skipped) == {"content-code", "reconstruction"}
    assert "does not translate back" in result.skipped["reconstruction"]
    assert named(result, "edge agreement").estimate.value == pytest.approx(1, abs=1e-5)


class Counting(Same):
    """A translator that counts the images it translates."""

    translated = 0

    def decode(self, content: Tensor, styles: Tensor) -> Tensor:
        self.translated += 1
        return super().decode(content, styles)


def test_what_cannot_be_measured_is_refused_before_any_work(config: Config, lpips: LPIPS, tmp_path: Path) -> None:
    forward = Counting()
    for measures, message in (
        ([ContentCodeDistance()], r"nothing is left to measure \(content-code: .* does not translate back\)"),
        ([ContentCodeDistance(), Reconstruction()], "content-code: .*; reconstruction: .*name other metrics"),
    ):
        with pytest.raises(ConfigError, match=message):
            evaluate(forward, config, measures, samples=2)
        with pytest.raises(ConfigError, match=message):
            require_possible(forward, config, measures)
    # Damaged images of the other domain are found before the inputs are translated.
    for part in ("testA", "testB"):
        shutil.copytree(f"{config.data_root}/{part}", tmp_path / part)
    for path in sorted((tmp_path / "testB").iterdir())[1:]:
        path.write_bytes(b"no image")
    settings = Config.from_dict({**config.to_dict(), "data_root": str(tmp_path)})
    with pytest.raises(DataError, match=r"at least 2 target test images that can be read: .*01\.png"):
        evaluate(forward, settings, [LPIPSDiversity(lpips)], samples=2)
    assert forward.translated == 0
    assert evaluate(forward, config, [Reconstruction()], backward=Same(), inputs=2, samples=2).scores


def test_outputs_with_nan(config: Config, classifier: Classifier) -> None:
    for measure in (InceptionScores(classifier), ContentCodeDistance()):
        with pytest.raises(DataError, match=r"NaN .*has diverged"):
            evaluate(Tinted(float("nan")), config, [measure], backward=Tinted(), inputs=2, samples=2)


def test_neighbors_are_the_nearest(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """The nearest training image of a test image that is in the training set is the image itself."""
    same = Config.from_dict({**config.to_dict(), "data_root": None, **{
        f"data_folder_{part}_{domain}": f"{config.data_root}/testB" for part in ("train", "test") for domain in "ab"
    }})  # fmt: skip
    sheet = evaluate(Same(), same, [], samples=2).sheets[-1]
    assert "nearest training images in 16x16 pixels" in sheet.caption
    same_images = sum(torch.equal(x, y) or torch.equal(x, y.flip(2)) for x, y in zip(*sheet.rows[:2], strict=True))
    assert same_images >= 4  # training flips half of its images
    monkeypatch.setattr("fastmunit.metrics.contact_sheets._MAX_SEARCHED", 5)
    sheet = evaluate(Same(), same, [], samples=2).sheets[-1]
    assert "nearest of 5 of the 12 training images in" in sheet.caption


def test_a_classifier_of_another_value_range(config: Config, classifier: Classifier) -> None:
    settings = config.model_copy(update={"value_range_b": [0.0, 200.0]})
    with pytest.raises(DataError, match=r"no value range, but domain B of .* \[0.0, 200.0\]: .*--domain b"):
        evaluate(Same(), settings, [InceptionScores(classifier)], samples=2)


def test_classes_of_the_test_images(config: Config, classifier: Classifier, tmp_path: Path) -> None:
    for part in ("testA", "testB"):
        for name in ("one", "two"):
            (tmp_path / part / name).mkdir(parents=True)
            for k in range(3):
                Image.new("RGB", (40, 40), (40 * k, 90, 20)).save(tmp_path / part / name / f"{k}.png")
    settings = Config.from_dict({**config.to_dict(), "data_root": str(tmp_path)})
    with pytest.raises(DataError, match=r"testB have different classes: the folder has no three\. "):
        evaluate(Same(), settings, [InceptionScores(classifier)], samples=2)
    classifier = Classifier(["one", "two"], "small", 40).eval()
    result = evaluate(Same(), settings, [InceptionScores(classifier)], samples=2)
    assert "accuracy not known, 50.0 % on 6 test images" in named(result, "CIS (KL)").note
    (tmp_path / "testA" / "one").rename(tmp_path / "testA" / "four")
    with pytest.raises(DataError, match="images of domain B, but the classifier has the classes of domain A"):
        evaluate(Same(), settings, [InceptionScores(Classifier(["two", "four"], "small", 40).eval())], samples=2)
    # One folder and a hidden one are not classes: only the accuracy that the classifier states is reported.
    (tmp_path / "testB" / "two").rename(tmp_path / "testB" / ".thumbnails")
    result = evaluate(Same(), settings, [InceptionScores(classifier)], samples=2)
    assert named(result, "CIS (KL)").note.endswith("classifier of 2 classes: accuracy not known")


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ({}, {"samples": 1}, "at least 2 outputs"),
        ({"data_root": "ONE"}, {}, "at least 2 target test images, got 1"),
        ({"data_root": "EMPTY"}, {}, "testB contains no images"),
        ({"data_root": "ABSENT"}, {}, "does not exist"),
        ({"new_size": 24, "crop_image_height": 24, "crop_image_width": 24}, {}, "at least 31 pixels, got 24x24"),
    ],
)
def test_unusable_data(
    change: dict[str, Any], arguments: dict[str, Any], message: str, config: Config, lpips: LPIPS, tmp_path: Path
) -> None:
    for part, counts in (("testA", 3), ("testB", {"ONE": 1, "EMPTY": 0}.get(str(change.get("data_root")), 3))):
        (tmp_path / part).mkdir()
        for k in range(counts):
            Image.new("RGB", (40, 40), (80 * k, 0, 0)).save(tmp_path / part / f"{k}.png")
    if "data_root" in change:
        change = {"data_root": str(tmp_path if change["data_root"] != "ABSENT" else tmp_path / "absent")}
    settings = Config.from_dict({**config.to_dict(), **change})
    with pytest.raises(FastmunitError, match=message):
        evaluate(Same(), settings, [LPIPSDiversity(lpips)], **{"samples": 2, **arguments})


def test_models_of_many_channels(config: Config, lpips: LPIPS) -> None:
    with pytest.raises(DataError, match="outputs have 5 channels"):
        evaluate(Same((3, 5)), config, [LPIPSDiversity(lpips)], samples=2)
    with pytest.raises(ConfigError, match=r"nothing is left to measure .*its inputs have 5 channels"):
        evaluate(Same((5, 3)), config, [EdgeAgreement()], samples=2)


def test_test_images_of_several_sizes(config: Config, lpips: LPIPS, tmp_path: Path) -> None:
    for part in ("testA", "testB"):
        (tmp_path / part).mkdir()
        for k in range(3):
            Image.new("RGB", (40 + 8 * k, 40), (80 * k, 0, 0)).save(tmp_path / part / f"{k}.png")
    settings = Config.from_dict({**config.to_dict(), "data_root": str(tmp_path)})
    result = evaluate(Same(), settings, [LPIPSDiversity(lpips)], samples=2)  # new_size: all are cropped to squares
    assert result.per_input[0]["LPIPS-alex-v0.1 diversity"] == 0


def test_names_of_measures(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"did you mean lpips-alex-v0\.1"):
        load_measures(["lpips-alex"])
    with pytest.raises(ConfigError, match=r"is-cis needs a classifier.*train-classifier"):
        load_measures(["is-cis"])
    with pytest.raises(CheckpointError, match=r"put torchvision's features there as alexnet_features\.pth"):
        load_measures(["fd-alexnet"], weights=tmp_path)
    loaded = load_measures(["edge-agreement", "reconstruction", "edge-agreement"])
    assert [type(measure) for measure in loaded] == [EdgeAgreement, Reconstruction]


def test_networks_are_loaded_once(alexnet: nn.Sequential, tmp_path: Path) -> None:
    pytest.importorskip("lpips", reason="needs the package lpips")
    torch.save({f"features.{k}": v for k, v in alexnet.state_dict().items()}, tmp_path / "alexnet_features.pth")
    names = ["lpips-alex-v0.0", "fd-alexnet", "kid-alexnet"]
    lpips, frechet, kernel = load_measures(names, weights=tmp_path)
    assert [measure.name for measure in (lpips, frechet, kernel)] == names
    assert frechet.feature_net is kernel.feature_net and lpips.feature_net is None


def test_damaged_images_are_left_out(config: Config, everything: list[Measure], folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("torchmetrics", reason="needs torchmetrics")
    damaged = shutil.copytree(folder, tmp_path / "data")
    for name in ("testA/00.png", "testB/00.png", "testB/05.png", "trainB/00.png"):
        (damaged / name).write_text("no image")
    config.data_root = str(damaged)
    result = evaluate(Same(), config, everything, backward=Same(), samples=2)
    assert [failure.path.name for failure in result.failures] == ["00.png", "00.png", "05.png", "00.png"]
    assert len(result.per_input) == 11
    assert named(result, "cycle L1 A → B → A").estimate.value == 0
    assert "11 inputs × 2 outputs against 10 real test images" in named(result, "FD-AlexNet").note
    require_possible(Same(), config, everything, backward=Same())
    for path in (damaged / "testB").iterdir():
        path.write_text("no image")
    with pytest.raises(DataError, match="at least 2 target test images that can be read"):
        evaluate(Same(), config, everything, backward=Same(), samples=2)
