"""examples/time_to_quality.py: arms, splits of the images, and results that are continued."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from examples import time_to_quality as example
from fastmunit import Config, data
from fastmunit.errors import FastmunitError
from fastmunit.metrics.confidence import Estimate
from fastmunit.runs.callbacks import Status
from fastmunit.systems import registry
from fastmunit.systems.munit import MUNIT
from fastmunit.systems.translators import Translator
from fastmunit.testing.reference_step import reference_step

RECORDED = Path(__file__).parents[2] / "docs/project/time_to_quality"


@pytest.fixture(autouse=True)
def registered_only_here(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in registry.names():
        registry.system_named(name)  # a module registers its system once, so it must not be forgotten
    monkeypatch.setattr(registry, "_systems", dict(registry._systems))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data.unpack_demo(tmp_path_factory.mktemp("demo"))


def tiny(config: Config) -> Config:
    config.gen.dim, config.gen.mlp_dim, config.gen.n_res, config.dis.dim = 2, 4, 1, 2
    config.batch_size, config.display_size = 2, 1
    config.precision = "float32"
    return config


class Counting:
    """Measures that count the models that they have seen."""

    count = 0

    def __init__(self, *arguments: object) -> None:
        pass

    def __call__(self, translator: Translator) -> dict[str, Estimate]:
        Counting.count += 1
        return {"kid": Estimate(8 / Counting.count, 1.0, 9.0, 100), "diversity": Estimate(0.1, 0.05, 0.2, 100)}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Return a function that calls the program with tiny networks, whose iterations take a minute each."""
    whole = example.arm_config
    monkeypatch.setattr(example, "arm_config", lambda arm, iterations: tiny(whole(arm, iterations)))
    monkeypatch.setattr(example, "Measures", Counting)
    monkeypatch.setattr(Counting, "count", 0)
    seconds = dict.fromkeys(example.arm_names(), 60.0)
    (tmp_path / example.CALIBRATION).write_text(json.dumps(seconds))

    def call(command: str, *options: str) -> Result:
        return CliRunner().invoke(example.app, [command, "--output", str(tmp_path), *options])

    return call


def result(folder: Path, arm: str, seed: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results" / f"{arm}_{seed}.json").read_text())
    return found


SHORT = ("--arms", "plain,recipe", "--seeds", "1", "--minutes", "4", "--interval", "2")


def test_arms_are_measured_every_interval_and_not_again(tmp_path: Path, run: Callable[..., Result]) -> None:
    done = run("run", *SHORT)
    assert done.exit_code == 0, done.output
    for arm in ("plain", "recipe"):
        found = result(tmp_path, arm)
        assert [(p["iterations"], p["minutes"]) for p in found["points"]] == [(2, 2.0), (4, 4.0)]
        assert found["max_iter"] == 4
    assert Counting.count == 4
    assert run("run", *SHORT).exit_code == 0
    assert Counting.count == 4


def test_other_systems_train_on_the_same_photos(tmp_path: Path, run: Callable[..., Result]) -> None:
    done = run("run", "--arms", "unit,bicyclegan", "--seeds", "1", "--minutes", "2", "--interval", "2")
    assert done.exit_code == 0, done.output
    for arm, folder in (("unit", "data"), ("bicyclegan", "pairs")):
        assert [point["iterations"] for point in result(tmp_path, arm)["points"]] == [2]
        config = Config.load(tmp_path / "runs" / arm / "0" / "config.yaml")
        assert config.system == arm and (tmp_path / folder / "trainA").is_dir()


def test_a_killed_run_continues(tmp_path: Path, run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    measure = example.Measuring.iteration

    def stop(self: example.Measuring, status: Status, trainer: Any) -> None:
        measure(self, status, trainer)
        if status.iterations == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(example.Measuring, "iteration", stop)
        assert run("run", *SHORT).exit_code != 0
    assert [point["iterations"] for point in result(tmp_path, "plain")["points"]] == [2]
    assert run("run", *SHORT).exit_code == 0
    assert [point["iterations"] for point in result(tmp_path, "plain")["points"]] == [2, 4]


def test_a_signal_ends_the_experiment(
    tmp_path: Path, run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = example.Measuring.iteration

    def stop(self: example.Measuring, status: Status, trainer: Any) -> None:
        measure(self, status, trainer)
        if status.iterations == 1:  # a second signal would end the process at once
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(example.Measuring, "iteration", stop)
    assert run("run", *SHORT).exit_code == 130
    assert not (tmp_path / "runs" / "recipe").exists()


def test_results_of_other_settings_are_kept(tmp_path: Path, run: Callable[..., Result]) -> None:
    assert run("run", *SHORT).exit_code == 0
    before = result(tmp_path, "plain")
    refused = run("run", *SHORT, "--images", "8")
    assert isinstance(refused.exception, FastmunitError)
    assert "plain_0.json has other settings" in str(refused.exception)
    assert result(tmp_path, "plain") == before


@pytest.fixture
def three_seeds(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    for seed, kid in enumerate((3.0, 1.0, 2.0)):
        points = [
            {"iterations": int(14 * m), "minutes": m, "kid": {"value": kid / m}, "diversity": {"value": kid * m / 10}}
            for m in (0.5, 1.0)
        ]
        content = {"arm": "defaults", "points": points}
        (tmp_path / "results" / f"defaults_{seed}.json").write_text(json.dumps(content))


def test_the_table_has_medians_and_ranges(run: Callable[..., Result], three_seeds: None) -> None:
    lines = run("table").output.splitlines()
    assert lines[-2:] == [
        "| defaults | 3 | 0.5 | 7 | 4.00 (2.00 … 6.00) | 0.100 (0.050 … 0.150) |",
        "| defaults | 3 | 1.0 | 14 | 2.00 (1.00 … 3.00) | 0.200 (0.100 … 0.300) |",
    ]
    assert run("table", "--at", "1,5").output.splitlines()[2:] == lines[-1:]
    assert "has no results of plain: use `run` first" in str(run("table", "--arms", "defaults,plain").exception)


def test_the_table_has_the_interval_of_a_single_seed(tmp_path: Path, run: Callable[..., Result]) -> None:
    assert run("run", *SHORT).exit_code == 0
    lines = run("table", "--arms", "recipe", "--at", "2").output.splitlines()
    assert lines[2:] == ["| recipe | 1 | 2.0 | 2 | 2.67 (1.00 … 9.00) | 0.100 (0.050 … 0.200) |"]


def test_the_chart_has_a_line_per_arm(tmp_path: Path, run: Callable[..., Result], three_seeds: None) -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot", reason="matplotlib is not installed")
    drawn = []
    for name in ("one.svg", "two.svg"):
        done = run("chart", "--file", str(tmp_path / name))
        assert done.exit_code == 0, done.output
        drawn.append((tmp_path / name).read_text())
    assert drawn[0] == drawn[1]  # so that a chart that is drawn again shows no difference in git
    assert all(f">{text}<" in drawn[0] for text in ("defaults", "KID-VGG16", "LPIPS diversity", "minutes of training"))
    assert "NaN" not in drawn[0]
    kid, diversity = pyplot.gcf().axes
    assert kid.lines[0].get_xydata().tolist() == [[0.5, 4.0], [1.0, 2.0]]
    assert diversity.lines[0].get_xydata().tolist() == [[0.5, 0.1], [1.0, 0.2]]
    pyplot.close("all")


def test_a_missing_calibration_or_result_is_named(tmp_path: Path, run: Callable[..., Result]) -> None:
    assert "has no results" in str(run("table").exception)
    (tmp_path / example.CALIBRATION).unlink()
    assert "run `calibrate` first" in str(run("run", *SHORT).exception)


def test_calibration_measures_every_arm(tmp_path: Path, run: Callable[..., Result]) -> None:
    (tmp_path / example.CALIBRATION).write_text(json.dumps({"recipe": 5.0}))
    done = run("calibrate", "--arms", "plain,defaults", "--rounds", "1", "--seconds", "0.3")
    assert done.exit_code == 0, done.output
    times = json.loads((tmp_path / example.CALIBRATION).read_text())
    assert set(times) == {"plain", "defaults", "recipe"}
    assert times["plain"] > 0 and times["defaults"] > 0 and times["recipe"] == 5.0


def test_validation_images_are_the_ends_of_turns(demo: Path) -> None:
    test, validation = (example.images(demo, split, None) for split in example.Split)
    for domain in "AB":
        train, held_out = validation[f"train{domain}"], validation[f"test{domain}"]
        assert sorted(train + held_out) == sorted(test[f"train{domain}"])
        assert 100 <= len(held_out) <= len(train) / 3
        frames: dict[str, list[tuple[int, bool]]] = {}
        for path in (*train, *held_out):
            turn, _, frame = path.stem.partition("_")[2].rpartition("_")
            frames.setdefault(turn, []).append((int(frame), path in held_out))
        for turn in frames.values():
            held = [is_held for _, is_held in sorted(turn)]
            assert held == sorted(held) and held[-1]


def test_the_first_images_are_chosen(demo: Path) -> None:
    chosen, whole = (example.images(demo, example.Split.TEST, count) for count in (100, None))
    assert chosen["trainB"] == whole["trainB"][:100] and len(whole["trainB"]) > 100
    assert chosen["testB"] == whole["testB"]


def test_each_change_is_left_out_by_an_arm() -> None:
    defaults = example.arm_config("defaults", 100).to_dict()
    recipe = example.arm_config("recipe", 100).to_dict()
    changed = {key for key in defaults if defaults[key] != recipe[key]}
    left_out = {}
    for name in example.CHANGES:
        arm = example.arm_config(f"without_{name}", 100).to_dict()
        left_out[name] = {key for key in defaults if recipe[key] != arm[key]}
        assert left_out[name] and all(arm[key] == defaults[key] for key in left_out[name])
    assert set.union(*left_out.values()) == changed
    assert sum(map(len, left_out.values())) == len(changed)
    for name, changes in example.SMALL_DATA.items():
        arm = example.arm_config(name, 100).to_dict()
        assert {key: arm[key] for key in defaults if recipe[key] != arm[key]} == changes
    with pytest.raises(FastmunitError, match="none of plain, defaults, recipe"):
        example.arm_config("best", 100)


def test_the_plain_arm_computes_the_reference_step() -> None:
    config = tiny(example.arm_config("plain", 10))
    random = torch.Generator().manual_seed(0)
    x_a, x_b = (torch.rand(1, 3, 64, 64, generator=random) * 2 - 1 for _ in range(2))
    trainers = []
    for step in (MUNIT.step, example.PlainMUNIT.step, reference_step):
        torch.manual_seed(0)
        trainer = example.PlainMUNIT(config)
        step(trainer, x_a, x_b)
        trainers.append(torch.nn.utils.parameters_to_vector(trainer.gen_a.parameters()))
    ours, plain, reference = trainers
    assert torch.equal(plain, reference)
    assert not torch.equal(plain, ours)


@pytest.mark.parametrize(
    ("folder", "page", "options"),
    [
        (".", "project/time_to_quality.md", ["--arms", "plain,defaults,recipe,without_lr", "--at", "1.5,3,5"]),
        ("ablation", "project/time_to_quality.md", ["--at", "1.5"]),
        ("small_data", "how_to/small_data.md", []),
        ("small_data_400", "how_to/small_data.md", []),
        (
            ".",
            "how_to/choosing.md",
            ["--arms", "defaults,unit,cyclegan,cyclegan_noise,bicyclegan,pix2pix_noise", "--at", "1,3,5"],
        ),
    ],
)
def test_pages_have_the_recorded_results(folder: str, page: str, options: list[str]) -> None:
    done = CliRunner().invoke(example.app, ["table", "--output", str(RECORDED / folder), *options])
    assert done.exit_code == 0, done.output
    assert done.output in (RECORDED.parents[1] / page).read_text()
    for runs in example.results(RECORDED / folder).values():
        assert {result["split"] for result in runs} == {"test"}
