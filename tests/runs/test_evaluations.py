"""Evaluations during a training: they change nothing in it, and choose its best checkpoint."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from fastmunit import load_translator, translate
from fastmunit.config import Config
from fastmunit.errors import CheckpointError, ConfigError, DataError, FastmunitError, TrainingError
from fastmunit.files import save_tensors
from fastmunit.metrics.evaluate import evaluate
from fastmunit.metrics.load import load_measures
from fastmunit.nn.networks import imagenet
from fastmunit.runs import RunFolder, TrainingResult, evaluator, train
from fastmunit.runs.checkpoints.best import read_best
from fastmunit.runs.evaluations import NO_IMPROVEMENT
from fastmunit.runs.evaluator import Evaluator, without_improvement
from fastmunit.runs.reports.evaluation_log import EvaluationRecord, Figure, read_records
from fastmunit.systems.base import System
from fastmunit.systems.parts import public_checkpoint
from fastmunit.systems.translators import Translator
from tests.metrics.conftest import random_backbone
from tests.runs.tiny import Recorder, assert_same_checkpoint, make_images, tiny_config

METRICS = ["reconstruction", "edge-agreement"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("evaluated"), count=10)


@pytest.fixture(scope="module")
def straight(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of seven iterations with averages and evaluations after two, four and six."""
    folder = tmp_path_factory.mktemp("runs") / "straight"
    train(evaluated(images), folder, device="cpu")
    return folder


def evaluated(images: Path, **changes: Any) -> Config:
    evaluations = {"eval_iter": 2, "eval_metrics": METRICS, "eval_inputs": 10, "eval_samples": 2}
    return tiny_config(images, **{"display_size": 1, "ema_decay": 0.5, **evaluations, **changes})


def curves(folder: Path) -> list[dict[str, Any]]:
    """Return the records of a run without their times."""
    records = read_records(RunFolder(folder).evaluations)
    return [record.model_dump(exclude={"seconds", "duration"}) for record in records]


def iterations(folder: Path) -> list[int]:
    return [record["iteration"] for record in curves(folder)]


def scripted(monkeypatch: pytest.MonkeyPatch, values: Mapping[int, float | tuple[float, float, float]]) -> None:
    """Let evaluations give these values of "realism", by iteration; lower ones are better."""

    def measure(self: Evaluator, trainer: System, iteration: int, seconds: float) -> EvaluationRecord:
        given = values[iteration]
        value, low, high = given if isinstance(given, tuple) else (given, given - 0.5, given + 0.5)
        figure = Figure(measure=METRICS[0], name="realism", value=value, low=low, high=high, better="lower")
        return EvaluationRecord(
            iteration=iteration, seconds=seconds, duration=0, direction="a2b", inputs=10, samples=2,
            conditions=self._evaluation.digest, figures=[figure],
        )  # fmt: skip

    monkeypatch.setattr(Evaluator, "measure", measure)


def saved(folder: Path) -> list[int]:
    return public_checkpoint.numbers(RunFolder(folder).checkpoints, "gen")


def test_a_training_is_not_disturbed(images: Path, straight: Path, tmp_path: Path) -> None:
    train(evaluated(images, eval_iter=None), tmp_path / "without", device="cpu")
    assert_same_checkpoint(tmp_path / "without", straight, 7)
    assert iterations(straight) == [2, 4, 6]
    assert not RunFolder(tmp_path / "without").evaluations.exists()
    assert read_best(RunFolder(tmp_path / "without")) is None


def test_a_stopped_run_has_the_same_curves(images: Path, straight: Path, tmp_path: Path) -> None:
    train(evaluated(images, max_iter=3), tmp_path / "run", device="cpu")
    torch.manual_seed(999)
    train(evaluated(images), tmp_path / "run", resume=True, device="cpu")
    assert_same_checkpoint(straight, tmp_path / "run", 7)
    assert curves(tmp_path / "run") == curves(straight)
    assert RunFolder(tmp_path / "run").best.read_bytes() == RunFolder(straight).best.read_bytes()


def test_a_killed_run_has_the_same_curves(images: Path, straight: Path, tmp_path: Path) -> None:
    """It is killed between an evaluation and the next checkpoint, after which the evaluation is repeated."""

    def fail() -> None:
        raise LookupError

    folder = RunFolder(tmp_path / "run")
    early = train(evaluated(images, max_iter=3), folder.root, device="cpu")
    kept = shutil.copytree(folder.checkpoints, tmp_path / "kept")
    with pytest.raises(LookupError):
        train(evaluated(images), folder.root, resume=True, device="cpu", callbacks=[Recorder({5: fail})])
    assert iterations(folder.root) == [2, 4]
    shutil.rmtree(folder.checkpoints)
    kept.rename(folder.checkpoints)
    if early.folder.best.exists():
        folder.best.write_text(early.folder.best.read_text().replace('"iteration": 2', '"iteration": 4'))
    train(evaluated(images), folder.root, resume=True, device="cpu")
    assert_same_checkpoint(straight, folder.root, 7)
    assert curves(folder.root) == curves(straight)
    assert read_best(folder) == read_best(RunFolder(straight))


def test_figures_are_those_of_the_command(images: Path, straight: Path) -> None:
    """Averaged weights are measured, on the images and styles of `fastmunit evaluate`."""
    best = read_best(RunFolder(straight))
    assert best is not None
    record = next(record for record in curves(straight) if record["iteration"] == best.iteration)
    forward, backward = (
        load_translator(straight, direction=direction, device="cpu", which="best") for direction in ("a2b", "b2a")
    )
    result = evaluate(forward, evaluated(images), load_measures(METRICS), backward=backward, inputs=10, samples=2)
    expected = {score.name: (score.estimate.value, score.estimate.low, score.better) for score in result.scores}
    assert {f["name"]: (f["value"], f["low"], f["better"]) for f in record["figures"]} == expected
    assert record["inputs"] == 10 and record["samples"] == 2 and record["direction"] == "a2b"
    assert [figure["measure"] for figure in record["figures"]] == ["reconstruction", "reconstruction", "edge-agreement"]
    first = record["figures"][0]
    assert (best.measure, best.score, best.value) == (first["measure"], first["name"], first["value"])


def test_the_best_checkpoint_is_saved_and_kept(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, {1: 5.0, 2: 3.0, 3: 4.0, 4: 3.0, 5: 9.0, 6: 2.0, 7: 8.0})
    seen: list[tuple[int | None, list[int]]] = []
    folder = RunFolder(tmp_path / "run")

    def look() -> None:
        best = read_best(folder)
        seen.append((None if best is None else best.iteration, saved(folder.root)))

    config = evaluated(images, eval_iter=1, snapshot_save_iter=3, ema_decay=0.0)
    recorder = Recorder(dict.fromkeys(range(1, 8), look))
    train(config, folder.root, device="cpu", keep=1, callbacks=[recorder])
    assert seen == [(1, [1]), (2, [2]), (2, [2, 3]), (2, [2, 3]), (2, [2, 3]), (6, [6]), (6, [6, 7])]
    content = json.loads(folder.best.read_text())
    assert content == {
        "iteration": 6, "measure": "reconstruction", "score": "realism", "direction": "a2b",
        "value": 2.0, "low": 1.5, "high": 2.5,
    }  # fmt: skip
    image = torch.zeros(3, 32, 32)
    for which, number in (("best", 6), ("newest", 7)):
        expected = translate(folder.checkpoints / f"gen_{number:08d}.pt", image, 2)
        assert torch.equal(translate(folder.root, image, 2, which=which), expected)  # type: ignore[arg-type]
        assert torch.equal(translate(folder.checkpoints, image, 2, which=which), expected)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_worse_checkpoint_replaces_a_best_one_that_is_gone(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, {1: 1.0, 2: 2.0, 3: 3.0, 4: 4.0})
    folder = RunFolder(tmp_path / "run")
    train(evaluated(images, eval_iter=1, max_iter=2, snapshot_save_iter=100), folder.root, device="cpu")
    for path in folder.checkpoints.glob("*_00000001.pt"):
        path.unlink()
    with pytest.raises(CheckpointError, match=r"gen_00000001\.pt is missing, and best\.json names it as the best"):
        load_translator(folder.root, which="best")
    train(evaluated(images, eval_iter=1, max_iter=3), folder.root, resume=True, device="cpu")
    best = read_best(folder)
    assert best is not None and best.iteration == 2
    train(evaluated(images, eval_iter=None, max_iter=4), folder.root, resume=True, device="cpu", keep=1)
    assert saved(folder.root) == [2, 4] and iterations(folder.root) == [1, 2, 3]


@pytest.mark.slow
def test_values_of_other_conditions_are_not_compared(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, {2: 1.0, 4: 2.0})
    folder = RunFolder(tmp_path / "run")
    train(evaluated(images, max_iter=3), folder.root, device="cpu")
    recorder = Recorder()
    config = evaluated(images, max_iter=5, eval_samples=4)
    train(config, folder.root, resume=True, device="cpu", callbacks=[recorder])
    best = read_best(folder)
    assert best is not None and best.iteration == 4
    assert any("eval_samples 2 → 4" in text and "not bit" not in text for text in recorder.messages)


def patient(images: Path, folder: Path, resume: bool = False, **changes: Any) -> TrainingResult:
    config = evaluated(images, eval_iter=1, **{"eval_patience": 2, **changes})
    return train(config, folder, resume=resume, device="cpu")


def test_patience_ends_a_run(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, {1: 5.0, 2: 4.0, 3: 3.9, 4: 3.6, 5: 3.8, 6: 1.0, 7: 1.0})
    result = patient(images, tmp_path / "run")
    assert (result.ended, result.iterations, result.interrupted) == (NO_IMPROVEMENT, 4, False)
    assert saved(tmp_path / "run")[-1] == 4
    assert 'class="state finished"' in result.folder.report.read_text(encoding="utf-8")
    again = patient(images, tmp_path / "run", resume=True)
    assert (again.ended, again.iterations) == (NO_IMPROVEMENT, 4)
    longer = patient(images, tmp_path / "run", resume=True, eval_patience=4)
    assert (longer.ended, longer.iterations) == ("finished", 7)
    assert iterations(tmp_path / "run") == list(range(1, 8))


@pytest.mark.parametrize("better", ["lower", "higher"])
def test_improvement_beyond_the_interval(better: Literal["lower", "higher"]) -> None:
    """Compare with a direct definition: a step counts if the value leaves the interval of the last such step."""
    sign = 1 if better == "lower" else -1
    generator = torch.Generator().manual_seed(0)
    values = (sign * torch.linspace(3, 0, 40) + 0.4 * torch.randn(40, generator=generator)).tolist()
    figures = [Figure(measure="m", name="s", value=v, low=v - 0.6, high=v + 0.6, better=better) for v in values]
    records = [_record(k, [figure]) for k, figure in enumerate(figures)]
    last, level = 0, values[0]
    for k, value in enumerate(values):
        assert without_improvement(records[: k + 1]) == (k - last if sign * value >= sign * level - 0.6 else 0)
        if sign * value < sign * level - 0.6:
            last, level = k, value
    assert without_improvement([]) == 0 and last > 0


def test_any_figure_can_improve() -> None:
    def figures(quality: float, diversity: float) -> list[Figure]:
        low = Figure(measure="m", name="quality", value=quality, low=quality - 1, high=quality + 1, better="lower")
        high = Figure(measure="n", name="diversity", value=diversity, low=None, high=None, better="higher")
        neither = Figure(measure="o", name="size", value=quality, low=None, high=None, better="")
        return [low, high, neither]

    steps = [(5.0, 0.1), (4.5, 0.1), (4.5, 0.2), (4.5, 0.2), (9.0, 0.2), (3.0, 0.0)]
    records = [_record(k, figures(*step)) for k, step in enumerate(steps)]
    assert [without_improvement(records[: k + 1]) for k in range(6)] == [0, 1, 0, 1, 2, 0]


def _record(iteration: int, figures: list[Figure]) -> EvaluationRecord:
    values = {"iteration": iteration, "seconds": 0.0, "duration": 0.0, "direction": "a2b", "inputs": 10, "samples": 2}
    return EvaluationRecord(**values, conditions="", figures=figures)


@pytest.mark.slow
def test_a_signal_delays_an_evaluation_until_the_resume(images: Path, straight: Path, tmp_path: Path) -> None:
    recorder = Recorder({3: lambda: os.kill(os.getpid(), signal.SIGTERM)})
    result = train(evaluated(images), tmp_path / "run", device="cpu", callbacks=[recorder])
    assert (result.ended, result.iterations) == ("SIGTERM", 4) and iterations(tmp_path / "run") == [2]
    train(evaluated(images), tmp_path / "run", resume=True, device="cpu")
    assert curves(tmp_path / "run") == curves(straight)
    assert_same_checkpoint(straight, tmp_path / "run", 7)


@pytest.mark.slow
def test_given_weights_are_evaluated_first(images: Path, straight: Path, tmp_path: Path) -> None:
    init = straight / "checkpoints/ema_00000004.pt"
    train(evaluated(images, max_iter=2), tmp_path / "run", device="cpu", init=init)
    assert iterations(tmp_path / "run") == [0, 2]
    start, before = curves(tmp_path / "run")[0], curves(straight)[1]
    assert start["figures"] == before["figures"]


@pytest.fixture
def no_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let weights be found in FASTMUNIT_WEIGHTS only, and refuse downloads."""

    def download(name: str) -> None:
        raise AssertionError(f"{name} would be downloaded")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(imagenet, "_download", download)
    monkeypatch.delenv(imagenet.WEIGHTS_VARIABLE, raising=False)


def test_measures_without_an_interval_are_named(images: Path, tmp_path: Path) -> None:
    recorder = Recorder()
    train(evaluated(images, eval_iter=None, max_iter=1), tmp_path / "run", device="cpu", callbacks=[recorder])
    assert "eval_metrics is set, but eval_iter is not: this run has no evaluations." in recorder.messages


def test_keys_without_effect_are_named(images: Path, tmp_path: Path) -> None:
    recorder = Recorder()
    config = tiny_config(images, max_iter=1, r1_iter=4, dis_augment_ramp=100)
    train(config, tmp_path / "run", device="cpu", callbacks=[recorder])
    assert "r1_iter is set, but r1_w is not: this run has no R1 penalty." in recorder.messages
    assert any(line.startswith("dis_augment_ramp is set, but dis_augment_target is not") for line in recorder.messages)
    recorder = Recorder()
    train(tiny_config(images, max_iter=1, r1_w=1), tmp_path / "other", device="cpu", callbacks=[recorder])
    assert not any("is set, but" in line for line in recorder.messages)


@pytest.mark.usefixtures("no_download")
def test_without_weights_the_run_says_what_it_leaves_out(images: Path, tmp_path: Path) -> None:
    recorder = Recorder()
    train(evaluated(images, eval_metrics=None, max_iter=2), tmp_path / "run", device="cpu", callbacks=[recorder])
    text = " ".join(recorder.messages)
    assert "leave out KID and LPIPS diversity" in text and "a training downloads none" in text
    assert "decides" not in text
    (record,) = curves(tmp_path / "run")
    assert {figure["measure"] for figure in record["figures"]} == {"edge-agreement", "content-code", "reconstruction"}
    assert read_best(RunFolder(tmp_path / "run")) is None
    with pytest.raises(CheckpointError, match=r"best\.json does not exist: .*eval_iter"):
        load_translator(tmp_path / "run", which="best")


@pytest.mark.usefixtures("no_download")
def test_default_measures_with_weights(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lpips", reason="the heads of LPIPS are in the package lpips")
    save_tensors(random_backbone("alexnet").state_dict(), tmp_path / "alexnet_features.pth")
    monkeypatch.setenv(imagenet.WEIGHTS_VARIABLE, str(tmp_path))
    monkeypatch.setattr("fastmunit.metrics.measures.lpips_diversity.LPIPSDiversity.prepare", _no_references)
    config = evaluated(images, eval_metrics=None, max_iter=2)
    train(config, tmp_path / "run", device="cpu")
    (record,) = curves(tmp_path / "run")
    assert [figure["name"] for figure in record["figures"]] == ["KID-AlexNet", "LPIPS-alex-v0.1 diversity"]
    assert all(math.isfinite(figure["value"]) and figure["low"] < figure["high"] for figure in record["figures"])
    best = read_best(RunFolder(tmp_path / "run"))
    assert best is not None and best.measure == "kid-alexnet"


@pytest.mark.usefixtures("no_download")
@pytest.mark.parametrize(
    ("at_hand", "names"),
    [
        (("alexnet",), ["kid-alexnet", "lpips-alex-v0.1"]),
        (("vgg16",), ["kid-vgg16", "lpips-vgg-v0.1"]),
        (("vgg16", "alexnet"), ["kid-alexnet", "lpips-alex-v0.1"]),
    ],
)
def test_default_measures_are_those_whose_weights_are_at_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_hand: tuple[str, ...], names: list[str]
) -> None:
    for name in at_hand:
        (tmp_path / f"{name}_features_fp16.pth").touch()
    monkeypatch.setenv(imagenet.WEIGHTS_VARIABLE, str(tmp_path))
    monkeypatch.setattr(evaluator, "load_measures", lambda chosen, device: list(chosen))
    messages: list[str] = []
    cpu = torch.device("cpu")
    assert evaluator._default_measures(True, cpu, messages.append) == names  # type: ignore[comparison-overlap]
    assert messages == []
    assert evaluator._default_measures(False, cpu, messages.append) == names[:1]  # type: ignore[comparison-overlap]
    assert messages == ["Evaluations leave out LPIPS diversity: the model gives one output per input."]


def _no_references(measure: Any, real: Any) -> None:
    """Replace the many random pairs of real images, which take seconds."""
    from fastmunit.metrics.confidence import Estimate

    measure.real = Estimate(1.0)


@pytest.mark.usefixtures("no_download")
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"eval_metrics": ["kid-alexnot"]}, ConfigError, "did you mean kid-alexnet"),
        ({"eval_metrics": ["edge-agreement", "is-cis"]}, ConfigError, "is-cis needs a classifier, which a training"),
        ({"eval_metrics": ["kid-vgg16"]}, CheckpointError, "kid-vgg16 needs the weights of vgg16.*downloads none"),
        ({"eval_metrics": ["content-code", "edge-agreement"], "system": "cyclegan"}, ConfigError,
         "content-code, the first, decides .* has no content code .*: name another one first"),
        ({"eval_metrics": ["content-code"], "system": "cyclegan"}, ConfigError, "nothing is left to measure"),
        ({"eval_iter": None, "eval_patience": 1}, ConfigError, "eval_patience counts evaluations"),
        ({"eval_inputs": 9, "eval_patience": 1}, ConfigError, "eval_patience needs intervals, .* got 9 input and 10"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_refused_at_the_start(
    images: Path, tmp_path: Path, changes: dict[str, Any], error: type[FastmunitError], message: str
) -> None:
    with pytest.raises(error, match=message):
        train(evaluated(images, **changes), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_a_single_test_image_is_refused_at_the_start(images: Path, tmp_path: Path) -> None:
    root = shutil.copytree(images, tmp_path / "images")
    for path in sorted((root / "testB").iterdir())[1:]:
        path.unlink()
    with pytest.raises(DataError, match="at least 2 target test images, got 1"):
        train(evaluated(root), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_measures_are_a_list_or_a_text(images: Path) -> None:
    for value in (METRICS, ", ".join(METRICS)):
        assert tiny_config(images, eval_metrics=value).eval_metrics == METRICS
    for value in ([], "", "fd-vgg16,fd-vgg16", [3]):
        with pytest.raises(ConfigError, match="eval_metrics"):
            tiny_config(images, eval_metrics=value)


def test_few_images_that_are_removed_during_the_training(images: Path, tmp_path: Path) -> None:
    """There are no intervals, and images are read once."""
    root = shutil.copytree(images, tmp_path / "images")
    recorder = Recorder({1: lambda: shutil.rmtree(root / "testA")})
    train(evaluated(root, eval_inputs=9, max_iter=2), tmp_path / "run", device="cpu", callbacks=[recorder])
    assert any("no intervals: these need 10 test images of each domain, got 9" in text for text in recorder.messages)
    (record,) = curves(tmp_path / "run")
    assert all(figure["low"] is None for figure in record["figures"])
    assert "<polygon" not in RunFolder(tmp_path / "run").report.read_text(encoding="utf-8")


def test_translations_with_nan_end_a_training(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Averages can be NaN while the losses, which come from the weights themselves, are not yet."""
    translator = System.evaluation_translator

    def diverged(self: System, direction: str) -> Translator:
        made = translator(self, direction)
        if any(bool(loss) for loss in self.losses().values()):
            made.decode = lambda content, styles: content.new_full((len(styles), 3, 36, 36), math.nan)  # type: ignore[method-assign]
        return made

    monkeypatch.setattr(System, "evaluation_translator", diverged)
    with pytest.raises(TrainingError, match=r"iteration 4: .*NaN.* checkpoint of iteration 3 .* lower learning rate"):
        train(evaluated(images, eval_iter=4, snapshot_save_iter=3), tmp_path / "run", device="cpu")


def test_damaged_files_are_named(images: Path, straight: Path, tmp_path: Path) -> None:
    folder = RunFolder(shutil.copytree(straight, tmp_path / "run"))
    lines = folder.evaluations.read_text(encoding="utf-8").splitlines(keepends=True)
    folder.evaluations.write_text(lines[0] + lines[1][:50], encoding="utf-8")
    with pytest.raises(FastmunitError, match=r"evaluations\.jsonl, line 2: .* move the file away"):
        train(evaluated(images, max_iter=8), folder.root, resume=True, device="cpu")
    folder.evaluations.write_text("".join(lines), encoding="utf-8")
    folder.best.write_text("{}")
    with pytest.raises(CheckpointError, match=r"best\.json cannot be used \(iteration: .*remove it"):
        load_translator(folder.root, which="best")
    train(evaluated(images, max_iter=7), folder.root, resume=True, device="cpu")
    assert read_best(folder) == read_best(RunFolder(straight))


def test_curves_are_reported(images: Path, straight: Path) -> None:
    report = RunFolder(straight).report.read_text(encoding="utf-8")
    assert "<h2>Evaluations</h2>" in report and "--which best" in report
    (charts,) = re.findall(r"(?s)<h2>Evaluations</h2>(.*?)<h2>Losses", report)
    assert charts.count("<figure") == 3
    bands = re.findall(r'polygon class="line0" points="([^"]*)"', charts)
    assert [len(points.split()) for points in bands] == [6] * 3
    assert "outputs of other inputs" in charts and "edge agreement ↑" in charts
    pytest.importorskip("tensorboard", reason="the tensorboard package is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(straight / "logs"))
    events.Reload()
    for record in curves(straight):
        figure = record["figures"][-1]
        for key, tag in (("value", ""), ("low", "/low"), ("high", "/high")):
            logged = {event.step: event.value for event in events.Scalars(f"evaluation/edge_agreement{tag}")}
            assert logged[record["iteration"]] == pytest.approx(figure[key], rel=1e-6)


def test_which_is_for_run_folders(straight: Path) -> None:
    file = straight / "checkpoints/gen_00000007.pt"
    with pytest.raises(ConfigError, match="is not a run folder, so it has no best checkpoint"):
        load_translator(file, which="best")
    with pytest.raises(ValueError, match="the model is not a run folder"):
        translate(load_translator(file), torch.zeros(3, 32, 32), which="best")
    with pytest.raises(ConfigError, match="which is 'oldest': use newest or best"):
        load_translator(straight, which="oldest")  # type: ignore[arg-type]
