"""The range of a training is that of its resume, translation and evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import fastmunit
from fastmunit.config import Config
from fastmunit.data.value_range import PixelValues
from fastmunit.errors import ConfigError
from fastmunit.metrics.task import Task
from tests.runs.tiny import Recorder, assert_same_checkpoint, tiny_config


@pytest.fixture(scope="module")
def twelve_bits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gray images of domain A with values up to 3000 in 16 bits, and RGB images of domain B."""
    root = tmp_path_factory.mktemp("twelve")
    random = np.random.default_rng(0)
    for part in ("trainA", "trainB", "testA", "testB"):
        (root / part).mkdir()
        for index in range(4):
            shape, high, kind = ((40, 37), 3000, np.uint16) if part.endswith("A") else ((40, 37, 3), 256, np.uint8)
            Image.fromarray(random.integers(0, high, shape, dtype=kind)).save(root / part / f"{index}.png")
    return root


def config(root: Path, **changes: Any) -> Config:
    return tiny_config(root, input_dim_a=1, max_iter=4, value_range_a="auto", **changes)


def test_one_range_from_training_to_evaluation(twelve_bits: Path, tmp_path: Path) -> None:
    recorder = Recorder()
    settings = config(twelve_bits)
    fastmunit.train(settings, tmp_path / "whole", device="cpu", callbacks=[recorder])
    stored = Config.load(tmp_path / "whole" / "config.yaml")
    low, high = stored.value_range_a  # type: ignore[misc]
    assert 0 <= low < 20 < 2980 < high < 3000  # type: ignore[operator]
    assert any(message.startswith(f"value_range_a: auto is [{low}, {high}]") for message in recorder.messages)
    assert settings.value_range_a == "auto"

    fastmunit.train(config(twelve_bits).model_copy(update={"max_iter": 2}), tmp_path / "cut", device="cpu")
    recorder = Recorder()
    fastmunit.train(config(twelve_bits), tmp_path / "cut", device="cpu", resume=True, callbacks=[recorder])
    assert not any("value_range_a" in message for message in recorder.messages)
    assert_same_checkpoint(tmp_path / "whole", tmp_path / "cut", 4)

    values = PixelValues.of(stored, "a")
    assert values.range is not None
    path = twelve_bits / "testA" / "0.png"
    pixels = np.array(Image.open(path)).astype(np.int32)
    image = values.range.to_network(pixels[None])
    expected = fastmunit.translate(tmp_path / "whole", image, 2, device="cpu")
    for given in (pixels, pixels.astype(np.float64), path):
        assert torch.equal(fastmunit.translate(tmp_path / "whole", given, 2, device="cpu"), expected)
    reference = fastmunit.translate(tmp_path / "whole", np.zeros((32, 32, 3), np.uint8), image, direction="b2a")
    for given in (pixels, path):
        outputs = fastmunit.translate(tmp_path / "whole", np.zeros((32, 32, 3), np.uint8), given, direction="b2a")
        assert torch.equal(outputs, reference)

    translator = fastmunit.load_translator(tmp_path / "whole", device="cpu")
    task = Task(translator, None, stored.model_copy(update={"new_size": None}), "a2b", 2, 0, None)
    crop = values.range.to_network(pixels[None, 4:36, 2:34])
    assert torch.equal(task.sources[0], crop)


def test_a_file_without_a_run_folder_needs_numbers(twelve_bits: Path, tmp_path: Path) -> None:
    settings = config(twelve_bits)
    system = fastmunit.MUNIT(settings)
    with pytest.raises(ConfigError, match="value_range_a is auto, which training replaces"):
        fastmunit.translate(system, np.zeros((32, 32), np.uint16), 1)
    assert fastmunit.translate(system, np.zeros((32, 32, 3), np.uint8), 1, direction="b2a").shape == (1, 1, 32, 32)
