"""Sample pictures of the page at `/`, and models that are served by name."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image

from fastmunit.model_folder import load
from fastmunit.page.build import build
from fastmunit.page.samples import sample_files
from fastmunit.serving.app import create_app
from fastmunit.serving.model import Model, load_model
from tests.model_folder.small import small_system
from tests.page.test_build import exported, fake_engine
from tests.runs.tiny import make_images, tiny_config


def test_only_the_samples_are_served(model: Model, tmp_path: Path) -> None:
    images = make_images(tmp_path / "images")
    (images / "LICENSE.txt").write_text("free")
    (images / "testA/notes.txt").write_text("private")
    (images / "testA/broken.png").write_bytes(b"broken")
    files = sample_files(tiny_config(images), (32, 36))
    client = TestClient(create_app(dataclasses.replace(model, samples=files)))
    settings = client.get("/page.json").json()
    assert (len(settings["samples"]["a"]), len(settings["samples"]["b"]), settings["data_license"]) == (5, 5, True)
    for path in (*settings["samples"]["a"], *settings["samples"]["b"]):
        answer = client.get(f"/{path}")
        picture = Image.open(io.BytesIO(answer.content))
        assert (answer.headers["content-type"], picture.format, picture.size) == ("image/png", "PNG", (36, 32))
        assert np.ptp(np.asarray(picture)) > 0
    assert client.get("/samples/LICENSE.txt").text == "free"
    for path in ("notes.txt", "broken.png", "a9.png", "", "..%2Fpage.json", "%2e%2e/app.py"):
        assert client.get(f"/samples/{path}").status_code == 404, path
    assert client.post("/samples/a0.png").status_code == 405


def test_samples_need_the_token(model: Model, tmp_path: Path) -> None:
    files = sample_files(tiny_config(make_images(tmp_path)), (32, 32))
    client = TestClient(create_app(dataclasses.replace(model, samples=files), token="secret"))
    assert client.get("/samples/a0.png").status_code == 401
    assert client.get("/samples/a0.png", headers={"Authorization": "Bearer secret"}).status_code == 200


@pytest.mark.parametrize("direction", [None, "b2a"])
def test_a_packaged_model_is_served_and_becomes_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, direction: str | None
) -> None:
    system = small_system("munit")
    saved = system if direction is None else system.evaluation_translator(direction)
    saved.save_pretrained(tmp_path / "models/fruit")
    monkeypatch.setattr(load, "_PACKAGED", tmp_path / "models")
    monkeypatch.setattr("fastmunit.page.build.export", exported)
    monkeypatch.chdir(tmp_path)
    loaded = load_model(Path("fruit"), device="cpu", samples=True)
    directions = ["a2b", "b2a"] if direction is None else [direction]
    assert (loaded.name, list(loaded.translators)) == ("fruit", directions)
    image = torch.zeros(3, 32, 32)
    codes = torch.ones(1, loaded.translators["b2a"].style_dim, 1, 1)
    expected = system.evaluation_translator("b2a").translate(image, codes)
    torch.testing.assert_close(loaded.translators["b2a"].translate(image, codes), expected)
    client = TestClient(create_app(loaded))
    assert len(client.get("/page.json").json()["samples"]["a"]) == 8  # of the demo data
    assert "CC BY-SA" in client.get("/samples/LICENSE.txt").text
    assert load_model("fruit", device="cpu").samples.contents == {}
    engine = fake_engine(tmp_path / "engine")
    assert build(Path("fruit"), tmp_path / "page", engine=engine).directions == directions
    settings = json.loads((tmp_path / "page/page.json").read_text())
    assert (settings["samples"]["a"], settings["data_license"]) == ([f"samples/a{k}.png" for k in range(8)], True)
