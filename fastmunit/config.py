"""Typed configuration: the reference project's YAML keys, unchanged, with their usual values as defaults."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from fastmunit.errors import ConfigError
from fastmunit.files import expand, shown, write_text
from fastmunit.section import PathText, Section, brief, explain, nearest, plain
from fastmunit.yaml_file import parse_yaml, read_yaml

STYLE_DOWNSAMPLE = 4
"""Stride-2 convolutions of every style encoder; the public trainer fixes it."""

Activation = Literal["relu", "lrelu", "prelu", "selu", "tanh", "none"]
Padding = Literal["reflect", "replicate", "zero"]


Iterations = Annotated[int, Field(gt=0, le=10**12)]
Pixels = Annotated[int, Field(gt=0, le=65536)]
Channels = Annotated[int, Field(gt=0, le=8192)]
Levels = Annotated[int, Field(gt=0, le=16)]
Images = Annotated[int, Field(gt=0, le=65536)]
_SHOWN = 10


def _factory_name(text: str) -> str:
    module, _, function = text.partition(":")
    if not all(part.isidentifier() for part in [*module.split("."), function]):
        raise ValueError("give package.module:factory, a function that is called with the configuration")
    return text


class GeneratorConfig(Section):
    """Sizes of a generator (`gen:`). MUNIT paper, appendix B; `dim` is the channel count of the first layer."""

    dim: Channels = 64
    mlp_dim: Channels = 256
    style_dim: Channels = 8
    activ: Activation = "relu"
    n_downsample: int = Field(default=2, ge=0, le=16)
    n_res: int = Field(default=4, ge=0, le=1000)
    pad_type: Padding = "reflect"


class DiscriminatorConfig(Section):
    """Sizes of a multi-scale discriminator (`dis:`). `n_layer` counts the stride-2 convolutions of one scale."""

    dim: Channels = 64
    norm: Literal["none", "bn", "in", "ln", "sn"] = "none"
    activ: Activation = "lrelu"
    n_layer: Levels = 4
    gan_type: Literal["lsgan", "nsgan", "hinge"] = "lsgan"
    num_scales: Levels = 3
    pad_type: Padding = "reflect"


class Config(Section):
    """Everything that one training run needs to know.

    The keys are those of the public MUNIT and UNIT configuration files, then fastmunit's own. Loss weights multiply the
    terms of the MUNIT paper's equation 5.
    """

    system: str = Field("munit", description="which system: munit, unit, cyclegan, bicyclegan")
    options: Annotated[dict[str, Any], BeforeValidator(plain)] = Field(
        default_factory=dict, description="keys of that system alone"
    )

    image_save_iter: Iterations = Field(10000, description="iterations between kept sample grids")
    image_display_iter: Iterations = Field(500, description="iterations between refreshed sample grids")
    display_size: Images = Field(16, description="images in a sample grid")
    snapshot_save_iter: Iterations = Field(10000, description="iterations between checkpoints")
    log_iter: Iterations = Field(10, description="iterations between logged losses")

    max_iter: Iterations = Field(1000000, description="iterations of a whole training")
    batch_size: Images = 1
    weight_decay: float = Field(0.0001, ge=0, allow_inf_nan=False, description="coupled L2 of Adam")
    beta1: float = Field(0.5, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    init: Literal["gaussian", "xavier", "kaiming", "orthogonal", "default"] = "kaiming"
    lr: float = Field(0.0001, gt=0, allow_inf_nan=False)
    lr_policy: Literal["constant", "step", "linear"] | None = "step"
    step_size: Iterations = Field(
        100000, description="iterations between learning rate drops; linear: before the rate falls to 0 at max_iter"
    )
    gamma: float = Field(0.5, gt=0, le=1, description="factor of a learning rate drop")
    gan_w: float = Field(1, ge=0, allow_inf_nan=False)
    recon_x_w: float = Field(10, ge=0, allow_inf_nan=False, description="image reconstruction")
    recon_s_w: float = Field(1, ge=0, allow_inf_nan=False, description="style code reconstruction")
    recon_c_w: float = Field(1, ge=0, allow_inf_nan=False, description="content code reconstruction")
    recon_x_cyc_w: float = Field(0, ge=0, allow_inf_nan=False, description="explicit style-augmented cycle")
    vgg_w: float = Field(0, ge=0, allow_inf_nan=False, description="domain-invariant perceptual loss")
    recon_h_w: float = Field(0, ge=0, allow_inf_nan=False, description="in public UNIT files; used by no system")
    recon_kl_w: float = Field(0.01, ge=0, allow_inf_nan=False, description="UNIT: KL of the latent code")
    recon_kl_cyc_w: float = Field(0.01, ge=0, allow_inf_nan=False, description="UNIT: KL of the re-encoded code")
    vgg_model_path: PathText | None = Field(None, description="folder whose models/vgg16.weight holds VGG-16")

    gen: GeneratorConfig = Field(default_factory=GeneratorConfig)
    dis: DiscriminatorConfig = Field(default_factory=DiscriminatorConfig)

    input_dim_a: Channels = Field(3, description="image channels of domain A")
    input_dim_b: Channels = Field(3, description="image channels of domain B")
    num_workers: int = Field(8, ge=0, le=1024)
    new_size: Pixels | None = Field(None, description="shortest side after resizing, pixels")
    new_size_a: Pixels | None = None
    new_size_b: Pixels | None = None
    crop_image_height: Pixels = 256
    crop_image_width: Pixels = 256
    flip: bool = Field(True, description="mirror half of the training images")
    data_root: PathText | None = Field(None, description="folder with trainA, trainB, testA, testB")
    data_folder_train_a: PathText | None = None
    data_list_train_a: PathText | None = None
    data_folder_test_a: PathText | None = None
    data_list_test_a: PathText | None = None
    data_folder_train_b: PathText | None = None
    data_list_train_b: PathText | None = None
    data_folder_test_b: PathText | None = None
    data_list_test_b: PathText | None = None
    data_module: Annotated[str, AfterValidator(_factory_name)] | None = Field(
        None, description="package.module:factory of the images to use in place of folders and lists; its code runs"
    )

    pairs: Literal["unpaired", "folders", "side_by_side"] = Field(
        "unpaired", description="folders: equal names in A and B; side_by_side: left half A, right half B"
    )

    max_pixels: Annotated[int, Field(gt=0, le=10**12)] | None = Field(
        None, description="refuse images with more pixels; not set: Pillow's limit, 179 megapixels"
    )

    seed: int = Field(0, ge=0, lt=2**63, description="seed of weights, styles, order and augmentation")
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="of convolutions and matrix products"
    )
    memory_format: Literal["auto", "contiguous", "channels_last"] = Field(
        "auto", description="of maps and weights; auto: channels_last unless precision is float32"
    )
    compile: bool = Field(False, description="compile the networks with torch.compile")
    cuda_graph: bool | Literal["auto"] = Field(
        "auto", description="replay whole iterations as CUDA graphs; auto: on a GPU, but not in float16 or with compat"
    )
    recompute: Literal["auto", "always", "never"] = Field(
        "auto",
        description="compute padded maps again in backward; auto: where precision is float32, whose maps are large",
    )
    checkpointing: bool = Field(False, description="keep only the inputs of networks for backward: less memory")
    micro_batches: Images = Field(1, description="equal parts that a batch is computed in, gradients added up")
    gradient_compression: Literal["none", "bfloat16"] = Field(
        "none", description="several processes: what gradients are rounded to when they are averaged"
    )
    overlap_communication: bool = Field(
        False, description="several processes: average gradients while backward still computes others"
    )
    share_fakes: bool = Field(False, description="MUNIT, UNIT: one draw for both halves of an iteration")
    ema_decay: float = Field(0, ge=0, lt=1, description="moving average of generator weights; 0: none")

    @model_validator(mode="after")
    def _perceptual_loss_needs_rgb(self) -> Config:
        if self.vgg_w > 0 and (self.input_dim_a, self.input_dim_b) != (3, 3):
            raise ValueError("vgg_w > 0 needs input_dim_a = input_dim_b = 3: VGG-16 takes RGB; set vgg_w to 0")
        return self

    @model_validator(mode="after")
    def _one_resize_rule(self) -> Config:
        if self.new_size is not None and (self.new_size_a is not None or self.new_size_b is not None):
            raise ValueError("give either new_size or new_size_a and new_size_b, not both")
        return self

    @property
    def size_a(self) -> int | None:
        """Shortest side of domain A's images after resizing, in pixels; None keeps their size."""
        return self.new_size if self.new_size is not None else self.new_size_a

    @property
    def size_b(self) -> int | None:
        """Shortest side of domain B's images after resizing, in pixels; None keeps their size."""
        return self.new_size if self.new_size is not None else self.new_size_b

    def channels(self, direction: str) -> tuple[int, int]:
        """Image channels of the source and the target domain of "a2b" or "b2a"."""
        pair = (self.input_dim_a, self.input_dim_b)
        return pair if direction == "a2b" else pair[::-1]

    @classmethod
    def shipped(cls) -> list[str]:
        """Names of the configurations inside the package."""
        folder = resources.files("fastmunit") / "configs"
        return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))

    @classmethod
    def load(cls, name_or_path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Config:
        """Read a YAML file, or a shipped configuration by name, and apply "key=value" overrides.

        Args:
            name_or_path: the path of a YAML file, or a name that `Config.shipped` lists (the public file names, which
                end in "_folder", work too).
            overrides: for example ["lr=0.0002", "gen.dim=32"]; values are read as YAML.

        Raises:
            ConfigError: the file is missing or not YAML, or a key or value is wrong.
        """
        name = str(name_or_path)
        try:
            path = Path(expand(os.fspath(name_or_path)))
        except ValueError as error:
            raise ConfigError(f"configuration {brief(name)}: {error}.") from error
        is_file = os.path.isfile(path)  # noqa: PTH113 - Path's raises where a folder must not be read
        if not is_file and name.removesuffix("_folder") in cls.shipped():
            text = (resources.files("fastmunit") / "configs" / f"{name.removesuffix('_folder')}.yaml").read_text(
                "utf-8"
            )
            values = parse_yaml(text, name)
        elif is_file or not _is_missing(path):
            values = read_yaml(path, "configuration")
        else:
            raise ConfigError(
                f"configuration {brief(name)} is neither a file nor a shipped name; "
                f"shipped: {', '.join(cls.shipped())}."
            )
        source = shown(name)
        values = {} if values is None else values
        if not isinstance(values, dict):
            raise ConfigError(f"{source} must hold 'key: value' lines at its top level.")
        for override in overrides:
            _apply_override(values, override)
        return cls.from_dict(values, source=source)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, source: str = "configuration") -> Config:
        """Check a mapping of the YAML's shape and fill its defaults.

        Raises:
            ConfigError: an unknown key (the nearest valid one is named) or a wrong value.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"{source}: expected a mapping of keys to values, got {type(values).__name__}.")
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise ConfigError(explain(error, cls, source)) from None

    def to_dict(self) -> dict[str, Any]:
        """Nested plain dict of every key: what `MUNIT` and scripts for the public trainer take."""
        return self.model_dump()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the configuration as YAML, leaving out keys that are not set. Raises FastmunitError if it cannot."""
        fields = type(self).model_fields
        values = {k: v for k, v in self.model_dump().items() if v is not None or fields[k].default is not None}
        write_text(path, yaml.safe_dump(values, sort_keys=False))


def _shipped_text(name: str) -> str:
    return (resources.files("fastmunit") / "configs" / f"{name}.yaml").read_text(encoding="utf-8")


def _is_missing(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:  # the reader reports it
        return False
    return False


def unknown_keys(values: Mapping[str, Any]) -> dict[str, str]:
    """Keys of a public-style mapping that `Config` does not know, each with the nearest valid key ("" if none)."""
    unknown: dict[str, tuple[str, type[Section], str]] = {}
    for key, value in values.items():
        if not isinstance(key, str):
            continue  # wrong, not unknown
        if key not in Config.model_fields:
            unknown[key] = (key, Config, "")
        elif key in ("gen", "dis") and isinstance(value, Mapping):
            section = GeneratorConfig if key == "gen" else DiscriminatorConfig
            unknown |= {
                f"{key}.{inner}": (inner, section, f"{key}.")
                for inner in value
                if isinstance(inner, str) and inner not in section.model_fields
            }
    # The search takes long where there are thousands, and a message lists a few.
    return {name: nearest(*about) if k < _SHOWN else "" for k, (name, about) in enumerate(unknown.items())}


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"override {brief(override)} is not of the form key=value (for example gen.dim=32).")
    *parents, last = key.strip().split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ConfigError(f"override {brief(override)}: {brief(parent)} is not a section.")
    values[last] = parse_yaml(text, f"override {brief(override)}: the value")
