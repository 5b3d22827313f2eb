"""Model cards say where a model comes from, how good it is, and what may be done with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

import fastmunit
from fastmunit.errors import ConfigError, FastmunitError
from fastmunit.model_folder.about import About, Metric
from fastmunit.systems.base import System
from fastmunit.systems.translators import Translator
from tests.model_folder.small import small_system


def metadata_of(card: str) -> dict[str, Any]:
    return yaml.safe_load(card.split("---\n")[1])


def row(card: str, name: str) -> str:
    (line,) = [line for line in card.splitlines() if line.startswith(f"| {name} |")]
    return line.split(" | ", 1)[1].removesuffix(" |")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return a run folder of eight iterations, with scores, a sample picture and licensed data."""
    data, run = tmp_path / "my|data", tmp_path / "first"
    data.mkdir()
    (data / "LICENSE.txt").write_text("Do what you want.")
    system = small_system("munit", "seed=7", "ema_decay=0.9", f"data_root={data}")
    system.save(run / "checkpoints", 7)
    system.config.save(run / "config.yaml")
    Image.new("RGB", (8, 8)).save(run / "samples.png")
    figures = [
        {"name": "FD-AlexNet", "value": 1.23456, "low": 1.1, "high": 1.4, "better": "lower", "count": 3},
        {"name": "edge agreement", "value": 0.5, "low": None, "high": None, "better": "", "count": 3},
        {"name": "broken", "value": float("nan"), "low": None, "high": None, "better": "", "count": 3},
    ]
    write_scores(run, {"checkpoint": "ema_00000008.pt", "evaluations": [{"direction": "a2b", "figures": figures}]})
    return run


def write_scores(run: Path, content: object) -> None:
    (run / "evaluation").mkdir(exist_ok=True)
    (run / "evaluation/evaluation.json").write_text(json.dumps(content))


def test_the_card_of_a_run(run: Path, tmp_path: Path) -> None:
    translator = fastmunit.load_translator(run)
    translator.save_pretrained(tmp_path / "model", about=About(license="cc-by-4.0", description="Some *text*."))
    card = (tmp_path / "model/README.md").read_text()
    assert metadata_of(card) == {
        "license": "cc-by-4.0",
        "library_name": "fastmunit",
        "pipeline_tag": "image-to-image",
        "tags": ["fastmunit", "munit"],
    }
    assert "\n# first\n\nSome *text*.\n\n![Inputs and translations](sample.png)\n" in card
    assert 'fastmunit.translate("model", "input.png")' in card
    facts = {name: row(card, name) for name in ("System", "Directions", "Data", "Seed", "Iterations")}
    assert facts == {"System": "munit", "Directions": "a2b", "Data": "my\\|data", "Seed": "7", "Iterations": "8"}
    assert row(card, "License of the data") == "[DATA_LICENSE.txt](DATA_LICENSE.txt)"
    assert row(card, "License of the weights") == "cc-by-4.0"
    assert row(card, "Recipe").startswith("`demo` with `display_size=2`, `gen.dim=4`")
    assert "`ema_decay=0.9`" in row(card, "Recipe") and "seed" not in row(card, "Recipe")
    assert "| a2b | FD-AlexNet | 1.235 [1.1, 1.4] | lower is better |\n| a2b | edge agreement | 0.5 |  |\n" in card
    assert "broken" not in card and "Non-commercial" not in card
    assert (tmp_path / "model/DATA_LICENSE.txt").read_text() == "Do what you want."
    assert (tmp_path / "model/sample.png").read_bytes() == (run / "samples.png").read_bytes()


def test_facts_survive_another_save(run: Path, tmp_path: Path) -> None:
    fastmunit.load_translator(run).save_pretrained(tmp_path / "model")
    for folder in ("model", "again"):
        Translator.from_pretrained(tmp_path / "model").save_pretrained(tmp_path / folder)
    files = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    assert files.keys() == {"README.md", "config.json", "model.safetensors", "sample.png", "DATA_LICENSE.txt"}
    for path in (tmp_path / "again").iterdir():
        assert path.read_bytes() == files[path.name].replace(b'translate("model"', b'translate("again"')
    about = About(picture=None, data_license=None)
    Translator.from_pretrained(tmp_path / "model").save_pretrained(tmp_path / "model", about=about)
    assert not (tmp_path / "model/sample.png").exists() and not (tmp_path / "model/DATA_LICENSE.txt").exists()


@pytest.mark.parametrize(
    "content",
    [
        {"checkpoint": "ema_00000007.pt", "evaluations": [{"direction": "a2b", "figures": []}]},
        {"checkpoint": "ema_00000008.pt", "evaluations": [{"direction": "a2b", "figures": [{"name": "x"}]}]},
        {"checkpoint": "ema_00000008.pt", "evaluations": None},
        [],
        None,
    ],
)
def test_scores_that_cannot_be_used_are_left_out(run: Path, tmp_path: Path, content: object) -> None:
    write_scores(run, content)
    fastmunit.load_translator(run).save_pretrained(tmp_path / "model")
    assert "The model has not been evaluated." in (tmp_path / "model/README.md").read_text()


@pytest.mark.parametrize("legacy", [False, True])
def test_weights_of_the_public_trainer_are_non_commercial(run: Path, tmp_path: Path, legacy: bool) -> None:
    ours = run / "checkpoints/gen_00000008.pt"
    public = tmp_path / "gen_00000008.pt"  # torch writes to a path, or in the format of torch 0.4
    torch.save(torch.load(ours, weights_only=True), public, _use_new_zipfile_serialization=not legacy)
    config = run / "config.yaml"
    fastmunit.load_translator(ours, config).save_pretrained(tmp_path / "ours")
    assert "Non-commercial" not in (tmp_path / "ours/README.md").read_text()
    fastmunit.load_translator(public, config).save_pretrained(tmp_path / "public")
    Translator.from_pretrained(tmp_path / "public").save_pretrained(tmp_path / "again")
    for folder in ("public", "again"):
        card = (tmp_path / folder / "README.md").read_text()
        assert "> **Non-commercial use only.**" in card
        assert metadata_of(card)["license"] == row(card, "License of the weights") == "cc-by-nc-sa-4.0"
    own = About(public_weights=False, license="cc0-1.0")
    fastmunit.load_translator(public, config).save_pretrained(tmp_path / "own", about=own)
    card = (tmp_path / "own/README.md").read_text()
    assert "Non-commercial" not in card and metadata_of(card)["license"] == "cc0-1.0"


def test_a_system_knows_what_it_is_told(tmp_path: Path) -> None:
    system = small_system("munit")
    system.about = About(data="apples", iterations=5)
    metric = Metric(direction="b2a", name="a|b", value=1)
    system.save_pretrained(tmp_path / "model", about=About(data="pears", license="My own license", metrics=(metric,)))
    card = (tmp_path / "model/README.md").read_text()
    assert (row(card, "Data"), row(card, "Iterations"), row(card, "Directions")) == ("pears", "5", "a2b, b2a")
    assert metadata_of(card)["license"] == "other"
    assert metadata_of(card)["license_name"] == "My own license"
    assert "| b2a | a\\|b | 1 |  |" in card
    assert system.about.data == "apples"
    assert System.from_pretrained(tmp_path / "model").about.metrics == (metric,)


def test_wrong_facts(tmp_path: Path) -> None:
    system = small_system("munit")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(FastmunitError, match=r"text\.png is no PNG or JPEG file: convert it"):
        system.save_pretrained(tmp_path / "model", about=About(picture=tmp_path / "text.png"))
    with pytest.raises(FastmunitError, match=r"data license .* does not exist"):
        system.save_pretrained(tmp_path / "model", about=About(data_license=tmp_path / "absent"))
    (tmp_path / "long.txt").write_text("x" * 200_001)
    with pytest.raises(FastmunitError, match="has more than 200,000 bytes"):
        system.save_pretrained(tmp_path / "model", about=About(data_license=tmp_path / "long.txt"))
    about = About()
    with pytest.raises(ConfigError, match="iterations"):
        about.iterations = -1
    assert not (tmp_path / "model").exists()
