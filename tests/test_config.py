"""Configuration files: public keys unchanged, defaults, errors that name the key."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fastmunit.config import Config, DiscriminatorConfig, GeneratorConfig
from fastmunit.errors import ConfigError

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
