"""The folder of a page: its files, its settings, and what is refused. tests/browser opens it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fastmunit.errors import FastmunitError
from fastmunit.export.description import Description, GraphFile, Input
from fastmunit.page import engine_files
from fastmunit.page.build import build
from fastmunit.page.samples import sample_files
from fastmunit.page.settings import STATIC, ShownStyles, page_settings
from fastmunit.runs import train
from fastmunit.translation.output_record import RECORD_FILE
from fastmunit.translation.style_file import StyleModel, write_styles
from fastmunit.translation.styles import style_codes
from fastmunit.translation.translate import load_translator
from tests.cli.conftest import Command, fastmunit  # noqa: F401 - a fixture
from tests.runs.conftest import one_thread  # noqa: F401 - a fixture
from tests.runs.tiny import make_images, tiny_config

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train(tiny_config(make_images(folder / "images"), max_iter=1), folder / "run", device="cpu")
    return folder / "run"


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    return fake_engine(tmp_path / "engine/dist").parent


def fake_engine(folder: Path, version: str = engine_files.VERSION) -> Path:
    folder.mkdir(parents=True)
    (folder / engine_files.SCRIPT).write_text(f"/*!\n * ONNX Runtime Web v{version}\n */")
    (folder / engine_files.WASM).write_bytes(b"\0asm")
    return folder


@pytest.fixture(autouse=True)
def quick_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """The export itself has tests of its own."""
    monkeypatch.setattr("fastmunit.page.build.export", exported)


def exported(translator: Any, folder: Path) -> Description:
    folder.mkdir(parents=True)
    graph = GraphFile(
        file="translate.onnx",
        inputs=(Input(name="images", count="1", channels=3, divisor=1),),
        output="output",
        error=0.0,
    )
    (folder / graph.file).write_bytes(b"onnx")
    description = Description(
        format="onnx", fastmunit="1", system="munit", direction=translator.direction, channels=(3, 3), multiple=4,
        min_size=16, style_dim=8, styles="normal", dropout_rate=0, precision="float32", checked=(),
        graphs={"translate": graph}, config={"crop_image_height": 30, "crop_image_width": 33},
    )  # fmt: skip
    description.write(folder)
    return description


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_run_as_a_page(run: Path, engine: Path, tmp_path: Path) -> None:
    written = build(run, tmp_path / "page", engine=engine, title="Fruit")
    assert written.directions == ["a2b", "b2a"]
    settings = json.loads((tmp_path / "page/page.json").read_text())
    assert (settings["title"], settings["size"], settings["data_license"]) == ("Fruit", [32, 32], False)
    static = {path.name for path in STATIC.iterdir()}
    engines = {f"engine/{name}" for name in (engine_files.COPIED_SCRIPT, engine_files.WASM)}
    models = {f"models/{name}/{file}" for name in ("a2b", "b2a") for file in ("export.json", "translate.onnx")}
    samples = {*settings["samples"]["a"], *settings["samples"]["b"]}
    assert len(samples) == 10
    expected = {"page.json", *static, *engines, *models, *samples}
    assert files_in(tmp_path / "page") == {*expected, RECORD_FILE}
    assert written.size == sum((tmp_path / "page" / name).stat().st_size for name in expected)
    sample = Image.open(tmp_path / "page" / settings["samples"]["a"][0])
    assert (sample.size, sample.mode) == ((32, 32), "RGB")
    codes = style_codes(load_translator(run, device="cpu"), 12, 0, None, None)
    np.testing.assert_allclose(settings["styles"]["a2b"], codes.flatten(1))


def test_a_page_is_replaced_and_other_folders_are_not(run: Path, engine: Path, tmp_path: Path) -> None:
    """Files that the user has put next to those of a page stay, and so does a link that leads to the page."""
    page = tmp_path / "page"
    page.mkdir()
    build(run, page, engine=engine)
    (tmp_path / "link").symlink_to("page")
    for name in ("CNAME", ".git/HEAD", "samples/mine.png"):
        (page / name).parent.mkdir(exist_ok=True)
        (page / name).write_text("mine")
    before = files_in(page)
    exported(load_translator(run, direction="b2a", device="cpu"), tmp_path / "export")
    assert build(tmp_path / "export", tmp_path / "link", engine=engine).directions == ["b2a"]
    assert (tmp_path / "link").is_symlink()
    assert {name for name in before - files_in(page) if not name.startswith("samples/")} == {
        "models/a2b/export.json",
        "models/a2b/translate.onnx",
    }
    assert {"CNAME", ".git/HEAD", "samples/mine.png"} < files_in(page)
    samples = json.loads((page / "page.json").read_text())["samples"]
    written = {name for name in files_in(page) if name.startswith("samples/")}
    assert written == {*samples["a"], *samples["b"], "samples/LICENSE.txt", "samples/mine.png"}


@pytest.mark.parametrize("name", ["thesis.txt", "page.json"])
def test_other_folders_are_not_replaced(run: Path, engine: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src/app.js").write_text("mine")
    for content in ("{}", "[1]", "no json", "[" * 5000):
        (tmp_path / name).write_text(content)
        with pytest.raises(FastmunitError, match="is not empty and no page"):
            build(run, tmp_path, engine=engine)
    assert {name, "src/app.js"} <= files_in(tmp_path)


def test_an_export_as_a_page(run: Path, engine: Path, tmp_path: Path) -> None:
    """It has one direction. Its configuration names no data, so the samples are those of the demo."""
    exported(load_translator(run, direction="b2a", device="cpu"), tmp_path / "export")
    assert build(tmp_path / "export", tmp_path / "page", engine=engine).directions == ["b2a"]
    settings = json.loads((tmp_path / "page/page.json").read_text())
    assert (settings["size"], settings["data_license"]) == ([32, 36], True)
    assert "CC BY-SA" in (tmp_path / "page/samples/LICENSE.txt").read_text()


def test_nothing_is_left_of_a_failure(run: Path, engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise FastmunitError("decode differs from PyTorch")

    monkeypatch.setattr("fastmunit.page.build.export", fails)
    with pytest.raises(FastmunitError, match="decode differs"):
        build(run, tmp_path / "site/page", engine=engine)
    assert list((tmp_path / "site").iterdir()) == []


def test_images_that_a_page_cannot_show(tmp_path: Path) -> None:
    config = tiny_config(make_images(tmp_path / "images"), input_dim_a=4, input_dim_b=4)
    config.save(tmp_path / "config.yaml")
    (tmp_path / "gen_00000001.pt").write_bytes(b"")
    with pytest.raises(FastmunitError, match="channels: use `fastmunit translate`"):
        build(tmp_path / "gen_00000001.pt", tmp_path / "page")


@pytest.mark.parametrize("change", [{"value_range_a": [0, 4095]}, {"window_b": [40, 400]}, {"slices": 3}])
def test_models_of_other_values_than_those_of_browsers(tmp_path: Path, change: dict[str, Any]) -> None:
    tiny_config(tmp_path, **change).save(tmp_path / "config.yaml")
    (tmp_path / "gen_00000001.pt").write_bytes(b"")
    with pytest.raises(FastmunitError, match=r"8-bit pictures, but domain [AB] of the model has"):
        build(tmp_path / "gen_00000001.pt", tmp_path / "page")
    assert not (tmp_path / "page").exists()


def test_samples_are_read_with_the_limits_of_the_run(tmp_path: Path) -> None:
    config = tiny_config(make_images(tmp_path / "images", count=2), value_range_a=[0, 255])
    files = sample_files(config, (32, 32)).samples.files
    assert {domain: len(names) for domain, names in files.items()} == {"a": 2, "b": 2}
    config.max_pixels = 100
    assert sample_files(config, (32, 32)).samples.files == {"a": [], "b": []}


def test_engines_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FastmunitError, match=r"does not contain .*--engine FOLDER"):
        engine_files.copy_engine(tmp_path / "a", tmp_path)
    with pytest.raises(FastmunitError, match=r"onnxruntime-web 1\.2\.3, not"):
        engine_files.copy_engine(tmp_path / "b", fake_engine(tmp_path / "old", "1.2.3"))


def test_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    with pytest.raises(FastmunitError, match="npm, which downloads it, is not installed"):
        engine_files.copy_engine(tmp_path / "a")
    program = programs / "npm"
    program.write_text("#!/bin/sh\necho no network >&2\nexit 1\n")
    program.chmod(0o755)
    with pytest.raises(FastmunitError, match=r"npm cannot download .*no network.*--engine FOLDER"):
        engine_files.copy_engine(tmp_path / "b")
    fake_engine(tmp_path / "package/dist")
    program.write_text(
        f'#!/bin/sh\n[ "$2" = {engine_files.PACKAGE} ] && /bin/tar czf package.tgz -C {tmp_path} package\n'
    )
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}/usr/bin{os.pathsep}/bin")  # tar calls gzip
    engine_files.copy_engine(tmp_path / "c")
    assert files_in(tmp_path / "c") == {engine_files.COPIED_SCRIPT, engine_files.WASM}


def test_settings_of_systems_without_codes() -> None:
    settings = page_settings("unit", (64, 64), {"a2b": ShownStyles("none", 0), "b2a": ShownStyles("seed", 1)})
    assert settings["styles"] == {"a2b": [], "b2a": [[0.0]] * 12}
    assert settings["samples"] == {"a": [], "b": []}


def test_the_command(fastmunit: Command, run: Path, engine: Path, tmp_path: Path) -> None:  # noqa: F811
    outcome = fastmunit("page", run, "--output", tmp_path / "page", "--engine", engine)
    assert outcome.status == 0, outcome.err
    assert f"python -m http.server --directory {tmp_path / 'page'}" in outcome.out
    outcome = fastmunit("page", run, "--output", tmp_path / "again", "--engine", tmp_path)
    assert (outcome.status, "--engine FOLDER" in outcome.err) == (1, True)
    assert not (tmp_path / "again").exists()


def test_the_styles_of_a_file_come_first(run: Path, engine: Path, tmp_path: Path) -> None:
    translator = load_translator(run, direction="b2a", device="cpu")
    codes = translator.random_styles(3, torch.Generator().manual_seed(1))
    write_styles(tmp_path / "s.safetensors", codes, ["a", "b\udcff", "c\ud800"], StyleModel.of(translator))
    build(run, tmp_path / "page", engine=engine, styles=tmp_path / "s.safetensors")
    settings = json.loads((tmp_path / "page/page.json").read_text())
    assert settings["style_names"] == {"b2a": ["a", r"b\xff", r"c\ud800"]}
    np.testing.assert_allclose(settings["styles"]["b2a"], codes.flatten(1))
    assert len(settings["styles"]["a2b"]) == 12
    assert settings["distributions"] == {}
    write_styles(tmp_path / "s.safetensors", codes, [], StyleModel("other", "b2a", "0" * 64))
    with pytest.raises(FastmunitError, match="was made with other \\(b2a"):
        build(run, tmp_path / "no", engine=engine, styles=tmp_path / "s.safetensors")
    assert not (tmp_path / "no").exists()
