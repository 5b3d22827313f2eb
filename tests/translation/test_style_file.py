from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fastmunit import MUNIT
from fastmunit.config import Config
from fastmunit.errors import DataError, FastmunitError
from fastmunit.translation.style_file import StyleModel, read_styles, write_styles
from fastmunit.translation.styles import styles_from_file

CODES = torch.randn(3, 4, 1, 1, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("names", [["a", "b/c", "…"], []])
def test_codes_and_names_are_read_as_written(tmp_path: Path, names: list[str]) -> None:
    write_styles(tmp_path / "s.safetensors", CODES, names)
    found = read_styles(tmp_path / "s.safetensors")
    assert torch.equal(found.codes, CODES)
    assert (found.names, found.model) == (names, None)
    assert found.label(1) == (names[1] if names else "style 1")


def test_the_model_is_read_as_written(tmp_path: Path) -> None:
    model = StyleModel("früit\udcff", "b2a", "ab" * 32)
    write_styles(tmp_path / "s.safetensors", CODES, model=model)
    assert read_styles(tmp_path / "s.safetensors").model == model
    assert str(StyleModel("fruit", "a2b", "0123456789")) == "fruit (a2b, weights 01234567)"


def test_a_path_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "n\udcff" / "s\udcff.safetensors"
    write_styles(path, CODES, ["a", "b", "c"])
    assert torch.equal(read_styles(path).codes, CODES)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"s\\xff\.safetensors is damaged"):
        read_styles(path)


def test_wrong_arguments_write_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected 3 names, one per code, got 1"):
        write_styles(tmp_path / "s.safetensors", CODES, ["a"])
    with pytest.raises(ValueError, match=r"expected codes \(S, style_dim, 1, 1\), got \(3, 4\)"):
        write_styles(tmp_path / "s.safetensors", CODES.flatten(1))
    for names in ("abc", ["a", "b", 3], ["a", "b", Path("c")]):
        with pytest.raises(DataError, match="names"):
            write_styles(tmp_path / "s.safetensors", CODES, names)  # type: ignore[arg-type]
    for codes in (CODES / 0, CODES.to(torch.complex64), CODES.double() * 1e300, CODES > 0):
        with pytest.raises(DataError, match=r"expected (finite )?codes"):
            write_styles(tmp_path / "s.safetensors", codes)
    with pytest.raises(FastmunitError, match="cannot write"):
        write_styles("/proc/none/s.safetensors", CODES)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({"codes": CODES}, None, "has no tensor 'styles' \\(it holds 'codes'\\)"),
        ({"styles": CODES.flatten(1)}, None, r"expected 'styles' \(S, style_dim, 1, 1\), got \(3, 4\)"),
        ({"styles": CODES[:0]}, None, r"expected 'styles' \(S, style_dim, 1, 1\)"),
        ({"styles": CODES / 0}, None, "got infinite or NaN values"),
        ({"styles": CODES}, {"names": "a, b, c"}, "is not a JSON list"),
        ({"styles": CODES}, {"names": "[" * 100_000}, "is not a JSON list"),
        ({"styles": CODES}, {"names": json.dumps(["a"])}, "must be a JSON list of 3 strings"),
        ({"styles": CODES}, {"names": json.dumps(["a", "b", 3])}, "must be a JSON list of 3 strings"),
        ({"styles": CODES}, {"model": "fruit"}, "'model' in its metadata is not a JSON object"),
        ({"styles": CODES}, {"model": "[]"}, "must be a JSON object with name, direction, digest"),
        ({"styles": CODES}, {"model": json.dumps({"name": "fruit", "direction": "a2b"})}, "must be a JSON object"),
        ({"styles": CODES}, {"model": json.dumps({"name": "", "direction": "a2b", "digest": 1})}, "must be a JSON"),
    ],
)
def test_wrong_files_are_named(
    tmp_path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None, message: str
) -> None:
    save_file(tensors, tmp_path / "s.safetensors", metadata)
    with pytest.raises(DataError, match=rf"s\.safetensors.*{message}"):
        read_styles(tmp_path / "s.safetensors")


def test_damaged_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    write_styles(path, CODES, ["a", "b", "c"])
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    damaged = [b"", b"\xff" * 8, whole[:20], whole[:-1], b"\xff\xff\xff\xff\xff\xff\xff\x7f" + whole[8:]]
    for _ in range(200):
        changed = bytearray(whole)
        changed[random.integers(len(whole) - CODES.numel() * 4)] ^= 1 << random.integers(8)
        damaged.append(bytes(changed))
    refused = []
    for content in damaged:
        path.write_bytes(content)
        try:
            read_styles(path)
        except DataError as error:
            refused.append(str(error))
    assert len(refused) > 100
    assert all("s.safetensors" in message for message in refused)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DataError, match="is a FIFO"):
        read_styles(path)
    with pytest.raises(DataError, match="does not exist"):
        read_styles(tmp_path / "none.safetensors")


def test_advice_fits_the_model(tmp_path: Path) -> None:
    """Only a model with a style encoder can make a file again."""
    write_styles(tmp_path / "s.safetensors", CODES, model=StyleModel("other", "a2b", "0" * 64))
    config = Config.load("demo", ["gen.dim=4", "gen.n_res=1", "gen.mlp_dim=8", "dis.dim=4"])
    translator = MUNIT(config).evaluation_translator("a2b")
    for encodes, advice in ((True, "make the file again"), (False, "give the model that it was made with")):
        translator.takes_references = encodes
        with pytest.raises(DataError, match=rf"was made with other .*: {advice}"):
            styles_from_file(translator, tmp_path / "s.safetensors")
