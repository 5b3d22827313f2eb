"""YAML from users: any text gives plain values or a ConfigError."""

from __future__ import annotations

import os
import random
import socket
import stat
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastmunit.config import Config
from fastmunit.errors import ConfigError
from fastmunit.yaml_file import MAX_BYTES, MAX_DEPTH, MAX_NODES, parse_yaml, read_yaml

LAUGHS = "a0: &a0 [x, x, x]\n" + "".join(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]\n" for k in range(1, 12))

REFUSED = {
    LAUGHS: "more than 10,000 values",
    "lr: " + "[" * 5000: f"more than {MAX_DEPTH} levels",
    "lr: " + "{a: " * 5000: f"more than {MAX_DEPTH} levels",
    "- " * 5000: f"more than {MAX_DEPTH} levels",
    "? " * 5000: f"more than {MAX_DEPTH} levels",
    "".join(f"a{k}: &a{k} [{f'*a{k - 1}' if k else 1}]\n" for k in range(100)): f"more than {MAX_DEPTH} levels",
    "a: [" + "1," * (MAX_NODES + 1): "more than 10,000 values",
    "a: &a {x: 1}\nb: {<<: [" + "*a," * 5000 + "]}": "more than 10,000 values",
    "options: &x {y: *x}": "inside its own anchor",
    "a: &a {<<: *a}": "inside its own anchor",
    "a: *b": "undefined alias 'b'",
    "lr: 0x_": "line 1, column 5.*expected a value of type int, got '0x_'",
    "lr: 0b_": "type int",
    "lr: !!int x": "type int, got 'x'",
    'lr: !!int ""': "type int, got ''",
    "lr: !!float foo": "type float, got 'foo'",
    "flip: !!bool foo": "type bool, got 'foo'",
    "lr: " + "9" * 5000: "more than 400 characters",
    "lr: 1" + ":30" * 5000: "more than 400 characters",
    "a: !!timestamp 2001-01-01": "timestamp' is not allowed",
    "a: !!binary aaaa": "binary' is not allowed",
    "a: !!set {b}": "set' is not allowed",
    "a: !!omap [b: 1]": "omap' is not allowed",
    "a: !!python/object:os.system x": "is not allowed",
    "a: !!str [1]": "expected a scalar",
    "a: !!map x": "expected a mapping",
    'a: "\\UFFFFFFFF"': "not valid YAML",
    'a: "\\uD800"': "surrogates not allowed",
    "a: \0": "special characters",
    "gen: {1: 2}": "the key '1' is not text",
    "yes: 1": "the key 'yes' is not text",
    "~: 1": "the key '~' is not text",
    "? [a]\n: 1": "the key .list. is not text",
    "lr: 1\nlr: 2": "line 2, column 1.*the key 'lr' is given twice",
    "gen: {dim: 1, dim: 2}": "the key 'dim' is given twice",
    "--- 1\n--- 2": "another document|single document",
    "a: " + "x" * MAX_BYTES: "longer than 250,000 characters",
    "<<: 1": "mapping",
    "a: &" + "x" * 200_000 + "\nb: *y": "undefined alias",
}


@pytest.mark.parametrize("text", REFUSED, ids=range(len(REFUSED)))
def test_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=REFUSED[text]) as error:
        parse_yaml(text, "my.yaml")
    assert str(error.value).startswith("my.yaml is ")
    assert len(str(error.value)) < 600


@pytest.mark.parametrize("text", REFUSED, ids=range(len(REFUSED)))
def test_refused_in_set(text: str) -> None:
    with pytest.raises(ConfigError) as error:
        Config.load("demo", [f"options={text}"])
    assert len(str(error.value)) < 800


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("[2001-99-99, 2001-01-02, 2001-01-02 03:04:05]", ["2001-99-99", "2001-01-02", "2001-01-02 03:04:05"]),
        ("b: &b {x: 1, y: 2}\nc: {<<: *b, x: 3}\nd: *b", None),
        ("a: &a [1, ~, yes, 1.5, 0x1F, 0b11, 010, 1_000, 1:30, .inf, !!str 1, !!float 1]\nb: *a", None),
        ("'1': a\n\"yes\": b", {"1": "a", "yes": "b"}),
        ("\ufeffa: ü", {"a": "ü"}),
        ("[" * MAX_DEPTH + "]" * MAX_DEPTH, None),
    ],
)
def test_read(text: str, value: object) -> None:
    parsed = parse_yaml(text, "my.yaml")
    if value is None:
        value = yaml.safe_load(text)
    assert parsed == value


def test_aliases_give_copies() -> None:
    values = parse_yaml("gen: &sizes {dim: 4}\ndis: *sizes", "my.yaml")
    assert values["gen"] == values["dis"]
    assert values["gen"] is not values["dis"]


def test_an_override_of_one_section_leaves_another_with_the_same_anchor(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("gen: &sizes {dim: 4, activ: relu}\ndis: *sizes")
    config = Config.load(tmp_path / "a.yaml", ["gen.dim=8"])
    assert (config.gen.dim, config.dis.dim) == (8, 4)


def test_special_and_large_files(tmp_path: Path) -> None:
    fifo, listening, large = tmp_path / "fifo.yaml", tmp_path / "socket", tmp_path / "large.yaml"
    os.mkfifo(fifo)
    large.write_bytes(b"#" * (MAX_BYTES + 1))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(listening))
        for path, kind in (
            (fifo, "a FIFO"),
            (listening, "a socket"),
            (tmp_path, "a folder"),
            (Path("/dev/zero"), "a device"),
        ):
            for read in (lambda path=path: read_yaml(path, "configuration"), lambda path=path: Config.load(path)):
                with pytest.raises(ConfigError, match=f"configuration .* is {kind}, not a regular file"):
                    read()
    with pytest.raises(ConfigError, match="larger than 250,000 bytes"):
        read_yaml(large, "configuration")
    with pytest.raises(ConfigError, match="does not exist"):
        read_yaml(tmp_path / "none.yaml", "configuration")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_files_without_permission(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("lr: 1")
    (tmp_path / "a.yaml").chmod(0)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml(tmp_path / "a.yaml", "configuration")
    tmp_path.chmod(stat.S_IWUSR)
    with pytest.raises(ConfigError, match="cannot be read"):
        Config.load(tmp_path / "a.yaml")
    tmp_path.chmod(0o700)


PIECES = (
    *"[]{}:,-?&*!|>'\"%@`#\\ \n\t~=<_.+0123456789abcxyz",
    *("&a ", "*a", "<<: ", "!!int ", "!!float ", "!!bool ", "!!null ", "!!set ", "0x", "0b", "1e", "---\n", "...\n"),
    *("lr: ", "gen: ", "options: ", "dim: ", "\n  ", "\r\n", "\\u", "\\U", "\ud800", "\0", "\u2028", "é"),
)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
@example("lr: !!float _")
@example("lr: +_")
@example("lr: !!int -")
def test_any_text(text: str) -> None:
    """Any text is either read as a configuration or refused with a ConfigError."""
    with suppress(ConfigError):
        values = parse_yaml(text, "my.yaml")
        if isinstance(values, dict):
            Config.from_dict(values).to_dict()


def test_damaged_configurations(tmp_path: Path) -> None:
    whole = Config().to_dict()
    data = yaml.safe_dump(whole).encode()
    generator = random.Random(0)
    path = tmp_path / "a.yaml"
    refused = 0
    for _ in range(60):
        damaged = bytearray(data)
        for _ in range(generator.randint(1, 4)):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        path.write_bytes(damaged)
        try:
            Config.load(path)
        except ConfigError:
            refused += 1
    assert refused > 20
