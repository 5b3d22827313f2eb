"""Damaged and hostile model folders give errors that name the file and what is wrong with it."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save

import fastmunit
from fastmunit.errors import CheckpointError, FastmunitError
from fastmunit.systems.base import System
from tests.model_folder.small import small_system

FIRST = "gen.a.enc_content.model.0.conv.weight"


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("originals")
    small_system("munit").evaluation_translator("a2b").save_pretrained(root / "translator")
    small_system("unit").save_pretrained(root / "system")
    return root


@pytest.fixture
def folder(originals: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(originals / "translator", tmp_path / "model"))


def change_config(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads((folder / "config.json").read_text())
    change(values)
    (folder / "config.json").write_text(json.dumps(values))


def put_weights(folder: Path, data: bytes) -> None:
    """Write weights whose SHA-256 is right, as somebody would who wants to harm the reader."""
    (folder / "model.safetensors").write_bytes(data)
    change_config(folder, lambda values: values.update(sha256=hashlib.sha256(data).hexdigest()))


def refused(folder: Path, message: str) -> None:
    with pytest.raises(FastmunitError, match=message) as caught:
        fastmunit.load_translator(folder)
    assert len(str(caught.value)) < 2000
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", [0, 7, 100, -1])
def test_truncated_weights(folder: Path, kept: int) -> None:
    data = (folder / "model.safetensors").read_bytes()[:kept]
    (folder / "model.safetensors").write_bytes(data)
    refused(folder, r"model\.safetensors is not the file that was saved with its config\.json: it is damaged")
    put_weights(folder, data)
    refused(folder, "is damaged, truncated or not a safetensors file")


def test_one_changed_bit(folder: Path) -> None:
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    refused(folder, "is not the file that was saved with")


def header(text: bytes, data: bytes = b"") -> bytes:
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize(
    "data",
    [
        (2**63).to_bytes(8, "little") + b"{}",
        (2**40).to_bytes(8, "little") + b"{}",
        header(b"{}" + b" " * 11_000_000),
        header(b"not JSON"),
        header(b"[" * 100_000),
        header(b'{"x": {"dtype": "F32", "shape": [1000000000000], "data_offsets": [0, 4]}}', bytes(4)),
        header(b'{"x": {"dtype": "F32", "shape": [2], "data_offsets": [4, 0]}}', bytes(8)),
        header(
            b'{"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},'
            b'"y": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}',
            bytes(4),
        ),
        header(b'{"x": {"dtype": "NONE", "shape": [1], "data_offsets": [0, 4]}}', bytes(4)),
    ],
    ids=["longest", "long", "large", "text", "nested", "shape", "backwards", "overlap", "dtype"],
)
def test_hostile_headers(folder: Path, data: bytes) -> None:
    put_weights(folder, data)
    refused(folder, "is damaged, truncated or not a safetensors file")


class _Harmful:
    def __reduce__(self) -> Any:
        return os.mkdir, (os.environ["FASTMUNIT_TEST_HARM"],)


def test_a_pickle_is_not_run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTMUNIT_TEST_HARM", str(tmp_path / "harm"))
    for write in (pickle.dump, torch.save):
        with (folder / "model.safetensors").open("wb") as file:
            write(_Harmful(), file)
        put_weights(folder, (folder / "model.safetensors").read_bytes())
        refused(folder, "is damaged, truncated or not a safetensors file")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop(FIRST), r"model\.0\.conv\.weight is missing in the file\. Get the model folder again"),
        (lambda w: w.update({FIRST: w[FIRST][:1]}), r"is \(1, 1, 7, 7\) in the file and \(4, 1, 7, 7\) in the config"),
        (lambda w: w.update({FIRST: w[FIRST].long()}), r"is torch\.int64 in the file, expected torch\.float32"),
        (lambda w: w.update({FIRST: w[FIRST].bool()}), r"conv\.weight is in torch\.bool, which is not supported"),
        (lambda w: w.update({FIRST: w[FIRST].to(torch.float8_e4m3fn)}), r"is in torch\.float8_e4m3fn, which is not"),
        (lambda w: w.update({FIRST: w[FIRST] / 0}), r"conv\.weight is NaN or infinite: the model is not usable"),
        (lambda w: w.update({f"{FIRST}.x": w[FIRST].clone()}), r"model\.0\.conv\.weight\.x is not known"),
        (
            lambda w: w.update({"gen.c.weight": w[FIRST].clone()}),
            r"holds 'gen\.c\.weight', a weight of none of the networks a",
        ),
        (lambda w: w.update({"weight": w[FIRST].clone()}), "holds 'weight', not the weights of a fastmunit model"),
        (lambda w: w.clear(), r"model\.0\.conv\.weight is missing in the file; .* \(and \d+ more\)"),
    ],
)
def test_weights_that_do_not_fit(folder: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    weights = {key: value.clone() for key, value in load_file(folder / "model.safetensors").items()}
    change(weights)
    put_weights(folder, save(weights, {"format": "pt"}))
    refused(folder, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.update(version=2), "has version 2, and this fastmunit reads version 1: install a newer fastmunit"),
        (lambda v: v.update(format="other"), r"is not the config\.json of a fastmunit model folder"),
        (lambda v: v.pop("sha256"), "sha256"),
        (lambda v: v.update(sha256="0"), "sha256 = '0'"),
        (lambda v: v.update(direction=None), "a translator has a direction, and no other model has one"),
        (lambda v: v.update(extra=1), "unknown key 'extra'"),
        (lambda v: v["about"].update(title="x" * 2000), r"about\.title = 'xxx.*at most 1000 characters"),
        (lambda v: v["about"].update(title="\ud800"), "the text is not UTF-8"),
        (lambda v: v["about"].update(iterations=-1), r"about\.iterations = -1"),
        (lambda v: v["config"].update(system="munitt"), "system 'munitt' is none of .*; did you mean 'munit'"),
        (lambda v: v["config"].update(system="unit"), "of none of the networks a.enc, b.dec"),
        (lambda v: v["config"].update(lrr=1), "unknown key 'lrr'; did you mean 'lr'"),
        (lambda v: v["config"].update(options={"x": [[]] * 100_000}), "options = .*there are more than"),
        (lambda v: v["config"]["gen"].update(dim=10**9), r"gen\.dim = 1000000000"),
        (lambda v: v["config"]["gen"].update(dim=8192, n_res=1000), "more than the limit of"),
        (lambda v: v["config"]["gen"].update(dim=8), r"is \(4, 1, 7, 7\) in the file and \(8, 1, 7, 7\) in the config"),
        (lambda v: v.update(config=[1]), "config = "),
    ],
)
def test_wrong_values_in_config_json(folder: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    change_config(folder, change)
    refused(folder, message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "cannot be read as JSON"),
        (b"{" * 100_000, "cannot be read as JSON"),
        (b"[" * 500_000, "cannot be read as JSON"),
        (b'{"a": 1, "a": 2}', r"cannot be read as JSON \(a key is given twice\)"),
        (b'{"a": NaN}', "NaN is not a number of JSON"),
        (b'{"a": ' + b"1" * 10_000 + b"}", "cannot be read as JSON"),
        (b'{"a": "\xff"}', "cannot be read as JSON"),
        (b" " * 1_000_001, r"is larger than 1,000,000 bytes: it is not a config\.json"),
        (b"[]", "has no keys at its top level"),
        (b"{}", r"is not the config\.json of a fastmunit model folder"),
    ],
)
def test_config_json_that_is_no_configuration(folder: Path, text: bytes, message: str) -> None:
    (folder / "config.json").write_bytes(text)
    refused(folder, message)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_files_that_are_missing_or_special(folder: Path, name: str) -> None:
    (folder / name).unlink()
    refused(folder, f"{name} does not exist")
    (folder / name).mkdir()
    refused(folder, f"{name} is a folder, not a regular file")
    (folder / name).rmdir()
    os.mkfifo(folder / name)
    refused(folder, f"{name} is a FIFO, not a regular file")


def test_a_system_without_its_discriminators(originals: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(originals / "system", tmp_path / "model"))
    weights = load_file(folder / "model.safetensors")
    put_weights(folder, save({key: value for key, value in weights.items() if not key.startswith("dis.")}))
    with pytest.raises(CheckpointError, match="is missing in the file"):
        System.from_pretrained(folder)
    fastmunit.load_translator(folder)  # needs none


def test_a_failed_save_leaves_the_old_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    real = os.replace

    def fail(source: str, target: Path) -> None:
        if Path(target).name == "README.md":
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", fail)
    translator = fastmunit.load_translator(folder)
    with pytest.raises(FastmunitError, match="No space left on device"):
        translator.save_pretrained(folder, dtype="float16")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
