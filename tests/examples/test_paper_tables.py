"""examples/paper_tables.py: its data, its bookkeeping, its tables. Training and measuring are tested elsewhere."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from fastmunit.config import Config
from fastmunit.data import list_images
from fastmunit.errors import FastmunitError
from fastmunit.models import registry


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two varieties of each family, one turn of 60 frames, 100x100."""
    root = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for family in ("apple", "tomato", "cherry"):
        (root / family).mkdir()
        for variety in (1, 2):
            colour = tuple(random.integers(20, 200, 3).tolist())
            for frame in range(60):
                image = Image.new("RGB", (100, 100), "white")
                ImageDraw.Draw(image).ellipse((20 + frame % 10, 20, 80, 80), fill=colour)
                image.save(root / family / f"{family.title()}_{variety}__r0_{frame}_100.jpg")
    return root


def frames(folder: Path) -> set[tuple[str, int]]:
    """(variety, frame) of edge data, whose names are INDEX_VARIETY_ROTATION_FRAME."""
    return {("_".join(p.stem.split("_")[1:-2]), int(p.stem.split("_")[-1])) for p in list_images(folder)}


def test_edges_data(photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("skimage", reason="drawing edges needs scikit-image")
    import fruit_data

    unpaired, paired = fruit_data.edges_data(photos, tmp_path, per_variety=6, test_pairs=12, seed=0)
    for root in (unpaired, paired):
        parts = {part: frames(root / part) for part in ("trainA", "trainB", "testA", "testB")}
        assert [len(parts[part]) for part in parts] == [36, 36, 12, 12]
        assert parts["testA"] == parts["testB"]
        assert not parts["testB"] & (parts["trainA"] | parts["trainB"])
        # No neighbouring frame either.
        assert not {(v, (f + d) % 60) for v, f in parts["testB"] for d in (-1, 1)} & (parts["trainA"] | parts["trainB"])
    assert not frames(unpaired / "trainA") & frames(unpaired / "trainB")
    names = [[path.name for path in list_images(paired / part)] for part in ("trainA", "trainB")]
    assert names[0] == names[1]
    with Image.open(list_images(paired / "trainA")[0]) as image:
        assert (image.size, image.mode) == ((64, 64), "RGB")
    made = (unpaired / "made.json").stat().st_mtime_ns
    fruit_data.edges_data(photos, tmp_path, per_variety=6, test_pairs=12, seed=0)
    assert (unpaired / "made.json").stat().st_mtime_ns == made
    with pytest.raises(SystemExit, match="made with other settings"):
        fruit_data.edges_data(photos, tmp_path, per_variety=5, test_pairs=12, seed=0)


def test_family_data(photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("skimage", reason="the rule of the demo data needs scikit-image")
    import fruit_data

    roots = fruit_data.family_data(photos, tmp_path, seed=0)
    assert list(roots) == ["apple", "tomato", "cherry"]
    for family, root in roots.items():
        for variety in (f"{family.title()}_1", f"{family.title()}_2"):
            train, test = (
                {int(p.stem.split("_")[1]) for p in list_images(root / part / variety)} for part in ("train", "test")
            )
            assert len(train) > 40 and len(test) >= 5
            assert not train & {(frame + d) % 60 for frame in test for d in (-1, 0, 1)}
    with pytest.raises(SystemExit, match="no photos"):
        fruit_data.family_data(tmp_path / "nothing", tmp_path / "other", seed=0)


def test_the_papers_figures() -> None:
    import paper_figures

    for cells in paper_figures.TABLE_2.values():
        for k in (0, 1):
            mean = statistics.fmean(score[k] for name, score in cells.items() if name != "average")
            assert mean == pytest.approx(cells["average"][k], abs=6e-4)
    orders = {(order.measure, order.better, order.worse) for order in paper_figures.orderings()}
    assert ("diversity", "MUNIT", "UNIT") in orders
    assert ("diversity", "MUNIT without x reconstruction", "MUNIT") in orders
    assert ("quality", "BicycleGAN (paired)", "MUNIT") in orders
    assert ("diversity", "real data", "MUNIT") in orders
    assert len(orders) == 21 and sum(order.table == 2 for order in paper_figures.orderings()) == 6


def figure(name: str, value: float, half: float | None = None, reference: float | None = None) -> dict[str, Any]:
    ends = {"low": None, "high": None} if half is None else {"low": value - half, "high": value + half}
    references = {} if reference is None else {"real": {"value": reference, "low": None, "high": None, "count": 9}}
    return {"name": name, "value": value, **ends, "count": 100, "references": references, "note": "a; b; accuracy 9 %"}


def row(system: str, seed: int, quality: float, diversity: float) -> dict[str, Any]:
    figures = [figure("KID-VGG16", quality, 0.1, 0.01), figure("LPIPS-alex-v0.1 diversity", diversity, 0.004, 0.3)]
    return {"table": 1, "system": system, "seed": seed, "figures": figures}


def cell(system: str, seed: int, direction: str, cis: float, score: float) -> dict[str, Any]:
    figures = [figure("CIS (KL)", cis), figure("IS (KL)", score)]
    return {"table": 2, "system": system, "seed": seed, "direction": direction, "figures": figures}


def test_tables(tmp_path: Path) -> None:
    from table_report import write_report

    settings = {"minutes a model": 10, "seeds": [0, 1], "inputs": 100, "outputs of each": 38, "quality": "kid-vgg16",
                "diversity": "lpips-alex-v0.1", "missing": ["demo_unit"], "command": "python <that>"}  # fmt: skip
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
    assert "BicycleGAN" not in text and "demo_unit" in text
    page = (tmp_path / "tables.html").read_text()
    assert "python &lt;that&gt;" in page and "<table>" in page and "http" not in page


def test_one_seed_shows_no_spread(tmp_path: Path) -> None:
    from table_report import values, write_report

    settings = {"minutes a model": 0.5, "seeds": [0], "inputs": 9, "outputs of each": 2, "quality": "kid-vgg16",
                "diversity": "lpips-alex-v0.1", "missing": [], "command": ""}  # fmt: skip
    results = [row("MUNIT", 0, 1.0, 0.2), row("UNIT", 0, 1.05, 0.1)]
    write_report(tmp_path, settings, results)
    text = (tmp_path / "tables.md").read_text()
    assert "±" not in text and "one seed shows no spread" in text
    assert "MUNIT before UNIT | holds (1.000 and 1.050, a small difference)" in text
    assert values(results, 1, "KID")["MUNIT"].spread == pytest.approx(0.1 / 1.96)


def test_what_is_done_is_not_done_again(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("skimage", reason="drawing edges needs scikit-image")
    import paper_tables

    trained: list[tuple[str, bool, float]] = []
    measured: list[str] = []

    def train(config: Config, folder: Path, *, resume: bool, time_limit: float, **_: Any) -> SimpleNamespace:
        trained.append((str(Path(folder).relative_to(tmp_path)), resume, time_limit))
        assert config.data_root is None or Path(config.data_root, "trainA").is_dir()
        return SimpleNamespace(interrupted=False)

    def measure(self: Any, config: Config, folder: Path, direction: str, measures: Any, place: Any = None) -> None:
        measured.append(direction)
        (place or folder).mkdir(parents=True, exist_ok=True)
        report = {"figures": [figure("KID-VGG16", 1.0), figure("LPIPS-alex-v0.1 diversity", 0.1)]}
        if place is not None:
            report = {"figures": [figure("CIS (KL)", 1.0), figure("IS (KL)", 0.1)]}
        ((place or folder) / "result.json").write_text(json.dumps(report))

    monkeypatch.setattr(paper_tables, "train", train)
    monkeypatch.setattr(paper_tables.Program, "_measure", measure)
    monkeypatch.setattr(paper_tables.Program, "_classifier", lambda self, family, name: Path(name))
    monkeypatch.setattr(paper_tables, "load_measures", lambda *_, **__: None)
    given = ["--data", str(photos), "--output", str(tmp_path), "--minutes", "0.5", "--train-per-variety", "2",
             "--test-pairs", "6", "--systems", "MUNIT", "MUNIT without x reconstruction"]  # fmt: skip
    paper_tables.Program(paper_tables.arguments(given)).run()
    assert [name for name, _, _ in trained][:2] == [
        "table_1/munit_without_x_reconstruction/seed_0",
        "table_1/munit/seed_0",
    ]
    # Table 2 has no ablations: three pairs of families, trained once for each direction that lacks a result.
    assert len(trained) == 2 + 6 and measured == ["a2b", "a2b", *["a2b", "b2a"] * 3]
    assert all(limit == 30 and not resume for _, resume, limit in trained)
    before = (tmp_path / "tables.md").read_text()
    trained.clear()
    paper_tables.Program(paper_tables.arguments(given)).run()
    assert trained == [] and (tmp_path / "tables.md").read_text() == before
    paper_tables.Program(paper_tables.arguments([*given, "--seeds", "0", "1", "--tables", "1"])).run()
    assert [name.rpartition("/")[2] for name, _, _ in trained] == ["seed_1", "seed_1"]


def test_recipes_change_what_they_name() -> None:
    import paper_tables

    for name, recipe in paper_tables.RECIPES.items():
        if recipe.config in Config.shipped():
            config, shipped = Config.load(recipe.config, recipe.changes), Config.load(recipe.config)
            assert (config == shipped) == (not recipe.changes), name
            registry.system_of(config).check(config)
            assert (config.crop_image_height, config.crop_image_width) == (64, 64)


@pytest.mark.parametrize("given", [["--minutes", "1"], ["--data", "x", "--output", "y", "--systems", "DRIT"]])
def test_wrong_arguments(given: list[str]) -> None:
    import paper_tables

    with pytest.raises(SystemExit):
        paper_tables.arguments(given)


def test_no_photos(tmp_path: Path) -> None:
    pytest.importorskip("skimage", reason="drawing edges needs scikit-image")
    import paper_tables

    given = ["--data", str(tmp_path / "absent"), "--output", str(tmp_path / "out"), "--systems", "MUNIT"]
    with pytest.raises((SystemExit, FastmunitError), match="no photos"):
        paper_tables.Program(paper_tables.arguments(given)).run()
