"""The example of docs/how_to/model_folder.md runs as written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fastmunit.data import save_image
from tests.model_folder.small import picture, small_system

DOCUMENT = Path(__file__).parents[2] / "docs/how_to/model_folder.md"


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = small_system("munit", "ema_decay=0.9")
    system.save(tmp_path / "runs/shoes/checkpoints", 1)
    system.config.save(tmp_path / "runs/shoes/config.yaml")
    save_image(picture(1), tmp_path / "drawing.png")
    code = re.search(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert code is not None
    monkeypatch.chdir(tmp_path)
    values: dict[str, object] = {}
    exec(code[1], values)
    assert values["images"].shape == (5, 3, 64, 64)  # type: ignore[attr-defined]
    assert (tmp_path / "shoes/model.safetensors").stat().st_size < (tmp_path / "whole/model.safetensors").stat().st_size
