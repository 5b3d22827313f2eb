"""Models that come with the package are found by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import fastmunit
from fastmunit.errors import CheckpointError
from fastmunit.model_folder import load
from fastmunit.model_folder.load import packaged
from tests.model_folder.small import picture, small_system
from tools.make_fruit_model import LIMIT, make


def test_a_packaged_model_is_used_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = small_system("munit")
    system.evaluation_translator("a2b").save_pretrained(tmp_path / "models/fruit")
    (tmp_path / "models/__pycache__").mkdir()
    monkeypatch.setattr(load, "_PACKAGED", tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    assert packaged() == {"fruit": tmp_path / "models/fruit"}
    image = picture(1)
    expected = fastmunit.translate(system, image, 2)
    assert torch.equal(fastmunit.translate("fruit", image, 2), expected)
    (tmp_path / "fruit/trainA").mkdir(parents=True)  # its data
    assert torch.equal(fastmunit.translate("fruit", image, 2), expected)
    with pytest.raises(
        CheckpointError, match=r"fruits does not exist: check the path; did you mean 'fruit'\?; packaged"
    ):
        fastmunit.translate("fruits", image, 2)
    other = small_system("munit", "seed=1")
    other.evaluation_translator("b2a").save_pretrained(tmp_path / "other")
    (tmp_path / "fruit/trainA").rmdir()
    (tmp_path / "fruit").rmdir()
    (tmp_path / "other").rename("fruit")  # a model of the user
    assert fastmunit.load_translator("fruit").direction == "b2a"


@pytest.mark.parametrize("name", packaged() or [pytest.param("", marks=pytest.mark.skip(reason="none is packaged"))])
def test_packaged_models_work_and_are_small(name: str) -> None:
    folder = packaged()[name]
    assert sum(path.stat().st_size for path in folder.iterdir()) <= LIMIT
    assert (folder / "DATA_LICENSE.txt").is_file() and (folder / "README.md").is_file()
    translator = fastmunit.load_translator(name)
    outputs = fastmunit.translate(translator, picture(translator.channels), 2)
    assert bool(outputs.isfinite().all()) and float(outputs.std()) > 0.05


def test_the_script_writes_the_folder(tmp_path: Path) -> None:
    tiny = ["gen.dim=4", "dis.dim=4", "gen.n_res=1", "display_size=1", "batch_size=1"]
    size = make(tmp_path / "fruit", seed=3, iterations=2, changes=tiny)
    assert size == sum(path.stat().st_size for path in (tmp_path / "fruit").iterdir())
    names = {"README.md", "config.json", "model.safetensors", "sample.jpg", "DATA_LICENSE.txt"}
    assert {path.name for path in (tmp_path / "fruit").iterdir()} == names
    folder = load.read_folder(tmp_path / "fruit")
    assert (folder.config.seed, folder.about.iterations, folder.config.data_root) == (3, 2, None)
    card = (tmp_path / "fruit/README.md").read_text()
    assert "license: cc-by-sa-4.0" in card and 'fastmunit.translate("fruit", "input.png")' in card
    assert "Mihai Oltean" in (tmp_path / "fruit/DATA_LICENSE.txt").read_text()
    translator = fastmunit.load_translator(tmp_path / "fruit", direction="b2a")
    assert translator.dtype == torch.float32
    assert {value.dtype for value in load_file(folder.weights).values()} == {torch.float16}
