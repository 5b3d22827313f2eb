"""Pictures of docs/concepts are what `python -m tools.draw_translations` draws."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from torchvision.io import decode_image

from tools import draw_translations


def test_the_picture_of_munit_is_what_the_command_of_its_page_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = draw_translations.FOLDER / "munit.jpg"
    monkeypatch.setattr(draw_translations, "FOLDER", tmp_path)
    monkeypatch.setattr(sys, "argv", ["draw_translations", "munit", "fruit"])
    draw_translations.main()
    drawn, expected = (decode_image(str(path)).float() for path in (tmp_path / "munit.jpg", recorded))
    assert drawn.shape == expected.shape
    assert (drawn - expected).abs().mean() < 1  # the same picture, with other rounding and another JPEG encoder
