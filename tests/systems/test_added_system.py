"""The example of docs/project/adding_a_system.md as a user's own module, and the errors of incomplete systems."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import fastmunit
from fastmunit.config import Config
from fastmunit.errors import ConfigError
from fastmunit.runs import train
from fastmunit.systems import registry
from fastmunit.systems.base import System
from tests.runs.tiny import assert_same_checkpoint, make_images

DOCUMENT = (Path(__file__).parents[2] / "docs/project/adding_a_system.md").read_text(encoding="utf-8")
SMALL = ["gen.dim=4", "gen.n_res=1", "dis.dim=4", "batch_size=2", "display_size=2", "new_size=36", "max_iter=5"]
SMALL += ["crop_image_height=32", "crop_image_width=32", "micro_batches=2", "checkpointing=true", "ema_decay=0.5"]


def example(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Write the example as a module of a user, whose system is forgotten after the test."""
    monkeypatch.setattr(registry, "_systems", dict(registry._systems))
    (tmp_path / "own_gcgan.py").write_text(example("python"), encoding="utf-8")
    (tmp_path / "gcgan.yaml").write_text(example("yaml"), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield "own_gcgan"
    sys.modules.pop("own_gcgan", None)


@pytest.fixture
def system(own_module: str) -> Any:
    return importlib.import_module(own_module).GcGAN


def config(folder: Path, *overrides: str) -> Config:
    return Config.load(folder / "gcgan.yaml", [*SMALL, f"data_root={folder}", *overrides])


def test_a_system_of_a_users_module_trains_resumes_bit_for_bit_and_translates(own_module: str, tmp_path: Path) -> None:
    make_images(tmp_path)
    with pytest.raises(ConfigError, match=r"system 'gcgan' is none of .*Import the module"):
        train(config(tmp_path), tmp_path / "straight", device="cpu")
    importlib.import_module(own_module)
    straight = train(config(tmp_path), tmp_path / "straight", device="cpu")
    assert all(float(loss) > 0 for loss in straight.trainer.losses().values())
    train(config(tmp_path, "max_iter=2"), tmp_path / "stopped", device="cpu")
    train(config(tmp_path), tmp_path / "stopped", device="cpu", resume=True)
    assert_same_checkpoint(tmp_path / "straight", tmp_path / "stopped", 5)
    assert len(straight.trainer.sample(*torch.rand(2, 2, 3, 32, 32))) == len(straight.trainer.rows)

    outputs = fastmunit.translate(tmp_path / "straight", torch.rand(3, 30, 41) * 2 - 1)
    assert outputs.shape == (1, 3, 30, 41)
    assert outputs.isfinite().all()
    with pytest.raises(ConfigError, match="'gcgan' translates a2b only, not b2a"):
        fastmunit.load_translator(tmp_path / "straight", direction="b2a")

    straight.trainer.save_pretrained(tmp_path / "system")
    fastmunit.load_translator(tmp_path / "straight").save_pretrained(tmp_path / "translator")
    image = torch.zeros(3, 32, 32)
    expected = fastmunit.translate(tmp_path / "straight", image)
    for folder in ("system", "translator"):
        assert torch.equal(fastmunit.translate(tmp_path / folder, image), expected)


def test_the_document_lists_what_a_system_must_define() -> None:
    table = DOCUMENT.partition("| required |")[2].partition("| optional |")[0]
    rows = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    required = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert required == {*registry._ATTRIBUTES, *System.__abstractmethods__}


def test_the_document_lists_what_a_system_may_define() -> None:
    table = DOCUMENT.partition("| optional |")[2].partition("\n\n")[0]
    names = {name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    assert names
    for name in names:
        assert hasattr(System, name) or any(name in vars(c).get("__annotations__", {}) for c in System.__mro__), name


def test_an_incomplete_system_is_refused_where_it_is_defined(own_module: str) -> None:
    with pytest.raises(TypeError, match=r"system 'half': Half does not define term_names, weight_keys, build, .*draws"):

        @registry.register("half")
        class Half(System):
            pass


def test_two_systems_of_one_name_are_refused(system: Any) -> None:
    registry.register("gcgan")(system)  # as when a notebook cell runs again
    with pytest.raises(ValueError, match=r"system 'munit' is registered already, by fastmunit\.systems\.munit"):
        registry.register("munit")(system)
    with pytest.raises(ValueError, match="system 'gcgan' is registered already, by own_gcgan"):
        registry.register("gcgan")(type("GcGAN", (system,), {"__module__": "another"}))


def test_terms_without_a_name_and_missing_inputs_are_reported(
    system: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = torch.rand(2, 3, 32, 32)
    trainer = system(config(tmp_path))
    with monkeypatch.context() as changed:
        changed.setattr(system, "term_names", ("gen_total", "gen_adv", "gen_self", "dis_b", "dis_total"))
        with pytest.raises(ValueError, match="GcGAN: add gen_geometry to term_names"):
            trainer.step(images, images)
    monkeypatch.delattr(system, "discriminator_inputs")
    with pytest.raises(NotImplementedError, match=r"GcGAN\.draws returned no tensors for 'dis'"):
        trainer.step(images, images)


def test_halves_networks_and_terms_that_would_be_ignored_are_refused(
    system: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = torch.rand(2, 3, 32, 32)
    trainer = system(config(tmp_path))
    for halves in ({}, {"dis": (images, images)}, {"gen": (images, images), "disc": (images,)}):
        with monkeypatch.context() as changed:
            changed.setattr(system, "draws", lambda *_, halves=halves: halves)
            with pytest.raises(
                ValueError, match=r"GcGAN\.draws must return tensors for 'gen', or 'dis' and 'gen', got"
            ):
                trainer.step(images, images)
    with monkeypatch.context() as changed:
        changed.setattr(system, "discriminators", lambda _: {})
        with pytest.raises(ValueError, match=r"GcGAN: dis\..* is in no network that generators\(\) or"):
            system(config(tmp_path))
    for term in ("adv", "gen_loss_adv"):
        with monkeypatch.context() as changed:
            changed.setattr(system, "term_names", (term,))
            with pytest.raises(ValueError, match=f"term '{term}' must start with gen_ or dis_, without 'loss'"):
                registry.register("gcgan")(system)
