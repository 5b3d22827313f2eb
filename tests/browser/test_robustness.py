"""The page under bad conditions: dropped files, impatient visitors, subfolders, threads, and two tabs."""

from __future__ import annotations

import base64
import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.browser.conftest import Visit
from tests.browser.test_page import check_same, pixels

pytestmark = pytest.mark.browser

DROP = """([selector, name, content]) => {
    const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([bytes], name));
    const target = document.querySelector(selector);
    return ["dragover", "drop"].map((type) =>
        target.dispatchEvent(new DragEvent(type, { dataTransfer, bubbles: true, cancelable: true })));
}"""
"""Drop a file on an element, and return if the browser would act on it itself."""


def drop(visit: Visit, selector: str, name: str, content: bytes) -> None:
    acts = visit.tab.evaluate(DROP, [selector, name, base64.b64encode(content).decode()])
    assert acts == [False, False]


def test_dropped_files(visit: Any, page_folder: Path, run_folder: Path) -> None:
    seen = visit(page_folder)
    seen.wait_for_output()
    file = io.BytesIO()
    Image.new("RGB", (4000, 3000), (200, 30, 90)).save(file, "JPEG")
    drop(seen, "body", "large.jpg", file.getvalue())
    seen.tab.wait_for_selector("#undo:enabled")
    shown = seen.shown()
    drawn = pixels(shown["input"], shown["size"])
    assert np.abs(drawn.astype(int) - (200, 30, 90)).max() <= 3
    check_same(seen, run_folder)
    for name, content in (("broken.png", file.getvalue()[:99]), ("empty.png", b""), ("text.txt", b"no picture")):
        drop(seen, "#drawing", name, content)
        seen.tab.wait_for_selector(f"#problem:has-text('{name} is not a picture')")
    np.testing.assert_array_equal(pixels(seen.shown()["input"], shown["size"]), drawn)
    drop(seen, "#wall", "style.png", (page_folder / "samples/b3.png").read_bytes())
    seen.tab.wait_for_selector("#status:has-text('Style of a photo')")
    assert seen.tab.is_hidden("#problem")
    check_same(seen, run_folder)
    assert seen.errors == []


@pytest.mark.parametrize("held", ["ort.wasm.bundle.min.js", "a0.png", "decode.onnx"])
def test_a_drawing_made_while_the_page_loads_is_kept(
    visit: Any, page_folder: Path, run_folder: Path, held: str
) -> None:
    seen = visit(page_folder)
    seen.wait_for_output()
    waiting: list[Any] = []
    seen.context.route(f"**/{held}", lambda route: waiting.append(route))
    seen.tab.reload(wait_until="commit")
    while not waiting:
        seen.tab.wait_for_timeout(20)
    seen.tab.fill("#ink", "#c03040")
    seen.drag((0.2, 0.5), (0.8, 0.5))
    drawn = seen.shown_input()
    assert np.abs(drawn.astype(int) - (0xC0, 0x30, 0x40)).max(-1).min() <= 1
    for route in waiting:
        route.continue_()
    check_same(seen, run_folder)
    np.testing.assert_array_equal(seen.shown_input(), drawn)
    assert seen.tab.input_value("#ink") == "#c03040"
    assert seen.tab.is_enabled("#undo")
    assert seen.errors == []


def test_fast_strokes_past_the_edges(visit: Any, page_folder: Path, run_folder: Path) -> None:
    seen = visit(page_folder)
    seen.wait_for_output()
    seen.tab.click("#clear")
    box = seen.tab.locator("#drawing").bounding_box()
    random = np.random.default_rng(0)
    for start, end in zip(random.uniform(0.1, 0.9, (60, 2)), random.uniform(-0.2, 1.2, (60, 2)), strict=True):
        for place, act in ((start, seen.tab.mouse.down), (end, seen.tab.mouse.up)):
            seen.tab.mouse.move(box["x"] + place[0] * box["width"], box["y"] + place[1] * box["height"])
            act()
    drawn = seen.shown_input()
    assert 0.1 < (drawn < 128).mean() < 0.9
    check_same(seen, run_folder)
    np.testing.assert_array_equal(seen.shown_input(), drawn)
    undone = 0
    while seen.tab.is_enabled("#undo"):
        seen.tab.click("#undo")
        undone += 1
    assert undone == 40
    check_same(seen, run_folder)
    assert seen.errors == []


@pytest.mark.parametrize("size", [(1, 1), (240, 120)])
def test_tiny_windows(visit: Any, page_folder: Path, run_folder: Path, size: tuple[int, int]) -> None:
    tiny, usual = {"width": size[0], "height": size[1]}, {"width": 800, "height": 600}
    seen = visit(page_folder, viewport=tiny)
    check_same(seen, run_folder)
    seen.tab.evaluate("() => document.getElementById('clear').click()")
    seen.tab.focus("#drawing")
    seen.tab.keyboard.press(" ")
    check_same(seen, run_folder)
    assert (seen.shown_input() < 128).any()
    seen.tab.set_viewport_size(usual)
    seen.tab.click("#clear")
    box = seen.tab.locator("#drawing").bounding_box()
    seen.tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    seen.tab.mouse.down()
    seen.tab.set_viewport_size(tiny)  # the drawing may have no size now
    seen.tab.mouse.move(0, 0)
    seen.tab.set_viewport_size(usual)
    seen.tab.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2)
    seen.tab.mouse.up()
    assert (seen.shown_input() < 128).any()
    check_same(seen, run_folder)
    assert seen.errors == []


def test_reversing_while_a_translation_runs(visit: Any, page_folder: Path, run_folder: Path) -> None:
    seen = visit(page_folder)
    seen.wait_for_output()
    for index in range(3):
        seen.drag((0.2, 0.2 + 0.1 * index), (0.9, 0.9))
        seen.tab.evaluate("() => document.getElementById('reverse').click()")
        seen.tab.wait_for_selector("#reverse:enabled")
    seen.tab.wait_for_selector("#output[data-current='true'][data-direction='b2a']")
    check_same(seen, run_folder, "b2a")
    assert seen.errors == []


def test_a_direction_that_cannot_be_loaded(visit: Any, page_folder: Path, run_folder: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(page_folder, tmp_path / "page")
    (broken / "models/b2a/decode.onnx").write_bytes(b"no graph")
    seen = visit(broken)
    check_same(seen, run_folder)
    seen.tab.click("#reverse")
    seen.tab.wait_for_selector("#problem:has-text('other direction could not be loaded')")
    seen.drag((0.2, 0.2), (0.9, 0.9))
    assert seen.tab.get_attribute("#reverse", "aria-pressed") == "false"
    check_same(seen, run_folder)
    assert seen.tab.is_hidden("#problem")


@pytest.mark.parametrize("isolated", [False, True], ids=["one thread", "threads"])
def test_a_subfolder(visit: Any, page_folder: Path, run_folder: Path, tmp_path: Path, isolated: bool) -> None:
    """A page that its server isolates from other origins uses threads."""
    shutil.copytree(page_folder, tmp_path / "site/art/page")
    headers = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}
    seen = visit(tmp_path / "site", "art/page/", headers if isolated else None)
    check_same(seen, run_folder)
    assert seen.tab.evaluate("() => crossOriginIsolated") == isolated
    assert (seen.errors, seen.foreign) == ([], [])


def test_two_tabs(visit: Any, page_folder: Path, run_folder: Path) -> None:
    seen = visit(page_folder)
    seen.wait_for_output()
    first, second = seen.tab, seen.context.new_page()
    second.goto(seen.url)
    first.click("#clear")
    seen.tab = second
    other = check_same(seen, run_folder)
    seen.tab = first
    assert np.abs(check_same(seen, run_folder).astype(int) - other).max() > 2


def test_keyboard_reaches_all_controls(visit: Any, page_folder: Path) -> None:
    seen = visit(page_folder)
    seen.wait_for_output()
    seen.tab.evaluate("() => document.querySelector('details').open = true")
    controls = seen.tab.evaluate(
        """() => [...document.querySelectorAll("button, input, summary, canvas[tabindex]")]
            .filter((control) => control.checkVisibility() && !control.disabled && control.tabIndex >= 0).length"""
    )
    reached = 0
    for _ in range(controls):
        seen.tab.keyboard.press("Tab")
        reached += seen.tab.evaluate(
            """() => {
                const element = document.activeElement, isNew = !element.dataset.reached && element !== document.body;
                element.dataset.reached = true;
                return isNew;
            }"""
        )
    assert reached == controls > 20
