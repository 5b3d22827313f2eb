"""Training on images from a program instead of folders."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fastmunit
from fastmunit import data
from fastmunit.errors import DataError
from fastmunit.files import load_tensors
from fastmunit.runs import RunFolder
from tests.runs.tiny import Recorder, assert_same_checkpoint, newest, tiny_config

NOWHERE = Path("nowhere")


class Decoded:
    """Images as a program may have them: of one form after the other."""

    def __init__(self, files: list[Path], fingerprint: str | None = None) -> None:
        self.files, self.fingerprint = files, fingerprint

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int, /) -> Any:
        image = Image.open(self.files[index])
        return (self.files[index], image, np.array(image))[index % 3]


def decoded(images: Path, fingerprint: str | None = None, names: str = "trainA trainB testA testB") -> dict[str, Any]:
    return {name: Decoded(data.list_images(images / name), fingerprint) for name in names.split()}


def files(images: Path) -> dict[str, Any]:
    return {name: data.list_images(images / name) for name in ("trainA", "trainB", "testA", "testB")}


def test_weights_are_those_of_the_command_bit_for_bit(images: Path, uninterrupted: Path, tmp_path: Path) -> None:
    config = tiny_config(NOWHERE)
    fastmunit.train(config, tmp_path / "run", data=files(images), device="cpu")
    assert_same_checkpoint(uninterrupted, tmp_path / "run", 7)
    for part in ("test", "train"):
        name = f"images/gen_a2b_{part}_current.jpg"
        assert (tmp_path / "run" / name).read_bytes() == (uninterrupted / name).read_bytes()


def test_a_stopped_run_resumes_bit_for_bit(images: Path, uninterrupted: Path, tmp_path: Path) -> None:
    config = tiny_config(NOWHERE, num_workers=2)
    recorder = Recorder({2: lambda: os.kill(os.getpid(), signal.SIGINT)})
    given = decoded(images, "version 1")
    result = fastmunit.train(config, tmp_path / "run", data=given, device="cpu", callbacks=[recorder], verify=True)
    assert (result.ended, result.iterations) == ("SIGINT", 3)
    config = tiny_config(NOWHERE, num_workers=0)
    recorder = Recorder()
    result = fastmunit.train(config, tmp_path / "run", data=given, resume=True, device="cpu", callbacks=[recorder])
    assert result.iterations == 7
    assert not any("fingerprint" in message or "have changed" in message for message in recorder.messages)
    for name in ("gen_00000007.pt", "dis_00000007.pt", "state_00000007.pt"):
        found, expected = (RunFolder(root).checkpoints / name for root in (tmp_path / "run", uninterrupted))
        if name.startswith("state"):
            assert load_tensors(found)["torch_rng"].equal(load_tensors(expected)["torch_rng"])
        else:
            assert found.read_bytes() == expected.read_bytes()


def test_what_is_known_of_the_images_is_compared(images: Path, tmp_path: Path) -> None:
    def resume(given: dict[str, Any], max_iter: int) -> list[str]:
        recorder = Recorder()
        config = tiny_config(NOWHERE, max_iter=max_iter)
        fastmunit.train(config, tmp_path / "run", data=given, resume=True, device="cpu", callbacks=[recorder])
        return [message for message in recorder.messages if message.startswith("Note: ")]

    nameless = decoded(images, names="trainA trainB")  # the sample grids then show these
    assert resume(nameless, 1) == []
    (note,) = resume(nameless, 2)
    assert "images of A and B have no fingerprint: only their number was compared" in note
    (note,) = resume(decoded(images, "version 1"), 3)
    assert "have changed: A (other names or another order), B (other" in note
    (note,) = resume({**decoded(images, "version 1"), **decoded(images, "version 2", "trainB")}, 4)
    assert "have changed: B (other names or another order);" in note
    fewer = {"trainB": Decoded(nameless["trainB"].files[:4], "version 2")}
    (note,) = resume({**decoded(images, "version 1"), **fewer}, 5)
    assert "have changed: B (5 → 4);" in note


def test_an_image_that_fails_later_keeps_the_checkpoint(images: Path, tmp_path: Path) -> None:
    class Failing(Decoded):
        def __getitem__(self, index: int, /) -> Any:
            if armed:
                raise ConnectionError("the store is gone")
            return super().__getitem__(index)

    armed: list[bool] = []
    given: dict[str, Any] = {**decoded(images), "trainB": Failing(data.list_images(images / "trainB"))}
    recorder = Recorder({3: lambda: armed.append(True)})
    config = tiny_config(NOWHERE, max_iter=100)
    message = (
        r"^trainB\[\d\]: the source raised ConnectionError \(the store is gone\) at .*The checkpoint of iteration [34] "
    )
    with pytest.raises(DataError, match=message):
        fastmunit.train(config, tmp_path / "run", data=given, device="cpu", callbacks=[recorder])
    assert newest(tmp_path / "run") == recorder.statuses[-1].iterations
