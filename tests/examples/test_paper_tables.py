"""examples/paper_tables: its data, records and tables. Training and measuring are tested elsewhere."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from examples.paper_tables import data as fruit_data
from examples.paper_tables import model as model_file
from examples.paper_tables import program, published
from examples.paper_tables.__main__ import arguments
from examples.paper_tables.report import _average_over_directions, values, write_report
from fastmunit.config import Config
from fastmunit.data import list_images
from fastmunit.errors import FastmunitError
from fastmunit.files import save_tensors
from fastmunit.systems import registry


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write photos of 100x100 pixels: two varieties per family, one turn of 60 frames each."""
    root = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for family in ("apple", "tomato", "cherry"):
        (root / family).mkdir()
        for variety in (1, 2):
            color = tuple(random.integers(20, 200, 3).tolist())
            for frame in range(60):
                image = Image.new("RGB", (100, 100), "white")
                ImageDraw.Draw(image).ellipse((20 + frame % 10, 20, 80, 80), fill=color)
                image.save(root / family / f"{family.title()}_{variety}__r0_{frame}_100.jpg")
    return root


def frames(folder: Path) -> set[tuple[str, int]]:
    """Return (variety, frame) of edge data, whose names are INDEX_VARIETY_ROTATION_FRAME."""
    return {("_".join(p.stem.split("_")[1:-2]), int(p.stem.split("_")[-1])) for p in list_images(folder)}


def test_edges_data(photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("skimage", reason="drawing edges needs scikit-image")
    unpaired, paired = fruit_data.edges_data(photos, tmp_path, per_variety=6, test_pairs=12, seed=0)
    for root in (unpaired, paired):
        parts = {part: frames(root / part) for part in ("trainA", "trainB", "testA", "testB")}
        assert [len(parts[part]) for part in parts] == [36, 36, 12, 12]
        assert parts["testA"] == parts["testB"]
        assert not parts["testB"] & (parts["trainA"] | parts["trainB"])
        # The training data hold no frame next to a test frame.
        assert not {(v, (f + d) % 60) for v, f in parts["testB"] for d in (-1, 1)} & (parts["trainA"] | parts["trainB"])
    assert not frames(unpaired / "trainA") & frames(unpaired / "trainB")
    names = [[path.name for path in list_images(paired / part)] for part in ("trainA", "trainB")]
    assert names[0] == names[1]
    with Image.open(list_images(paired / "trainA")[0]) as image:
        assert (image.size, image.mode) == ((64, 64), "RGB")
    modified = (unpaired / "made.json").stat().st_mtime_ns
    fruit_data.edges_data(photos, tmp_path, per_variety=6, test_pairs=12, seed=0)
    assert (unpaired / "made.json").stat().st_mtime_ns == modified
    with pytest.raises(SystemExit, match="made with other settings \\(per_variety 6, not 5\\)"):
        fruit_data.edges_data(photos, tmp_path, per_variety=5, test_pairs=12, seed=0)
    # On another machine the photos may be missing. Other photos are refused.
    assert fruit_data.edges_data(None, tmp_path, per_variety=6, test_pairs=12, seed=0) == (unpaired, paired)
    with pytest.raises(SystemExit, match="made with other settings \\(photos 360, not 0"):
        fruit_data.edges_data(tmp_path / "absent", tmp_path, per_variety=6, test_pairs=12, seed=0)
    (unpaired / "made.json").unlink()
    with pytest.raises(SystemExit, match="not made by this program"):
        fruit_data.edges_data(photos, tmp_path, per_variety=6, test_pairs=12, seed=0)


def test_family_data(photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("skimage", reason="the rule of the demo data needs scikit-image")
    roots = fruit_data.family_data(photos, tmp_path, seed=0)
    assert list(roots) == ["apple", "tomato", "cherry"]
    for family, root in roots.items():
        for variety in (f"{family.title()}_1", f"{family.title()}_2"):
            train, test = (
                {int(p.stem.split("_")[1]) for p in list_images(root / part / variety)} for part in ("train", "test")
            )
            assert len(train) > 40 and len(test) >= 5
            assert not train & {(frame + d) % 60 for frame in test for d in (-1, 0, 1)}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["apple", "cherry", "tomato"]
    with pytest.raises(SystemExit, match="no photos"):
        fruit_data.family_data(tmp_path / "nothing", tmp_path / "other", seed=0)
    with pytest.raises(SystemExit, match="give --data"):
        fruit_data.family_data(None, tmp_path / "other", seed=0)


def test_two_processes_can_make_data_at_once(photos: Path, tmp_path: Path) -> None:
    root = tmp_path / "data" / "apple"
    with fruit_data._whole(root, photos, {"seed": 0}) as slow:
        (slow / "of").write_text("the slow one")
        with fruit_data._whole(root, photos, {"seed": 0}) as fast:
            (fast / "of").write_text("the fast one")
        assert (root / "of").read_text() == "the fast one"
    assert (root / "of").read_text() == "the fast one" and fruit_data.facts(root)["photos"] == 360
    with pytest.raises(KeyboardInterrupt), fruit_data._whole(tmp_path / "data" / "cherry", photos, {}):
        raise KeyboardInterrupt
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["apple"]


def test_the_papers_figures() -> None:
    for cells in published.TABLE_2.values():
        for k in (0, 1):
            mean = statistics.fmean(score[k] for name, score in cells.items() if name != "average")
            assert mean == pytest.approx(cells["average"][k], abs=6e-4)
    orders = {(order.measure, order.better, order.worse) for order in published.orderings()}
    assert ("diversity", "MUNIT", "UNIT") in orders
    assert ("diversity", "MUNIT without x reconstruction", "MUNIT") in orders
    assert ("quality", "BicycleGAN (paired)", "MUNIT") in orders
    assert ("diversity", "real data", "MUNIT") in orders
    assert len(orders) == 21 and sum(order.table == 2 for order in published.orderings()) == 6


def figure(name: str, value: float, half: float | None = None, reference: float | None = None) -> dict[str, Any]:
    ends = {"low": None, "high": None} if half is None else {"low": value - half, "high": value + half}
    references = {} if reference is None else {"real": {"value": reference, "low": None, "high": None, "count": 9}}
    return {"name": name, "value": value, **ends, "count": 100, "references": references, "note": "a; b; accuracy 9 %"}


def report_settings(**changes: Any) -> dict[str, Any]:
    settings = {"minutes per model": 10, "seeds": [0, 1], "inputs": 100, "outputs of each": 38, "quality": "kid-vgg16",
                "diversity": "lpips-alex-v0.1", "changed keys": [], "missing": [], "untrained": [],
                "command": ""}  # fmt: skip
    return settings | changes


def records(iterations: int = 9) -> dict[str, Any]:
    """Return the records of training and measuring of a result."""
    record = {"settings": {}, "devices": ["a GPU, bfloat16"], "seconds": 600.0, "iterations": iterations}
    return {"training": record, "measuring": {"device": "cpu, 2 threads"}}


def row(system: str, seed: int, quality: float, diversity: float) -> dict[str, Any]:
    figures = [figure("KID-VGG16", quality, 0.1, 0.01), figure("LPIPS-alex-v0.1 diversity", diversity, 0.004, 0.3)]
    return {"table": 1, "system": system, "seed": seed, "figures": figures, **records(1234)}


def cell(system: str, seed: int, direction: str, cis: float, score: float) -> dict[str, Any]:
    figures = [figure("CIS (KL)", cis), figure("IS (KL)", score)]
    return {"table": 2, "system": system, "seed": seed, "direction": direction, "figures": figures, **records()}


def test_tables(tmp_path: Path) -> None:
    settings = report_settings(missing=["demo_unit"], command="python <that>", untrained=["table 1, some model"])
    results = [
        row("MUNIT", 0, 1.0, 0.20), row("MUNIT", 1, 1.2, 0.22),
        row("UNIT", 0, 3.0, 0.01), row("UNIT", 1, 3.4, 0.01),
        row("CycleGAN", 0, 1.15, 0.30), row("CycleGAN", 1, 1.25, 0.32),
        *(cell("MUNIT", s, d, 0.5 + s, 0.9) for s in (0, 1) for d in ("apple to tomato", "tomato to apple")),
        *(cell("UNIT", s, d, 0.1, 0.7) for s in (0, 1) for d in ("apple to tomato", "tomato to apple")),
    ]  # fmt: skip
    write_report(tmp_path, settings, results)
    text = (tmp_path / "tables.md").read_text()
    assert "| MUNIT | 1.100 ± 0.141 | 0.210 ± 0.014 | 50.0 % | 0.109 | 50.0 % | 0.175 |" in text
    assert "| real data | 0.010 | 0.300 | – | 0.293 | – | 0.371 |" in text
    assert "| apple to tomato | 0.100 ± 0.000 | 0.700 ± 0.000 | 1.000 ± 0.707 | 0.900 ± 0.000 |" in text
    assert "| paper: average | 0.115 | 0.826 | 1.039 | 1.050 |" in text
    assert "| 1 | diversity | MUNIT before UNIT | holds (0.210 ± 0.014 and 0.010 ± 0.000) |" in text
    assert "| 1 | diversity | MUNIT before CycleGAN | does not hold (0.210 ± 0.014 and 0.310 ± 0.014) |" in text
    assert "MUNIT before CycleGAN | holds (1.100 ± 0.141 and 1.200 ± 0.071, a small difference) |" in text
    assert "| 1 | diversity | real data before MUNIT | holds" in text
    assert "BicycleGAN" not in text and "demo_unit" in text and "not trained: table 1, some model." in text
    assert "Measured on: cpu, 2 threads." in text
    assert "The paper's figures and the rankings among them are unverified" in text
    assert "| 1 | edges → fruit | UNIT | 1 | 1,234 | 10.0 | a GPU, bfloat16 |" in text
    assert text.count("| 2 | apple ↔ tomato | MUNIT | 0 | 9 | 10.0 |") == 1
    page = (tmp_path / "tables.html").read_text()
    assert "python &lt;that&gt;" in page and "<table>" in page and "http" not in page


def test_one_seed_shows_no_spread(tmp_path: Path) -> None:
    settings = report_settings(seeds=[0])
    results = [row("MUNIT", 0, 1.0, 0.2), row("UNIT", 0, 1.05, 0.1)]
    write_report(tmp_path, settings, results)
    text = (tmp_path / "tables.md").read_text()
    assert "±" not in text and "one seed shows no spread" in text
    assert "MUNIT before UNIT | holds (1.000 and 1.050, a small difference)" in text
    assert values(results, 1, "KID")["MUNIT"].spread == pytest.approx(0.1 / 1.96)


def test_averages_have_an_error_and_use_shared_directions(tmp_path: Path) -> None:
    def result(system: str, direction: str, value: float) -> dict[str, Any]:
        figure = {"name": "IS", "value": value, "low": value - 0.196, "high": value + 0.196}
        return {"table": 2, "system": system, "seed": 0, "direction": direction, "figures": [figure]}

    results = [result("MUNIT", d, v) for d, v in (("a to b", 1.0), ("b to a", 2.0), ("a to c", 9.0))]
    results += [result("UNIT", d, v) for d, v in (("a to b", 1.1), ("b to a", 2.0))]
    found = _average_over_directions(results, "IS")
    assert (found["MUNIT"].mean, found["UNIT"].mean) == (1.5, pytest.approx(1.55))
    assert found["MUNIT"].error == pytest.approx(0.1 / 2**0.5)


def test_a_classifier_without_weights_is_refused_where_weights_are_given(tmp_path: Path) -> None:
    from fastmunit.metrics.classifier import Classifier, save_classifier

    model = Classifier(["a", "b"], "small", 64)
    model.accuracy, model.held_out = 0.5, 4
    (tmp_path / "classifiers").mkdir()
    save_classifier(model, tmp_path / "classifiers" / "apple_12_epochs.pt")
    given = ["--output", str(tmp_path), "--device", "cpu", "--weights", str(tmp_path / "weights")]
    with pytest.raises(FastmunitError, match=r"apple_12_epochs\.pt was trained without ImageNet weights: delete it"):
        program.Program(arguments(given))._scores(tmp_path / "apple", "apple")
    measures, about = program.Program(arguments(given[:-2]))._scores(tmp_path / "apple", "apple")
    assert [measure.name for measure in measures] == ["is-cis"] and about == {"classifier accuracy": 0.5}


class Work:
    """A stand-in for training and measuring that records its calls."""

    def __init__(self, photos: Path, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trained: list[str] = []
        self.limits: list[float] = []
        self.measured: list[str] = []
        self.output, self.photos = output, photos
        monkeypatch.setattr(model_file, "train", self._train)
        monkeypatch.setattr(program, "evaluate", self._evaluate)
        monkeypatch.setattr(program, "load_measures", lambda names, **_: names)
        monkeypatch.setattr(program.fastmunit, "load_translator", lambda *_, **__: None)
        monkeypatch.setattr(
            program.Program, "_scores", lambda self, family, name: (["is-cis"], {"classifier accuracy": 0.9})
        )

    def __call__(self, *more: str) -> Work:
        """Run the program and return itself, with the calls of this run."""
        self.trained, self.limits, self.measured = [], [], []
        given = ["--data", str(self.photos), "--output", str(self.output), "--minutes", "0.5", "--train-per-variety",
                 "2", "--test-pairs", "6", "--systems", "MUNIT", "MUNIT without x reconstruction",
                 *more]  # fmt: skip
        program.Program(arguments(given)).run()
        return self

    def _train(self, config: Config, folder: Path, *, time_limit: float, **_: Any) -> SimpleNamespace:
        self.trained.append(str(folder.relative_to(self.output)))
        self.limits.append(time_limit)
        assert config.data_root is None or Path(config.data_root, "trainA").is_dir()
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "checkpoints" / "gen_00000007.pt").touch()
        config.save(folder / "config.yaml")
        return SimpleNamespace(interrupted=False, iterations=7, seconds=29.0)

    def _evaluate(self, translator: Any, config: Config, measures: list[str], *, direction: str, **_: Any) -> Any:
        self.measured.append(direction)
        names = ["CIS (KL)", "IS (KL)"] if "is-cis" in measures else ["KID-VGG16", "LPIPS-alex-v0.1 diversity"]
        return SimpleNamespace(to_dict=lambda: {"figures": [figure(name, 1.0) for name in names]})


@pytest.fixture(scope="module")
def prepared(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("skimage", reason="drawing edges needs scikit-image")
    data = tmp_path_factory.mktemp("prepared") / "data"
    fruit_data.edges_data(photos, data, per_variety=2, test_pairs=6, seed=0)
    fruit_data.family_data(photos, data, seed=0)
    return data


@pytest.fixture
def work(photos: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Work:
    shutil.copytree(prepared, tmp_path / "data")
    return Work(photos, tmp_path, monkeypatch)


def test_finished_work_is_not_repeated(work: Work, tmp_path: Path) -> None:
    assert work().trained[:2] == ["table_1/munit_without_x_reconstruction/seed_0", "table_1/munit/seed_0"]
    # Table 2 has no ablations: three pairs of families, one model for both directions of each.
    assert len(work.trained) == 2 + 3 and work.measured == ["a2b", "a2b", *["a2b", "b2a"] * 3]
    assert work.limits == [30] * 5
    before = (tmp_path / "tables.md").read_text()
    assert work().trained == [] == work.measured and (tmp_path / "tables.md").read_text() == before
    result = json.loads(
        (tmp_path / "table_2" / "apple_cherry" / "munit" / "seed_0" / "b2a" / "result.json").read_text()
    )
    assert result["training"]["iterations"] == 7 and result["training"]["seconds"] == 29
    assert result["training"]["settings"]["minutes"] == 0.5 and "precision" not in result["training"]["settings"]
    assert result["training"]["settings"]["data"]["apple"]["photos"] == 360
    assert result["training"]["devices"][0].startswith("cpu, ")
    assert result["measuring"]["classifier accuracy"] == 0.9 and result["measuring"]["inputs"] == 100
    assert work("--seeds", "0", "1", "--tables", "1").trained == [
        "table_1/munit_without_x_reconstruction/seed_1",
        "table_1/munit/seed_1",
    ]


def test_work_is_shared_by_machines(work: Work, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert work("--prepare").trained == []
    assert work("--train-only", "--tables", "1").trained[1] == "table_1/munit/seed_0"
    assert work.measured == [] and not (tmp_path / "tables.md").exists()
    assert work("--train-only", "--pairs", "tomato_cherry", "--tables", "2").trained == [
        "table_2/tomato_cherry/munit/seed_0"
    ]
    assert work("--train-only", "--pairs", "tomato_cherry").trained == []
    there = tmp_path / "elsewhere"
    for file in [*tmp_path.glob("table_*/**/*.json"), *tmp_path.glob("table_*/**/config.yaml"),
                 *tmp_path.glob("table_*/**/gen_*.pt")]:  # fmt: skip
        target = there / file.relative_to(tmp_path)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    shutil.move(tmp_path / "data", there / "data")
    work.output = there
    assert work("--measure-only").trained == [] and work.measured == ["a2b", "a2b", "a2b", "b2a"]
    assert "apple and tomato, MUNIT, seed 0: not trained" in capsys.readouterr().err
    report = (there / "tables.md").read_text()
    assert "Left out because they are not trained: table 2, apple and tomato, MUNIT" in report
    with pytest.raises(FastmunitError, match="no trained model"):
        work("--measure-only", "--tables", "1", "--seeds", "3")


def test_other_settings(work: Work, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert work("--tables", "1").measured == ["a2b", "a2b"]
    for more, message in (
        (("--minutes", "1"), r"minutes 0\.5, not 1\.0"),
        (("--set", "lr=0.5"), r"changes \['recon_x_w=0'\], not \['recon_x_w=0', 'lr=0\.5'\]"),
    ):
        for part in ((), ("--train-only",)):
            with pytest.raises(FastmunitError, match=message):
                work("--tables", "1", *more, *part)
    with pytest.raises(SystemExit, match="made with other settings"):
        work("--test-pairs", "7")
    # Other measuring settings measure again and do not train again.
    assert work("--tables", "1", "--inputs", "50").measured == ["a2b", "a2b"] and work.trained == []
    assert "measured with other settings" in capsys.readouterr().out
    assert work("--tables", "1", "--inputs", "50").measured == []
    folder = tmp_path / "table_1" / "munit" / "seed_0"
    (folder / "checkpoints" / "gen_00000007.pt").rename(folder / "checkpoints" / "gen_00000008.pt")
    with pytest.raises(FastmunitError, match=r"7 iterations, but .* holds gen_00000008"):
        work("--tables", "1")
    for name, content, message in (
        ("result.json", '{"figures": []}', "not a result of this program"),
        ("result.json", '{"figures": [', "cannot be read"),
        ("training.json", "{}", "not the record of a training"),
        ("training.json", "[]", "does not hold"),
    ):
        (folder / "result.json").unlink(missing_ok=True)
        (folder / name).write_text(content)
        with pytest.raises(FastmunitError, match=message):
            work("--tables", "1", "--inputs", "50")


def test_a_stopped_training_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config.load("demo")
    limits: list[float] = []

    def train(config: Config, folder: Path, *, time_limit: float, resume: bool, **_: Any) -> SimpleNamespace:
        """Stop after 20 seconds the first time."""
        limits.append(time_limit)
        run = model_file.RunFolder(folder)
        assert resume == (len(limits) > 1)
        if not resume:
            run.create()
            config.save(run.config)
            for kind in ("gen", "dis"):
                save_tensors({}, run.checkpoints / f"{kind}_00000005.pt")
            save_tensors({"seconds": 20.0}, run.state(5))
            save_tensors({"iterations": 5}, run.checkpoints / "optimizer.pt")
        return SimpleNamespace(interrupted=not resume, iterations=9, seconds=31.0)

    monkeypatch.setattr(model_file, "train", train)
    model = model_file.Model("a model", tmp_path / "run", config, {"minutes": 0.5}, "cpu")
    assert not model.trained
    with pytest.raises(SystemExit, match="run the same command to continue"):
        model.train()
    assert not model.trained
    with pytest.raises(FastmunitError, match="made with other settings"):
        model_file.Model("a model", tmp_path / "run", config, {"minutes": 1}, "cpu").train()
    model.train()
    assert limits == [30, 10] and model.trained
    assert (model.record["iterations"], model.record["seconds"], len(model.record["devices"])) == (9, 31, 1)


def test_recipes_change_what_they_name() -> None:
    for name, recipe in program.RECIPES.items():
        if recipe.config in Config.shipped():
            config, shipped = Config.load(recipe.config, recipe.changes), Config.load(recipe.config)
            assert (config == shipped) == (not recipe.changes), name
            registry.system_of(config).check(config)
            assert (config.crop_image_height, config.crop_image_width) == (64, 64)


def test_the_program_runs_as_documented(tmp_path: Path) -> None:
    pytest.importorskip("skimage", reason="preparing data needs scikit-image")
    for given, status, message in ((["--help"], 0, "train each model"), (["--output", "out"], 1, "give --data")):
        run = subprocess.run(
            [sys.executable, "-m", "examples.paper_tables", *(str(tmp_path) if x == "out" else x for x in given)],
            cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (run.returncode, message in run.stdout + run.stderr) == (status, True), run.stderr


@pytest.mark.parametrize(
    "given",
    [
        ["--minutes", "1"],
        ["--data", "x", "--output", "y", "--systems", "DRIT"],
        ["--output", "y", "--pairs", "tomato_apple"],
        ["--output", "y", "--minutes", "0"],
        ["--output", "y", "--train-only", "--measure-only"],
    ],
)
def test_wrong_arguments(given: list[str]) -> None:
    with pytest.raises(SystemExit):
        arguments(given)


def change_photos(root: Path, change: str) -> Path:
    """Make a folder of photos unusable and return what to give as --data."""
    apples = sorted((root / "apple").iterdir())
    match change:
        case "absent":
            return root / "absent"
        case "file":
            return apples[0]
        case "folder above":
            return root.parent
        case "one family missing":
            shutil.rmtree(root / "cherry")
        case "other names":
            apples[0].rename(apples[0].with_name("r0_4_100.jpg"))
        case "damaged":
            apples[0].write_bytes(apples[0].read_bytes()[:200])
        case "one photo of a turn":
            shutil.copy(apples[0], root / "apple" / "Apple_1__r7_3_100.jpg")
        case "one variety":
            for path in (root / "apple").glob("Apple_2__*"):
                path.unlink()
        case "few to learn from":
            for path in apples:
                if path.name.startswith("Apple_2__") and int(path.stem.split("_")[-2]) % 6:
                    path.unlink()
    return root


@pytest.mark.parametrize(
    ("table", "change", "message"),
    [
        ("1", "absent", "no photos"),
        ("2", "absent", "no photos"),
        ("1", "file", "no photos"),
        ("1", "folder above", "no photos"),
        ("2", "one family missing", "no photos of cherry"),
        ("1", "other names", r"r0_4_100\.jpg: expected a name like"),
        ("2", "damaged", "cannot be read as an image"),
        ("1", "one photo of a turn", "the only photo of its turn"),
        ("1", "nothing", r"variety \w+: \d+ photos, 40 needed"),
        ("2", "one variety", "has 1 class folders"),
        ("2", "few to learn from", "class Apple_2 has . images: a classifier needs 10"),
    ],
)
def test_unusable_photos_are_refused_before_anything_is_trained(
    table: str, change: str, message: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("skimage", reason="drawing edges needs scikit-image")
    root = shutil.copytree(photos, tmp_path / "deep" / "photos")
    work = Work(change_photos(root, change), tmp_path / "out", monkeypatch)
    with pytest.raises((SystemExit, FastmunitError), match=message):
        work("--tables", table, "--train-per-variety", "40" if change == "nothing" else "2")
    assert work.trained == []
    unusable = ("edges_unpaired", "edges_paired") if table == "1" else ("cherry" if "family" in change else "apple",)
    assert not any((tmp_path / "out" / "data" / name).exists() for name in unusable), "what is prepared is whole"


def test_other_photos_than_the_prepared_ones_are_refused(work: Work, photos: Path, tmp_path: Path) -> None:
    assert work("--tables", "1").measured == ["a2b", "a2b"]
    work.photos = change_photos(shutil.copytree(photos, tmp_path / "photos"), "one variety")
    with pytest.raises(SystemExit, match=r"made with other settings \(photos 360, not 300; names .*remove it"):
        work("--tables", "1")
