"""The page in a browser: drawings, styles, both directions, widths, and what happens when something is missing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import fastmunit
from tests.browser.conftest import Visit
from tests.serving.running import serving

pytestmark = pytest.mark.browser


def pixels(values: list[int], size: list[int]) -> np.ndarray:
    return np.array(values, dtype=np.uint8).reshape(*size, 4)[..., :3]


def check_same(visit: Visit, run: Path, direction: str = "a2b") -> np.ndarray:
    """Check that the output is what `fastmunit.translate` gives for the same pixels, and return it."""
    visit.wait_for_output()
    shown = visit.shown()
    drawn, output = pixels(shown["input"], shown["size"]), pixels(shown["output"], shown["size"])
    code = torch.tensor(shown["code"]).view(1, -1, 1, 1)
    expected = fastmunit.translate(run, drawn, styles=code, direction=direction, device="cpu")[0]
    levels = expected.add(1).mul(127.5).permute(1, 2, 0).numpy()
    assert np.abs(output - levels).max() <= 2
    assert output.std() > 0
    return output


def test_strokes_and_styles(visit: Any, page_folder: Path, run_folder: Path) -> None:
    seen = visit(page_folder)
    first = check_same(seen, run_folder)
    seen.tab.click("#clear")
    seen.drag((0.3, 0.2), (0.7, 0.3), (0.6, 0.8), (0.2, 0.7))
    drawn = check_same(seen, run_folder)
    assert np.abs(drawn.astype(int) - first).max() > 2
    seen.tab.click("#eraser")
    seen.drag((0.5, 0.1), (0.5, 0.9))
    erased = check_same(seen, run_folder)
    seen.tab.click("#undo")
    np.testing.assert_array_equal(check_same(seen, run_folder), drawn)
    seen.tab.locator("#wall .tile").nth(2).click()
    styled = check_same(seen, run_folder)
    assert np.abs(styled.astype(int) - drawn).max() > 2
    assert np.abs(erased.astype(int) - drawn).max() > 0
    assert seen.tab.get_attribute("#wall .tile:nth-child(3)", "aria-pressed") == "true"
    assert (seen.errors, seen.foreign) == ([], [])


def test_random_styles_are_those_of_translate(visit: Any, page_folder: Path, run_folder: Path) -> None:
    seen = visit(page_folder)
    seen.wait_for_output()
    seen.tab.locator("#wall .tile").nth(4).click()
    seen.wait_for_output()
    shown = seen.shown()
    expected = fastmunit.translate(run_folder, pixels(shown["input"], shown["size"]), styles=12, seed=0, device="cpu")
    levels = expected[4].add(1).mul(127.5).permute(1, 2, 0).numpy()
    assert np.abs(pixels(shown["output"], shown["size"]) - levels).max() <= 2


def test_blend_by_drag_and_by_keyboard(visit: Any, page_folder: Path, run_folder: Path) -> None:
    seen = visit(page_folder)
    seen.wait_for_output()
    codes = seen.tab.evaluate("() => window.fastmunit.wall.tiles.map(({ style }) => style.code)")
    seen.tab.locator("#wall").scroll_into_view_if_needed()
    box = [seen.tab.locator("#wall .tile").nth(index).bounding_box() for index in (1, 3)]
    centers = [(part["x"] + part["width"] / 2, part["y"] + part["height"] / 2) for part in box]
    seen.tab.mouse.move(*centers[0])
    seen.tab.mouse.down()
    seen.tab.mouse.move(*centers[1], steps=5)
    seen.tab.mouse.up()
    np.testing.assert_allclose(seen.shown()["code"], (np.array(codes[1]) + codes[3]) / 2, atol=1e-6)
    check_same(seen, run_folder)
    seen.tab.focus("#blend-amount")
    seen.tab.keyboard.press("End")
    np.testing.assert_allclose(seen.shown()["code"], codes[3], atol=1e-6)
    seen.tab.click("#blend-end")
    np.testing.assert_allclose(seen.shown()["code"], codes[1], atol=1e-6)

    seen.tab.focus("#blend-start")
    seen.tab.keyboard.press("Enter")
    seen.tab.focus("#wall .tile:first-child")
    seen.tab.keyboard.press("ArrowRight")
    seen.tab.keyboard.press("ArrowRight")
    seen.tab.keyboard.press("Enter")
    np.testing.assert_allclose(seen.shown()["code"], (np.array(codes[1]) + codes[2]) / 2, atol=1e-6)
    assert seen.errors == []


def test_coordinates_and_new_styles(visit: Any, page_folder: Path, run_folder: Path) -> None:
    seen = visit(page_folder)
    seen.wait_for_output()
    seen.tab.click("summary")
    seen.tab.locator("#sliders input").nth(1).fill("-2.5")
    assert seen.shown()["code"][1] == -2.5
    check_same(seen, run_folder)
    before = seen.shown()["code"]
    seen.tab.click("#more-styles")
    assert seen.shown()["code"] != before
    check_same(seen, run_folder)


def test_photo_as_style(visit: Any, page_folder: Path, run_folder: Path, tmp_path: Path) -> None:
    seen = visit(page_folder)
    seen.wait_for_output()
    photo = page_folder / "samples" / "b3.png"
    seen.tab.set_input_files("#photo-file", photo)
    seen.tab.wait_for_selector("#status:has-text('Style of a photo')")
    expected = fastmunit.load_translator(run_folder, device="cpu").style_of(fastmunit.data.read_image(photo, 3))
    np.testing.assert_allclose(seen.shown()["code"], expected.flatten(), atol=1e-4)
    check_same(seen, run_folder)
    text = tmp_path / "picture.png"
    text.write_text("no picture")
    seen.tab.set_input_files("#photo-file", text)
    seen.tab.wait_for_selector("#problem:has-text('picture.png is not a picture')")
    assert seen.errors == []


def test_picture_of_the_model_size_keeps_its_pixels(visit: Any, page_folder: Path, run_folder: Path) -> None:
    seen = visit(page_folder)
    seen.wait_for_output()
    picture = page_folder / "samples" / "a5.png"
    seen.tab.set_input_files("#open-file", picture)
    seen.tab.wait_for_selector("#undo:enabled")
    shown = seen.shown()
    np.testing.assert_array_equal(pixels(shown["input"], shown["size"]), np.asarray(Image.open(picture).convert("RGB")))
    check_same(seen, run_folder)
    seen.tab.locator("#samples .tile").nth(2).click()
    shown, sample = seen.shown(), Image.open(page_folder / "samples" / "a2.png").convert("RGB")
    np.testing.assert_array_equal(pixels(shown["input"], shown["size"]), np.asarray(sample))


def test_reverse_direction(visit: Any, page_folder: Path, run_folder: Path) -> None:
    seen = visit(page_folder)
    seen.wait_for_output()
    seen.tab.click("#reverse")
    seen.tab.wait_for_selector("#output[data-current='true'][data-direction='b2a']")
    check_same(seen, run_folder, "b2a")
    assert (seen.errors, seen.foreign) == ([], [])


def test_download(visit: Any, page_folder: Path, tmp_path: Path) -> None:
    seen = visit(page_folder)
    seen.wait_for_output()
    with seen.tab.expect_download() as download:
        seen.tab.click("#download")
    download.value.save_as(tmp_path / "saved.png")
    shown = seen.shown()
    saved = np.asarray(Image.open(tmp_path / "saved.png").convert("RGB"))
    np.testing.assert_array_equal(saved, pixels(shown["output"], shown["size"]))


def test_drawing_with_keys(visit: Any, page_folder: Path, run_folder: Path) -> None:
    seen = visit(page_folder)
    seen.wait_for_output()
    seen.tab.click("#clear")
    seen.tab.focus("#drawing")
    seen.tab.keyboard.down(" ")
    for _ in range(4):
        seen.tab.keyboard.press("ArrowRight")
    seen.tab.keyboard.up(" ")
    shown = seen.shown()
    drawn = pixels(shown["input"], shown["size"])
    assert (drawn < 128).any()
    check_same(seen, run_folder)
    seen.tab.keyboard.press("Control+z")
    shown = seen.shown()
    assert (pixels(shown["input"], shown["size"]) == 255).all()


def check_samples(visit: Visit, run: Path) -> None:
    """Check that the page of a server shows and translates the samples without errors, and leads to their license."""
    sizes = visit.tab.evaluate(
        """async () => {
            const pictures = [...document.querySelectorAll("#samples img, #photos img")];
            await Promise.all(pictures.map((picture) => picture.decode()));
            return pictures.map((picture) => picture.naturalWidth);
        }"""
    )
    assert sizes == 16 * [32]
    visit.tab.locator("#samples .tile").nth(2).click()
    drawn = visit.shown_input()
    check_same(visit, run)
    visit.tab.locator("#photos .tile").nth(3).click()
    visit.tab.wait_for_selector("#status:has-text('Style of a photo')")
    check_same(visit, run)
    np.testing.assert_array_equal(visit.shown_input(), drawn)
    assert (visit.errors, visit.foreign) == ([], [])
    visit.tab.click("#license")  # of text, for which a browser also looks for /favicon.ico
    visit.tab.wait_for_selector("body:has-text('CC BY-SA 4.0')")


def test_page_of_a_server(browser: Any, run_folder: Path) -> None:
    pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
    with serving(run_folder) as server:
        seen = Visit(browser, f"{server.address}/")
        seen.wait_for_output()
        seen.drag((0.3, 0.2), (0.7, 0.3), (0.6, 0.8))
        drawn = check_same(seen, run_folder)
        seen.tab.locator("#wall .tile").nth(2).click()
        assert np.abs(check_same(seen, run_folder).astype(int) - drawn).max() > 2
        seen.tab.click("#reverse")
        seen.tab.wait_for_selector("#output[data-current='true'][data-direction='b2a']")
        check_same(seen, run_folder, "b2a")
        seen.tab.reload()
        seen.wait_for_output()
        check_samples(seen, run_folder)
        seen.context.close()


def test_server_with_a_token(browser: Any, run_folder: Path) -> None:
    pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
    with serving(run_folder, FASTMUNIT_TOKEN="secret") as server:
        seen = Visit(browser, f"{server.address}/")
        seen.tab.wait_for_selector("#problem:has-text('the server needs a token')")  # Playwright dismisses dialogs
        seen.errors.clear()
        seen.tab.on("dialog", lambda dialog: dialog.accept("secret"))
        seen.tab.reload()
        check_same(seen, run_folder)
        check_samples(seen, run_folder)
        seen.context.close()


@pytest.mark.parametrize("width", [360, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_fits_the_screen(visit: Any, page_folder: Path, tmp_path: Path, width: int, scheme: str) -> None:
    size = {"width": width, "height": 740}
    seen = visit(page_folder, viewport=size, color_scheme=scheme, has_touch=width == 360)
    seen.wait_for_output()
    assert seen.tab.evaluate("() => document.documentElement.scrollWidth") <= width
    # Every control has a name, and is large enough to hit.
    controls = seen.tab.evaluate(
        """() => [...document.querySelectorAll("button, input:not(.hidden), summary")]
            .filter((control) => control.checkVisibility())
            .map((control) => [
                control.ariaLabel || control.labels?.[0]?.innerText || control.innerText,
                control.getBoundingClientRect().height,
            ])"""
    )
    assert len(controls) > 20
    assert [control for control in controls if not control[0].strip() or control[1] < 24] == []
    background = seen.tab.evaluate("() => getComputedStyle(document.body).backgroundColor")
    bright = sum(map(int, background.removeprefix("rgb(").removesuffix(")").split(","))) > 3 * 128
    assert bright == (scheme == "light")
    seen.tab.screenshot(path=tmp_path / f"{width}_{scheme}.png", full_page=True)
    assert seen.errors == []


def test_touch(visit: Any, page_folder: Path, run_folder: Path) -> None:
    seen = visit(page_folder, viewport={"width": 360, "height": 740}, has_touch=True)
    seen.wait_for_output()
    seen.tab.tap("#clear")
    seen.tab.tap("#drawing")
    shown = seen.shown()
    assert (pixels(shown["input"], shown["size"]) < 128).any()
    check_same(seen, run_folder)


@pytest.mark.parametrize(
    "missing",
    [
        "engine/ort-wasm-simd-threaded.wasm",
        "engine/ort.wasm.bundle.min.js",
        "models/a2b/decode.onnx",
        "page.json",
    ],
)
def test_missing_file_is_reported(visit: Any, page_folder: Path, tmp_path: Path, missing: str) -> None:
    broken = shutil.copytree(page_folder, tmp_path / "page")
    (broken / missing).unlink()
    seen = visit(broken)
    seen.tab.wait_for_selector("#problem:has-text('could not be loaded')")
    assert missing.rsplit("/", 1)[-1] in seen.tab.inner_text("#problem")


def test_browser_without_webassembly_is_reported(visit: Any, page_folder: Path) -> None:
    seen = visit(page_folder)
    seen.context.add_init_script("delete globalThis.WebAssembly")
    seen.tab.reload()
    seen.tab.wait_for_selector("#problem:has-text('no WebAssembly')")


def test_opened_as_a_file_is_reported(browser: Any, page_folder: Path) -> None:
    context = browser.new_context()
    tab = context.new_page()
    tab.goto((page_folder / "index.html").as_uri())
    tab.wait_for_selector("#problem:has-text('http.server')")
    context.close()
