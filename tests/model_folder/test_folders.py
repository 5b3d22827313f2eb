"""Model folders give back the models that were saved, for every system."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import fastmunit
from fastmunit.config import Config
from fastmunit.errors import CheckpointError, ConfigError, FastmunitError
from fastmunit.model_folder.config_file import portable
from fastmunit.systems.base import System
from fastmunit.systems.translators import Translator
from fastmunit.translation.save_model import save_model
from tests.model_folder.small import CASES, picture, small_system


def tensors_of(networks: dict[str, torch.nn.Module]) -> dict[str, torch.Tensor]:
    return {f"{name}.{key}": value for name, net in networks.items() for key, value in net.state_dict().items()}


@pytest.mark.parametrize("case", CASES)
def test_systems_and_translators_come_back(case: str, tmp_path: Path) -> None:
    system = small_system(case, "ema_decay=0.9")
    system.save_pretrained(tmp_path / "system")
    loaded = System.from_pretrained(tmp_path / "system")
    assert type(loaded) is type(system)
    assert loaded.config == portable(system.config) == portable(loaded.config)
    for mine, theirs in (
        (system.generators(), loaded.generators()),
        (system.discriminators(), loaded.discriminators()),
        (system.evaluation_generators(), loaded.evaluation_generators()),
    ):
        first, second = tensors_of(mine), tensors_of(theirs)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)
    for direction in system.directions:
        image = picture(system.config.channels(direction)[0])
        expected = fastmunit.translate(system, image, 2, direction=direction)
        translator = system.evaluation_translator(direction)
        translator.save_pretrained(tmp_path / direction)
        for model in (tmp_path / "system", tmp_path / direction, tmp_path / direction / "model.safetensors"):
            assert torch.equal(fastmunit.translate(model, image, 2, direction=direction), expected)
        assert torch.equal(fastmunit.translate(tmp_path / direction, image, 2), expected)  # its own direction
        loaded_translator = Translator.from_pretrained(tmp_path / direction)
        assert type(loaded_translator) is type(translator)
        if translator.takes_references:
            reference = picture(system.config.channels(direction)[1])
            assert torch.equal(loaded_translator.style_of(reference), translator.style_of(reference))


def test_a_translator_holds_what_its_direction_needs(tmp_path: Path) -> None:
    system = small_system("munit")
    system.evaluation_translator("a2b").save_pretrained(tmp_path / "a2b")
    names = load_file(tmp_path / "a2b/model.safetensors")
    assert {".".join(name.split(".")[:3]) for name in names} == {
        "gen.a.enc_content", "gen.b.enc_style", "gen.b.mlp", "gen.b.dec",
    }  # fmt: skip
    assert not [name for name in names if "running" in name]
    loaded = Translator.from_pretrained(tmp_path / "a2b")
    used = {id(parameter) for part in loaded.networks().values() for parameter in part.parameters()}
    kept = [p for net in (loaded._source, loaded._target) for p in net.parameters() if not p.is_meta]  # type: ignore[attr-defined]
    assert {id(parameter) for parameter in kept} == used
    assert sorted(path.name for path in (tmp_path / "a2b").iterdir()) == [
        "README.md", "config.json", "model.safetensors",
    ]  # fmt: skip
    with pytest.raises(CheckpointError, match="translates a2b only, not b2a: leave the direction out"):
        fastmunit.load_translator(tmp_path / "a2b", direction="b2a")
    with pytest.raises(CheckpointError, match="holds only the parts that translate a2b"):
        fastmunit.load_generators(tmp_path / "a2b")
    with pytest.raises(CheckpointError, match="holds only networks that translate"):
        fastmunit.MUNIT.from_pretrained(tmp_path / "a2b")


def test_a_folder_whose_name_is_not_utf8(tmp_path: Path) -> None:
    system, image = small_system(), picture(1)
    system.save_pretrained(tmp_path / "n\udcff")
    assert torch.equal(fastmunit.translate(tmp_path / "n\udcff", image, 2), fastmunit.translate(system, image, 2))
    assert isinstance(System.from_pretrained(tmp_path / "n\udcff"), type(system))


def test_shared_weights_are_stored_once_and_shared_again(tmp_path: Path) -> None:
    system = small_system("unit", "ema_decay=0.9")
    system.save_pretrained(tmp_path / "unit")
    with safe_open(tmp_path / "unit/model.safetensors", "pt") as file:
        names = list(file.keys())
    shared = [
        key for key, value in system.gen_b.named_parameters() if any(value is p for p in system.gen_a.parameters())
    ]
    assert len(shared) == 8  # weights and biases of two convolutions, in the encoders and in the decoders
    for kind in ("gen", "ema"):
        assert all(f"{kind}.a.{key}" in names and f"{kind}.b.{key}" not in names for key in shared)
    loaded = fastmunit.UNIT.from_pretrained(tmp_path / "unit")
    mine, theirs = dict(loaded.gen_a.named_parameters()), dict(loaded.gen_b.named_parameters())
    assert all(mine[key] is theirs[key] for key in shared)


def test_a_loaded_system_trains_on_as_the_original(tmp_path: Path) -> None:
    original = small_system("munit", "input_dim_a=3", "ema_decay=0.9")
    original.save_pretrained(tmp_path / "munit")
    images = torch.stack([picture(3), -picture(3)])
    results = []
    for system in (original, fastmunit.MUNIT.from_pretrained(tmp_path / "munit")):
        torch.manual_seed(3)
        system.step(images, -images)
        results.append([*system.losses().values(), *system.evaluation_generators()["a"].parameters()])
    assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_may_be_stored_in_half_the_bytes(dtype: str, tmp_path: Path) -> None:
    translator = small_system("munit").evaluation_translator("a2b")
    translator.save_pretrained(tmp_path / "full")
    translator.save_pretrained(tmp_path / "half", dtype=dtype)  # type: ignore[arg-type]
    full, half = (load_file(tmp_path / name / "model.safetensors") for name in ("full", "half"))
    assert all(torch.equal(half[key], full[key].to(getattr(torch, dtype))) for key in full)
    loaded = Translator.from_pretrained(tmp_path / "half")
    assert loaded.dtype == torch.float32
    image = picture(1)
    error = fastmunit.translate(loaded, image, 2) - fastmunit.translate(translator, image, 2)
    assert 0 < float(error.abs().max()) < 0.1
    with torch.no_grad():
        next(translator.networks()["b.mlp"].parameters()).fill_(1e6 if dtype == "float16" else torch.inf)
    with pytest.raises(FastmunitError, match=rf"weight model\.0\.fc\.weight of 'b\.mlp' is NaN or infinite in {dtype}"):
        translator.save_pretrained(tmp_path / "half", dtype=dtype)  # type: ignore[arg-type]
    assert torch.equal(fastmunit.translate(tmp_path / "half", image, 2), fastmunit.translate(loaded, image, 2))


def test_paths_and_code_stay_on_the_machine(tmp_path: Path) -> None:
    system = small_system("munit")
    system.config.data_root, system.config.data_folder_train_a = str(tmp_path / "private"), str(tmp_path / "private")
    system.save_pretrained(tmp_path / "model")
    assert "private" not in (tmp_path / "model/config.json").read_text() + (tmp_path / "model/README.md").read_text()
    values = json.loads((tmp_path / "model/config.json").read_text())
    values["config"]["data_module"] = "os:system"
    (tmp_path / "model/config.json").write_text(json.dumps(values))
    assert fastmunit.MUNIT.from_pretrained(tmp_path / "model").config.data_module is None


def test_a_run_becomes_a_model_folder(tmp_path: Path) -> None:
    system = small_system("munit", "ema_decay=0.9")
    system.save(tmp_path / "run/checkpoints", 11)
    system.config.save(tmp_path / "run/config.yaml")
    image = picture(1)
    expected = fastmunit.translate(system, image, 2)
    save_model(tmp_path / "run", tmp_path / "both")
    save_model(tmp_path / "both", tmp_path / "one", direction="a2b", dtype="float16")
    assert torch.equal(fastmunit.translate(tmp_path / "both", image, 2), expected)
    assert fastmunit.translate(tmp_path / "both", picture(3), 2, direction="b2a").shape[1] == 1
    torch.testing.assert_close(fastmunit.translate(tmp_path / "one", image, 2), expected, rtol=0, atol=0.05)
    assert len(fastmunit.load_generators(tmp_path / "both")) == 2
    assert {name.split(".")[0] for name in load_file(tmp_path / "both/model.safetensors")} == {"gen"}
    assert fastmunit.load_translator(tmp_path / "one").about.iterations == 12
    with pytest.raises(CheckpointError, match="no discriminators: use"):
        fastmunit.MUNIT.from_pretrained(tmp_path / "both")


def test_mistakes_are_named(tmp_path: Path) -> None:
    system = small_system("unit")
    system.save_pretrained(tmp_path / "unit")
    with pytest.raises(CheckpointError, match=r"system 'unit', not 'munit': use fastmunit\.UNIT\.from_pretrained"):
        fastmunit.MUNIT.from_pretrained(tmp_path / "unit")
    with pytest.raises(ConfigError, match="has its own configuration: leave --config out"):
        fastmunit.load_translator(tmp_path / "unit", "demo_unit")
    with pytest.raises(CheckpointError, match="is not a model folder, as save_pretrained writes it"):
        fastmunit.UNIT.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"unit\.pt does not exist: check the path"):
        fastmunit.UNIT.from_pretrained(tmp_path / "unit.pt")
    with pytest.raises(FastmunitError, match=r"holds other files \(unit\): give a new folder"):
        system.save_pretrained(tmp_path)
    with pytest.raises(FastmunitError, match=r"config\.json is a file: give the path of a folder"):
        system.save_pretrained(tmp_path / "unit/config.json")
    system.save_pretrained(tmp_path / "unit")  # replaces
    (tmp_path / "unit/checkpoints").mkdir()
    translator = small_system("munit").evaluation_translator("a2b")
    translator.config = None
    with pytest.raises(CheckpointError, match="this translator has no configuration"):
        translator.save_pretrained(tmp_path / "no")


def test_infinite_options_have_no_json(tmp_path: Path) -> None:
    system = small_system("bicyclegan")
    system.config.options = {**system.config.options, "gan_random_w": float("inf")}
    with pytest.raises(ConfigError, match="has a value that JSON does not have"):
        system.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_unusual_values_of_a_configuration_come_back(tmp_path: Path) -> None:
    changes = ["lr=1e-7", "gan_w=3", "lr_policy=linear", "cuda_graph=false", "max_pixels=100000000000"]
    changes += ["seed=9007199254740993"]
    system = small_system("munit", *changes)
    system.save_pretrained(tmp_path / "model")
    loaded = Config.from_dict(json.loads((tmp_path / "model/config.json").read_text())["config"])
    assert loaded == system.config
    assert isinstance(loaded.gan_w, float) and loaded.cuda_graph is False
