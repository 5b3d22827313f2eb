"""Models on the Hugging Face Hub, with huggingface_hub and a stand-in server on 127.0.0.1."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import fastmunit
from fastmunit.errors import CheckpointError, FastmunitError
from fastmunit.model_folder import hub, load
from fastmunit.systems.base import System
from fastmunit.systems.translators import Translator
from tests.model_folder.hub_server import COMMIT, Hub, running
from tests.model_folder.small import picture, small_system


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with running() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def test_a_pushed_translator_is_loaded_by_name(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = small_system("munit")
    translator = system.evaluation_translator("a2b")
    assert translator.push_to_hub("somebody/fruit", token="hf_secret") == f"{server.url}/somebody/fruit"
    files = server.files["somebody/fruit"]
    assert sorted(files) == ["README.md", "config.json", "model.safetensors"]
    card = files["README.md"].decode()
    assert card.startswith("---\nlibrary_name: fastmunit\npipeline_tag: image-to-image\n")
    assert "# fruit\n" in card and 'fastmunit.translate("somebody/fruit", "input.png")' in card
    assert "Bearer hf_secret" in server.tokens

    image = picture(1)
    expected = fastmunit.translate(system, image, 2)
    assert torch.equal(fastmunit.translate("somebody/fruit", image, 2), expected)
    assert not [request for request in server.requests if "README" in request]
    for model in (fastmunit.load_translator("somebody/fruit@main"), Translator.from_pretrained("somebody/fruit")):
        assert torch.equal(fastmunit.translate(model, image, 2), expected)
    assert any("/revision/main" in request for request in server.requests)

    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody answers: the cache serves the model
    assert torch.equal(fastmunit.translate("somebody/fruit", image, 2), expected)
    assert torch.equal(fastmunit.translate(f"somebody/fruit@{COMMIT}", image, 2), expected)
    with pytest.raises(
        CheckpointError, match="somebody/else is no file or folder here, and it could not be downloaded"
    ):
        fastmunit.translate("somebody/else", image)


def test_a_pushed_system_trains_on(server: Hub) -> None:
    system = small_system("unit")
    system.push_to_hub("somebody/unit", token="hf_secret", private=True)
    loaded = System.from_pretrained("somebody/unit")
    pairs = zip(loaded.parameters(), system.parameters(), strict=True)
    assert all(torch.equal(mine, theirs) for mine, theirs in pairs)


def test_errors_of_the_hub_are_reported(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match=r"nobody/nothing is no file or folder here, .*404"):
        fastmunit.load_translator("nobody/nothing")
    server.files["somebody/other"] = {"config.json": b"{}"}
    with pytest.raises(CheckpointError, match=r"is not the config\.json of a fastmunit model folder"):
        fastmunit.load_translator("somebody/other")
    server.files["somebody/empty"] = {"README.md": b""}
    with pytest.raises(CheckpointError, match=r"on the Hugging Face Hub has no config\.json, so it is no model"):
        fastmunit.load_translator("somebody/empty")
    translator = small_system("munit").evaluation_translator("a2b")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(FastmunitError, match="somebody/fruit could not be uploaded"):
        translator.push_to_hub("somebody/fruit", token="hf_secret")
    with pytest.raises(FastmunitError, match="not a name could not be uploaded"):
        translator.push_to_hub("not a name", token="hf_secret")


def test_without_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r'runs/shoes does not exist: .*pip install "fastmunit\[hub\]"'):
        fastmunit.load_translator("runs/shoes")
    with pytest.raises(FastmunitError, match=r'push_to_hub needs .*pip install "fastmunit\[hub\]"'):
        small_system("munit").evaluation_translator("a2b").push_to_hub("somebody/fruit")


def test_only_names_of_the_hub_that_are_no_paths_are_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(hub, "download", lambda name: asked.append(name) or tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/shoes").mkdir(parents=True)
    assert load.find("runs/shoes") == Path("runs/shoes")
    paths = ["shoes", "runs/shoes/checkpoints", "./runs/boots", "../runs/boots", "/runs/boots", "a b/c", "é/c"]
    paths += ["checkpoints/gen_00000001.pt", "model/model.safetensors", "a/b..c", "-a/b", "a/b@", "a" * 97 + "/b"]
    for name in paths:
        with pytest.raises(CheckpointError, match="does not exist: check the path"):
            load.find(name)
    with pytest.raises(CheckpointError, match=r"cannot be read .*: check the path"):
        load.find("x" * 300)
    assert not asked
    for name in ("runs/boots", "Some.Body/fruit-2_b", "somebody/fruit@v1.0", Path("somebody/fruit")):
        load.find(name)
    assert asked == ["runs/boots", "Some.Body/fruit-2_b", "somebody/fruit@v1.0", "somebody/fruit"]
