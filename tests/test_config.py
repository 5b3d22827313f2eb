"""Configuration files: public keys, defaults, and errors that name the key."""

from __future__ import annotations

import os
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import fastmunit
from fastmunit.config import Config, DiscriminatorConfig, GeneratorConfig
from fastmunit.errors import ConfigError
from fastmunit.systems import registry
from fastmunit.yaml_file import parse_yaml

PUBLIC = {
    "demo_edges2handbags": (1000, 100, 8, 1, 0, 0, 256),
    "edges2handbags": (10000, 500, 16, 10, 0, 0, 256),
    "edges2shoes": (10000, 500, 16, 10, 0, 0, 256),
    "summer2winter_yosemite256": (10000, 100, 16, 1, 10, 0, 256),
    "synthia2cityscape": (10000, 500, 16, 10, 10, 1, 512),
}


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_public_recipes(name: str) -> None:
    config = Config.load(name)
    values = (
        config.image_save_iter,
        config.image_display_iter,
        config.display_size,
        config.log_iter,
        config.recon_x_cyc_w,
        config.vgg_w,
        config.size_a,
    )
    assert values == PUBLIC[name]
    assert config.crop_image_height == config.crop_image_width == config.size_b == config.size_a
    assert config.gen == GeneratorConfig(
        dim=64, mlp_dim=256, style_dim=8, activ="relu", n_downsample=2, n_res=4, pad_type="reflect"
    )
    assert config.dis == DiscriminatorConfig(
        dim=64, norm="none", activ="lrelu", n_layer=4, gan_type="lsgan", num_scales=3, pad_type="reflect"
    )
    assert (config.lr, config.step_size, config.gamma, config.max_iter) == (1e-4, 100_000, 0.5, 1_000_000)
    assert Config.load(f"{name}_folder") == config


def test_every_shipped_configuration_loads() -> None:
    assert set(PUBLIC) < set(Config.shipped())
    for name in Config.shipped():
        assert Config.load(name).to_dict()["gen"]["style_dim"] == 8


def test_list_recipe() -> None:
    config = Config.load("demo_edges2handbags_list")
    assert config.data_root is None
    assert config.data_list_test_b == "./datasets/demo_edges2handbags/list_testB.txt"
    with_folders = config.model_copy(update={key: None for key in type(config).model_fields if key.startswith("data_")})
    folders = Config.load("demo_edges2handbags").model_copy(update={"data_root": None})
    assert with_folders == folders


def test_round_trip(tmp_path: Path) -> None:
    config = Config.load("demo", ["gen.dim=24", "lr=3e-4", "data_root=some/where", "lr_policy=constant"])
    assert (config.gen.dim, config.lr, config.data_root, config.lr_policy) == (24, 3e-4, "some/where", "constant")
    config.save(tmp_path / "config.yaml")
    assert Config.load(tmp_path / "config.yaml") == config
    assert Config.from_dict(config.to_dict()) == config


def test_missing_keys_have_defaults(tmp_path: Path) -> None:
    (tmp_path / "short.yaml").write_text("lr: 0.0002\n")
    config = Config.load(tmp_path / "short.yaml")
    assert config.lr == 2e-4 and config.recon_x_w == 10 and config.gen.mlp_dim == 256
    (tmp_path / "empty.yaml").write_text("")
    assert Config.load(tmp_path / "empty.yaml") == Config()


def test_unit_keys_are_read() -> None:
    config = Config.from_dict(
        {"recon_kl_w": 0.1, "recon_kl_cyc_w": 0.2, "recon_h_w": 0, "new_size_a": 5, "new_size_b": 6}
    )
    assert (config.recon_kl_w, config.size_a, config.size_b) == (0.1, 5, 6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"recon_x_weight": 1}, "unknown key 'recon_x_weight'; did you mean 'recon_x_w'?"),
        ({"gen": {"stile_dim": 1}}, "unknown key 'gen.stile_dim'; did you mean 'gen.style_dim'?"),
        ({"qqqqqqqq": 1}, "unknown key 'qqqqqqqq'."),
        ({"lr": "fast"}, "lr = 'fast': input should be a valid number"),
        ({"lr": float("nan")}, "lr = nan"),
        ({"batch_size": 0}, "batch_size = 0: input should be greater than 0"),
        ({"gen": {"pad_type": "mirror"}}, "gen.pad_type = 'mirror': input should be 'reflect', 'replicate' or 'zero'"),
        ({"gen": 3}, "gen = 3"),
        ({"vgg_w": 1, "input_dim_a": 1}, "vgg_w > 0 needs input_dim_a = input_dim_b = 3"),
        ({"seed": 10**20}, "seed = "),
        ({"new_size": 1, "new_size_a": 1}, "give either new_size or new_size_a and new_size_b"),
    ],
)
def test_errors_name_the_key(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        Config.from_dict(values)
    assert message in str(error.value)


def test_all_errors_are_listed_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        Config.from_dict({"lr": -1, "beta3": 1, "gen": {"dim": 0}})
    assert all(name in str(error.value) for name in ("lr = -1", "'beta3'", "gen.dim = 0"))


@pytest.mark.parametrize("override", ["lr", "=3", "lr.deep=3", "gen=1", "lr={"])
def test_wrong_overrides(override: str) -> None:
    with pytest.raises(ConfigError):
        Config.load("demo", [override])


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"neither a file nor a shipped name; shipped: .*edges2shoes"):
        Config.load("edges2shoe")
    (tmp_path / "broken.yaml").write_text("lr: [1")
    with pytest.raises(ConfigError, match="not valid YAML"):
        Config.load(tmp_path / "broken.yaml")
    (tmp_path / "image.yaml").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read as a text file"):
        Config.load(tmp_path / "image.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(ConfigError, match="top level"):
        Config.load(tmp_path / "list.yaml")


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "lr": st.floats(1e-9, 1),
            "batch_size": st.integers(1, 64),
            "init": st.sampled_from(["gaussian", "orthogonal"]),
            "gen": st.fixed_dictionaries({}, optional={"dim": st.integers(1, 512), "activ": st.sampled_from(["selu"])}),
            "new_size": st.integers(1, 4096),
        },
    )
)
def test_any_valid_mapping_survives_yaml(values: dict[str, object]) -> None:
    config = Config.from_dict(yaml.safe_load(yaml.safe_dump(values)))
    assert config == Config.from_dict(values)
    assert all(config.to_dict()[key] == value for key, value in values.items() if key != "gen")


def test_a_switched_off_schedule_is_saved(tmp_path: Path) -> None:
    Config(lr_policy=None).save(tmp_path / "config.yaml")
    assert Config.load(tmp_path / "config.yaml") == Config(lr_policy=None)


INTEGER_KEYS = [
    *(
        key
        for key, field in Config.model_fields.items()
        if "int" in str(field.annotation) and key not in ("cuda_graph", "slices")
    ),
    *(f"gen.{key}" for key, field in GeneratorConfig.model_fields.items() if field.annotation is int),
    *(f"dis.{key}" for key, field in DiscriminatorConfig.model_fields.items() if field.annotation is int),
]


def nested(key: str, value: object) -> dict[str, Any]:
    section, _, inner = key.rpartition(".")
    return {section: {inner: value}} if section else {key: value}


def value_of(config: Config, key: str) -> object:
    for part in key.split("."):
        config = getattr(config, part)
    return config


def test_there_are_integer_keys() -> None:
    assert {"max_iter", "new_size_a", "seed", "gen.dim", "gen.n_res", "dis.num_scales"} < set(INTEGER_KEYS)
    assert not {"lr", "flip", "options", "gen.activ"} & set(INTEGER_KEYS)


@pytest.mark.parametrize("key", INTEGER_KEYS)
def test_integral_numbers_in_any_form(key: str) -> None:
    for form, number in (
        ("1e1", 10),
        ("0.3E+1", 3),
        ("20e-1", 2),
        (" 1.e1 ", 10),
        ("7", 7),
        (7.0, 7),
        (np.int64(7), 7),
        (np.float32(7), 7),
    ):
        config = Config.from_dict(nested(key, form))
        assert value_of(config, key) == number
        assert type(value_of(config, key)) is int
    for text in ("1e1", "10.0", "1.0e+1", "'1e1'"):
        assert value_of(Config.from_dict(nested(key, parse_yaml(text, "text"))), key) == 10
    for text in ("1.5", 1.5, "15e-1", "1e-4", "1e99", float("inf"), float("nan"), "1e", 10**400, Fraction(3, 2)):
        with pytest.raises(ConfigError, match=f"{key} = "):
            Config.from_dict(nested(key, text))


@pytest.mark.parametrize("key", [*INTEGER_KEYS, "lr", "beta1", "vgg_w", "ema_decay"])
@pytest.mark.parametrize("text", ["true", "False", "yes", "NO", "on", "Off"])
def test_booleans_are_not_numbers(key: str, text: str) -> None:
    with pytest.raises(ConfigError, match=rf"{key} = (True|False): expected a number, got a boolean; YAML reads yes"):
        Config.from_dict(nested(key, parse_yaml(text, "text")))
    with pytest.raises(ConfigError, match=f"{key} = "):
        Config.load("edges2shoes", [f"{key}={text}"])


@pytest.mark.parametrize(("text", "value"), [("true", True), ("no", False), ("'off'", False), ("1", True)])
def test_keys_for_booleans_accept_them(text: str, value: bool) -> None:
    assert Config.load("demo", [f"flip={text}"]).flip is value
    assert Config.load("demo", [f"cuda_graph={text}"]).cuda_graph is value


def test_numeric_options_of_a_system_refuse_booleans() -> None:
    config = Config.load("demo_cyclegan", ["options.pool_size=yes"])
    with pytest.raises(ConfigError, match=r"options.*pool_size = True: expected a number, got a boolean"):
        registry.system_of(config).check(config)


def test_assigned_booleans_are_refused() -> None:
    config = Config()
    with pytest.raises(ConfigError, match="dim = True: expected a number"):
        config.gen.dim = True
    assert config.gen.dim == 64


def test_exponents_in_files_and_options(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("max_iter: 1e6\nlr: 1e-4\nseed: 1e18\nsystem: cyclegan\noptions: {pool_size: 2e1, identity: 5e-1}")
    config = Config.load(path, ["step_size=2.5e5"])
    assert (config.max_iter, config.lr, config.seed, config.step_size) == (10**6, 1e-4, 10**18, 250_000)
    options = registry.system_of(config).check(config)
    assert (options.pool_size, options.identity) == (20, 0.5)
    with pytest.raises(ConfigError, match=r"pool_size = 0\.2"):
        registry.system_of(config).check(Config.load(path, ["options.pool_size=2e-1"]))


@pytest.mark.parametrize("key", [key for key in INTEGER_KEYS if key != "seed"])
def test_every_size_has_a_limit(key: str) -> None:
    for value in (10**13, 1e30, "1e13", 10**300, "9" * 300, "9" * 5000):
        with pytest.raises(ConfigError, match=f"{key} = ") as error:
            Config.from_dict(nested(key, value))
        assert len(str(error.value)) < 300
    with pytest.raises(ConfigError, match=f"{key} = 1000000000000[0.]*: input should be less than or equal to "):
        Config.from_dict(nested(key, 10**13))


@pytest.mark.parametrize(
    ("name", "overrides", "keys"),
    [
        ("demo", ["gen.dim=8192"], r"gen.dim \(8192\), gen.n_downsample \(2\)"),
        ("demo", ["gen.n_downsample=16"], r"gen.n_downsample \(16\)"),
        ("demo_unit", ["gen.n_res=1000", "gen.dim=512"], r"gen.n_res \(1000\)"),
        ("demo", ["gen.mlp_dim=8192", "gen.n_res=1000"], r"gen.mlp_dim \(8192\)"),
        ("demo", ["dis.n_layer=16"], r"dis.dim \(\d+\), dis.n_layer \(16\)"),
        ("demo_cyclegan", ["gen.dim=8192"], r"gen.dim \(8192\)"),
        ("demo_bicyclegan", ["gen.dim=8192"], r"options.num_downs \(6\)"),
        ("demo_bicyclegan", ["dis.dim=8192"], r"dis.dim \(8192\)"),
        ("demo_bicyclegan", ["options.encoder_dim=1024", "options.encoder_blocks=16"], r"options.encoder_dim \(1024\)"),
    ],
)
def test_networks_too_large_for_any_memory(name: str, overrides: list[str], keys: str) -> None:
    config = Config.load(name, overrides)
    system = registry.system_of(config)
    with pytest.raises(
        ConfigError, match=rf"about \d.* parameters, more than the limit of 2.1e\+09: lower some of .*{keys}"
    ):
        system(config)
    with pytest.raises(ConfigError, match="parameters, more than the limit"):
        system.load_generators("gen.pt", config)


@pytest.mark.parametrize("name", ["demo", "demo_unit", "demo_cyclegan", "demo_bicyclegan", "cyclegan_noise"])
def test_parameter_estimates_are_near_the_count(name: str) -> None:
    small = ["gen.dim=8", "gen.mlp_dim=32", "dis.dim=8", "display_size=1", "recon_kl_w=0"]
    config = Config.load(name, small)
    system = registry.system_of(config)
    counted = sum(parameter.numel() for parameter in system(config).parameters())
    estimated = sum(system.parameter_estimate(config, system.check(config)).values())
    assert counted / 2 < estimated < 3 * counted


def test_paths_are_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DATA", "/data")
    monkeypatch.delenv("NOWHERE", raising=False)
    keys = [key for key in Config.model_fields if key.startswith(("data_root", "data_folder", "data_list"))]
    keys.append("vgg_model_path")
    assert len(keys) == 10
    home = str(tmp_path / "home")
    for key in keys:
        for text, path in (
            ("~/x", f"{home}/x"),
            ("$DATA/x", "/data/x"),
            ("${DATA}", "/data"),
            ("a~/b", "a~/b"),
            ("$NOWHERE/x", "$NOWHERE/x"),
            ("~nobody-of-this-name/x", "~nobody-of-this-name/x"),
        ):
            assert getattr(Config.from_dict({key: text}), key) == path
            assert getattr(Config.load("demo", [f"{key}={text}"]), key) == path
    monkeypatch.chdir(tmp_path)
    (tmp_path / "$DATA").mkdir()
    assert Config(data_root="$DATA").data_root == "$DATA"
    (tmp_path / "home").mkdir()
    (tmp_path / "home/my.yaml").write_text("lr: 0.5")
    assert Config.load("~/my.yaml").lr == 0.5


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("a\0b", "null character"),
        ("x" * 256, "a name of 256 bytes"),
        ("ü" * 128, "a name of 256 bytes"),
        ("a/" * 2048 + "b", "the path has 4,097 bytes"),
        ("a\udcff", "not UTF-8"),
    ],
)  # fmt: skip
def test_impossible_paths(path: str, reason: str) -> None:
    for key in ("data_root", "data_list_test_b", "vgg_model_path"):
        with pytest.raises(ConfigError, match=reason):
            Config.from_dict({key: path})
    with pytest.raises(ConfigError) as error:
        Config.load(path)
    str(error.value).encode()
    assert Config(data_root="x" * 255).data_root == "x" * 255


def test_assignments_are_checked() -> None:
    config = Config()
    for key, value, message in (
        ("lr", -1, "lr = -1"),
        ("data_root", "\udcff", "not UTF-8"),
        ("max_iter", 10**20, "max_iter = 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            setattr(config, key, value)
    with pytest.raises(ConfigError, match="dim = 0"):
        config.gen.dim = 0
    config.max_iter = "1e3"  # type: ignore[assignment]
    assert config == Config(max_iter=1000)


def shared(levels: int) -> object:
    value: object = "x"
    for _ in range(levels):
        value = [value] * 9
    return value


CYCLE: dict[str, object] = {}
CYCLE["self"] = CYCLE


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


VALUES = [
    *(None, True, "", "x" * 100_000, "\ud800", "\0", "1e9999999999", "9" * 5000, b"x", type, object(), Unprintable()),
    *(10**5000, -(10**5000), 1e400, float("nan"), 1e-320, Decimal("1e99"), Fraction(1, 3), 1j),
    *([], {}, (), set(), range(3), {1: 2}, {None: 1}, {"x" * 100_000: 1}, MappingProxyType({"dim": -3})),
    *(CYCLE, [CYCLE], shared(12), [[[[[[[[[[[[1]]]]]]]]]]]]),
    *(np.zeros(3), np.int8(-5), np.float64("inf"), np.array("x")),
]
ALL_KEYS = [
    *Config.model_fields,
    *(f"gen.{key}" for key in GeneratorConfig.model_fields),
    *(f"dis.{key}" for key in DiscriminatorConfig.model_fields),
]


def config_or_error(values: Mapping[Any, Any]) -> Config | ConfigError:
    """Return the configuration of a mapping, or the error that refuses it. Any other exception passes."""
    try:
        return Config.from_dict(values)
    except ConfigError as error:
        return error


@pytest.mark.parametrize("key", ALL_KEYS)
def test_any_value_of_each_key(key: str) -> None:
    """Any value is either accepted and can be copied and saved, or refused with the name of the key."""
    for value in VALUES:
        match config_or_error(nested(key, value)):
            case Config() as config:
                assert Config.from_dict(config.to_dict()) == config
                yaml.safe_dump(config.to_dict())
            case error:
                assert key.split(".")[0] in str(error)
                assert len(str(error).encode()) < 500


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers() | st.none(), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(deadline=None, max_examples=150)
@given(st.dictionaries(st.sampled_from([*Config.model_fields, "GEN", 3]), JUNK, max_size=3))
def test_any_mapping(values: dict[Any, Any]) -> None:
    config_or_error(values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({1: 2}, "keys should be strings"),
        ({"gen": {1: 2}}, "gen"),
        ({"gen": {1: 2, "unknown": 3}}, "gen"),
        ({"gen": {"dim": 1e12}}, "gen.dim = 1000000000000.0"),
        ({"dis": {"num_scales": 1e9}}, "dis.num_scales = 1000000000.0: input should be less than or equal to 16"),
        ({"options": CYCLE}, "options = .*nested more than"),
        ({"options": shared(7)}, "options = .*more than 10,000 values"),
        ({"options": {"a": object()}}, "options = .*got object"),
        (3, "expected a mapping of keys to values, got int"),
        (None, "expected a mapping of keys to values, got NoneType"),
        ([("lr", 1)], "expected a mapping"),
    ],
)
@pytest.mark.filterwarnings("ignore:hyperparameters that fastmunit does not know")
def test_systems_refuse_values_that_files_must_not_hold(values: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        fastmunit.MUNIT(values)
    assert len(str(error.value)) < 500


def test_many_wrong_keys_are_not_all_listed() -> None:
    values = {f"lr{k}": 1 for k in range(5000)}
    with pytest.raises(ConfigError, match=r"did you mean 'lr'.*and 4990 more") as error:
        Config.from_dict(values)
    assert len(str(error.value)) < 1000
    with pytest.warns(UserWarning, match="and 4990 more"), pytest.raises(ConfigError, match="batch_size"):
        fastmunit.MUNIT({**values, "batch_size": 0})


@pytest.mark.parametrize("text", ["0", "false", "[]", "''", "text"])
def test_files_without_a_mapping(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError, match="at its top level"):
        Config.load(tmp_path / "a.yaml")


def test_a_fifo_as_config_in_a_run_folder(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.yaml")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/gen_00000001.pt").write_bytes(b"")
    for checkpoint in (tmp_path, tmp_path / "checkpoints/gen_00000001.pt"):
        with pytest.raises(ConfigError, match=r"config.yaml is a FIFO, not a regular file"):
            fastmunit.load_translator(checkpoint)


def test_folders_named_like_a_shipped_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    assert Config.load("demo") == Config.load("demo_folder")
