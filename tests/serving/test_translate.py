"""Answers of the server are those of `fastmunit.translate`."""

from __future__ import annotations

import base64
import io
import json
import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image

import fastmunit
from fastmunit.serving.app import create_app
from fastmunit.serving.model import Model
from fastmunit.systems.base import System
from fastmunit.systems.style_distributions import FittedNormal
from fastmunit.translation.style_file import Styles
from tests.serving.conftest import encoded, levels_of, model_of, pixels_of, system, upload


def test_one_style_is_a_png_with_the_pixels_of_translate(client: TestClient, trainer: System) -> None:
    answer = client.post("/translate", files={"image": upload()}, data={"seed": 5})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    expected = fastmunit.translate(trainer, Image.open(io.BytesIO(upload())), 1, seed=5)
    np.testing.assert_array_equal(pixels_of(answer.content), levels_of(expected[0]))
    assert client.post("/translate", files={"image": upload()}, data={"seed": 5}).content == answer.content
    assert client.post("/translate", files={"image": upload()}, data={"seed": 6}).content != answer.content


def test_several_styles_are_json(client: TestClient, trainer: System) -> None:
    answer = client.post("/translate", files={"image": upload()}, data={"styles": 3, "seed": 7})
    content = answer.json()
    assert (content["direction"], content["height"], content["width"]) == ("a2b", 24, 20)
    expected = fastmunit.translate(trainer, Image.open(io.BytesIO(upload())), 3, seed=7)
    for image, translation in zip(expected, content["images"], strict=True):
        np.testing.assert_array_equal(pixels_of(base64.b64decode(translation["png"])), levels_of(image))
    styles = client.get("/styles", params={"count": 3, "seed": 7}).json()["styles"]
    assert [translation["style"] for translation in content["images"]] == styles


def test_a_style_can_be_sent_back(client: TestClient, trainer: System) -> None:
    styles = client.get("/styles", params={"count": 2, "seed": 3}).json()["styles"]
    drawn = trainer.evaluation_translator("a2b").random_styles
    assert torch.equal(torch.tensor(styles)[..., None, None], drawn(2, torch.Generator().manual_seed(3)))
    answer = client.post("/translate", files={"image": upload()}, data={"codes": json.dumps(styles[1:])})
    expected = fastmunit.translate(trainer, Image.open(io.BytesIO(upload())), torch.tensor(styles[1:])[..., None, None])
    np.testing.assert_array_equal(pixels_of(answer.content), levels_of(expected[0]))


def test_the_style_of_a_reference(client: TestClient, trainer: System) -> None:
    image, reference = upload(), upload(33, 18, seed=1, file_format="JPEG")
    answer = client.post("/translate", files={"image": image, "reference": reference}, data={"output": "json"})
    expected = fastmunit.translate(trainer, *(Image.open(io.BytesIO(file)) for file in (image, reference)))
    (translation,) = answer.json()["images"]
    np.testing.assert_array_equal(pixels_of(base64.b64decode(translation["png"])), levels_of(expected[0]))
    again = client.post("/translate", files={"image": image}, data={"codes": json.dumps([translation["style"]])})
    np.testing.assert_array_equal(pixels_of(again.content), levels_of(expected[0]))


def test_the_other_direction_and_a_size(client: TestClient, trainer: System) -> None:
    answer = client.post("/translate", files={"image": upload(60, 30)}, data={"direction": "b2a", "size": 16})
    image = pixels_of(answer.content)
    assert image.shape == (32, 16)  # gray
    whole = client.post("/translate", files={"image": upload(60, 30)}, data={"direction": "b2a"})
    expected = fastmunit.translate(trainer, Image.open(io.BytesIO(upload(60, 30))), 1, direction="b2a")
    np.testing.assert_array_equal(pixels_of(whole.content), levels_of(expected[0]))


def test_uploads_have_the_value_range_of_the_training() -> None:
    trainer = system("munit", "input_dim_a=1", "value_range_a=[-1000, 3000]", "value_range_b=[0, 200]")
    stored = np.random.default_rng(0).integers(0, 3000, (24, 20))
    files = {
        "PNG": (encoded(Image.fromarray(stored.astype(np.uint16))), stored),
        "TIFF": (encoded(Image.fromarray((stored - 1000).astype(np.float32)), "TIFF"), stored - 1000),
    }
    reference = upload(33, 18, seed=1)
    with TestClient(create_app(model_of(trainer))) as client:
        for file, pixels in files.values():
            answer = client.post("/translate", files={"image": file, "reference": reference})
            expected = fastmunit.translate(trainer, pixels, Image.open(io.BytesIO(reference)))
            np.testing.assert_array_equal(pixels_of(answer.content), levels_of(expected[0]))
        assert client.get("/page.json").status_code == 404, "the page has 8-bit values only"
        assert client.get("/").url.path == "/docs"


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_formats_that_browsers_write(client: TestClient, file_format: str) -> None:
    answer = client.post("/translate", files={"image": upload(file_format=file_format)})
    assert (answer.status_code, pixels_of(answer.content).shape) == (200, (24, 20, 3))


def test_transparency_and_orientation_are_those_of_files(client: TestClient, trainer: System, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 20, 4), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    for content in (
        encoded(Image.fromarray(pixels)),
        encoded(Image.fromarray(pixels[..., :3]), "JPEG", exif=exif),
        encoded(Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)),
    ):
        (tmp_path / "file").write_bytes(content)
        expected = fastmunit.translate(trainer, tmp_path / "file", 1)
        answer = client.post("/translate", files={"image": content})
        np.testing.assert_array_equal(pixels_of(answer.content), levels_of(expected[0]))


def test_a_system_without_styles() -> None:
    trainer = system("cyclegan")
    with TestClient(create_app(model_of(trainer))) as client:
        assert client.get("/health").json()["directions"]["b2a"]["style_dim"] == 0
        assert client.get("/styles", params={"count": 4}).json()["styles"] == [[]]
        answer = client.post("/translate", files={"image": upload(32, 32)}, data={"styles": 4, "direction": "b2a"})
        expected = fastmunit.translate(trainer, Image.open(io.BytesIO(upload(32, 32))), direction="b2a")
        np.testing.assert_array_equal(pixels_of(answer.content), levels_of(expected[0]))
        codes = client.post("/translate", files={"image": upload(32, 32)}, data={"codes": "[[]]", "direction": "b2a"})
        assert codes.content == answer.content
        refused = client.post("/translate", files={"image": upload(32, 32), "reference": upload()})
        assert (refused.status_code, "no style encoder" in refused.json()["detail"]) == (422, True)


def test_seeds_of_noise_are_strings_of_digits() -> None:
    """JavaScript would round them."""
    trainer = system("unit", "options.noise_at_test=true")
    with TestClient(create_app(model_of(trainer))) as client:
        assert client.get("/health").json()["directions"]["a2b"]["style_values"] == "integers"
        styles = client.get("/styles", params={"count": 2, "seed": 1}).json()["styles"]
        assert all(int(value) > 2**53 for (value,) in styles)
        expected = fastmunit.translate(trainer, Image.open(io.BytesIO(upload(32, 32))), 2, seed=1)
        for codes, image in zip(styles, expected, strict=True):
            answer = client.post("/translate", files={"image": upload(32, 32)}, data={"codes": json.dumps([codes])})
            np.testing.assert_array_equal(pixels_of(answer.content), levels_of(image))
        for wrong in ("[[0.5]]", "[[1e3]]", '[["x"]]', f"[[{2**63}]]"):
            assert client.post("/translate", files={"image": upload()}, data={"codes": wrong}).status_code == 422


def test_health_describes_the_model(client: TestClient, model: Model) -> None:
    for _ in range(500):
        if (answer := client.get("/health")).status_code == 200:
            break
        time.sleep(0.01)
    health = answer.json()
    assert health["ready"] is True
    assert (health["model"], health["system"], health["version"]) == ("tiny", "munit", fastmunit.__version__)
    assert health["directions"]["b2a"] == {
        "channels": 3, "target_channels": 1, "style_dim": 8, "style_values": "numbers", "takes_references": True,
    }  # fmt: skip
    assert health["size"] == {
        "trained": [64, 64], "max_pixels": 256 * 256, "max_upload_pixels": 10**6, "max_upload_bytes": 2**20,
    }  # fmt: skip
    assert (health["max_styles"], health["queue"], health["token_required"]) == (8, {"length": 0, "limit": 32}, False)


def test_nothing_is_fetched_from_other_hosts(client: TestClient) -> None:
    assert client.get("/redoc").status_code == 404
    schema = client.get("/openapi.json")
    assert "http://" not in schema.text and "https://" not in schema.text
    assert set(schema.json()["paths"]) == {"/health", "/styles", "/styles/named", "/translate"}
    docs = client.get("/docs")
    assert not re.search(r"//|<script|<link|<img|url\(|@import", docs.text)
    for text in (
        "POST /translate",
        "<td>reference<td>file<td>Picture of the target",
        "<td>direction<td>a2b or b2a<td>",
        "<td>429",
    ):
        assert text in docs.text
    answer = client.get("/health", headers={"Origin": "http://other.example"})
    assert not any(name.startswith("access-control") for name in answer.headers)


def test_a_folder_of_static_files_is_the_page(model: Model, tmp_path: Path) -> None:
    (tmp_path / "page").mkdir()
    (tmp_path / "page/index.html").write_text("<title>Draw</title>")
    (tmp_path / "secret").write_text("secret")
    with TestClient(create_app(model, page=tmp_path / "absent")) as client:
        assert client.get("/").url.path == "/docs"
    with TestClient(create_app(model, page=tmp_path / "page")) as client:
        assert client.get("/").text == "<title>Draw</title>"
        for path in ("/../secret", "/%2e%2e/secret", "/..%2fsecret", "/%2e%2e%2fsecret", "/.%00./secret"):
            answer = client.get(path)
            assert (answer.status_code, "secret" in answer.text) == (404, False)
        assert client.get("/health").json()["model"] == "tiny"


def test_the_page_uses_the_server(client: TestClient, model: Model) -> None:
    assert "app.js" in client.get("/").text
    assert client.get("/app.js").headers["content-type"].startswith("text/javascript")
    settings = client.get("/page.json").json()
    assert (settings["engine"], settings["size"]) == ("server", [64, 64])
    expected = model.translators["a2b"].random_styles(12, torch.Generator().manual_seed(0))
    np.testing.assert_allclose(settings["styles"]["a2b"], expected.flatten(1))


def test_a_styles_file(model: Model) -> None:
    translator = model.translators["b2a"]
    codes = torch.randn(2, 8, 1, 1, generator=torch.Generator().manual_seed(1))
    given = replace(model, styles={"b2a": Styles(codes, ["red", "blue\udcff"])})
    with TestClient(create_app(given)) as client:
        found = client.get("/styles/named", params={"direction": "b2a"}).json()
        assert (found["direction"], found["names"]) == ("b2a", ["red", r"blue\xff"])
        assert torch.equal(torch.tensor(found["styles"])[..., None, None], codes)
        answer = client.post(
            "/translate", files={"image": upload()}, data={"codes": json.dumps(found["styles"][1:]), "direction": "b2a"}
        )
        expected = fastmunit.translate(translator, Image.open(io.BytesIO(upload())), codes[1:])
        assert (pixels_of(answer.content) == levels_of(expected[0])).all()
        assert client.get("/styles/named").json() == {"direction": "a2b", "names": [], "styles": []}
        settings = client.get("/page.json").json()
        assert settings["style_names"] == {"b2a": ["red", r"blue\xff"]}
        np.testing.assert_allclose(settings["styles"]["b2a"], codes.flatten(1))
        assert len(settings["styles"]["a2b"]) == 12


def test_another_distribution_of_styles(trainer: System) -> None:
    model = model_of(trainer)
    fitted = FittedNormal(torch.randn(30, 8, 1, 1, generator=torch.Generator().manual_seed(1)) * 0.1 + 2)
    model.translators["a2b"].style_distribution = fitted
    with TestClient(create_app(model)) as client:
        expected = fitted.sample(3, torch.Generator().manual_seed(4)).flatten(1)
        found = client.get("/styles", params={"count": 3, "seed": 4}).json()["styles"]
        np.testing.assert_allclose(found, expected)
        answer = client.post("/translate", files={"image": upload()}, data={"styles": 3, "seed": 4}).json()
        assert [each["style"] for each in answer["images"]] == found
        settings = client.get("/page.json").json()
        assert set(settings["distributions"]) == {"a2b"}
        np.testing.assert_allclose(settings["distributions"]["a2b"]["factor"], fitted.factor)
        np.testing.assert_allclose(
            settings["styles"]["a2b"], fitted.sample(12, torch.Generator().manual_seed(0)).flatten(1)
        )
